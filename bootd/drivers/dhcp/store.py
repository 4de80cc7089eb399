"""Leases on disk: SQLite in a file of its own, and the one thread that writes it.

An answer leaves only when its lease is on disk (RFC 2131 section 3.1 point 4), so a killed daemon never gives an
address twice. A commit waits for the disk; so it runs in a thread, and everything that is asked for meanwhile goes
into the next commit together: the loop that answers firmware never waits, and a boot storm costs a few commits, not
one per machine.

The file is not the journal's: SQLite has one writer per file, and two would wait for each other.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from bootd.drivers.database import Database
from bootd.errors import OperatorError
from bootd.netboot.addresses.table import Binding, State

_CREATE = """
CREATE TABLE lease (
    address INTEGER PRIMARY KEY, client TEXT NOT NULL, state TEXT NOT NULL, expires REAL NOT NULL,
    name TEXT NOT NULL
) STRICT;
"""
_MOST_WAITING = 4096  # leases that are not on disk yet; more clients than that are told nothing and ask again

log = structlog.get_logger("bootd.leases")


class LeaseStore:
    """The repository. `OperatorError` when the file cannot be used or the disk refuses a write."""

    def __init__(self, path: Path) -> None:
        # One thread at a time: the start's, then the writer's.
        self._file = Database(
            path,
            (_CREATE,),
            what="leases",
            hint="check server.state_dir: its owner, its free space, and that no other bootd uses it",
        )
        self._database = self._file.connection

    def close(self) -> None:
        self._file.close()

    def load(self) -> list[Binding]:
        """Every lease, also those that have ended: their clients get the same address again."""
        try:
            rows = self._database.execute("SELECT address, client, state, expires, name FROM lease").fetchall()
            bindings = [Binding(address, client, State(state), *rest) for address, client, state, *rest in rows]
        except (sqlite3.Error, ValueError) as error:
            raise self._file.unusable(error) from None
        self._file.keep_copy()
        return bindings

    def write(self, bindings: Sequence[Binding]) -> None:
        """All of ``bindings``, the last one of an address, are on disk when this returns; or none of them."""
        try:
            with self._file.transaction() as database:
                database.executemany(
                    "INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?)",
                    [(one.address, one.client, one.state.value, one.expires, one.name) for one in bindings],
                )
        except sqlite3.Error as error:
            raise self._file.unusable(error) from None


class LeaseWriter:
    """Writes what is submitted, all that waits in one commit, and says so to each by its ``done``."""

    def __init__(self, store: LeaseStore) -> None:
        self._store = store
        self._waiting: list[tuple[Sequence[Binding], Callable[[], None]]] = []
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "leases")
        self._failing = False
        self.commits = 0

    def submit(self, bindings: Sequence[Binding], done: Callable[[], None] = lambda: None) -> bool:
        """``done`` is called in the loop once ``bindings`` are on disk, never when they are not. False when too
        many wait already: then nothing happens."""
        if len(self._waiting) >= _MOST_WAITING:
            return False
        self._waiting.append((bindings, done))
        self._wake.set()
        return True

    async def run(self) -> None:
        """Until cancelled; then `close`."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, []
            if await loop.run_in_executor(self._thread, self._write, batch):
                for _, done in batch:
                    done()
                    await asyncio.sleep(0)  # an offer that is due comes first: its client will not wait as long

    def close(self) -> None:
        """Write what still waits (releases, declines); nobody is answered any more."""
        self._thread.shutdown()
        batch, self._waiting = self._waiting, []
        if batch:
            self._write(batch)

    def _write(self, batch: Sequence[tuple[Sequence[Binding], Callable[[], None]]]) -> bool:
        try:
            self._store.write([binding for bindings, _ in batch for binding in bindings])
        except OperatorError as error:
            if not self._failing:  # once per failure, not once per client
                log.error("leases cannot be written: no address is confirmed", error=error.message, hint=error.hint)  # noqa: TRY400
            self._failing = True
            return False
        if self._failing:
            log.info("leases can be written again")
        self._failing = False
        self.commits += 1
        return True
