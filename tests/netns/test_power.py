"""Nodes switched on and off: magic packets as scapy reads them, Redfish against sushy-tools' emulator, IPMI against
OpenIPMI's simulator. None of them shares a line with bootd."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS, Daemon
from tests.netns.room import Process, Room, until

BMC = "10.9.0.21"
PASSWORD = "correct-horse-7"
MACS = [f"52:54:00:00:0a:{number:02x}" for number in range(1, 5)]
UUID = "27946b59-9e44-4fa7-8e91-f3527a1ef094"
SUSHY = str(Path(sys.executable).parent / "sushy-emulator")

_SNIFF = """
from scapy.all import sniff, UDP, Ether, IP
def show(packet):
    print(packet[Ether].dst, packet[IP].dst, packet[UDP].dport, bytes(packet[UDP].payload).hex(), flush=True)
sniff(iface="eth0", filter=None, lfilter=lambda p: UDP in p and p[UDP].dport == 9, prn=show, store=False,
      started_callback=lambda: print("listening", flush=True))
"""

# What OpenIPMI's simulator runs for its chassis: it remembers the power state, and every word that it was told.
_CHASSIS = """#!/bin/sh
state={folder}/chassis
shift
echo "$@" >>{folder}/chassis.log
while [ $# -gt 0 ]; do
    case "$1 $2" in
    "get power") echo "power:$(cat $state)"; shift 2;;
    "get boot") echo "boot:default"; shift 2;;
    "set power") echo "$3" >$state; shift 3;;
    "set boot") shift 3;;
    "set reset") shift 3;;
    *) shift;;
    esac
done
exit 0
"""


@pytest.fixture
def room() -> Iterator[Room]:
    with Room("server", "n1", "bmc") as made:
        made.address("server", f"{ADDRESS}/24")
        made.address("n1", "10.9.0.11/24")
        made.address("bmc", f"{BMC}/24")
        yield made


def certificate(folder: Path) -> str:
    """A certificate of the controller's own, as controllers have; its SHA-256 as openssl prints it."""
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=bmc", "-addext", f"subjectAltName=IP:{BMC}"]
    made = {"cwd": folder, "check": True, "capture_output": True, "timeout": 20}
    subprocess.run(["openssl", *words, *names, "-keyout", "bmc.key", "-out", "bmc.pem"], **made)  # type: ignore[call-overload]
    printed = subprocess.run(  # type: ignore[call-overload]
        ["openssl", "x509", "-in", "bmc.pem", "-noout", "-fingerprint", "-sha256"], **made
    )
    return str(printed.stdout.decode().strip().partition("=")[2])


