"""One test for each row of the quirks table, named after it: ``test_quirk_NAME``. A row without a test fails.

Requests are made and replies are read by scapy or by hand, and by the client models, which know the firmware's
sources; never by our own encoder.
"""

import ast
import asyncio
import dataclasses
import re
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from bootd import config
from bootd.drivers.http.bulk import BulkService
from bootd.drivers.tree import File, NotFound, Rendered, VirtualTree
from bootd.errors import OperatorError
from bootd.netboot import dhcp, offer
from bootd.netboot.addresses.lease import Lease
from bootd.netboot.clients.air import Ending
from bootd.netboot.clients.room import AddressServer, Bootd, Play, play
from bootd.netboot.clients.roster import CLIENTS
from bootd.netboot.files import tftp
from bootd.netboot.labels import BUILT_IN
from bootd.netboot.loaders import ARTEFACTS
from bootd.netboot.menu import Menu, MenuItem
from bootd.netboot.offer import Ignore, Interface, NodePolicy, Offer
from bootd.netboot.quirks import QUIRKS
from bootd.netboot.render import RenderContext

MAC, SERVER, CLIENT = "52:54:00:12:34:56", "10.9.0.2", "10.9.0.77"
SHARED_UUID = b"\0" + bytes.fromhex("00020003000400050006000700080009")  # 03000200-..., first fields swapped
INTERFACE = Interface("eth0", SERVER, 7467, artefacts=ARTEFACTS)
LEASE = Lease(CLIENT, "255.255.255.0", SERVER, 3600, 1800, 3150)
THEIRS = dataclasses.replace(LEASE, server="10.9.0.1")
SCRIPT = f"http://{SERVER}:7467/boot/boot.ipxe?mac={MAC}"
NAMED = {client.name: client for client in CLIENTS}
HTTP_CLASS = "HTTPClient:Arch:00016:UNDI:003001"


def request(kind: str = "discover", arch: int = 0, **more: Any) -> bytes:
    """A client's datagram, made by scapy. ``extra``: options; ``vendor``; ``hardware``; fields of BOOTP."""
    vendor = more.pop("vendor", f"PXEClient:Arch:{arch:05d}:UNDI:002001")
    options: list[Any] = [("message-type", kind), ("vendor_class_id", vendor.encode())]
    options += [(93, struct.pack("!H", arch)), (94, b"\x01\x02\x01"), *more.pop("extra", ()), "end"]
    hardware = more.pop("hardware", bytes.fromhex(MAC.replace(":", "")))
    fields = {"htype": 1, "hlen": len(hardware), "xid": 7, "flags": 0x8000, **more}
    return bytes(BOOTP(op=1, chaddr=hardware, **fields) / DHCP(options=options))


def answer(
    data: bytes,
    port: int = 67,
    *,
    source: tuple[str, int] = ("0.0.0.0", 68),
    lease: Lease | None = None,
    **more: Any,
) -> Offer:
    decision = offer.decide(
        dhcp.parse(data), NodePolicy(), dataclasses.replace(INTERFACE, **more), port, source, lease=lease
    )
    assert isinstance(decision, Offer), decision
    return decision


def ask_4011(arch: int, source_port: int = 4011, **more: Any) -> Offer:
    return answer(request("request", arch, ciaddr=CLIENT), 4011, source=(CLIENT, source_port), **more)


def options(decision: Offer) -> list[tuple[int, bytes]]:
    """Options of the reply in their order, taken apart by hand."""
    raw, found = decision.reply[240:], []
    while raw and raw[0] != 255:
        if not raw[0]:
            raw = raw[1:]
            continue
        found.append((raw[0], raw[2 : 2 + raw[1]]))
        raw = raw[2 + raw[1] :]
    return found


def values(decision: Offer) -> dict[int, bytes]:
    return dict(options(decision))


def proxied(name: str, **more: Any) -> Play:
    return play(NAMED[name], [AddressServer(THEIRS), Bootd(dataclasses.replace(INTERFACE, **more))])


def full(name: str) -> Play:
    return play(NAMED[name], [Bootd(INTERFACE, LEASE)])


def test_every_row_has_its_test_and_every_test_its_row() -> None:
    tree = ast.parse(Path(__file__).read_text())
    tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    named = {name.removeprefix("test_quirk_").replace("_", "-") for name in tests if name.startswith("test_quirk_")}
    assert named == set(QUIRKS)
    for name, row in QUIRKS.items():
        assert all(dataclasses.astuple(row)), f"{name}: a field is empty"


