"""Leases on disk: what was answered for is there after a kill; many answers share one commit."""

import asyncio
import math
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from bootd.drivers.dhcp.store import LeaseStore, LeaseWriter
from bootd.errors import OperatorError
from bootd.netboot.addresses.table import Binding, State

ONE = Binding(0x0A090064, "52:54:00:00:00:01", State.BOUND, 2000.5, "node1")
EVER = Binding(0x0A090065, "52:54:00:00:00:02", State.BOUND, math.inf)
TAKEN = Binding(0xFFFFFFFE, "", State.QUARANTINED, 3000.0)


def test_what_was_written_is_loaded(tmp_path: Path) -> None:
    store = LeaseStore(tmp_path / "leases.db")
    store.write([ONE, EVER, TAKEN])
    store.write([Binding(ONE.address, "52:54:00:00:00:09", State.RELEASED, 1.0)])
    store.close()
    loaded = {binding.address: binding for binding in LeaseStore(tmp_path / "leases.db").load()}
    assert loaded[EVER.address] == EVER
    assert loaded[TAKEN.address] == TAKEN
    assert loaded[ONE.address] == Binding(ONE.address, "52:54:00:00:00:09", State.RELEASED, 1.0)
    assert (tmp_path / "leases.db").stat().st_mode & 0o777 == 0o600


KILLED = """
import os, signal, sys
from pathlib import Path
from bootd.drivers.dhcp.store import LeaseStore
from bootd.netboot.addresses.table import Binding, State
store = LeaseStore(Path(sys.argv[1]))
for number in range(50):
    store.write([Binding(number, f"client{number}", State.BOUND, 1.0)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_has_lost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "leases.db"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=20).returncode == -9
    assert {binding.client for binding in LeaseStore(path).load()} == {f"client{number}" for number in range(50)}


def test_a_newer_file_and_a_broken_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "leases.db"
    LeaseStore(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(OperatorError, match="schema 99"):
        LeaseStore(path)
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(OperatorError, match="damaged: file is not a database"):
        LeaseStore(path)


def test_answers_come_after_the_commit_and_share_it(tmp_path: Path) -> None:
    path = tmp_path / "leases.db"

    async def run() -> tuple[list[int], int]:
        store = LeaseStore(path)
        writer = LeaseWriter(store)
        answered: list[int] = []
        finished = asyncio.Event()

        def done(number: int) -> None:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as reader:
                row = reader.execute("SELECT client FROM lease WHERE address = ?", (number,)).fetchone()
            reader.close()
            assert row == (f"client{number}",)  # on disk before the answer
            answered.append(number)
            if len(answered) == 200:
                finished.set()

        for number in range(200):
            binding = Binding(number, f"client{number}", State.BOUND, 1.0)
            assert writer.submit([binding], lambda number=number: done(number))  # type: ignore[misc]
        task = asyncio.create_task(writer.run())
        async with asyncio.timeout(20):
            await finished.wait()
        task.cancel()
        writer.submit([Binding(999, "last", State.RELEASED, 1.0)])
        writer.close()
        store.close()
        return answered, writer.commits

    answered, commits = asyncio.run(run())
    assert answered == list(range(200))
    assert commits <= 3
    assert 999 in {binding.address for binding in LeaseStore(path).load()}  # a release on the way out


class Watched(LeaseStore):
    """Says when a write was tried."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.tried = threading.Event()

    def write(self, bindings: Sequence[Binding]) -> None:
        try:
            super().write(bindings)
        finally:
            self.tried.set()


def test_a_disk_that_refuses_answers_nobody_and_does_not_end_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "leases.db"

    async def run() -> list[str]:
        store = Watched(path)
        writer = LeaseWriter(store)
        answered: list[str] = []
        again = asyncio.Event()
        locker = sqlite3.connect(path, isolation_level=None)
        locker.execute("DROP TABLE lease")
        task = asyncio.create_task(writer.run())
        writer.submit([ONE], lambda: answered.append("one"))
        assert await asyncio.to_thread(store.tried.wait, 10)
        locker.execute(
            "CREATE TABLE lease (address INTEGER PRIMARY KEY, client TEXT, state TEXT, expires REAL, name TEXT)"
        )
        locker.close()

        def done() -> None:
            answered.append("two")
            again.set()

        writer.submit([EVER], done)
        async with asyncio.timeout(20):
            await again.wait()
        task.cancel()
        writer.close()
        store.close()
        return answered

    assert asyncio.run(run()) == ["two"]
