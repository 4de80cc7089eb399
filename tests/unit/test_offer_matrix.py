"""The offer matrix: architecture x user class x option 60 x port x mode, every cell.

What is expected is written down here by hand: the architectures from IANA's "Processor Architecture Types"
(RFC 4578, RFC 5970), the reply's shape from RFC 951, 2131, 2132, 4578 and PXE 2.1. Scapy makes the requests and
reads the replies.
"""

import itertools
import socket
import struct
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from bootd.netboot import dhcp, offer
from bootd.netboot.addresses.lease import Lease
from bootd.netboot.loaders import ARTEFACTS
from bootd.netboot.offer import Ignore, Interface, NodePolicy, Offer

MAC, SERVER, CLIENT = "52:54:00:12:34:56", "10.9.0.2", "10.9.0.77"
UUID = b"\0" + bytes(range(16))
INTERFACE = Interface("eth0", SERVER, 7467, artefacts=ARTEFACTS)
LEASE = Lease(CLIENT, "255.255.255.0", SERVER, 3600, 1800, 3150, "10.9.0.255", ("10.9.0.1",), ("10.9.0.3",), "lab")
SCRIPT = f"http://{SERVER}:7467/boot/boot.ipxe?mac={MAC}"
FILES = f"http://{SERVER}:7468/"

BIOS, UEFI, OTHER = "BIOS", "UEFI", "other"
# code: (firmware, by TFTP, by HTTP); None where nothing can be served
ARCHITECTURES: dict[int, tuple[str, str | None, str | None]] = {
    0: (BIOS, "lpxelinux.0", None),
    6: (UEFI, "ipxe-ia32.efi", "stage1/uki-ia32.efi"),
    7: (UEFI, "ipxe.efi", "stage1/uki-x64.efi"),
    9: (UEFI, "ipxe.efi", "stage1/uki-x64.efi"),
    10: (UEFI, "ipxe-arm32.efi", "stage1/uki-arm32.efi"),
    11: (UEFI, "ipxe-arm64.efi", "stage1/uki-arm64.efi"),
    15: (UEFI, "ipxe-ia32.efi", "stage1/uki-ia32.efi"),
    16: (UEFI, "ipxe.efi", "stage1/uki-x64.efi"),
    17: (UEFI, "ipxe.efi", "stage1/uki-x64.efi"),
    18: (UEFI, "ipxe-arm32.efi", "stage1/uki-arm32.efi"),
    19: (UEFI, "ipxe-arm64.efi", "stage1/uki-arm64.efi"),
    20: (BIOS, "lpxelinux.0", None),
    21: (OTHER, "boot-arm32.scr.uimg", "boot-arm32.scr.uimg"),
    22: (OTHER, "boot-arm64.scr.uimg", "boot-arm64.scr.uimg"),
    23: (OTHER, "boot-arm32.scr.uimg", "boot-arm32.scr.uimg"),
    24: (OTHER, "boot-arm64.scr.uimg", "boot-arm64.scr.uimg"),
    25: (UEFI, "ipxe-riscv32.efi", "stage1/uki-riscv32.efi"),
    26: (UEFI, "ipxe-riscv32.efi", "stage1/uki-riscv32.efi"),
    27: (UEFI, "ipxe-riscv64.efi", "stage1/uki-riscv64.efi"),
    28: (UEFI, "ipxe-riscv64.efi", "stage1/uki-riscv64.efi"),
    29: (UEFI, "ipxe-riscv128.efi", "stage1/uki-riscv128.efi"),
    30: (UEFI, "ipxe-riscv128.efi", "stage1/uki-riscv128.efi"),
    37: (UEFI, "ipxe-loong32.efi", "stage1/uki-loong32.efi"),
    38: (UEFI, "ipxe-loong32.efi", "stage1/uki-loong32.efi"),
    39: (UEFI, "ipxe-loong64.efi", "stage1/uki-loong64.efi"),
    40: (UEFI, "ipxe-loong64.efi", "stage1/uki-loong64.efi"),
    41: (OTHER, "bootcode.bin", None),
    # Assigned to what no one boots from here: Itanium, Power, s390, MIPS.
    2: (OTHER, None, None),
    14: (OTHER, None, None),
    31: (OTHER, None, None),
    33: (OTHER, None, None),
}
USER_CLASSES = {"plain": (), "iPXE raw": ((77, b"iPXE"),), "iPXE counted": ((77, b"\x04iPXE"),)}
VENDOR_CLASSES = ("PXEClient", "HTTPClient", "MSFT 5.0", "")
MODES = ("proxy", "full", "boot only")
PORTS = (67, 4011)


def request(code: int, extra: Any, vendor: str, port: int) -> bytes:
    options: list[Any] = [("message-type", "discover" if port == 67 else "request")]
    if vendor:
        tail = f":Arch:{code:05d}:UNDI:003016" if vendor.endswith("Client") else ""
        options.append(("vendor_class_id", (vendor + tail).encode()))
    options += [(93, struct.pack("!H", code)), (94, b"\x01\x03\x10"), (97, UUID), *extra, "end"]
    hardware = bytes.fromhex(MAC.replace(":", ""))
    ciaddr = "0.0.0.0" if port == 67 else CLIENT
    return bytes(BOOTP(op=1, xid=77, flags=0x8000, ciaddr=ciaddr, chaddr=hardware) / DHCP(options=options))


def expected_file(code: int, user: str, vendor: str) -> str | None:
    firmware, tftp, http = ARCHITECTURES[code]
    if vendor == "HTTPClient":
        return FILES + http if http else None
    if user != "plain" and firmware == UEFI:
        return SCRIPT
    return tftp


