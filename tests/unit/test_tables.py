"""Old partition tables: kept by the store, sent by the node, put back with the commands that are shown."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from bootd.cli.undo_table import restore_lines
from bootd.config import Settings
from bootd.drivers.http.node import NodeInterface
from bootd.drivers.tables import KEPT, TableStore, view_kept
from bootd.drivers.tree import VirtualTree
from bootd.errors import Exit
from bootd.member.control import ControlClient, ControlError
from bootd.session.member import Image
from bootd.session.request import SessionRequest
from bootd.wire.control import MemberState, Report
from bootd.wire.errors import PeerProtocolError
from bootd.wire.saved import MAX_SAVED, SavedTable, decode, encode, table_digest, table_regions
from tests.unit.operators import Operators
from tests.unit.session_room import disk, mac

SIZE = 5 << 20
CONTENT = b"".join(number.to_bytes(8, "big") for number in range((2 << 20) // 8))
TABLE = SavedTable("s1", "sda", "S1", "", SIZE, 512, "label: dos\n/dev/sda1 : start=2048\n", CONTENT)


def test_what_is_sent_can_be_read_and_nothing_else() -> None:
    assert decode(encode(TABLE)) == TABLE
    head, _, content = encode(TABLE).partition(b"\n")
    bad = [
        b"",
        content,
        head + b"\n" + content[:-1],
        head + b"\n" + content + b"x",
        head.replace(b'"size":', b'"size":-') + b"\n" + content,
        head.replace(b'"version":1', b'"version":2') + b"\n" + content,
        head.replace(b'"serial":"S1"', b'"serial":"\\ud800"') + b"\n" + content,
        head.replace(b'"serial":"S1"', b'"serial":7') + b"\n" + content,
        bytes(MAX_SAVED + 1),
    ]
    for data in bad:
        with pytest.raises(PeerProtocolError, match="saved table"):
            decode(data)


def test_kept_once_and_bounded_and_the_clock_may_go_back(tmp_path: Path) -> None:
    times = iter([1000.0, 1000.0, 500.0, *([2000.0] * 40)])
    store = TableStore(tmp_path / "tables", lambda: next(times))
    first = store.keep(mac(1), TABLE)
    assert first == "19700101T001640Z"
    assert store.keep(mac(1), replace(TABLE, session="s2")) == first, "the same ends are kept once"
    names = [store.keep(mac(1), replace(TABLE, content=bytes([n]) * (2 << 20))) for n in range(KEPT + 4)]
    assert names[0] == f"{first}-002", "later than the one before, whatever the clock says"
    assert names == sorted(names)
    kept = store.kept(mac(1))
    assert [one.time for one in kept] == names[-KEPT:]
    assert [one.table.content[0] for one in kept if one.table] == list(range(4, KEPT + 4))
    assert store.kept(mac(2)) == []
    files = list((tmp_path / "tables").rglob("*"))
    assert {path.stat().st_mode & 0o777 for path in files if path.is_file()} == {0o600}


def test_serials_are_no_paths_and_damage_is_seen(tmp_path: Path) -> None:
    store = TableStore(tmp_path / "tables")
    for serial in ("../../etc", "/", ".", "..", "a b", "a_b", ""):
        store.keep(mac(1), replace(TABLE, serial=serial))
    assert len({one.disk for one in store.kept(mac(1))}) == 7
    assert all(
        path.parent.parent == tmp_path / "tables" / mac(1).replace(":", "-") for path in tmp_path.rglob("*Z")
    )
    path = next(tmp_path.rglob("*Z"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    damaged = [one for one in store.kept(mac(1)) if one.table is None]
    assert [one.trouble for one in damaged] == ["damaged: its digest does not match"]


@pytest.mark.parametrize("size", [SIZE, 3 << 19, (64 << 20) + 512 * 7])
def test_the_commands_that_are_shown_restore_the_disk(tmp_path: Path, size: int) -> None:
    """Run as they are printed, with GNU dd, on a file in place of the device: a table made by sfdisk comes back."""
    target, saved = tmp_path / "target", tmp_path / "saved"
    target.touch()
    os.truncate(target, size)
    script = b"label: gpt\n,512K,L,*\n"
    subprocess.run(["sfdisk", "--quiet", str(target)], input=script, check=True, capture_output=True)
    before = subprocess.run(["sfdisk", "--dump", str(target)], check=True, capture_output=True).stdout
    old = target.read_bytes()
    saved.write_bytes(b"".join(old[offset : offset + length] for offset, length in table_regions(size)))
    target.write_bytes(b"\xa5" * size)
    lines = restore_lines({"name": "sda", "serial": "S1", "size": size}, str(saved))
    assert "must say S1" in lines[0]
    for line in lines:
        if line.startswith("dd "):
            words = line.replace("/dev/sda", str(target)).split()
            subprocess.run(words, check=True, capture_output=True)
    new = target.read_bytes()
    assert len(new) == size
    for offset, length in table_regions(size):
        assert new[offset : offset + length] == old[offset : offset + length]
    assert new[1 << 20 : size - (1 << 20)] == b"\xa5" * max(0, size - (2 << 20)), "nothing between is touched"
    assert subprocess.run(["sfdisk", "--dump", str(target)], check=True, capture_output=True).stdout == before


# --- node, server, operator ------------------------------------------------------------------------------------


class Server(Operators):
    """With the node interface on loopback, and a session that has planned the disk of lab1."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.engine.tables = TableStore(folder / "tables")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        server = {"state_dir": str(folder), "run_dir": str(folder), "http_port": self.port}
        settings = msgspec.convert({"server": server}, Settings)
        tree = VirtualTree(folder, lambda _: None, "127.0.0.1", self.port)
        self.nodes = NodeInterface(self.engine, tree, settings, "127.0.0.1")
        self.call(self.nodes.bind())
        self.call(self.nodes.serve())
        self.client = self.client_of(1)

    def client_of(self, number: int) -> ControlClient:
        node = self.engine.coordinator.nodes.add(mac(number))
        return ControlClient(f"127.0.0.1:{self.port}", node.mac, node.token)

    def plan(self) -> str:
        coordinator = self.engine.coordinator
        planned = replace(disk(size=SIZE), table_digest=TABLE.digest)
        self.join(1, planned)
        id_, effects = coordinator.create(SessionRequest("/i", 4 << 20, "lab1", "only"), "root", 1.0)
        self.engine.run(effects)
        self.engine.run(coordinator.manifest(id_, Image("ab" * 32, 4 << 20, 1 << 20), 1.0))
        self.join(1, planned)
        return id_

    def close(self) -> None:
        self.call(self.nodes.close())
        super().close()


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="bootd-") as folder:
        made = Server(Path(folder))
        yield made
        made.close()