def test_rows_that_the_code_names_exist() -> None:
    """A comment that says ``quirk NAME`` means a row."""
    for path in (Path(__file__).parents[2] / "bootd").rglob("*.py"):
        for found in re.finditer(r"[qQ]uirks? ([a-z0-9]+-[a-z0-9-]*[a-z0-9])", path.read_text()):
            assert found.group(1) in QUIRKS, f"{path}: {found.group(0)}"


# Port 4011 and the shape of an offer.


def test_quirk_no_discovery_for_uefi() -> None:
    assert 43 not in values(answer(request(arch=7)))
    assert 43 not in values(ask_4011(7))
    assert proxied("UEFI x64 (old EDK2)").outcome.ending is Ending.FETCHES


def test_quirk_no_class_with_address() -> None:
    assert 60 not in values(answer(request(arch=7), lease=LEASE))
    assert full("UEFI x64 (EDK2)").outcome.notes == ()  # no second request
    assert ask_4011(7).file == "ipxe.efi"  # served all the same


def test_quirk_asked_at_siaddr() -> None:
    reply = answer(request(arch=7))
    assert reply.reply[20:24] == values(reply)[54] == socket.inet_aton(SERVER)
    assert proxied("UEFI x64 (EDK2)").outcome.notes == (f"asks {SERVER} on 4011",)


def test_quirk_reply_from_4011() -> None:
    """The driver sends from the port that was asked; `tests/netns` sees it on the wire."""
    assert [ask_4011(7, port).destination for port in (4011, 68)] == [
        offer.Destination(CLIENT, 4011),
        offer.Destination(CLIENT, 68),
    ]


def test_quirk_bios_asks_4011() -> None:
    assert ask_4011(0).file == "lpxelinux.0"
    assert values(ask_4011(0))[53] == b"\x05"


def test_quirk_bios_prompt() -> None:
    for reply in (answer(request()), ask_4011(0), answer(request(), lease=LEASE)):
        assert values(reply)[43] == b"\x06\x01\x08" + b"\x0a\x04\0PXE" + b"\xff"
    assert proxied("BIOS ROM (Intel)").outcome.ending is Ending.FETCHES


def test_quirk_no_uefi_menu() -> None:
    two = Menu((MenuItem("Clone"), MenuItem("Local boot", local=True)))
    one = Menu((MenuItem("Clone"),), uefi=True)
    for shown in (two, one):
        for reply in (answer(request(arch=7), menu=shown), ask_4011(7, menu=shown)):
            assert 43 not in values(reply)
    wanted = values(ask_4011(7, menu=dataclasses.replace(two, uefi=True)))[43]
    assert b"\x09\x16\x80\x00\x05Clone\x00\x00\x0aLocal boot"[2:] in wanted


def test_quirk_file_name_at_once() -> None:
    for name in ("iPXE on UEFI x64", "iPXE as BIOS option ROM", "BIOS ROM (Intel)"):
        assert len(proxied(name).steps) == 2  # DISCOVER and the REQUEST for the address


def test_quirk_answer_at_once() -> None:
    assert answer(request(arch=7, extra=((77, b"iPXE"),))).delay == 0
    assert proxied("iPXE on UEFI x64").outcome.notes == ()


def test_quirk_sole_server() -> None:
    asks = request(arch=7, extra=((77, b"iPXE"),))
    assert values(answer(asks, lease=LEASE))[175] == b"\xb0\x01\x01"
    assert 175 not in values(answer(asks))
    assert 175 not in values(answer(request(arch=7), lease=LEASE))  # for iPXE only
    assert full("iPXE on UEFI x64").outcome.notes == ()


def test_quirk_discovery_on_67() -> None:
    item = b"\x47\x04\x80\x00\x00\x00\xff"
    asks = request("request", ciaddr=CLIENT, extra=((43, item),))
    shown = Menu((MenuItem("Clone"),))
    for port, source_port in ((67, 68), (4011, 68), (4011, 4011)):
        reply = answer(asks, port, source=(CLIENT, source_port), menu=shown)
        assert reply.kind is dhcp.MessageType.ACK
        assert values(reply)[43] == item
    no_address = offer.decide(
        dhcp.parse(request("request", extra=((43, item),))), NodePolicy(), INTERFACE, 67, ("0.0.0.0", 68)
    )
    assert isinstance(no_address, Ignore)
    assert config.parse("").menu.parsed().multicast == "224.0.1.2"


