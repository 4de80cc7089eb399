"""Client models judge our offers, and hand-made offers (scapy) judge the client models."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from bootd.netboot import dhcp
from bootd.netboot.addresses.lease import Lease
from bootd.netboot.clients.air import Ending, Received, Request
from bootd.netboot.clients.room import AddressServer, Bootd, Client, Play, Server, play
from bootd.netboot.clients.roster import CLIENTS
from bootd.netboot.loaders import ARTEFACTS
from bootd.netboot.menu import Menu, MenuItem
from bootd.netboot.offer import Interface, NodePolicy

US, THEM, CLIENT = "10.9.0.2", "10.9.0.1", "10.9.0.100"
THEIRS = Lease(CLIENT, "255.255.255.0", THEM, 3600, 1800, 3150, name_servers=(THEM,))
OURS = replace(THEIRS, server=US, name_servers=(US,))
EVERYTHING = Interface("eth0", US, 7467, artefacts=ARTEFACTS)
BUILT = replace(EVERYTHING, artefacts=frozenset({"lpxelinux.0", "ldlinux.c32", "ipxe.efi", "shimx64.efi"}))
SCRIPT = f"http://{US}:7467/boot/boot.ipxe?mac=52:54:00:00:01:01"
FILES = f"http://{US}:7468"
NAMED = {client.name: client for client in CLIENTS}

# client -> what it fetches when every artefact is there. "proxied" is beside a server that only gives addresses.
EXPECTED = {
    "BIOS ROM (Intel)": f"tftp://{US}/lpxelinux.0",
    "BIOS ROM (old, no option 93)": f"tftp://{US}/lpxelinux.0",
    "iPXE as BIOS option ROM": f"tftp://{US}/lpxelinux.0",
    "UEFI x64 (EDK2)": f"tftp://{US}/ipxe.efi",
    "UEFI x64 (old EDK2)": f"tftp://{US}/ipxe.efi",
    "UEFI x64 that says EBC": f"tftp://{US}/ipxe.efi",
    "iPXE on UEFI x64": SCRIPT,
    "HTTP Boot x64 (EDK2)": f"{FILES}/stage1/uki-x64.efi",
    "UEFI ia32 (EDK2)": f"tftp://{US}/ipxe-ia32.efi",
    "UEFI ARM 64 (EDK2)": f"tftp://{US}/ipxe-arm64.efi",
    "iPXE on UEFI ARM 64": SCRIPT,
    "HTTP Boot ARM 64 (EDK2)": f"{FILES}/stage1/uki-arm64.efi",
    "UEFI ARM 32 (EDK2)": f"tftp://{US}/ipxe-arm32.efi",
    "U-Boot ARM 32": f"tftp://{US}/boot-arm32.scr.uimg",
    "U-Boot ARM 64": f"tftp://{US}/boot-arm64.scr.uimg",
    "U-Boot ARM 64 (reads proxies)": f"tftp://{US}/boot-arm64.scr.uimg",
    "U-Boot ARM 64 that starts EFI": f"tftp://{US}/ipxe-arm64.efi",
    "UEFI RISC-V 64 (EDK2)": f"tftp://{US}/ipxe-riscv64.efi",
    "HTTP Boot RISC-V 64 (EDK2)": f"{FILES}/stage1/uki-riscv64.efi",
    "UEFI LoongArch 64 (EDK2)": f"tftp://{US}/ipxe-loong64.efi",
    "Raspberry Pi 3 (ROM)": f"tftp://{US}/bootcode.bin",
    "Raspberry Pi 4 (EEPROM)": f"tftp://{US}/start4.elf",
}
NO_PROXY = {"U-Boot ARM 32", "U-Boot ARM 64", "U-Boot ARM 64 that starts EFI"}  # they cannot hear a proxy


def test_every_client_has_an_expectation() -> None:
    assert set(EXPECTED) == set(NAMED)
    assert len(NAMED) == len(CLIENTS)


@pytest.mark.parametrize("name", EXPECTED)
def test_full(name: str) -> None:
    found = play(NAMED[name], [Bootd(EVERYTHING, OURS)])
    assert (found.outcome.ending, found.outcome.url) == (Ending.FETCHES, EXPECTED[name]), found


@pytest.mark.parametrize("order", [0, 1], ids=["address first", "proxy first"])
@pytest.mark.parametrize("name", EXPECTED)
def test_proxied(name: str, order: int) -> None:
    servers: list[Server] = [AddressServer(THEIRS), Bootd(EVERYTHING)]
    found = play(NAMED[name], servers[::-1] if order else servers)
    if name in NO_PROXY:
        assert found.outcome.ending is Ending.FAILS
        assert "no address in it" in found.outcome.notes[0]
    else:
        assert (found.outcome.ending, found.outcome.url) == (Ending.FETCHES, EXPECTED[name]), found


def test_ipxe_never_waits_for_us() -> None:
    """Quirks answer-at-once and sole-server: neither beside a proxy of ours nor with our own address."""
    for name in ("iPXE as BIOS option ROM", "iPXE on UEFI x64"):
        rooms: list[list[Server]] = [[AddressServer(THEIRS), Bootd(BUILT)], [Bootd(BUILT, OURS)]]
        for servers in rooms:
            assert not [note for note in play(NAMED[name], servers).outcome.notes if "waits" in note]
    alone = play(NAMED["iPXE on UEFI x64"], [AddressServer(THEIRS)])
    assert alone.outcome.ending is Ending.FAILS
    assert "waits 2 s for a proxy offer" in alone.outcome.notes


def test_full_mode_saves_uefi_the_second_request() -> None:
    """Quirk no-class-with-address, and what the class would cost."""
    assert play(NAMED["UEFI x64 (EDK2)"], [Bootd(BUILT, OURS)]).outcome.notes == ()
    with_class = AddressServer(THEIRS, "ipxe.efi", THEM, "PXEClient")
    found = play(NAMED["UEFI x64 (EDK2)"], [with_class])
    assert found.outcome.ending is Ending.FAILS  # there is nobody on its 4011
    assert found.outcome.notes[0] == f"asks {THEM} on 4011"


def test_what_is_not_there_is_not_promised() -> None:
    for name, expected in EXPECTED.items():
        found = play(NAMED[name], [AddressServer(THEIRS), Bootd(replace(EVERYTHING, artefacts=frozenset()))])
        if expected == SCRIPT or name == "iPXE as BIOS option ROM":
            assert found.outcome.url == SCRIPT  # iPXE is a loader of its own
        else:
            assert found.outcome.ending is Ending.FAILS, found
            assert "missing in the boot folder" in found.refusals[0]


def test_secure_boot_gets_only_what_is_signed() -> None:
    secure = replace(EVERYTHING, secure_boot=True)
    found = {name: play(NAMED[name], [AddressServer(THEIRS), Bootd(secure)]).outcome for name in EXPECTED}
    assert found["UEFI x64 (EDK2)"].url == f"tftp://{US}/shimx64.efi"
    assert found["UEFI ARM 64 (EDK2)"].url == f"tftp://{US}/shimaa64.efi"
    assert found["HTTP Boot x64 (EDK2)"].url == f"{FILES}/stage1/uki-x64.signed.efi"
    assert found["UEFI RISC-V 64 (EDK2)"].ending is Ending.FAILS
    assert found["BIOS ROM (Intel)"].url == f"tftp://{US}/lpxelinux.0"


def test_http_boot_of_a_node_that_is_to_boot_its_disk() -> None:
    policy = NodePolicy(stage=False)
    found = play(NAMED["HTTP Boot x64 (EDK2)"], [AddressServer(THEIRS), Bootd(EVERYTHING, policy=policy)])
    assert found.outcome.url == f"{FILES}/ipxe.efi"


MENU = Menu((MenuItem("Clone"), MenuItem("Rescue", file="rescue.0"), MenuItem("Local boot", local=True)))
LOCAL_FIRST = Menu((MenuItem("Local boot", local=True), MenuItem("Clone")))


@pytest.mark.parametrize("mode", ["proxied", "full"])
@pytest.mark.parametrize(
    ("multicast", "broadcast", "where"),
    [
        ("224.0.1.2", False, "224.0.1.2:4011"),
        ("224.0.1.2", True, "224.0.1.2:4011"),
        ("", True, "255.255.255.255:67"),
        ("", False, f"{US}:4011"),
    ],
)
@pytest.mark.parametrize("name", ["BIOS ROM (Intel)", "iPXE as BIOS option ROM"])
def test_boot_menu_and_discovery(name: str, multicast: str, broadcast: bool, where: str, mode: str) -> None:
    """Prompt, first item at its end, then boot server discovery by multicast, broadcast or unicast."""
    interface = replace(EVERYTHING, menu=replace(MENU, multicast=multicast, broadcast=broadcast, seconds=7))
    servers: list[Server] = (
        [Bootd(interface, OURS)] if mode == "full" else [AddressServer(THEIRS), Bootd(interface)]
    )
    found = play(NAMED[name], servers)
    assert found.outcome.url == f"tftp://{US}/lpxelinux.0"
    assert found.outcome.notes == (
        "shows its prompt for 7 s",
        f"looks for boot server type 0x8000 at {where}",
    )


def test_local_boot_as_the_first_item() -> None:
    interface = replace(EVERYTHING, menu=LOCAL_FIRST)
    for name in ("BIOS ROM (Intel)", "iPXE as BIOS option ROM"):
        assert play(NAMED[name], [AddressServer(THEIRS), Bootd(interface)]).outcome.ending is Ending.LOCAL


def test_uefi_sees_the_menu_only_when_it_is_told_to() -> None:
    """Quirk no-uefi-menu: by default UEFI goes straight to its file; with `uefi` it gets the menu on 4011."""
    for wanted in (False, True):
        interface = replace(EVERYTHING, menu=replace(MENU, uefi=wanted))
        for name in ("UEFI x64 (EDK2)", "UEFI x64 (old EDK2)"):
            rooms: list[list[Server]] = [[AddressServer(THEIRS), Bootd(interface)], [Bootd(interface, OURS)]]
            for servers in rooms:
                found = play(NAMED[name], servers).outcome
                assert found.url == f"tftp://{US}/ipxe.efi"
                assert any("boot server type" in note for note in found.notes) is wanted
    one = replace(EVERYTHING, menu=Menu((MenuItem("Clone"),), uefi=True))
    found = play(NAMED["UEFI x64 (EDK2)"], [AddressServer(THEIRS), Bootd(one)]).outcome
    assert found.notes == (f"asks {US} on 4011",)


@dataclass(frozen=True)
class Canned:
    """A server with one hand-made answer for each port, made by scapy."""

    address: str
    answers: dict[int, Any]
    source_port: int = 0
    only_kind: int = 0

    def answer(self, request: Request) -> tuple[Received | None, str]:
        make = self.answers.get(request.port)
        if make is None:
            return None, ""
        options = [*make["options"], "end"]
        if request.message.message_type == 3 and request.port == 67:  # the REQUEST is acknowledged
            options[0] = ("message-type", "ack")
        packet = BOOTP(op=2, xid=request.message.transaction, chaddr=request.message.hardware, **make["header"])
        data = bytes(packet / DHCP(options=options))
        data = data.ljust(make.get("length", 300), b"\0")
        port = self.source_port or request.port
        return Received(dhcp.parse(data), len(data), self.address, port, request.source_port), ""


def offer(*options: Any, header: dict[str, Any] | None = None, kind: str = "offer", **more: Any) -> dict[str, Any]:
    identified = [("message-type", kind), ("server_id", US), *options]
    return {"header": header or {}, "options": identified, **more}


PXE = ("vendor_class_id", b"PXEClient")
BIOS_43 = (43, b"\x06\x01\x08\x0a\x04\x00PXE\xff")


def beside(name_or_client: str | Client, answers: dict[int, Any], **more: Any) -> Play:
    client = NAMED[name_or_client] if isinstance(name_or_client, str) else name_or_client
    return play(client, [AddressServer(THEIRS), Canned(US, answers, **more)])


def test_old_edk2_drops_a_proxy_offer_with_discovery_options() -> None:
    """Row 1 of the quirks: what would happen if UEFI got the BIOS's option 43."""
    answers = {67: offer(PXE, BIOS_43, header={"siaddr": US, "file": b"ipxe.efi"})}
    old = beside("UEFI x64 (old EDK2)", answers).outcome
    assert (old.ending, old.notes) == (
        Ending.FAILS,
        (f"drops the offer of {US}: it carries discovery options (option 43)",),
    )
    assert beside("UEFI x64 (EDK2)", answers).outcome.url == f"tftp://{US}/ipxe.efi"


