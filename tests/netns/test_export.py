"""``bootd export`` in the servers that it is for: their own check of the configuration, then real exchanges.

The clients are the firmware models, on a real link: what they would fetch with the other server's answers alone.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from bootd.cli.main import cli
from tests.netns.foreign_servers import start_dhcpd, start_dnsmasq, start_kea
from tests.netns.room import Process, Room
from tests.unit.test_import import DHCPD_CONF
from tests.unit.test_netboot_clients import EXPECTED, SCRIPT

ROUTER, SERVER = "10.9.0.1", "10.9.0.2"
# dnsmasq cannot ask for the absence of an option, and Kea's replies are below 300 bytes.
OLD_ROM = "BIOS ROM (old, no option 93)"
IPXE_SCRIPT = f"http://{SERVER}:7467/boot/autoexec.ipxe"


def exported(server: str, folder: Path) -> str:
    settings = folder / "bootd.toml"
    settings.write_text(f'[server]\naddress = "{SERVER}"\nboot_dir = "{folder}"\n')
    done = CliRunner().invoke(cli, ["export", server, "--config", str(settings), "--assume-built"])
    assert done.exit_code == 0, done.output
    return done.stdout


def checked(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def dnsmasq(room: Room, folder: Path) -> Process:
    settings = folder / "dnsmasq.conf"
    settings.write_text(exported("dnsmasq", folder))
    checked("dnsmasq", "--test", f"--conf-file={settings}")
    return start_dnsmasq(room, folder, str(settings))


def kea(room: Room, folder: Path) -> Process:
    text = exported("kea", folder)
    alone = folder / "export.json"
    alone.write_text(text)
    checked("kea-dhcp4", "-t", str(alone))
    return start_kea(room, folder, json.loads(re.sub(r"^//.*$", "", text, flags=re.MULTILINE))["Dhcp4"])


def dhcpd(room: Room, folder: Path) -> Process:
    return start_dhcpd(room, folder, exported("dhcpd", folder))


@pytest.mark.parametrize("start", [dnsmasq, kea, dhcpd], ids=lambda start: start.__name__)
def test_every_firmware_boots_from_here_with_the_other_servers_answers(
    tmp_path: Path, start: Callable[[Room, Path], Process]
) -> None:
    with Room("dhcp", "client") as room:
        room.address("dhcp", f"{ROUTER}/24")
        server = start(room, tmp_path)
        call = json.dumps({"servers": 1, "seconds": 1.0})
        text = room.run("client", [sys.executable, "-W", "ignore", "-m", "tests.netns.model_clients", call], 60)
        assert server.running(), server.output
    found = {value["client"]: value for value in map(json.loads, text.splitlines())}
    expected = {name: IPXE_SCRIPT if url == SCRIPT else url for name, url in EXPECTED.items()}
    if start in (dnsmasq, kea):
        assert found.pop(OLD_ROM)["ending"] == "FAILS"
        del expected[OLD_ROM]
    wrong = {name: value for name, value in found.items() if value["url"] != expected[name]}
    assert not wrong
    assert set(found) == set(expected)


def test_the_servers_are_the_real_ones() -> None:
    for program in ("dnsmasq", "kea-dhcp4", "dhcpd"):
        assert shutil.which(program), f"{program} is missing: make setup"


def test_the_dhcpd_conf_that_is_imported_is_one(tmp_path: Path) -> None:
    """The sample of the import's tests is what the real server takes."""
    path, leases = tmp_path / "dhcpd.conf", tmp_path / "leases"
    path.write_text(DHCPD_CONF)
    leases.touch()
    checked("dhcpd", "-t", "-4", "-cf", str(path), "-lf", str(leases))
