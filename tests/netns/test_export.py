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
    process = room.start("dhcp", [
        *("dnsmasq", "--keep-in-foreground", f"--conf-file={settings}", "--port=0", "--log-facility=-"),
        *("--no-ping", "--interface=eth0", "--bind-interfaces", "--dhcp-range=10.9.0.100,10.9.0.199,1h"),
        *("--user=root", "--dhcp-authoritative", "--pid-file=", f"--dhcp-leasefile={folder / 'leases'}"),
    ])  # fmt: skip
    process.wait_for(r"DHCP, sockets bound")
    return process


def kea(room: Room, folder: Path) -> Process:
    text = exported("kea", folder)
    alone = folder / "export.json"
    alone.write_text(text)
    checked("kea-dhcp4", "-t", str(alone))
    value = json.loads(re.sub(r"^//.*$", "", text, flags=re.MULTILINE))
    value["Dhcp4"] |= {
        "interfaces-config": {"interfaces": ["eth0"], "dhcp-socket-type": "raw"},
        "lease-database": {"type": "memfile", "persist": False},
        "subnet4": [{"subnet": "10.9.0.0/24", "interface": "eth0", "pools": [{"pool": "10.9.0.100-10.9.0.199"}]}],
        "loggers": [
            {"name": "kea-dhcp4", "output_options": [{"output": "stdout", "flush": True}], "severity": "INFO"}
        ],
    }
    settings = folder / "kea.json"
    settings.write_text(json.dumps(value))
    places = {"KEA_PIDFILE_DIR": str(folder), "KEA_LOCKFILE_DIR": str(folder)}
    process = room.start("dhcp", ["kea-dhcp4", "-c", str(settings)], places)
    process.wait_for("DHCP4_STARTED")
    return process


def dhcpd(room: Room, folder: Path) -> Process:
    leases, settings = folder / "dhcpd.leases", folder / "dhcpd.conf"
    leases.touch()
    settings.write_text(
        f"authoritative;\nping-check off;\n{exported('dhcpd', folder)}"
        "subnet 10.9.0.0 netmask 255.255.255.0 { range 10.9.0.100 10.9.0.199; }\n"
    )
    checked("dhcpd", "-t", "-4", "-cf", str(settings), "-lf", str(leases))
    words = ["dhcpd", "-4", "-d", "-f", "-cf", str(settings), "-lf", str(leases), "-pf", str(folder / "pid")]
    process = room.start("dhcp", [*words, "-user", "root", "-group", "root", "eth0"])
    process.wait_for("Server starting service|Sending on +Socket/fallback")
    return process


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
