"""The journal: what was written is there after a kill, a newer schema and a bad path are refused."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bootd.drivers.journal import SCHEMA, Journal, Saved
from bootd.errors import Exit, OperatorError
from bootd.session.effects import (
    AuditRecord,
    DefaultLabel,
    FilesOrder,
    ForgottenNode,
    GroupRecord,
    HostFileLine,
    HostFileRecord,
    ManifestRecord,
    MemberRecord,
    NodeRecord,
    RemovedGroup,
    SessionRecord,
    Verdict,
)
from bootd.session.machine import Machine
from bootd.wire.control import Disk, Join
from tests.unit.session_room import disk, mac

JOIN = Join(mac(1), "u", "x86_64", "uefi", "10.0.0.1", "demo", "ka", 1 << 29, (disk(), disk("vdb", serial="ü")))
NODE = NodeRecord(
    mac(1),
    "printer",
    "aa",
    "kamethod",
    "rescue",
    "local",
    "EIO",
    3,
    JOIN,
    approved=True,
    number=7,
    switch="sw1",
    machine=Machine("u", "B1", "P1", ("S1", "ü")),
    changed="board serial B2, was B1",
)
BARE = NodeRecord(mac(2), "", "bb", "", "", "", "", 0, None)
SESSION = SessionRecord(
    id="00000001",
    name="demo",
    source="/img",
    source_size=1 << 20,
    nodes=(mac(1), mac(2)),
    selector="only",
    expect=2,
    label="kamethod",
    after="reboot",
    state="running",
    reason="",
    verdicts=(Verdict(mac(1), "printer", False, "receiving", "still receiving"),),
    without=(mac(9),),
    files=FilesOrder("{}\n{}", "ef" * 32, "desc", ("S1", "S2"), ("S3",)),
)


MEMBER = MemberRecord(
    session=SESSION.id,
    mac=mac(1),
    standing="receiving",
    reason="",
    attempts=1,
    refusals=0,
    begun=True,
    disk=Disk("vda", 1 << 30, 512, "S1", "", "QEMU", "virtio", False, "", "cd" * 32),
)
GROUP = GroupRecord("room2", "rescue", frozenset({mac(1), mac(2)}))
HOST_FILE = HostFileRecord(
    mac(2), (HostFileLine("sda5", "/images", "sda5_W.gz", "06/01/99", "bmc", "bmc", "admin"),)
)
MANIFEST = ManifestRecord(SESSION.id, bytes(range(256)) * 100)


def journal(path: Path) -> Journal:
    return Journal(path, clock=lambda: 1234.5)


def test_everything_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "state" / "bootd.db"
    first = journal(path)
    assert first.load() == Saved((), "", (), ())
    first.batch(
        [NODE, BARE, DefaultLabel("kamethod"), SESSION, MEMBER, MANIFEST, AuditRecord("root", "deploy", "x")]
    )
    first.batch([GROUP, HOST_FILE])
    first.close()
    second = journal(path)
    assert second.load() == Saved(
        (NODE, BARE), "kamethod", (SESSION,), (MEMBER,), (MANIFEST,), groups=(GROUP,), host_files=(HOST_FILE,)
    )
    assert [(line.time, line.who, line.what, line.detail) for line in second.audit()] == [
        (1234.5, "root", "deploy", "x")
    ]
    second.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_an_open_session_needs_goes_with_its_end(tmp_path: Path) -> None:
    book = journal(tmp_path / "bootd.db")
    other = ManifestRecord("00000002", b"2")
    book.batch([SESSION, MEMBER, MANIFEST, other])
    book.write(SessionRecord(**{**vars(SESSION), "state": "done"}))
    assert (book.load().members, book.load().manifests) == ((), (other,))
    book.close()


def test_journal_of_the_first_schema_is_taken_over(tmp_path: Path) -> None:
    """A file as the first release wrote it: no members, no manifests, and sessions that say less."""
    path = tmp_path / "bootd.db"
    with sqlite3.connect(path) as raw:
        raw.executescript(f"{SCHEMA[0]} PRAGMA user_version = 1;")
        raw.execute("INSERT INTO node VALUES ('52:54:00:00:00:02', '', 'bb', '', '', '', '', 0, NULL)")
        body = (
            '{"id": "00000001", "name": "demo", "source": "/img", "source_size": 5, "nodes": [],'
            ' "selector": "only",'
            ' "expect": 1, "label": "kamethod", "after": "reboot", "state": "running", "reason": "",'
            ' "verdicts": []}'
        )
        raw.execute(
            "INSERT INTO session (id, name, state, ended, created, changed, body) VALUES (?, ?, ?, 0, 1, 1, ?)",
            ("00000001", "demo", "running", body),
        )
    raw.close()
    book = journal(path)
    assert book.load().nodes == (BARE,)
    (session,) = book.load().sessions
    assert (session.state, session.join_token, session.fan_out) == ("running", "", 1)
    book.batch([MEMBER, MANIFEST])
    assert (book.load().members, book.load().manifests) == ((MEMBER,), (MANIFEST,))
    book.close()


def test_records_replace_and_go(tmp_path: Path) -> None:
    book = journal(tmp_path / "bootd.db")
    book.write(NODE)
    book.write(NodeRecord(**{**vars(NODE), "label": "local", "join": None}))
    book.write(BARE)
    book.batch([GROUP, HOST_FILE])
    book.batch([RemovedGroup("room2"), ForgottenNode(mac(2))])
    assert (book.load().groups, book.load().host_files) == ((), ())
    book.write(DefaultLabel("kamethod"))
    book.write(DefaultLabel("local"))
    saved = book.load()
    assert [(node.mac, node.label, node.join) for node in saved.nodes] == [(mac(1), "local", None)]
    assert saved.default_label == "local"
    book.close()


def test_open_sessions_are_always_loaded_and_ended_ones_up_to_a_bound(tmp_path: Path) -> None:
    book = journal(tmp_path / "bootd.db")
    book.write(SESSION)
    for number in range(2, 12):
        record = SessionRecord(**{**vars(SESSION), "id": f"{number:08x}"})
        book.write(record)
        book.write(SessionRecord(**{**vars(record), "state": "done", "reason": "2 of 2 nodes cloned"}))
    loaded = book.load(ended_sessions=3).sessions
    assert [session.id for session in loaded] == ["00000001", "00000009", "0000000a", "0000000b"]
    assert [session.state for session in loaded] == ["running", "done", "done", "done"]
    book.close()


def test_a_batch_is_all_or_nothing(tmp_path: Path) -> None:
    book = journal(tmp_path / "bootd.db")
    broken = NodeRecord(**{**vars(BARE), "token": None})
    with pytest.raises(OperatorError, match="cannot keep state"):
        book.batch([NODE, broken])
    assert book.load().nodes == ()
    book.write(NODE)
    assert book.load().nodes == (NODE,)
    book.close()


def test_audit_is_append_only(tmp_path: Path) -> None:
    path = tmp_path / "bootd.db"
    book = journal(path)
    for number in range(5):
        book.write(AuditRecord("root", "set-label", str(number)))
    book.close()
    with sqlite3.connect(path) as raw:
        for statement in ("DELETE FROM audit", "UPDATE audit SET who = 'nobody'"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)
    raw.close()
    book = journal(path)
    assert [line.detail for line in book.audit(limit=3)] == ["2", "3", "4"]
    book.close()


def test_durability_settings(tmp_path: Path) -> None:
    book = journal(tmp_path / "bootd.db")
    pragma = book._database.execute
    assert pragma("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert pragma("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert pragma("PRAGMA user_version").fetchone()[0] == len(SCHEMA)
    book.close()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bootd.db"
    journal(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version = {len(SCHEMA) + 1}")
    raw.close()
    with pytest.raises(OperatorError, match=f"schema {len(SCHEMA) + 1}") as caught:
        journal(path)
    assert caught.value.code is Exit.CONFIG
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA user_version").fetchone()[0] == len(SCHEMA) + 1
    raw.close()


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "directory.db").mkdir()
    (tmp_path / "noise.db").write_bytes(os.urandom(8192))
    for path in (tmp_path / "file" / "bootd.db", tmp_path / "directory.db", tmp_path / "noise.db"):
        with pytest.raises(OperatorError) as caught:
            journal(path)
        assert "state_dir" in caught.value.hint


def test_a_damaged_record_is_an_error_not_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "bootd.db"
    book = journal(path)
    book.batch([NODE, SESSION])
    book._database.execute("UPDATE node SET inventory = x'7b7d'")
    with pytest.raises(OperatorError):
        book.load()
    book._database.execute("UPDATE node SET inventory = NULL")
    book._database.execute("UPDATE session SET body = '{}'")
    with pytest.raises(OperatorError):
        book.load()
    book.close()


_WRITER = """
import sys
from pathlib import Path
from bootd.drivers.journal import Journal
from bootd.session.effects import AuditRecord, DefaultLabel
book = Journal(Path(sys.argv[1]))
for number in range(100000):
    book.batch([DefaultLabel(f"label{number}"), AuditRecord("root", "set-default", str(number))])
    print(number, flush=True)
