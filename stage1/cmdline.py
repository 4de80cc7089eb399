"""The kernel command line of a stage: what the boot label and bootd ask of this node. Pure: text in, options out.

The words of the older tools keep their meaning: ``automatic=key:value,…`` says how to get stage2, ``kaopt=SESSION``
which session to join, ``kamethod``, ``dollymethod`` and ``dollyCmethod`` how to clone, ``rescue`` that a shell is
wanted. bootd adds ``bootd.server=HOST:PORT bootd.node=MAC bootd.token=HEX BOOTIF=01-aa-bb-…``.
"""

import re
from dataclasses import dataclass

DEFAULT_PORT = 7467
DEFAULT_METHOD = "http"
METHODS = ("ka", "dolly", "nfs", "http")
METHOD_WORDS = {"kamethod": "ka", "dollymethod": "dolly", "dollyCmethod": "dollyC"}
# Set the older tools' RAM disk and text mode; stage1 has neither, so they are read and passed over.
IGNORED_KEYS = frozenset({"hostname", "domain", "dns"})
MAX_TIMEOUT = 3600  # seconds
MAX_LENGTH = 4096  # the kernel keeps at most COMMAND_LINE_SIZE bytes, 2048 on x86

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_TOKEN = re.compile(r"[0-9a-fA-F]{1,128}\Z")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")
_SYSTEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}\Z")  # the name of a label
_DIRECTORY = re.compile(r"/[A-Za-z0-9/._+~-]{0,254}\Z")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}\Z")


class CommandLineError(Exception):
    """A word of the command line that cannot be meant so. The text names the word and what it should be."""


@dataclass(frozen=True)
class StaticNetwork:
    address: str  # dotted IPv4
    prefix: int  # bits, 0 to 32
    gateway: str = ""


@dataclass(frozen=True)
class BootOptions:
    """Everything that stage1 and stage2 are told by the command line."""

    method: str  # how stage2 is fetched: "ka", "dolly", "nfs", "http"; see stage1.fetch
    work: str  # how to clone: "ka", "dolly", "dollyC", or "" for no cloning
    rescue: bool  # the word `rescue`: a shell is wanted
    session: str  # kaopt=, or ""
    interface: str  # name, or "auto"
    static: StaticNetwork | None  # None means DHCP
    dolly_timeout: int | None  # seconds
    directory: str  # where stage2 is on `stage_server`, or ""
    server_host: str
    server_port: int
    node: str  # boot MAC, lower case, colons
    token: str
    boot_interface: str  # MAC of the interface that booted, from BOOTIF=, or ""
    stage_server: str = ""  # HOST or HOST:PORT that has stage2, for "nfs" and "http"; "" = bootd
    system: str = ""  # bootd.system=: the name of what is booted in place of stage2
    init: str = "/sbin/init"  # init=: first program of what is booted
    gives_up_by_reboot: bool = False  # give_up:reboot; else this node parks

    @property
    def is_elsewhere(self) -> bool:
        """Whether another server than bootd has stage2."""
        return bool(self.stage_server and self.directory)


def parse(text: str) -> BootOptions:
    """The options in ``/proc/cmdline``; `CommandLineError` for a word that does not fit.

    Words that are not ours (``console=``, ``quiet``, ``ramdisk_size=``, ``root=``, ``vga=``, ``rw``) are left to
    whom they belong. Of a word given twice the last one counts, as in the kernel, except for method words, of
    which two different ones contradict each other.
    """
    if len(text) > MAX_LENGTH:
        raise CommandLineError(f"the command line has {len(text)} characters, at most {MAX_LENGTH} are read")
    words = text.split()
    values = dict(word.split("=", 1) for word in words if "=" in word)
    automatic = _automatic(values.get("automatic", ""))
    chosen = {METHOD_WORDS[word] for word in words if word in METHOD_WORDS}
    if len(chosen) > 1:
        names = " and ".join(word for word in words if word in METHOD_WORDS)
        raise CommandLineError(f"{names}: only one method word makes sense")
    boot_interface = _boot_interface(values.get("BOOTIF", ""))
    node = values.get("bootd.node", "").lower() or boot_interface
    if not _MAC.match(node):
        raise CommandLineError(f"bootd.node={node}: expected the MAC of the boot interface, aa:bb:cc:dd:ee:ff")
    session = values.get("kaopt", "")
    if session and not _SESSION.match(session):
        raise CommandLineError(f"kaopt={session}: expected a session name of letters, digits, '.', '_', '-'")
    token = values.get("bootd.token", "")
    if token and not _TOKEN.match(token):
        raise CommandLineError(f"bootd.token={token}: expected hexadecimal digits")
    host, port = _server(values.get("bootd.server", ""), automatic.get("server", ""))
    return BootOptions(
        method=automatic.get("method", DEFAULT_METHOD),
        work=chosen.pop() if chosen else "",
        rescue="rescue" in words,
        session=session,
        interface=automatic.get("interface", "auto"),
        static=_network(automatic),
        dolly_timeout=_timeout(automatic.get("dolly_timeout", "")),
        directory=_directory(automatic),
        server_host=host,
        server_port=port,
        node=node,
        token=token,
        boot_interface=boot_interface,
        stage_server=_stage_server(automatic),
        system=_system(values.get("bootd.system", "")),
        init=_init(values.get("init", "")),
        gives_up_by_reboot=_give_up(automatic),
    )