def test_quirk_discovery_answer() -> None:
    item = b"\x47\x04\x80\x00\x00\x00\xff"
    asks = request("request", ciaddr=CLIENT, flags=0x8000, extra=((43, item),))
    assert answer(asks, source=(CLIENT, 68)).destination == offer.Destination(CLIENT, 68)
    shown = Menu((MenuItem("Clone"),), multicast="", broadcast=True)
    played = proxied("iPXE as BIOS option ROM", menu=shown)
    assert played.outcome.url == f"tftp://{SERVER}/lpxelinux.0"
    assert not [note for note in played.outcome.notes if "does not hear" in note]


def test_quirk_vendor_prefixes() -> None:
    asks = request(arch=7, vendor="VendorROM 2")
    assert isinstance(offer.decide(dhcp.parse(asks), NodePolicy(), INTERFACE, 67, ("0.0.0.0", 68)), Ignore)
    settings = config.parse('[dhcp]\nclient_prefixes = ["PXEClient", "VendorROM"]')
    assert answer(asks, client_prefixes=settings.dhcp.client_prefixes).file == "ipxe.efi"


def test_quirk_etherboot() -> None:
    """The values of the class "Etherboot" in CloneSys's dhcpd.conf."""
    reply = values(answer(request(vendor="Etherboot-5.0.10")))
    assert reply[60] == b"Etherboot-5.0"
    assert reply[43] == bytes.fromhex("3c094574686572626f6f74ff")
    assert reply[67] == b"etherboot/nbgrub\0"


# Fields.


def test_quirk_file_name_ends() -> None:
    for reply in (answer(request()), answer(request(arch=7)), ask_4011(7), answer(request(), lease=LEASE)):
        assert options(reply)[-1] == (67, reply.file.encode() + b"\0")


def test_quirk_both_file_names() -> None:
    for reply in (answer(request()), ask_4011(7), answer(request(arch=22), lease=LEASE)):
        assert reply.reply[108:236].rstrip(b"\0") + b"\0" == values(reply)[67]


def test_quirk_server_address_everywhere() -> None:
    for reply in (answer(request()), ask_4011(7), answer(request(arch=7), lease=LEASE)):
        assert reply.reply[20:24] == values(reply)[54] == socket.inet_aton(SERVER)
        assert reply.reply[44:108].rstrip(b"\0") == values(reply)[66] == SERVER.encode()


def test_quirk_no_overload() -> None:
    long = dataclasses.replace(LEASE, domain="d" * 200, host_name="h" * 60, routers=("10.9.0.1",) * 40)
    for reply in (answer(request()), answer(request(arch=7), lease=long)):
        assert 52 not in values(reply)


def test_quirk_smallest_reply() -> None:
    for reply in (answer(request()), ask_4011(7), answer(request(arch=7, vendor="none"), lease=LEASE)):
        assert len(reply.reply) >= 300


def test_quirk_type_first() -> None:
    for reply in (answer(request()), ask_4011(7), answer(request(arch=7), lease=LEASE)):
        assert options(reply)[0][0] == 53


def test_quirk_all_ones_broadcast() -> None:
    for flags in (0, 0x8000):
        assert answer(request(flags=flags)).destination == offer.Destination("255.255.255.255", 68)


@pytest.mark.parametrize("text", ['[boot.loaders]\nx64 = "%s"', '[[menu.item]]\ntitle = "a"\nfile = "%s"'])
def test_quirk_long_file_name(text: str) -> None:
    config.parse(text % ("x" * 127))
    with pytest.raises(OperatorError):
        config.parse(text % ("x" * 128))
    assert len(SCRIPT) <= 127


def test_quirk_user_class_forms() -> None:
    for form in ((77, b"iPXE"), (77, b"\x04iPXE"), (77, b"\x03foo\x04iPXE"), (175, b"\xb1\x01\x01")):
        assert answer(request(arch=7, extra=(form,))).file == SCRIPT
    assert answer(request(arch=7, extra=((77, b"foo"),))).file == "ipxe.efi"


def test_quirk_machine_id() -> None:
    with_id = answer(request(arch=7, extra=((97, SHARED_UUID),)))
    assert values(with_id)[97] == SHARED_UUID
    assert 97 not in values(answer(request(arch=7)))
    other = answer(
        request(arch=7, extra=((97, SHARED_UUID), (77, b"iPXE")), hardware=bytes.fromhex("525400000001"))
    )
    assert (with_id.mac, other.mac) == (MAC, "52:54:00:00:00:01")
    assert other.file.endswith("mac=52:54:00:00:00:01")


def test_quirk_mac_is_the_key() -> None:
    assert answer(request(arch=7, extra=((61, b"\0other"),))).mac == MAC
    guid = request(arch=7, hardware=bytes.fromhex("0002c903000abcde"), htype=32)
    assert answer(guid).mac == "00:02:c9:0a:bc:de"