def redfish(room: Room, folder: Path) -> Process:
    (folder / "users").write_text(f"admin:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
    (folder / "sushy").mkdir()
    (folder / "sushy.conf").write_text(
        f"""
SUSHY_EMULATOR_LISTEN_IP = {BMC!r}
SUSHY_EMULATOR_LISTEN_PORT = 8443
SUSHY_EMULATOR_SSL_CERT = {str(folder / "bmc.pem")!r}
SUSHY_EMULATOR_SSL_KEY = {str(folder / "bmc.key")!r}
SUSHY_EMULATOR_AUTH_FILE = {str(folder / "users")!r}
SUSHY_EMULATOR_STATE_DIR = {str(folder / "sushy")!r}
SUSHY_EMULATOR_FAKE_DRIVER = True
"""
    )
    process = room.start("bmc", [SUSHY, "--config", str(folder / "sushy.conf"), "--debug"])
    process.wait_for(r"Running on https", 30)
    return process


def ipmi(room: Room, folder: Path) -> Process:
    chassis = folder / "chassis.sh"
    chassis.write_text(_CHASSIS.format(folder=folder))
    chassis.chmod(0o755)
    (folder / "chassis").write_text("0\n")
    (folder / "lan.conf").write_text(
        f"""name "room"
set_working_mc 0x20
  startlan 1
    addr {BMC} 6230
    priv_limit admin
    allowed_auths_admin none md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "{chassis} 0x20"
  user 1 true "" "" user 10 none md5 straight
  user 2 true "admin" "{PASSWORD}" admin 10 none md5 straight
"""
    )
    (folder / "sim.emu").write_text(
        "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n"
    )
    words = ["-c", str(folder / "lan.conf"), "-f", str(folder / "sim.emu"), "-s", str(folder / "sim"), "-n"]
    (folder / "sim").mkdir()
    process = room.start("bmc", ["ipmi_sim", *words])
    # It prints nothing.
    until(lambda: not process.running() or ":6230" in room.run("bmc", ["ss", "-lun"]), 10, "it listens")
    assert process.running(), process.output
    return process


def settings(folder: Path, fingerprint: str) -> str:
    secret = folder / "secret"
    secret.write_text(f"{PASSWORD}\n")
    secret.chmod(0o600)
    wrong = folder / "wrong"
    wrong.write_text("guess-1234\n")
    wrong.chmod(0o600)
    secure_on = folder / "secureon"
    secure_on.write_text("01:23:45:67:89:ab\n")
    secure_on.chmod(0o600)
    where = f"redfish://admin@{BMC}:8443/Systems/{UUID}"
    nodes = (
        ("lab1", f'power = "{where}"\npower_fingerprint = "{fingerprint}"\n'),
        ("lab2", f'power = "ipmi://admin@{BMC}:6230"\n'),
        ("lab3", f'wake_secret = "{secure_on}"\n'),
        ("lab4", f'power = "{where}"\npower_secret = "{wrong}"\npower_fingerprint = "{fingerprint}"\n'),
        ("lab5", f'power = "{where}"\n'),
        ("lab6", f'power = "{where}"\npower_fingerprint = "{"00" * 32}"\n'),
        ("lab7", f'power = "ipmi://admin@{BMC}:6230"\npower_secret = "{wrong}"\n'),
    )
    text = f'[power]\nsecret = "{secret}"\nseconds = 12\n[tftp]\nipv6 = false\n'
    for number, (name, lines) in enumerate(nodes, 1):
        text += f'[[node]]\nmac = "52:54:00:00:0a:{number:02x}"\nname = "{name}"\n{lines}'
    return text


def switched(daemon: Daemon, *words: str, expect: int = 0) -> list[dict[str, Any]]:
    value: list[dict[str, Any]] = json.loads(daemon.command("power", *words, "--json", expect=expect, seconds=60))
    return value


def await_state(daemon: Daemon, node: str, state: str) -> None:
    """A controller takes its time: up to 11 s in the emulator."""
    until(lambda: switched(daemon, "status", node)[0]["state"] == state, 25, f"{node} is {state}")


@pytest.mark.netns
def test_magic_packets(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder, settings(folder, "00" * 32))
    daemon.start()
    sniffer = room.start("n1", [sys.executable, "-c", _SNIFF])
    sniffer.wait_for("listening", 30)
    text = daemon.command("node", "wake", "lab3", "52:54:00:aa:bb:cc")
    assert text.count("10.9.0.255 on eth0") == 2
    seen = [sniffer.wait_for(r"(\S+) (\S+) 9 ([0-9a-f]+)") for _ in range(6)]
    assert {found[1] for found in seen} == {"ff:ff:ff:ff:ff:ff"}
    assert {found[2] for found in seen} == {"10.9.0.255"}
    plain = "ff" * 6 + "525400aabbcc" * 16
    with_password = "ff" * 6 + "525400000a03" * 16 + "0123456789ab"
    assert sorted(found[3] for found in seen) == sorted([plain] * 3 + [with_password] * 3)
    # "on" without a controller is a magic packet; "off" without one is an error, and says what to set
    assert switched(daemon, "on", "lab3")[0]["ok"]
    assert "[[node]] power" in switched(daemon, "off", "lab3", "--yes", expect=Exit.ERROR)[0]["text"]
    audit = json.loads(daemon.command("audit", "--json"))
    assert [line["what"] for line in audit if line["what"].startswith("power")] == [
        "power-wake", "power-wake", "power-on", "power-off"
    ]  # fmt: skip
    assert daemon.command("power", "off", "lab3", expect=Exit.USAGE).count("--yes") == 1


@pytest.mark.netns
def test_redfish(room: Room, folder: Path) -> None:
    fingerprint = certificate(folder)
    emulator = redfish(room, folder)
    daemon = Daemon(room, folder, settings(folder, fingerprint))
    process = daemon.start()
    assert switched(daemon, "status", "lab1") == [
        {"node": "52:54:00:00:0a:01", "name": "lab1", "ok": True, "state": "off", "text": "power is Off"}
    ]
    assert switched(daemon, "off", "lab1", "--yes")[0]["text"] == "is off already"
    assert switched(daemon, "on", "lab1")[0]["text"] == "On is accepted"
    await_state(daemon, "lab1", "on")
    assert switched(daemon, "on", "lab1")[0]["text"] == "is on already"
    assert switched(daemon, "pxe", "lab1")[0]["ok"]
    system = ["curl", "-sk", "-u", f"admin:{PASSWORD}", f"https://{BMC}:8443/redfish/v1/Systems/{UUID}"]
    assert json.loads(room.run("n1", system))["Boot"]["BootSourceOverrideTarget"] == "Pxe"
    assert switched(daemon, "off", "lab1", "--yes")[0]["text"] == "ForceOff is accepted"
    await_state(daemon, "lab1", "off")
    assert switched(daemon, "cycle", "lab1", "--yes")[0]["text"] == "On is accepted", "off is half of a cycle"
    await_state(daemon, "lab1", "on")
    assert switched(daemon, "reset", "lab1", "--yes")[0]["text"] == "ForceRestart is accepted"
    emulator.wait_for('power state set to "ForceRestart"')
    wrong = switched(daemon, "status", "lab[4-6]", expect=Exit.ERROR)
    assert [one["ok"] for one in wrong] == [False] * 3
    assert "user or the password" in wrong[0]["text"]
    assert "not trusted" in wrong[1]["text"]
    assert fingerprint.replace(":", "").lower() in wrong[2]["text"], "what it is, to compare it"
    partly = switched(daemon, "status", "lab1", "lab4", expect=Exit.PARTLY)
    assert [one["ok"] for one in partly] == [True, False]
    for secret in (PASSWORD, "guess-1234"):
        assert secret not in process.output, "no password in the log"
        assert secret not in daemon.command("audit", "--json")


@pytest.mark.netns
def test_redfish_trusted_by_an_authority(room: Room, folder: Path) -> None:
    certificate(folder)
    redfish(room, folder)
    own = settings(folder, "00" * 32).replace("[power]", f'[power]\nauthority = "{folder}/bmc.pem"')
    daemon = Daemon(room, folder, own)
    daemon.start()
    assert switched(daemon, "status", "lab5")[0]["state"] == "off"
    assert "fingerprint" in switched(daemon, "status", "lab6", expect=Exit.ERROR)[0]["text"], (
        "the narrower one counts"
    )


@pytest.mark.netns
def test_ipmi(room: Room, folder: Path) -> None:
    simulator = ipmi(room, folder)
    daemon = Daemon(room, folder, settings(folder, "00" * 32))
    process = daemon.start()
    assert switched(daemon, "status", "lab2")[0]["state"] == "off", simulator.output
    assert switched(daemon, "on", "lab2")[0]["ok"]
    assert (folder / "chassis").read_text() == "1\n"
    assert switched(daemon, "status", "lab2")[0]["state"] == "on"
    assert switched(daemon, "pxe", "lab2")[0]["ok"]
    assert "set boot pxe" in (folder / "chassis.log").read_text()
    assert switched(daemon, "off", "lab2", "--yes")[0]["ok"]
    assert (folder / "chassis").read_text() == "0\n"
    wrong = switched(daemon, "status", "lab7", expect=Exit.ERROR)[0]
    assert not wrong["ok"]
    assert wrong["text"]
    simulator.stop()
    silent = switched(daemon, "status", "lab2", expect=Exit.ERROR)[0]
    assert not silent["ok"]
    for secret in (PASSWORD, "guess-1234"):
        assert secret not in process.output
