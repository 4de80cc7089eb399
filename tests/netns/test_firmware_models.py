"""The firmware models on a real link with the real daemon: what unit tests say of values, here of datagrams."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bootd.netboot.loaders import ARTEFACTS, STARTERS
from tests.netns.room import Room
from tests.unit.test_netboot_clients import EXPECTED, NO_PROXY

ROUTER, SERVER = "10.9.0.1", "10.9.0.2"
PROXIED = f'[server]\ninterface = "eth0"\naddress = "{SERVER}"\n'
FULL = """
[dhcp]
proxy = false
rogue = "off"
probe_seconds = 0
router_advertisement = false
[[dhcp.pool]]
subnet = "10.9.0.0/24"
range = "10.9.0.100-10.9.0.199"
"""
MENU = """
[menu]
seconds = 3
multicast = "%s"
broadcast = %s
[[menu.item]]
title = "Clone"
[[menu.item]]
title = "Local boot"
local = true
"""


def boot_folder(base: Path) -> Path:
    for name in ARTEFACTS - {loader.file for loader in STARTERS.values()}:
        path = base / "boot" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"loader")
    return base / "boot"


def play(base: Path, settings: str, servers: int, names: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Every model's outcome. With two servers the first one is dnsmasq, which only gives addresses."""
    folders = f'state_dir = "{base}"\nboot_dir = "{boot_folder(base)}"\n'
    settings = settings.replace("[server]\n", f"[server]\n{folders}")
    with Room("dhcp", "server", "client") as room:
        room.address("dhcp", f"{ROUTER}/24")
        room.address("server", f"{SERVER}/24")
        if servers > 1:
            dnsmasq = room.start("dhcp", [
                *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-"),
                *("--no-ping", "--interface=eth0", "--bind-interfaces", "--dhcp-range=10.9.0.100,10.9.0.199,1h"),
                *("--user=root", "--dhcp-authoritative", "--pid-file=", f"--dhcp-leasefile={base / 'leases'}"),
            ])  # fmt: skip
            dnsmasq.wait_for(r"DHCP, sockets bound")
        daemon = room.start("server", [sys.executable, "-m", "tests.netns.offers", settings])
        daemon.wait_for(r"ready\n", 20)
        call = json.dumps({"servers": servers, "seconds": 2.0, "names": names})
        text = room.run("client", [sys.executable, "-W", "ignore", "-m", "tests.netns.model_clients", call], 60)
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.output
    return {value["client"]: value for value in map(json.loads, text.splitlines())}


@pytest.mark.parametrize("mode", ["proxied", "full"])
def test_every_firmware_fetches_its_file(tmp_path: Path, mode: str) -> None:
    proxied = mode == "proxied"
    found = play(tmp_path, PROXIED if proxied else PROXIED + FULL, 2 if proxied else 1)
    deaf = NO_PROXY if proxied else set()
    wrong = {name: value for name, value in found.items() if value["url"] != EXPECTED[name] and name not in deaf}
    assert not wrong
    assert set(found) == set(EXPECTED)
    assert all(found[name]["ending"] == "FAILS" for name in deaf)


@pytest.mark.parametrize(
    ("multicast", "broadcast", "where"),
    [("224.0.1.2", "false", "224.0.1.2:4011"), ("", "true", "255.255.255.255:67"), ("", "false", f"{SERVER}:4011")],
    ids=["multicast", "broadcast", "unicast"],
)
def test_boot_server_discovery_on_the_wire(tmp_path: Path, multicast: str, broadcast: str, where: str) -> None:
    """PXE 2.1 section 2.2.4: the menu's first item is looked for, and this daemon answers."""
    names = ("BIOS ROM (Intel)", "BIOS ROM (old, no option 93)", "iPXE as BIOS option ROM")
    found = play(tmp_path, PROXIED + FULL + MENU % (multicast, broadcast), 1, names)
    assert set(found) == set(names)
    for value in found.values():
        assert value["url"] == f"tftp://{SERVER}/lpxelinux.0", value
        assert value["notes"] == ["shows its prompt for 3 s", f"looks for boot server type 0x8000 at {where}"]