def test_quirk_no_nak() -> None:
    for kind in ("request", "decline", "release", "inform"):
        decision = offer.decide(
            dhcp.parse(request(kind, 7, ciaddr=CLIENT)), NodePolicy(), INTERFACE, 67, (CLIENT, 68)
        )
        assert isinstance(decision, Ignore)


def test_quirk_early_times() -> None:
    reply = answer(request(arch=7), lease=LEASE)
    assert reply.kind is dhcp.MessageType.OFFER
    assert (values(reply)[58], values(reply)[59]) == (struct.pack("!I", 1800), struct.pack("!I", 3150))


def test_quirk_ipxe_rom() -> None:
    assert proxied("iPXE as BIOS option ROM").outcome.url == f"tftp://{SERVER}/lpxelinux.0"
    without = proxied("iPXE as BIOS option ROM", artefacts=frozenset({"undionly.kpxe"}))
    assert without.outcome.url.startswith(f"http://{SERVER}:7467/boot/boot.ipxe")  # and no loop of undionly.kpxe


# Boards.


def test_quirk_raspberry_pi() -> None:
    for hardware, text in (
        ("b827eb000001", b"\x14Raspberry Pi Boot   "),
        ("dca632000001", b"\x11Raspberry Pi Boot"),
    ):
        vendor = values(answer(request(hardware=bytes.fromhex(hardware))))[43]
        assert b"\0\0" + text in vendor
    assert b"Raspberry" not in values(answer(request()))[43]
    uefi = request(arch=11, hardware=bytes.fromhex("dca632000001"))
    assert answer(uefi).file == "ipxe-arm64.efi"  # UEFI on a Pi says what it is
    own = config.parse('[pxe]\nraspberry_pi_prefixes = ["52:54:00"]').pxe.raspberry_pi_prefixes
    assert answer(request(), raspberry_pi_prefixes=own).architecture == "Raspberry Pi"


def test_quirk_raspberry_pi_asks_once() -> None:
    played = proxied("Raspberry Pi 3 (ROM)")
    assert [step.request for step in played.steps] == ["DISCOVER to everybody:67"]
    assert played.outcome.url == f"tftp://{SERVER}/bootcode.bin"


def test_quirk_raspberry_pi_delay() -> None:
    asks = request(hardware=bytes.fromhex("b827eb000001"))
    assert answer(asks).delay == 0
    delay = config.parse("[pxe]\nraspberry_pi_delay = 0.7").pxe.raspberry_pi_delay
    assert answer(asks, raspberry_pi_delay=delay).delay == 0.7
    assert answer(request(), raspberry_pi_delay=delay).delay == 0


# HTTP Boot.


def test_quirk_http_boot() -> None:
    for lease in (None, LEASE):
        reply = values(answer(request(arch=16, vendor=HTTP_CLASS), lease=lease))
        assert reply[60] == b"HTTPClient"
        assert reply[67] == b"http://10.9.0.2:7468/stage1/uki-x64.efi\0"
    assert len(proxied("HTTP Boot x64 (EDK2)").steps) == 2


def test_quirk_http_boot_address() -> None:
    no_names = dataclasses.replace(THEIRS, name_servers=())
    played = play(NAMED["HTTP Boot x64 (EDK2)"], [AddressServer(no_names), Bootd(INTERFACE)])
    assert played.outcome.url.startswith("http://10.9.0.2:")


def test_quirk_http_boot_head(tmp_path: Path) -> None:
    """HEAD, then GET on the same connection, against the real server of boot files."""
    (tmp_path / "ipxe.efi").write_bytes(bytes(range(256)) * 40)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def talk() -> tuple[str, str, bytes]:
        service = BulkService("127.0.0.1", port, tmp_path)
        await service.bind()
        serving = asyncio.create_task(service.serve())
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HEAD /ipxe.efi HTTP/1.1\r\nHost: x\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            writer.write(b"GET /ipxe.efi HTTP/1.1\r\nHost: x\r\n\r\n")
            get = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = await reader.readexactly(10240)
            writer.close()
            return head, get, body
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await service.close()

    head, get, body = asyncio.run(asyncio.wait_for(talk(), 20))
    assert body == bytes(range(256)) * 40
    for text in (head, get):
        lines = text.rstrip().split("\r\n")
        assert lines[0] == "HTTP/1.1 200 OK"
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        assert headers["content-length"] == "10240"
        assert headers.get("connection", "keep-alive") == "keep-alive"
        assert "transfer-encoding" not in headers
        assert all(value.strip() for value in headers.values())


