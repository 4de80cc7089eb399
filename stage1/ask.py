"""A stage1 without words on its command line asks for them: see docs/decisions/0007-uki-asks-for-its-words.md.

UEFI HTTP Boot starts a unified kernel image, which is the same for all nodes: its own command line has the word
``bootd.ask``. The words come from the server, which is found by a PXE boot server discovery (DHCPINFORM, PXE 2.1
section 2.2.4) on the card that the firmware booted from.
"""

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable

from stage1.http import Connection, HttpError
from stage1.network import DRIVER_SCRIPT, Interface, NetworkError, bring_up, interfaces

WORD = "bootd.ask"
USER_CLASS = b"bootd"
ANSWER_SECONDS = (1.0, 2.0, 4.0)  # wait after each DHCPINFORM
APPEAR_SECONDS = 15.0  # drivers find their cards on their own time
MAX_WORDS = 4096  # bytes
VARIABLES = "/sys/firmware/efi/efivars"
_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # EFI_GLOBAL_VARIABLE, UEFI 2.10 section 3.3
_MAGIC = b"\x63\x82\x53\x63"
_HEADER = struct.Struct("!4B4sHH4s4s4s4s16s64s128s")

Say = Callable[[str], None]


def wanted(text: str) -> bool:
    """Whether this command line is only a request for another."""
    return WORD in text.split()


def boot_card(variable: Callable[[str], bytes]) -> str:
    """MAC of the card that the firmware booted from: the MAC node in the device path of ``BootCurrent``; "" when
    the firmware does not say. ``variable`` gives the content of an EFI variable (OSError: there is none)."""
    try:
        (current,) = struct.unpack("<H", variable("BootCurrent"))
        option = variable(f"Boot{current:04X}")
        (length,) = struct.unpack_from("<H", option, 4)
        end = 6
        while option[end : end + 2] != b"\0\0":  # the description, UTF-16
            if end >= len(option):
                return ""
            end += 2
        path = option[end + 2 : end + 2 + length]
    except (OSError, struct.error):
        return ""
    while len(path) >= 4:
        kind, subtype, size = struct.unpack_from("<BBH", path)
        if kind == 0x7F or not 4 <= size <= len(path):
            return ""
        if (kind, subtype, size) == (3, 11, 37) and path[36] in (0, 1):  # UEFI 2.10 section 10.3.4.11, Ethernet
            return path[4:10].hex(":")
        path = path[size:]
    return ""


def inform(mac: str, address: str, transaction: bytes) -> bytes:
    """DHCPINFORM of a PXE client (RFC 2131 section 4.4.3) that looks for its boot server, boot item 0."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    nobody = bytes(4)
    header = _HEADER.pack(
        1, 1, 6, 0, transaction, 0, 0, socket.inet_aton(address), nobody, nobody, nobody, hardware, b"", b""
    )
    options = {
        53: b"\x08",
        60: b"PXEClient:Arch:00007:UNDI:003000",
        77: bytes((len(USER_CLASS),)) + USER_CLASS,  # RFC 3004
        93: b"\0\x07",
        43: b"\x47\x04\0\0\0\0\xff",
    }
    return (
        header + _MAGIC + b"".join(bytes((code, len(value))) + value for code, value in options.items()) + b"\xff"
    )


def parse_answer(data: bytes, mac: str, transaction: bytes) -> tuple[str, int, str] | None:
    """Host, port and path of our words, if ``data`` is the answer to that question; every DHCP server hears it."""
    if len(data) < _HEADER.size + 4 or data[_HEADER.size : _HEADER.size + 4] != _MAGIC:
        return None
    fields = _HEADER.unpack_from(data)
    if fields[0] != 2 or fields[4] != transaction or fields[11][:6].hex(":") != mac:
        return None
    url = fields[13].split(b"\0", 1)[0].decode("latin-1")
    if not url.startswith("http://") or not url.isascii() or not url.isprintable() or " " in url:
        return None
    authority, slash, path = url[7:].partition("/")
    host, _, port = authority.partition(":")
    if not host or not slash or not (port or "80").isdigit() or not 1 <= int(port or "80") <= 65535:
        return None
    return host, int(port or "80"), slash + path


def complete(say: Say) -> str:
    """The words, from the first card that gets an address and an answer. `NetworkError`, `HttpError` or OSError
    with the reason of the last one that did not."""
    mac = boot_card(read_variable)
    say(f"asking for my command line on {mac or 'every card'}")
    reason: Exception = NetworkError("no network card")
    for interface in _cards(mac):
        try:
            lease = bring_up(interface, None)
            host, port, path = _discover(interface, lease.address)
            return _fetch(host, port, path)
        except (OSError, NetworkError, HttpError) as error:
            say(f"{interface.name}: {error}")
            reason = error
    raise reason


def read_variable(name: str) -> bytes:
    """Content of a global EFI variable, without the four bytes of attributes that efivarfs puts before it."""
    if not os.path.isdir(VARIABLES):
        raise OSError("not started by UEFI")
    if not os.path.exists(f"{VARIABLES}/{name}-{_GLOBAL}"):
        for command in (["modprobe", "efivarfs"], ["mount", "-t", "efivarfs", "-o", "ro", "efivarfs", VARIABLES]):
            subprocess.run(["/bin/busybox", *command], capture_output=True, check=False)
    with open(f"{VARIABLES}/{name}-{_GLOBAL}", "rb") as stream:
        return stream.read(65536)[4:]


def _cards(mac: str) -> list[Interface]:
    """The card with ``mac``, or all when it is ""; waits for drivers to find them."""
    end = time.monotonic() + APPEAR_SECONDS
    while True:
        found = [Interface(name, address) for name, address in interfaces().items() if mac in ("", address)]
        if found or time.monotonic() > end:
            return found
        time.sleep(0.5)
        subprocess.run([DRIVER_SCRIPT], check=False)


def _discover(interface: Interface, address: str) -> tuple[str, int, str]:
    """Host, port and path of the words, from our server's answer on ``interface``."""
    transaction = os.urandom(4)
    question = inform(interface.mac, address, transaction)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.name.encode())
        opened.bind(("", 68))
        for seconds in ANSWER_SECONDS:
            opened.sendto(question, ("255.255.255.255", 67))
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                opened.settimeout(left)
                try:
                    data = opened.recv(2048)
                except TimeoutError:
                    break
                answer = parse_answer(data, interface.mac, transaction)
                if answer is not None:
                    return answer
    raise NetworkError("no bootd answers here")


def _fetch(host: str, port: int, path: str) -> str:
    with Connection(host, port, 10.0) as connection:
        head = connection.request("GET", path, {})
        body = connection.read_body(head)
    text = body.decode("latin-1").strip()
    if head.status != 200:
        raise HttpError(f"the server has no words for this node: {text[:200] or head.status}")
    if len(text) > MAX_WORDS or "\n" in text:
        raise HttpError("the server's words are not one line")
    return text
