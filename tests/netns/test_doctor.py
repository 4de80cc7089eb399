"""``bootd doctor`` from a client's place in the network: a healthy room, and rooms with one thing wrong each."""

import json
import shutil
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from bootd.errors import Exit
from bootd.netboot.diagnosis import DOCTOR_MAC
from tests.netns.daemon import ADDRESS, BOOTD, Daemon
from tests.netns.dhcp_room import missing
from tests.netns.room import Process, Room

ROUTER, ROGUE = "10.9.0.1", "10.9.0.66"
SETTINGS = """
[boot]
default = "kamethod"
[dns]
enabled = true
[[node]]
mac = "52:54:00:00:00:03"
name = "lab3"
address = "10.9.0.13"
"""
pytestmark = pytest.mark.skipif(bool(missing("dnsmasq")), reason="no dnsmasq")


def program(machine: int) -> bytes:
    """A PE header for ``machine`` (Microsoft PE format, 0x3c and "COFF File Header"), and a body with numbers."""
    head = b"MZ" + bytes(58) + (64).to_bytes(4, "little") + b"PE\0\0" + machine.to_bytes(2, "little")
    return head + b"".join(b"%8d" % number for number in range(5000))


FILES = {
    "lpxelinux.0": b"\xfa\xfc" + bytes(60_000),
    "ldlinux.c32": b"\x7fELF" + bytes(1000),
    "ipxe.efi": program(0x8664),
    "stage1/vmlinuz": program(0x8664),
    "stage1/initrd.img": bytes(70_000),
    "stage1/uki-x64.efi": program(0x8664),
}


class Place:
    def __init__(self, room: Room, folder: Path) -> None:
        self.room, self.folder = room, folder
        self.daemon = Daemon(room, folder, SETTINGS)
        for name, data in FILES.items():
            path = self.daemon.boot / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)

    def dnsmasq(self, name: str, *words: str) -> Process:
        process = self.room.start(name, [
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-"),
            *("--no-ping", "--interface=eth0", "--bind-interfaces", "--user=root", "--pid-file="),
            "--dhcp-authoritative",
            f"--dhcp-leasefile={self.folder / name}.leases",
            *words,
        ])  # fmt: skip
        process.wait_for("DHCP, sockets bound")
        return process

    def doctor(self, *words: str, expect: int) -> dict[str, Any]:
        process = self.room.start("client", [BOOTD, "doctor", "-i", "eth0", "--seconds", "1", "--json", *words])
        status = process.wait(60)
        assert status == expect, process.output
        report: dict[str, Any] = json.loads(process.output[process.output.index("{") :])
        return report