def test_quirk_http_boot_no_grub() -> None:
    only_grub = frozenset({"shimx64.efi", "grubx64.efi"})
    for secure in (False, True):
        played = proxied("HTTP Boot x64 (EDK2)", artefacts=only_grub, secure_boot=secure)
        assert played.outcome.ending is Ending.FAILS
    assert proxied("UEFI x64 (EDK2)", artefacts=only_grub, secure_boot=True).outcome.url.endswith("/shimx64.efi")


# TFTP and the second stage.


def rrq(path: str, *words: str) -> tftp.Request:
    return tftp.parse_request(b"\0\1" + b"\0".join(word.encode() for word in (path, "octet", *words)) + b"\0")


@pytest.fixture
def tree(tmp_path: Path) -> VirtualTree:
    for name in ("ipxe.efi", "shimx64.efi", "grubx64.efi"):
        (tmp_path / name).write_bytes(name.encode())
    labels = {label.name: label for label in BUILT_IN}

    def context(mac: str) -> RenderContext | None:
        return RenderContext(SERVER, 7467, 7468, labels, "kamethod", mac, "ab" * 16) if mac == MAC else None

    return VirtualTree(tmp_path, context, SERVER, 7467)


def test_quirk_tftp_size() -> None:
    assert tftp.negotiate(rrq("ipxe.efi", "tsize", "0"), 1_234_567, 1500).options == {"tsize": "1234567"}


def test_quirk_tftp_size_probe() -> None:
    """EDK2 answers the OACK of its probe with error 8: that transfer ends without an error of ours."""
    transfer = tftp.Transfer(4096, tftp.negotiate(rrq("ipxe.efi", "tsize", "0"), 4096, 1500))
    transfer.start(0.0)
    transfer.receive(b"\0\5\0\x08User aborted the transfer\0", 0.01)
    assert transfer.result is tftp.Result.PROBED


def test_quirk_tftp_block_size() -> None:
    for mtu, asked, given in ((1500, "65464", 1468), (1500, "1024", 1024), (9000, "65464", 8968)):
        assert tftp.negotiate(rrq("a", "blksize", asked), 10, mtu).block == given


def test_quirk_tftp_last_ack() -> None:
    """One block, never acknowledged: sent a few times, then complete without a word of failure."""
    transfer = tftp.Transfer(100, tftp.negotiate(rrq("a"), 100, 1500))
    sent: list[object] = [transfer.start(0.0)]
    while transfer.result is None:
        sent.append(transfer.tick(transfer.deadline))
        assert len(sent) < 100
    assert transfer.result is tftp.Result.UNCONFIRMED
    assert 2 <= len([action for action in sent if action]) <= 10


def test_quirk_tftp_slashes(tree: VirtualTree) -> None:
    for path in ("ipxe.efi", "/ipxe.efi", "\\ipxe.efi", "//ipxe.efi"):
        assert isinstance(tree.resolve(path), File)


def test_quirk_shim_asks_the_root(tree: VirtualTree) -> None:
    file = proxied("UEFI x64 (EDK2)", secure_boot=True).outcome.url.removeprefix(f"tftp://{SERVER}/")
    assert "/" not in file  # so the root is shim's own folder
    for path in ("grubx64.efi", "/grubx64.efi"):
        assert isinstance(tree.resolve(path), File)


def test_quirk_grub_next_server() -> None:
    both = frozenset({"ipxe.efi", "shimx64.efi", "grubx64.efi"})
    assert proxied("UEFI x64 (EDK2)", artefacts=both).outcome.url.endswith("/ipxe.efi")
    assert proxied("UEFI x64 (EDK2)", artefacts=both, secure_boot=True).outcome.url.endswith("/shimx64.efi")


def test_quirk_ipxe_asks_autoexec(tree: VirtualTree) -> None:
    found = tree.resolve("autoexec.ipxe")
    assert isinstance(found, Rendered)
    assert found.content.startswith(b"#!ipxe\n")
    assert b"boot.ipxe?mac=${mac}" in found.content


def test_quirk_pxelinux_order(tree: VirtualTree) -> None:
    """The order of syslinux's doc/pxelinux.txt, up to the first that is there."""
    hyphenated = "01-" + MAC.replace(":", "-")
    names = ["00020003-0004-0005-0006-000700080009", hyphenated]
    names += ["0A09004D"[:length] for length in range(8, 0, -1)] + ["default"]
    answers = [tree.resolve(f"pxelinux.cfg/{name}") for name in names]
    assert isinstance(answers[0], NotFound)
    assert isinstance(answers[1], Rendered)
    assert answers[1].mac == MAC
    assert all(isinstance(found, NotFound) for found in answers[2:])