def test_edk2_takes_siaddr_then_option_54_for_4011() -> None:
    """Row 3."""
    again = offer(PXE, header={"siaddr": "10.9.0.7", "file": b"a.efi"}, kind="ack")
    for siaddr, expected in (("0.0.0.0", US), (US, US), ("10.9.0.77", "10.9.0.77")):
        found = beside("UEFI x64 (EDK2)", {67: offer(PXE, header={"siaddr": siaddr}), 4011: again})
        assert found.outcome.notes[0] == f"asks {expected} on 4011"
    assert beside("UEFI x64 (EDK2)", {67: offer(PXE), 4011: again}).outcome.url == "tftp://10.9.0.7/a.efi"


def test_replies_from_another_port_than_4011_are_dropped() -> None:
    """Row 4."""
    answers = {67: offer(PXE), 4011: offer(PXE, header={"siaddr": US, "file": b"a.efi"}, kind="ack")}
    assert beside("iPXE on UEFI x64", answers).outcome.url == f"tftp://{US}/a.efi"
    wrong = play(
        NAMED["iPXE on UEFI x64"],
        [AddressServer(THEIRS), Canned(US, {67: answers[67]}), Canned(US, {4011: answers[4011]}, source_port=67)],
    )
    assert "not from port 4011" in " ".join(wrong.outcome.notes)


