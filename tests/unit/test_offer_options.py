"""Options 208 to 211 for PXELINUX (RFC 5071), and the bytes of the PXE menu (PXE 2.1 section 2.4)."""

import struct
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from bootd import config
from bootd.drivers.dhcp import offering
from bootd.errors import Exit, OperatorError
from bootd.netboot import dhcp, offer
from bootd.netboot.loaders import ARTEFACTS
from bootd.netboot.offer import Ignore, NodePolicy, Offer

SERVER, CLIENT = "10.9.0.2", "10.9.0.77"


def ask(text: str, kind: str = "discover", arch: int = 0, *, extra: tuple[Any, ...] = (), port: int = 67) -> Any:
    """bootd's decision with the settings in ``text`` about a datagram made by scapy."""
    settings = config.parse(text)
    interface = offering.interface(settings, "eth0", SERVER, ARTEFACTS | offering.wanted(settings))
    vendor = f"PXEClient:Arch:{arch:05d}:UNDI:002001".encode()
    options = [("message-type", kind), ("vendor_class_id", vendor), (93, struct.pack("!H", arch)), *extra, "end"]
    client = CLIENT if kind == "request" else "0.0.0.0"
    data = bytes(BOOTP(op=1, ciaddr=client, chaddr=b"\x52\x54\0\0\0\1") / DHCP(options=options))
    return offer.decide(dhcp.parse(data), NodePolicy(), interface, port, (client, 68))


def raw(decision: Offer, code: int) -> bytes | None:
    """One option of the reply, taken apart by hand."""
    data = decision.reply[240:]
    while data and data[0] != 255:
        if data[0] == 0:
            data = data[1:]
            continue
        if data[0] == code:
            return data[2 : 2 + data[1]]
        data = data[2 + data[1] :]
    return None


def test_options_for_pxelinux() -> None:
    """The values that the ancestors' dhcpd.conf has, in the form of RFC 5071 sections 2 to 5."""
    text = '[pxe]\nconfig_file = "configs/common"\npath_prefix = "/pxelinux/files/"\nreboot_seconds = 30\n'
    reply = ask(text)
    assert raw(reply, 208) == bytes.fromhex("f100747e")
    assert raw(reply, 209) == b"configs/common"
    assert raw(reply, 210) == b"/pxelinux/files/"
    assert raw(reply, 211) == struct.pack("!I", 30)
    assert raw(ask(text, arch=7), 208) is None  # iPXE would read 209 and 210 as its own
    assert [raw(ask(""), code) for code in (208, 209, 210, 211)] == [None] * 4


MENU = """
[menu]
prompt = "Press F8 to view menu ..."
seconds = 2
multicast = "224.0.1.2"
broadcast = false
[[menu.item]]
title = "Mandriva Linux x86"
[[menu.item]]
title = "Old loader"
file = "X86PC/linux/linux.{layer}"
layers = 2
families = ["bios"]
[[menu.item]]
title = "Local boot"
local = true
"""


def test_menu_of_pxe_conf_byte_for_byte() -> None:
    expected = b"".join((
        b"\x06\x01\x05",  # multicast, no broadcast, only listed servers
        b"\x07\x04" + bytes((224, 0, 1, 2)),
        b"\x08\x0e" + b"\x80\x00\x01" + bytes((10, 9, 0, 2)) + b"\x80\x01\x01" + bytes((10, 9, 0, 2)),
        b"\x09\x2f" + b"\x80\x00\x12Mandriva Linux x86" + b"\x80\x01\x0aOld loader" + b"\x00\x00\x0aLocal boot",
        b"\x0a\x1a" + b"\x02Press F8 to view menu ...",
        b"\xff",
    ))  # fmt: skip
    assert raw(ask(MENU), 43) == expected
    assert raw(ask(MENU, arch=7), 43) is None


@pytest.mark.parametrize(
    ("item", "file"),
    [
        ("80000000", "lpxelinux.0"),
        ("80010000", "X86PC/linux/linux.0"),
        ("80010002", "X86PC/linux/linux.2"),
        ("80018001", "X86PC/linux/linux.1"),  # the top bit of the layer asks for BIS
    ],
)
@pytest.mark.parametrize("port", [67, 4011])
def test_boot_server_gives_the_file_of_the_item(item: str, file: str, port: int) -> None:
    wanted = b"\x47\x04" + bytes.fromhex(item) + b"\xff"
    reply = ask(MENU, "request", extra=((43, wanted),), port=port)
    assert isinstance(reply, Offer)
    assert reply.file == file
    assert raw(reply, 43) == wanted


@pytest.mark.parametrize(
    ("item", "reason"), [("80010003", "missing"), ("80090000", "not in the menu"), ("00000000", "not in the menu")]
)
def test_items_that_are_nobodys(item: str, reason: str) -> None:
    reply = ask(MENU, "request", extra=((43, b"\x47\x04" + bytes.fromhex(item) + b"\xff"),), port=4011)
    assert isinstance(reply, Ignore)
    assert reason in reply.reason


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[menu]\nseconds = 255\n", "seconds"),
        ('[menu]\nmulticast = "10.0.0.1"\n', "multicast"),
        ('[[menu.item]]\ntitle = "é"\n', "ASCII"),
        ('[[menu.item]]\ntitle = ""\n', "ASCII"),
        ('[[menu.item]]\ntitle = "a"\nlocal = true\n[[menu.item]]\ntitle = "b"\nlocal = true\n', "two items"),
        ("".join(f'[[menu.item]]\ntitle = "{"x" * 60}"\n' for _ in range(5)), "255 bytes"),
        ('[[menu.item]]\ntitle = "a"\nfamilies = ["amiga"]\n', "no family"),
        ('[boot.loaders]\namiga = "a"\n', "no family"),
        ('[menu]\nmulticast = "240.0.0.1"\n', "multicast"),
    ],
)
def test_menus_that_cannot_be_sent(text: str, wrong: str) -> None:
    with pytest.raises(OperatorError) as error:
        config.parse(text)
    assert wrong in str(error.value)
    assert error.value.code is Exit.CONFIG


def test_own_loader_goes_before_the_table() -> None:
    reply = ask('[boot.loaders]\nx64 = "own/loader.efi"\n', arch=7)
    assert reply.file == "own/loader.efi"
    settings = config.parse('[boot.loaders]\nx64 = "own/loader.efi"\n')
    interface = offering.interface(settings, "eth0", SERVER, ARTEFACTS)
    data = bytes(
        BOOTP(op=1, chaddr=b"\x52\x54\0\0\0\1")
        / DHCP(options=[("message-type", "discover"), ("vendor_class_id", b"PXEClient:Arch:00007"), "end"])
    )
    missing = offer.decide(dhcp.parse(data), NodePolicy(), interface, 67, ("0.0.0.0", 68))
    assert isinstance(missing, Ignore)
    assert "own/loader.efi is missing" in missing.reason