def test_from_the_node_to_the_operator(server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    session = server.plan()
    table = replace(TABLE, session=session)
    server.client.save_table(encode(table))
    server.client.save_table(encode(table))  # its answer was lost: nothing is kept twice
    assert server.engine.tables is not None
    (kept,) = server.engine.tables.kept(mac(1))
    assert kept.table == table
    code, out, _ = server.run(capsys, "undo-table", "lab1")
    assert code == 0
    assert out.splitlines()[1].split() == ["S1", kept.time, "sda", "5.2", "MB", session, "1", "partitions"]
    assert server.run(capsys, "undo-table", "lab1", "--dump")[1] == TABLE.dump
    file = tmp_path / "ends"
    code, _, error = server.run(capsys, "undo-table", "lab1", "--disk", "S1", "--out", str(file))
    assert code == 0
    assert file.read_bytes() == CONTENT
    for line in restore_lines(view_kept(kept), "ends"):
        assert line in error
    assert server.run(capsys, "undo-table", "lab1", "--out", str(file))[0] == Exit.ERROR, "no file is overwritten"
    code, _, error = server.run(capsys, "undo-table", "lab1", "--disk", "S9", "--dump")
    assert (code, "no such table is kept" in error) == (Exit.USAGE, True)


def test_only_what_was_planned_is_kept(server: Server) -> None:
    session = server.plan()
    table = replace(TABLE, session=session)
    cases = [
        (server.client, replace(table, session="nope"), 409),
        (server.client, replace(table, content=bytes(2 << 20)), 409),
        (server.client_of(2), table, 409),
        (ControlClient(f"127.0.0.1:{server.port}", mac(1), "00"), table, 401),
    ]
    for client, sent, status in cases:
        with pytest.raises(ControlError) as caught:
            client.save_table(encode(sent))
        assert caught.value.status == status
    for data, status in ((b"{}\n", 400), (bytes(MAX_SAVED + 1), 413)):
        with pytest.raises(ControlError) as caught:
            server.client.save_table(data)
        assert caught.value.status in (status, 0)  # 0: the server had closed while the body was on its way
    assert server.engine.tables is not None
    assert server.engine.tables.kept(mac(1)) == []
    failed = Report(mac(1), session, MemberState.FAILED, reason="no way back")
    server.engine.run(server.engine.coordinator.report(failed, 60.0))
    with pytest.raises(ControlError):
        server.client.save_table(encode(table))  # its attempt is over


def test_a_full_disk_is_told_to_the_node(server: Server, tmp_path: Path) -> None:
    session = server.plan()
    (tmp_path / "file").touch()
    server.engine.tables = TableStore(tmp_path / "file")  # no folder can be made below a file
    with pytest.raises(ControlError, match="cannot keep a partition table") as caught:
        server.client.save_table(encode(replace(TABLE, session=session)))
    assert caught.value.status == 507


def test_digest_is_that_of_the_plan() -> None:
    """By the rule of docs/safety.md, with coreutils: SHA-256 over a name, the size in 8 bytes and both ends."""
    data = b"bootd table 1" + SIZE.to_bytes(8, "big") + CONTENT
    known = subprocess.run(["sha256sum"], input=data, check=True, capture_output=True).stdout.split()[0].decode()
    assert TABLE.digest == known == table_digest(SIZE, [CONTENT[:100], CONTENT[100:]])