def test_rom_without_a_prompt_stops() -> None:
    """Row 6."""
    bare = {67: offer(PXE, (43, b"\x06\x01\x08\xff"), header={"siaddr": US, "file": b"a.0"})}
    assert beside("BIOS ROM (Intel)", bare).outcome.ending is Ending.WAITS


def test_ipxe_skips_4011_with_siaddr_and_a_file_name() -> None:
    """Row 8."""
    complete = {67: offer(PXE, header={"siaddr": US, "file": b"a.efi"})}
    assert beside("iPXE on UEFI x64", complete).outcome.notes == ()
    half = {67: offer(PXE, header={"file": b"a.efi"}), 4011: offer(PXE, header={"siaddr": US, "file": b"b.efi"})}
    assert beside("iPXE on UEFI x64", half).outcome.notes == (f"asks {US} on 4011",)


def test_short_and_overloaded_offers_are_dropped_by_roms() -> None:
    """Rows 15 and 16."""
    fine = offer(PXE, BIOS_43, header={"siaddr": US, "file": b"a.0"})
    assert beside("BIOS ROM (Intel)", {67: fine}).outcome.url == f"tftp://{US}/a.0"
    for broken in ({**fine, "length": 0}, offer(PXE, BIOS_43, (52, b"\0"), header={"siaddr": US, "file": b"a.0"})):
        found = beside("BIOS ROM (old, no option 93)", {67: broken}).outcome
        assert (found.ending, found.reason) == (Ending.FAILS, "PXE-E53: No boot filename received")