"""


def test_what_was_answered_for_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "bootd.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    answered = -1
    if writer.stdout is None:
        pytest.fail("no pipe")
    for line in writer.stdout:
        answered = int(line)
        if answered == 40:
            writer.send_signal(signal.SIGKILL)
            break
    rest = writer.stdout.read().split()
    writer.stdout.close()
    writer.wait(10)
    answered = int(rest[-1]) if rest else answered
    book = journal(path)
    kept = int(book.load().default_label.removeprefix("label"))
    assert kept >= answered >= 40
    assert [line.detail for line in book.audit(limit=1 << 20)] == [str(number) for number in range(kept + 1)]
    book.close()


def test_audit_from_a_time_on_and_of_one_user(tmp_path: Path) -> None:
    now = [100.0]
    kept = Journal(tmp_path / "bootd.db", clock=lambda: now[0])
    for who in ("root (uid 0)", "ada (uid 7)", "root (uid 0)", "%"):
        kept.write(AuditRecord(who, "label", str(now[0])))
        now[0] += 100
    assert [line.time for line in kept.audit()] == [100.0, 200.0, 300.0, 400.0]
    assert [line.time for line in kept.audit(since=200.0)] == [200.0, 300.0, 400.0]
    assert [line.time for line in kept.audit(who="root")] == [100.0, 300.0]
    assert [line.time for line in kept.audit(who="root", since=101.0)] == [300.0]
    assert [line.who for line in kept.audit(who="%")] == ["%"], "no pattern"
    assert [line.time for line in kept.audit(2)] == [300.0, 400.0], "the latest"
    kept.close()
