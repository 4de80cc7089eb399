"""The DHCP codec against scapy's, and the cases of the RFCs that scapy does not make."""

import struct

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from bootd.netboot import dhcp
from bootd.netboot.dhcp import Message, MessageType, Operation
from bootd.wire.errors import LocalProtocolError, PeerProtocolError

HARDWARE = bytes.fromhex("525400abcdef")


def packet(options: bytes, file: bytes = b"", sname: bytes = b"") -> bytes:
    """A message with these raw option bytes, built by hand after RFC 2131 figure 1."""
    head = struct.pack("!BBBBIHH", 1, 1, 6, 0, 7, 3, 0x8000) + bytes(16) + HARDWARE.ljust(16, b"\0")
    return head + sname.ljust(64, b"\0") + file.ljust(128, b"\0") + b"\x63\x82\x53\x63" + options


def test_reads_what_scapy_writes() -> None:
    data = bytes(
        BOOTP(
            op=1, xid=0x01020304, secs=9, flags=0x8000, ciaddr="10.1.2.3", yiaddr="10.1.2.4", siaddr="10.1.2.5",
            giaddr="10.1.2.6", chaddr=HARDWARE, sname=b"server", file=b"name",
        )
        / DHCP(options=[("message-type", "request"), ("vendor_class_id", b"PXEClient"), (77, b"x"), "pad", "end"])
    )  # fmt: skip
    message = dhcp.parse(data)
    assert message.operation is Operation.REQUEST
    assert message.message_type is MessageType.REQUEST
    assert (message.transaction, message.seconds, message.broadcast) == (0x01020304, 9, True)
    assert (message.client, message.your, message.server, message.relay) == (
        "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6",
    )  # fmt: skip
    assert (message.server_name, message.file) == (b"server", b"name")
    assert message.mac == "52:54:00:ab:cd:ef"
    assert message.vendor_class == "PXEClient"


def test_split_options_are_joined() -> None:
    """RFC 3396 section 5."""
    message = dhcp.parse(packet(b"\x3c\x03PXE" + b"\x4d\x01x" + b"\x3c\x06Client" + b"\xff"))
    assert message.vendor_class == "PXEClient"


def test_overloaded_fields_are_read_file_first() -> None:
    """RFC 2131 section 4.1: options, then file, then sname."""
    message = dhcp.parse(packet(b"\x34\x01\x03\x3c\x01A\xff", file=b"\x3c\x01B\xff", sname=b"\x3c\x01C\xff"))
    assert message.vendor_class == "ABC"
    assert message.file == b""
    assert message.server_name == b""


def test_long_options_are_split_and_scapy_reads_them() -> None:
    value = bytes(range(256)) * 2
    data = dhcp.build(Message(Operation.REPLY, 1, 1, HARDWARE, options={53: b"\x02", 43: value}))
    parts = [item[1] for item in DHCP(data[240:]).options if item[0] == "vendor_specific"]
    assert b"".join(parts) == value or parts[0] == value
    assert dhcp.parse(data).options[43] == value


def test_type_is_first_and_file_is_last() -> None:
    data = dhcp.build(
        Message(Operation.REPLY, 1, 1, HARDWARE, options={67: b"f\0", 97: b"u", 53: b"\x02", 1: b"m"})
    )
    assert data[240] == 53
    assert data.rstrip(b"\0")[-5:] == b"\x43\x02f\0\xff"


BROKEN = [
    (b"", "only 0 bytes"),
    (packet(b"")[:239], "only 239"),
    (packet(b"").replace(b"\x63\x82\x53\x63", b"\x63\x82\x53\x64"), "cookie"),
    (packet(b"\x35"), "no length"),
    (packet(b"\x35\x05\x01"), "cut off"),
    (packet(b"\x34\x01\x09\xff"), "overload"),
    (packet(b"\x34\x02\x01\x01\xff"), "overload"),
    (packet(b"\x34\x01\x01\xff", file=b"\x43\xff"), "cut off"),
    (b"\x03" + packet(b"\xff")[1:], "operation 3"),
    (packet(b"\xff")[:2] + b"\x11" + packet(b"\xff")[3:], "17 bytes"),
    (packet(b"\0" * 5000), "bytes"),
]


@pytest.mark.parametrize(("data", "reason"), BROKEN)
def test_broken_messages_are_the_peers_error(data: bytes, reason: str) -> None:
    with pytest.raises(PeerProtocolError, match=reason):
        dhcp.parse(data)


def test_missing_end_and_odd_values_are_read_leniently() -> None:
    message = dhcp.parse(packet(b"\x35\x01\x63\x5d\x03\x00\x07\x00\x4d\x05\x09iPXE\x2b\x02\x06\x09"))
    assert message.message_type is None
    assert message.architectures == ()
    assert message.user_classes == (b"\x09iPXE",)  # not counted: taken as it is
    assert message.vendor_options == {}


@pytest.mark.parametrize(
    "message",
    [
        Message(Operation.REPLY, 1, 1, HARDWARE, file=b"x" * 128),
        Message(Operation.REPLY, 1, 1, HARDWARE, server_name=b"x" * 64),
        Message(Operation.REPLY, 1, 1, HARDWARE, your="10.0.0"),
        Message(Operation.REPLY, 1, 1, HARDWARE, your="10.0.0.256"),
        Message(Operation.REPLY, 1, 1, HARDWARE, options={52: b"\x01"}),
        Message(Operation.REPLY, 1, 1, HARDWARE, options={255: b""}),
    ],
)
def test_what_cannot_be_built_is_our_error(message: Message) -> None:
    with pytest.raises(LocalProtocolError):
        dhcp.build(message)


def test_other_hardware_has_no_mac() -> None:
    assert Message(Operation.REQUEST, 1, 6, b"12345678").mac == ""
    assert Message(Operation.REQUEST, 1, 32, b"1234567").mac == ""