def test_http_boot_needs_class_and_url() -> None:
    header = {"siaddr": US, "file": b"http://10.9.0.2:7468/a.efi"}
    http = ("vendor_class_id", b"HTTPClient")
    assert beside("HTTP Boot x64 (EDK2)", {67: offer(http, header=header)}).outcome.url.endswith("/a.efi")
    for broken in (
        offer(header=header),
        offer(PXE, header=header),
        offer(http, header={"file": b"a.efi"}),
        offer(http, header={}),
    ):
        assert beside("HTTP Boot x64 (EDK2)", {67: broken}).outcome.ending is Ending.FAILS
    named = {67: offer(http, header={"file": b"http://boot.example/a.efi"})}
    without_dns = replace(THEIRS, name_servers=())
    client = NAMED["HTTP Boot x64 (EDK2)"]
    assert play(client, [AddressServer(without_dns), Canned(US, named)]).outcome.ending is Ending.FAILS
    assert play(client, [AddressServer(THEIRS), Canned(US, named)]).outcome.ending is Ending.FETCHES


def test_raspberry_pi_wants_its_text() -> None:
    text = (43, b"\x06\x01\x03\x0a\x04\x00PXE\x09\x14\x00\x00\x11Raspberry Pi Boot\xff")
    answers = {67: offer(PXE, text, header={"siaddr": US})}
    assert beside("Raspberry Pi 4 (EEPROM)", answers).outcome.url == f"tftp://{US}/start4.elf"
    assert beside("Raspberry Pi 3 (ROM)", answers).outcome.ending is Ending.FAILS
    assert beside("Raspberry Pi 4 (EEPROM)", {67: offer(PXE, BIOS_43)}).outcome.ending is Ending.FAILS


def test_file_name_of_the_address_server_competes() -> None:
    """What a foreign server's own boot file does beside us: EDK2 asks us, iPXE takes the other."""
    both: Sequence[Server] = (AddressServer(THEIRS, "their.efi", THEM), Bootd(BUILT))
    assert play(NAMED["UEFI x64 (EDK2)"], both).outcome.url == f"tftp://{US}/ipxe.efi"
    assert play(NAMED["iPXE on UEFI x64"], both).outcome.url == f"tftp://{THEM}/their.efi"
    theirs: Sequence[Server] = (AddressServer(THEIRS, "their.efi", THEM, "PXEClient"), Bootd(BUILT))
    assert play(NAMED["UEFI x64 (EDK2)"], theirs).outcome.ending is Ending.FAILS


def test_nobody_answers() -> None:
    for client in CLIENTS:
        assert play(client, []).outcome.ending is Ending.FAILS
        assert play(client, [Bootd(EVERYTHING)]).outcome.ending is Ending.FAILS  # a proxy alone gives no address


def test_models_are_stable_in_every_order_of_servers() -> None:
    second = replace(THEIRS, server="10.9.0.3", address="10.9.0.101")
    for client in CLIENTS:
        if client.name in NO_PROXY:
            continue
        servers: list[Server] = [AddressServer(THEIRS), AddressServer(second), Bootd(EVERYTHING)]
        found = {play(client, order).outcome.url for order in itertools.permutations(servers)}
        assert found == {EXPECTED[client.name]}, client.name
