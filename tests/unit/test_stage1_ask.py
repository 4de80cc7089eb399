"""What stage1 reads when it was started without words: boot variables, and answers to its question."""

import struct
from collections.abc import Callable

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from stage1 import ask

MAC = "52:54:00:b0:07:01"
HARDWARE = bytes.fromhex(MAC.replace(":", ""))
# Boot0002 as OVMF (Debian 12, 2022.11) left it in its variable store after an HTTP Boot.
CAPTURED = bytes.fromhex(
    "010000005a00"  # attributes, length of the path list; the description follows: UEFI HTTPv4 (MAC:…)
    "55004500460049002000480054005400500076003400200028004d0041004300"
    "3a0035003200350034003000300042003000300037003000310029000000"
    "02010c00d041030a00000000010106000003"  # PciRoot(0x0)/Pci(0x3,0x0)
    "030b2500525400b00701000000000000000000000000000000000000000000000000000001"  # MAC(525400B00701,0x1)
    "030c1b000000000000000000000000000000000000000000000000"  # IPv4(0.0.0.0)
    "031804007fff0400"  # Uri(), end
    "4eac0881119f594d850ee21a522c59b2"  # optional data
)
DESCRIPTION = "UEFI".encode("utf-16-le") + b"\0\0"
PCI = bytes.fromhex("02010c00d041030a00000000010106000003")
MAC_NODE = bytes.fromhex("030b2500") + HARDWARE + bytes(26) + b"\x01"
END = bytes.fromhex("7fff0400")


def option(path: bytes) -> bytes:
    return struct.pack("<IH", 1, len(path)) + DESCRIPTION + path


def variables(**found: bytes) -> Callable[[str], bytes]:
    def variable(name: str) -> bytes:
        if name not in found:
            raise FileNotFoundError(name)
        return found[name]

    return variable


def test_the_card_that_the_firmware_booted_from() -> None:
    assert ask.boot_card(variables(BootCurrent=b"\x02\0", Boot0002=CAPTURED)) == MAC


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"BootCurrent": b"\x03\0"},
        {"BootCurrent": b"\x03", "Boot0003": option(PCI + MAC_NODE + END)},
        {"BootCurrent": b"\x03\0", "Boot0003": option(PCI + END)},
        {"BootCurrent": b"\x03\0", "Boot0003": option(PCI + MAC_NODE[:20])},
        {"BootCurrent": b"\x03\0", "Boot0003": option(PCI + b"\x03\x0b\0\0" + bytes(40))},
        {"BootCurrent": b"\x03\0", "Boot0003": struct.pack("<IH", 1, 40) + b"x\0" * 10},
        {"BootCurrent": b"\x03\0", "Boot0003": b"\1\0"},
    ],
)
def test_firmware_that_does_not_say(found: dict[str, bytes]) -> None:
    assert ask.boot_card(variables(**found)) == ""


def answer(file: bytes, transaction: int = 0x01020304, hardware: bytes = HARDWARE, operation: int = 2) -> bytes:
    """A DHCPACK made by scapy."""
    header = BOOTP(op=operation, xid=transaction, chaddr=hardware + bytes(10), siaddr="10.9.0.2", file=file)
    return bytes(header / DHCP(options=[("message-type", "ack"), ("server_id", "10.9.0.2"), "end"]))


def read(data: bytes) -> tuple[str, int, str] | None:
    return ask.parse_answer(data, MAC, b"\1\2\3\4")


def test_our_servers_answer_is_taken() -> None:
    assert read(answer(b"http://10.9.0.2:7467/boot/x?mac=1")) == ("10.9.0.2", 7467, "/boot/x?mac=1")
    assert read(answer(b"http://10.9.0.2/x")) == ("10.9.0.2", 80, "/x")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(300),
        answer(b""),  # the room's own DHCP server
        answer(b"pxelinux.0"),
        answer(b"http://10.9.0.2:7467/x", transaction=9),
        answer(b"http://10.9.0.2:7467/x", hardware=bytes(6)),
        answer(b"http://10.9.0.2:7467/x", operation=1),
        answer(b"http://10.9.0.2:99999/x"),
        answer(b"http://10.9.0.2:7467"),
        answer(b"http:///x"),
        answer(b"http://10.9.0.2/a b"),
        answer(b"http://10.9.0.2/\xff"),
    ],
)
def test_other_answers_are_passed_over(data: bytes) -> None:
    assert read(data) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("bootd.ask console=ttyS0", True), ("quiet", False), ("", False), ("bootd.asks", False)],
)
def test_only_the_word_itself_makes_it_ask(text: str, wanted: bool) -> None:
    assert ask.wanted(text) is wanted