def read(reply: bytes) -> dict[str | int, Any]:
    return {item[0]: item[1] for item in DHCP(reply[240:]).options if isinstance(item, tuple)}


def judge(reply: bytes, file: str | None, cell: tuple[int, str, int, str]) -> None:
    """The whole reply, as scapy reads it."""
    code, vendor, port, mode = cell
    header: Any = BOOTP(reply)
    options = read(reply)
    firmware = ARCHITECTURES[code][0]
    leased = mode == "full" and port == 67
    assert len(reply) >= 300
    assert (header.op, header.xid, header.htype, header.hlen) == (2, 77, 1, 6)
    assert header.chaddr[:6] == bytes.fromhex(MAC.replace(":", ""))
    assert options["message-type"] == (2 if port == 67 else 5)
    assert reply[240:242] == b"\x35\x01"  # the type comes first
    assert options["server_id"] == SERVER
    assert header.yiaddr == (CLIENT if leased else "0.0.0.0")
    assert 52 not in options
    if leased:
        assert options["subnet_mask"] == "255.255.255.0"
        assert options["router"] == "10.9.0.1"
        assert options["name_server"] == "10.9.0.3"
        assert (options["lease_time"], options["renewal_time"], options["rebinding_time"]) == (3600, 1800, 3150)
    else:
        assert not {"subnet_mask", "router", "lease_time"} & options.keys()
    if file is None:
        assert leased
        assert not header.file.strip(b"\0")
        assert header.siaddr == "0.0.0.0"
        assert not {"vendor_class_id", "vendor_specific", "boot-file-name", "tftp_server_name"} & options.keys()
        return
    assert header.siaddr == SERVER
    assert header.sname.rstrip(b"\0") == SERVER.encode()
    assert header.file.rstrip(b"\0") == file.encode()
    assert options["boot-file-name"] == file.encode() + b"\0"
    assert options["tftp_server_name"] == SERVER.encode()
    assert options["pxe_client_machine_identifier"] == UUID
    if vendor == "HTTPClient":
        assert options["vendor_class_id"] == b"HTTPClient"
        assert "vendor_specific" not in options
    elif firmware == UEFI:
        assert options.get("vendor_class_id") == (None if leased else b"PXEClient")
        assert "vendor_specific" not in options
    elif firmware == BIOS:
        assert options["vendor_class_id"] == b"PXEClient"
        assert options["vendor_specific"] == b"\x06\x01\x08\x0a\x04\x00PXE\xff"


@pytest.mark.parametrize("code", ARCHITECTURES)
def test_every_cell(code: int) -> None:
    for user, vendor, port, mode in itertools.product(USER_CLASSES, VENDOR_CLASSES, PORTS, MODES):
        source = ("0.0.0.0", 68) if port == 67 else (CLIENT, 4011)
        decision = offer.decide(
            dhcp.parse(request(code, USER_CLASSES[user], vendor, port)),
            NodePolicy(),
            INTERFACE,
            port,
            source,
            lease=LEASE if mode == "full" else None,
        )
        cell = (code, user, vendor, port, mode)
        boots = vendor.endswith("Client")
        file = expected_file(code, user, vendor) if boots else None
        if file is None and (mode != "full" or port != 67):
            assert isinstance(decision, Ignore), cell
            assert decision.network_boot is boots, cell
            continue
        assert isinstance(decision, Offer), (cell, decision)
        assert decision.file == (file or ""), cell
        assert (decision.destination.address, decision.destination.port) == (
            ("255.255.255.255", 68) if port == 67 else (CLIENT, 4011)
        ), cell
        try:
            judge(decision.reply, file, (code, vendor, port, mode))
        except (AssertionError, KeyError) as error:
            raise AssertionError(cell) from error


def test_a_silenced_node_gets_nothing_in_any_cell() -> None:
    for code, port, mode in itertools.product(ARCHITECTURES, PORTS, MODES):
        lease = LEASE if mode == "full" else None
        data = dhcp.parse(request(code, (), "PXEClient", port))
        decision = offer.decide(data, NodePolicy("by policy"), INTERFACE, port, (CLIENT, 68), lease=lease)
        assert isinstance(decision, Ignore)
        assert decision.reason == "by policy"


def test_a_node_that_must_not_boot_still_gets_its_address() -> None:
    data = dhcp.parse(request(7, (), "PXEClient", 67))
    decision = offer.decide(data, NodePolicy(no_boot="parked"), INTERFACE, 67, (CLIENT, 68), lease=LEASE)
    assert isinstance(decision, Offer)
    assert (decision.file, decision.no_boot, decision.network_boot) == ("", "parked", True)
    judge(decision.reply, None, (7, "PXEClient", 67, "full"))
    assert offer.decide(data, NodePolicy(no_boot="parked"), INTERFACE, 67, (CLIENT, 68)) == Ignore(
        "parked", MAC, True
    )


def test_server_identifier_is_the_leases() -> None:
    """With several addresses on one interface the lease machine decides which of them identifies us."""
    other = Lease(CLIENT, "255.255.255.0", "10.9.0.8")
    decision = offer.decide(
        dhcp.parse(request(7, (), "PXEClient", 67)), NodePolicy(), INTERFACE, 67, (CLIENT, 68), lease=other
    )
    assert isinstance(decision, Offer)
    assert read(decision.reply)["server_id"] == "10.9.0.8"
    assert decision.reply[20:24] == socket.inet_aton(SERVER)
