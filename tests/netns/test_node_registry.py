"""Who may take part, with the real daemon on a real network: approval, another machine under a MAC, hardware kept.

Nodes are curl: their joins are written here by hand, as stage2 sends them (`bootd/wire/vectors/join.json`).
"""

import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.room import Process, Room, until
from tests.netns.test_serve import numbered

KNOWN, STRANGER = "52:54:00:00:00:01", "52:54:00:00:00:02"
URL = f"http://{ADDRESS}:{HTTP_PORT}"
SETTINGS = f"""
[boot]
default = "kamethod"
[nodes]
unknown = "%s"
[[node]]
mac = "{KNOWN}"
name = "lab1"
"""
VECTORS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "bootd/wire/vectors/join.json").read_text()
)


class Node:
    """One machine at the end of a cable, as the daemon's HTTP port sees it."""

    def __init__(self, room: Room, name: str, mac: str, address: str) -> None:
        self._room, self._name, self._mac, self._address = room, name, mac, address

    def script(self) -> str:
        return self._room.run(self._name, ["curl", "-sS", f"{URL}/boot/boot.ipxe?mac={self._mac}"])

    def token(self) -> str:
        found = re.search(r"bootd\.token=([0-9a-f]+)", self.script())
        assert found is not None, self.script()
        return found.group(1)

    def join(self, vector: str, size: int, **hardware: str) -> None:
        body = json.loads(json.dumps(VECTORS[vector]))
        disk = {**VECTORS["first"]["disks"][0], "name": "vda", "size": size, "table_digest": "0" * 64}
        body.update(node=self._mac, address=self._address, disks=[disk])
        if "hardware" in body:
            body["hardware"].update(hardware)
        self._post("join", body)

    def messages(self, kind: str) -> list[dict[str, Any]]:
        """What is in force for this machine: the first messages of its stream, of one kind."""
        words = ["curl", "-sSN", "--max-time", "1", "-H", f"Authorization: Bearer {self.token()}"]
        text = self._room.run(self._name, [*words, f"{URL}/node/v1/events?node={self._mac}"], check=False)
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        return [message for line in lines if (message := json.loads(line))["type"] == kind]

    def _post(self, what: str, body: dict[str, Any]) -> None:
        header = f"Authorization: Bearer {self.token()}"
        words = ["curl", "-sSf", "-X", "POST", "-H", header, "--data-binary", json.dumps(body)]
        self._room.run(self._name, [*words, f"{URL}/node/v1/{what}"])


def kill(process: Process) -> None:
    process.signal(signal.SIGKILL)
    process.wait()


def test_a_stranger_waits_for_approval_and_its_hardware_is_kept(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder, SETTINGS % "approve")
    process = daemon.start()
    numbered(folder / "image", 2)
    size = (folder / "image").stat().st_size
    stranger = Node(room, "n2", STRANGER, "10.9.0.12")
    daemon.command(
        "deploy", str(folder / "image"), "any", "--disk", "only", "--expect", "2", "--name", "room", "--yes"
    )
    until(lambda: daemon.session("room")["state"] == "waiting", 30, "the image is digested")
    stranger.join("with_hardware", size)
    (wait,) = stranger.messages("wait")
    assert wait["reason"].startswith("not approved here")
    assert stranger.messages("prepare") == []
    (listed,) = json.loads(daemon.command("node", "list", "--unknown", "--json"))
    assert (listed["mac"], listed["known"]) == (STRANGER, False)
    kill(process)
    daemon.start()
    shown = json.loads(daemon.command("node", "show", STRANGER, "--json"))
    assert shown["hardware"] == VECTORS["with_hardware"]["hardware"], "kept across kill -9"
    assert shown["known"] is False
    until(lambda: daemon.session("room")["state"] == "waiting", 30, "the session goes on")
    stranger.join("with_hardware", size)
    assert stranger.messages("prepare") == []
    daemon.command("node", "approve", STRANGER)
    (prepare,) = stranger.messages("prepare")
    assert prepare["plan"]["disk"]["name"] == "vda"


def test_another_machine_under_a_mac_is_refused_until_it_is_accepted(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder, SETTINGS % "accept")
    process = daemon.start()
    numbered(folder / "image", 2)
    size = (folder / "image").stat().st_size
    node = Node(room, "n1", KNOWN, "10.9.0.11")
    node.join("with_hardware", size)
    kill(process)
    daemon.start()
    words = ("deploy", str(folder / "image"), "lab1,n2", "--disk", "only", "--name", "room", "--yes")
    daemon.command("node", "name", STRANGER, "n2")
    daemon.command(*words)
    until(lambda: daemon.session("room")["state"] == "waiting", 30, "the image is digested")
    node.join("with_hardware", size, board_serial="/9ZZ9ZZ9/")
    (wait,) = node.messages("wait")
    assert "board serial /9ZZ9ZZ9/, was /1AB2CD3/" in wait["reason"]
    assert node.messages("prepare") == []
    assert "another machine answers" in daemon.command("state")
    assert "accept-change lab1" in daemon.command("plan", str(folder / "image"), "lab1", "--disk", "only", expect=4)
    daemon.command("node", "accept-change", "lab1")
    assert len(node.messages("prepare")) == 1
    assert "accept-change" in daemon.command("audit")


def test_ignored_strangers_hear_nothing(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder, SETTINGS % "ignore")
    (daemon.boot / "ipxe.efi").write_bytes(b"MZ")  # its name is all that an offer needs
    daemon.start()
    answers = {}
    for xid, mac in enumerate((KNOWN, STRANGER), 1):
        call = {"mac": mac, "arch": 7, "xid": xid, "answers": 1, "seconds": 3}
        client = [sys.executable, "-m", "tests.netns.pxe_client", "discover", json.dumps(call)]
        answers[mac] = room.run("n1", client, seconds=30).splitlines()
    assert (len(answers[KNOWN]), answers[STRANGER]) == (1, [])
    assert "bootd.token" not in Node(room, "n1", STRANGER, "10.9.0.12").script()
    (listed,) = json.loads(daemon.command("node", "list", "--unknown", "--json"))
    assert listed["mac"] == STRANGER
    assert [node["mac"] for node in json.loads(daemon.command("node", "list", "--json"))] == [KNOWN]
    daemon.command("node", "approve", "any")
    assert Node(room, "n1", STRANGER, "10.9.0.12").token()


def test_names_and_groups_survive_kill(room: Room, folder: Path) -> None:
    daemon = Daemon(room, folder, SETTINGS % "accept")
    process = daemon.start()
    csv = folder / "room.csv"
    csv.write_text(f"mac,name,number,groups,label\n{STRANGER},pc7,70,room2,rescue\n{KNOWN},,,room2,\n")
    daemon.command("import", "nodes", str(csv), "--apply")
    daemon.command("label", "set", "local", "--group", "room2")
    before = daemon.command("export", "nodes")
    kill(process)
    daemon.start()
    assert daemon.command("export", "nodes") == before
    assert daemon.command("node", "find", "@room2,!70") == f"lab1 {KNOWN}\n"
    told = json.loads(daemon.command("group", "show", "room2", "--json"))
    assert {node["name"]: node["label"] for node in told["nodes"]} == {"lab1": "local", "pc7": "rescue"}