_KEYS = frozenset(
    {
        "method",
        "interface",
        "network",
        "ip",
        "netmask",
        "gateway",
        "server",
        "directory",
        "dolly_timeout",
        "give_up",
    }
)


def _automatic(text: str) -> dict[str, str]:
    table: dict[str, str] = {}
    for item in text.split(",") if text else ():
        key, colon, value = item.partition(":")
        if not colon or not value:
            raise CommandLineError(f"automatic=…{item}…: expected key:value")
        if key not in _KEYS and key not in IGNORED_KEYS:
            raise CommandLineError(f"automatic=…{item}…: unknown key, known are {', '.join(sorted(_KEYS))}")
        table[key] = value
    if table.get("method", DEFAULT_METHOD) not in METHODS:
        raise CommandLineError(f"automatic=…method:{table['method']}…: known methods are {', '.join(METHODS)}")
    if not _INTERFACE.match(table.get("interface", "auto")):
        raise CommandLineError(f"automatic=…interface:{table['interface']}…: expected auto or a name like eth0")
    return table


def _directory(automatic: dict[str, str]) -> str:
    text = automatic.get("directory", "")
    if text and (not _DIRECTORY.match(text) or ".." in text.split("/")):
        raise CommandLineError(f"automatic=…directory:{text}…: expected a path that begins with /")
    if automatic.get("method") == "nfs" and not (text and automatic.get("server")):
        raise CommandLineError("automatic=method:nfs…: expected server:HOST and directory:/EXPORT, too")
    return text


def _stage_server(automatic: dict[str, str]) -> str:
    text = automatic.get("server", "") if automatic.get("directory") else ""
    host, colon, port = text.partition(":")
    if text and (not _HOST.match(host) or (colon and not _is_port(port))):
        raise CommandLineError(f"automatic=…server:{text}…: expected HOST or HOST:PORT")
    return text


def _system(text: str) -> str:
    if text and not _SYSTEM.match(text):
        raise CommandLineError(f"bootd.system={text}: expected a name of letters, digits, '.', '_', '-'")
    return text


def _init(text: str) -> str:
    if text and (not _DIRECTORY.match(text) or ".." in text.split("/")):
        raise CommandLineError(f"init={text}: expected the path of a program")
    return text or "/sbin/init"


def _give_up(automatic: dict[str, str]) -> bool:
    text = automatic.get("give_up", "park")
    if text not in ("park", "reboot"):
        raise CommandLineError(f"automatic=…give_up:{text}…: expected park or reboot")
    return text == "reboot"


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535


def _timeout(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_TIMEOUT:
        raise CommandLineError(f"automatic=…dolly_timeout:{text}…: expected seconds, 1 to {MAX_TIMEOUT}")
    return int(text)


def _boot_interface(text: str) -> str:
    """BOOTIF= as pxelinux writes it: hardware type 01, then the MAC, with dashes; iPXE may leave the type out."""
    if not text:
        return ""
    mac = text.lower().replace("-", ":")
    if mac.count(":") == 6 and mac.startswith("01:"):
        mac = mac[3:]
    if not _MAC.match(mac):
        raise CommandLineError(f"BOOTIF={text}: expected 01-aa-bb-cc-dd-ee-ff")
    return mac


def _server(ours: str, seeds: str) -> tuple[str, int]:
    """``bootd.server=HOST:PORT``; without it the ``server:`` of ``automatic=`` on the default port."""
    if not ours:
        if not _HOST.match(seeds):
            raise CommandLineError("bootd.server= is missing: expected bootd.server=HOST:PORT")
        return seeds, DEFAULT_PORT
    host, colon, port = ours.rpartition(":")
    if not colon:
        host, port = ours, str(DEFAULT_PORT)
    if not _HOST.match(host) or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise CommandLineError(f"bootd.server={ours}: expected HOST:PORT")
    return host, int(port)


def _network(automatic: dict[str, str]) -> StaticNetwork | None:
    """``network:dhcp``, ``network:ADDRESS/BITS``, or ``network:static,ip:…,netmask:…``; with ``gateway:…``."""
    text = automatic.get("network", "dhcp")
    if text == "dhcp":
        return None
    address, _, mask = text.partition("/")
    if text == "static":
        address, mask = automatic.get("ip", ""), automatic.get("netmask", "")
    if _address(address) is None:
        raise CommandLineError(
            f"automatic=…network:{text}…: expected dhcp, ADDRESS/BITS, or static with ip: and netmask:"
        )
    prefix = _prefix(mask)
    if prefix is None:
        raise CommandLineError(f"automatic=…network:{text}…: expected a netmask after the address, not {mask!r}")
    gateway = automatic.get("gateway", "")
    if gateway and _address(gateway) is None:
        raise CommandLineError(f"automatic=…gateway:{gateway}…: expected an IPv4 address")
    return StaticNetwork(address, prefix, gateway)


def _address(text: str) -> int | None:
    """An IPv4 address as a number, or None. (The module ipaddress is not in every stage1.)"""
    parts = text.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) <= 3 for part in parts):
        return None
    if any(int(part) > 255 for part in parts):
        return None
    return int.from_bytes(bytes(int(part) for part in parts), "big")


def _prefix(text: str) -> int | None:
    """Bits of a netmask given as ``24`` or ``255.255.255.0``, or None."""
    if text.isascii() and text.isdigit() and len(text) <= 2:
        return int(text) if int(text) <= 32 else None
    mask = _address(text)
    if mask is None:
        return None
    bits = mask.bit_count()
    return bits if mask == ((1 << bits) - 1) << (32 - bits) else None