@pytest.fixture
def place() -> Generator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    try:
        with Room("server", "client", "router", "rogue") as room:
            for name, address in (
                ("server", ADDRESS),
                ("client", "10.9.0.50"),
                ("router", ROUTER),
                ("rogue", ROGUE),
            ):
                room.address(name, f"{address}/24")
            yield Place(room, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def problems(report: dict[str, Any]) -> list[str]:
    return [one["text"] for one in report["findings"] if one["severity"] == "problem"]


def client(report: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in report["clients"] if one["client"] == name]
    return dict(found)


def test_healthy_room_then_a_rogue(place: Place) -> None:
    place.dnsmasq("router", "--dhcp-range=10.9.0.100,10.9.0.150,1h")
    place.daemon.start()
    report = place.doctor("--name", "lab3", expect=Exit.OK)
    assert report["healthy"]
    assert problems(report) == []
    assert (report["address_servers"], report["boot_servers"]) == ([ROUTER], [ADDRESS])
    bios = client(report, "BIOS ROM (Intel)")
    assert bios["url"] == f"tftp://{ADDRESS}/lpxelinux.0"
    urls = [file["url"].removeprefix(f"http://{ADDRESS}:7468/") for file in bios["files"]]
    assert urls[1] == f"tftp://{ADDRESS}/pxelinux.cfg/01-{DOCTOR_MAC.replace(':', '-')}"
    assert urls[2:] == ["stage1/vmlinuz", "stage1/initrd.img"]
    sizes = [len(FILES["lpxelinux.0"]), len(FILES["stage1/vmlinuz"]), len(FILES["stage1/initrd.img"])]
    assert [bios["files"][index]["size"] for index in (0, 2, 3)] == sizes
    uefi = client(report, "UEFI x64 (EDK2)")
    assert uefi["url"] == f"tftp://{ADDRESS}/ipxe.efi"
    assert f"asks {ADDRESS} on 4011" in uefi["notes"]
    script = client(report, "iPXE on UEFI x64")
    assert script["url"] == f"http://{ADDRESS}:7467/boot/boot.ipxe?mac={DOCTOR_MAC}"
    assert len(script["files"]) == 3
    assert client(report, "HTTP Boot x64 (EDK2)")["files"][0]["size"] == len(FILES["stage1/uki-x64.efi"])
    assert [(one["name"], one["answers"]) for one in report["names"]] == [
        ("bootd", [ADDRESS]),
        ("lab3", ["10.9.0.13"]),
    ]
    assert DOCTOR_MAC not in place.daemon.command("node", "list")  # who only looks is no node
    assert "10.9.0.1" not in (place.folder / "router.leases").read_text()  # and takes no address

    mac = place.room.mac("rogue")
    boots = ("--dhcp-boot=pxelinux.0", "--enable-tftp", f"--tftp-root={place.folder}")
    place.dnsmasq("rogue", "--dhcp-range=10.9.0.200,10.9.0.250,1h", *boots)
    report = place.doctor(expect=Exit.ERROR)
    addresses, servers = problems(report)[:2]
    assert addresses.startswith("2 servers give addresses: ")
    assert f"{ROGUE} ({mac}) gives 10.9.0.2" in addresses
    assert servers.startswith("2 boot servers: ")
    assert f"{ROGUE} (offered by {ROGUE})" in servers


def test_tftp_down_and_a_wrong_loader(place: Place) -> None:
    place.dnsmasq("router", "--dhcp-range=10.9.0.100,10.9.0.150,1h")
    (place.daemon.boot / "ipxe.efi").write_bytes(program(0xAA64))
    (place.daemon.boot / "stage1" / "initrd.img").unlink()
    place.daemon.start()
    report = place.doctor("--name", "nobody", expect=Exit.ERROR)
    found = problems(report)
    assert f"UEFI x64 (EDK2): tftp://{ADDRESS}/ipxe.efi: it is an EFI program for ARM 64, not for x64" in found
    assert f"BIOS ROM (Intel): http://{ADDRESS}:7468/stage1/initrd.img: HTTP status 404" in found
    assert f"DNS server {ADDRESS} on nobody: no such name" in found
    assert len(found) == 3, found

    # TFTP alone is kept out, as by a firewall.
    block = ["add table ip n", "add chain ip n i { type filter hook input priority 0; }",
             "add rule ip n i udp dport 69 drop"]  # fmt: skip
    for rule in block:
        place.room.run("server", ["nft", rule])
    report = place.doctor(expect=Exit.ERROR)
    found = problems(report)
    assert f"BIOS ROM (Intel): tftp://{ADDRESS}/lpxelinux.0: no answer" in found
    assert f"UEFI x64 (EDK2): tftp://{ADDRESS}/ipxe.efi: no answer" in found
    assert not any("7467" in one for one in found), found


def test_nobody_and_only_a_proxy(place: Place) -> None:
    report = place.doctor("--seconds", "0.5", expect=Exit.UNREACHABLE)
    assert problems(report) == ["nobody answers a DISCOVER on eth0"]
    assert not report["healthy"]
    place.daemon.start()
    report = place.doctor(expect=Exit.ERROR)
    assert problems(report)[0] == "no server gives addresses: a boot server alone starts no machine"
    assert report["boot_servers"] == [ADDRESS]
    assert "PXE-E52" in client(report, "BIOS ROM (Intel)")["reason"]


def test_what_is_missing_is_named(place: Place) -> None:
    code = (
        "import sys; sys.modules['scapy'] = None; from bootd.cli.main import main; main(['doctor', '-i', 'eth0'])"
    )
    process = place.room.start("client", [sys.executable, "-c", code])
    assert process.wait() == Exit.ERROR
    assert "pip install 'bootd[doctor]'" in process.output
    process = place.room.start("client", [BOOTD, "doctor", "-i", "nowhere"])
    assert process.wait() == Exit.USAGE
    assert "there is no interface nowhere" in process.output
