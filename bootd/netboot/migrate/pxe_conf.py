"""pxe.conf of the PXE daemon that CloneSys and KA used: ``key=value`` lines, read into settings of bootd.

The services become the firmware's menu. Their loaders (``X86PC/linux/linux.0``, with PXELINUX's own configuration
beside it) are not what bootd boots: each item starts bootd's loader, and says how to have the old one back.
"""

from collections.abc import Callable

from bootd.netboot import dhcp
from bootd.netboot.menu import MAX_SECONDS, MAX_TITLE
from bootd.netboot.migrate.imported import MAX_CHARACTERS, Imported, NotReadable, Value
from bootd.wire.errors import LocalProtocolError

# Client system architectures of PXE 1.x to our families; the others are gone (IA64, Alpha) or never were.
_FAMILIES = {"X86PC": "bios", "X86-64_EFI": "x64", "BC_EFI": "x64", "IA32_EFI": "ia32"}
_RETIRED = {
    "mtftp_address": "multicast TFTP is retired: no firmware of today asks for it; TFTP and HTTP are served",
    "mtftp_client_port": "multicast TFTP is retired",
    "mtftp_server_port": "multicast TFTP is retired",
}


def read(text: str, source: str) -> Imported:
    """Settings out of the file's ``text``; `NotReadable` when it is no such file at all."""
    if len(text) > MAX_CHARACTERS:
        raise NotReadable("the file is too large for a pxe.conf")
    found = Imported(source)
    known = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            found.leave(number, line, "not of the form key=value")
            continue
        reader = _KEYS.get(key)
        if reader is None:
            found.leave(number, line, _RETIRED.get(key, "not known"))
            known += key in _RETIRED
            continue
        known += 1
        reader(found, number, line, value)
    if not known:
        raise NotReadable("no line of it belongs to a pxe.conf")
    return found


def _interface(found: Imported, number: int, line: str, value: str) -> None:
    if not value or not value.isprintable() or len(value) > 15:
        found.leave(number, line, "not the name of an interface")
        return
    found.put("server", "interface", value)
    found.take(number, line, "[server] interface")


def _address(found: Imported, number: int, line: str, value: str) -> None:
    if not _is_address(value):
        found.leave(number, line, "not an IPv4 address: write yours as [server] address")
        return
    found.put("server", "address", value)
    found.take(number, line, "[server] address")


def _multicast(found: Imported, number: int, line: str, value: str) -> None:
    if not _is_address(value) or not 224 <= int(value.split(".", 1)[0]) < 240:
        found.leave(number, line, "not a multicast address")
        return
    # `use_multicast=0` may have come before.
    if found.tables.get("menu", {}).get("multicast") != "":
        found.put("menu", "multicast", value)
    found.take(number, line, "[menu] multicast")


def _use_multicast(found: Imported, number: int, line: str, value: str) -> None:
    if value == "0":
        found.put("menu", "multicast", "")
        found.take(number, line, "[menu] multicast: off")
    else:
        found.take(number, line, "[menu] multicast: on")


def _use_broadcast(found: Imported, number: int, line: str, value: str) -> None:
    found.put("menu", "broadcast", value not in ("", "0"))
    found.take(number, line, "[menu] broadcast")


def _listen_port(found: Imported, number: int, line: str, value: str) -> None:
    if value == str(dhcp.PXE_PORT):
        found.take(number, line, "bootd listens on 4011 and 67")
    else:
        found.leave(number, line, "firmware asks on 4011: bootd listens there")


def _prompt(found: Imported, number: int, line: str, value: str) -> None:
    if not _is_title(value):
        found.leave(number, line, f"a prompt has 1 to {MAX_TITLE} printable ASCII characters")
        return
    found.put("menu", "prompt", value)
    found.take(number, line, "[menu] prompt")


def _prompt_timeout(found: Imported, number: int, line: str, value: str) -> None:
    if not (value.isascii() and value.isdigit()) or int(value) > MAX_SECONDS:
        found.leave(number, line, f"use 0 to {MAX_SECONDS} seconds as [menu] seconds")
        return
    found.put("menu", "seconds", int(value))
    found.take(number, line, "[menu] seconds")


def _service(found: Imported, number: int, line: str, value: str) -> None:
    """service=<CSA>,<min layer>,<max layer>,<basename>,<menu entry>"""
    parts = [part.strip() for part in value.split(",", 4)]
    if len(parts) != 5 or not all(part.isascii() and part.isdigit() for part in parts[1:3]):
        found.leave(number, line, "not of the form CSA,min,max,basename,entry")
        return
    architecture, first, last, name, title = parts
    family = _FAMILIES.get(architecture)
    if family is None:
        found.leave(number, line, f"nothing boots {architecture} any more")
        return
    if not _is_title(title):
        found.leave(number, line, f"a menu entry has 1 to {MAX_TITLE} printable ASCII characters")
        return
    local = name == "local" and first == last == "0"
    if local and any(row.get("local") for row in found.arrays.get("menu.item", ())):
        found.leave(number, line, "there is an item for the local disk already")
        return
    row: dict[str, Value] = {"title": title, "families": [family]}
    if local:
        row["local"] = True
        found.take(number, line, "[[menu.item]], the local disk")
    else:
        found.take(number, line, "[[menu.item]], bootd's own loader")
        found.comments.setdefault("menu.item", []).append(
            f'"{title}" started {architecture}/{name}/{name}.{first}: to have it back, copy {architecture}/ into '
            f'the boot folder and add  file = "{architecture}/{name}/{name}.{{layer}}"  and  layers = {last}'
        )
    found.add("menu.item", row)


def _base(found: Imported, number: int, line: str, value: str) -> None:
    found.leave(number, line, f"bootd serves its boot folder as /; copy what you need from {value or '/'} there")


def _domain(found: Imported, number: int, line: str, value: str) -> None:
    if value:
        found.leave(number, line, "a domain goes to clients from [[dhcp.pool]] domain, where bootd gives addresses")
    else:
        found.take(number, line, "empty")


def _is_address(value: str) -> bool:
    try:
        return bool(dhcp.packed(value))
    except LocalProtocolError:
        return False


def _is_title(value: str) -> bool:
    return 0 < len(value) <= MAX_TITLE and all(" " <= character <= "~" for character in value)


_KEYS: dict[str, Callable[[Imported, int, str, str], None]] = {
    "interface": _interface,
    "default_address": _address,
    "multicast_address": _multicast,
    "use_multicast": _use_multicast,
    "use_broadcast": _use_broadcast,
    "listen_port": _listen_port,
    "prompt": _prompt,
    "prompt_timeout": _prompt_timeout,
    "service": _service,
    "tftpdbase": _base,
    "domain": _domain,
}
