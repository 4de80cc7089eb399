"""Files of state that are damaged, newer or foreign: refused with the way back, left alone, never made anew."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from bootd.drivers.dhcp.store import LeaseStore
from bootd.drivers.journal import SCHEMA, Journal
from bootd.drivers.timeline import TimelineStore
from bootd.drivers.tokens import TokenStore
from bootd.errors import OperatorError
from bootd.netboot.addresses.table import Binding, State
from bootd.session.effects import AuditRecord, DefaultLabel, NodeRecord
from tests.unit.session_room import mac

NAMES = ("bootd.db", "leases.db", "timeline.db")


async def _close(store: TimelineStore) -> None:
    await store.close()


def _journal(path: Path) -> None:
    book = Journal(path)
    try:
        book.load()
        TokenStore(book)
        book.keep_copy()
    finally:
        book.close()


def _leases(path: Path) -> None:
    store = LeaseStore(path)
    try:
        store.load()
    finally:
        store.close()


def _timeline(path: Path) -> None:
    store = TimelineStore(path)
    store.add({"time": 1.0, "kind": "offer", "node": mac(1), "session": "", "text": "x"})
    asyncio.run(_close(store))


OPEN: dict[str, Callable[[Path], None]] = {"bootd.db": _journal, "leases.db": _leases, "timeline.db": _timeline}


def full(folder: Path, name: str) -> Path:
    """A file with a few hundred records, closed cleanly."""
    path = folder / name
    if name == "bootd.db":
        book = Journal(path)
        book.batch([NodeRecord(mac(n), f"lab{n}", "aa" * 16, "", "", "", "", 0, None) for n in range(300)])
        book.batch([AuditRecord("root", "test", "x" * 500) for _ in range(300)])
        book.close()
    elif name == "leases.db":
        store = LeaseStore(path)
        store.write([Binding(0x0A000000 + n, f"id:{n}", State.BOUND, 1e9, f"lab{n}") for n in range(900)])
        store.close()
    OPEN[name](path)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in folder.iterdir() if not item.name.endswith(("-shm", "-wal"))}


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _noise(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def _page(path: Path) -> None:
    """One page in the middle is overwritten, as a failing disk does."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\x5a" * 4096)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "harm",
    [_cut, _noise, _page, lambda path: os.truncate(path, 0), lambda path: os.truncate(path, 100)],
    ids=["half", "noise", "page", "empty", "header"],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(
    tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    path = full(tmp_path, name)
    OPEN[name](path)  # a second start is content with it
    harm(path)
    before = content(tmp_path)
    for _ in range(2):
        with pytest.raises(OperatorError) as caught:
            OPEN[name](path)
        assert "damaged" in caught.value.message
        assert str(path) in caught.value.message
        assert f"mv {path}" in caught.value.hint, "it says what to do"
        assert content(tmp_path) == before, "nothing was written, nothing made anew"
    if name != "timeline.db":
        assert f"{path}.backup" in caught.value.hint


@pytest.mark.parametrize("name", ["bootd.db", "leases.db"])
def test_the_copy_that_the_hint_names_is_whole(tmp_path: Path, name: str) -> None:
    path = full(tmp_path, name)
    copy = path.with_name(f"{name}.backup")
    assert copy.stat().st_mode & 0o777 == 0o600
    _noise(path)
    shutil.copy(copy, path)
    OPEN[name](path)
    with closing(sqlite3.connect(path)) as raw:
        table, count = ("node", 300) if name == "bootd.db" else ("lease", 900)
        assert raw.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == count  # noqa: S608


def test_a_record_that_makes_no_sense_does_not_replace_the_good_copy(tmp_path: Path) -> None:
    path = full(tmp_path, "bootd.db")
    good = path.with_name("bootd.db.backup").read_bytes()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("INSERT INTO session VALUES (1, 'x', 'x', 'running', 0, 0, 0, '{broken')")
    with pytest.raises(OperatorError, match="damaged") as caught:
        _journal(path)
    assert str(path.with_name("bootd.db.backup")) in caught.value.hint
    assert path.with_name("bootd.db.backup").read_bytes() == good


@pytest.mark.parametrize("name", NAMES)
def test_a_newer_file_is_left_alone(tmp_path: Path, name: str) -> None:
    path = full(tmp_path, name)
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 99")
    before = content(tmp_path)
    with pytest.raises(OperatorError, match="schema 99") as caught:
        OPEN[name](path)
    assert "newer bootd" in caught.value.hint
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", NAMES)
def test_the_database_of_another_program_is_left_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE theirs (x)")
    before = content(tmp_path)
    with pytest.raises(OperatorError, match="another program"):
        OPEN[name](path)
    assert content(tmp_path) == before


def test_a_file_that_is_gone_though_its_log_is_there(tmp_path: Path) -> None:
    path = tmp_path / "bootd.db"
    path.with_name("bootd.db-wal").write_bytes(b"what was acknowledged last")
    with pytest.raises(OperatorError, match="it is gone"):
        Journal(path)
    assert not path.exists()


def test_what_a_killed_first_start_leaves_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "bootd.db.new").write_bytes(b"half")
    (tmp_path / "bootd.db.new-wal").write_bytes(b"half")
    _journal(tmp_path / "bootd.db")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bootd.db", "bootd.db.backup"]


def test_the_old_schema_is_kept_before_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "bootd.db"
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(f"{SCHEMA[0]} PRAGMA user_version = 1;")
        raw.execute("INSERT INTO setting VALUES ('default_label', 'rescue')")
        raw.commit()
    book = Journal(path)
    assert book.load().default_label == "rescue"
    book.write(DefaultLabel("local"))
    book.close()
    with closing(sqlite3.connect(tmp_path / "bootd.db.schema1")) as raw:
        assert raw.execute("PRAGMA user_version").fetchone()[0] == 1
        assert raw.execute("SELECT value FROM setting").fetchone()[0] == "rescue"


def test_a_full_disk_keeps_no_half_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Journal(tmp_path / "bootd.db")
    book.keep_copy()
    good = (tmp_path / "bootd.db.backup").read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    book.write(DefaultLabel("rescue"))
    book.keep_copy()
    book.close()
    assert (tmp_path / "bootd.db.backup").read_bytes() == good
    assert not list(tmp_path.glob("*.new*"))
