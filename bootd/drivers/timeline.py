"""The timelines of the nodes on disk: what was noted survives a restart, within bounds per node and in all.

Lines are collected and written once a second by a thread of their own, so that no DHCP answer waits for a disk. A
killed daemon loses the last second of them: they are for people, nothing decides on them after a crash.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from bootd.drivers.database import Database

PER_NODE = 500  # lines kept
IN_ALL = 100_000
WRITE_SECONDS = 1.0
_MOST_WAITING = 20_000  # lines; what comes on top while a disk hangs is not kept
_MAX_TEXT = 1000
_PRUNE_EVERY = 2000  # lines written between two looks at the bound in all

_CREATE = """
CREATE TABLE line (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, node TEXT NOT NULL, session TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE INDEX of_node ON line (node, number);
"""
_PRUNE_NODE = """
DELETE FROM line WHERE node = :node AND number <= (
    SELECT number FROM line WHERE node = :node ORDER BY number DESC LIMIT 1 OFFSET :keep)
"""
_PRUNE = "DELETE FROM line WHERE number <= (SELECT number FROM line ORDER BY number DESC LIMIT 1 OFFSET :keep)"

_COLUMNS = "number, time, kind, node, session, text"

log = structlog.get_logger(__name__)

Line = dict[str, Any]  # {"time", "kind", "node", "session", "text"}


class TimelineStore:
    """`OperatorError` from the constructor when the file cannot be used. Later troubles are logged once."""

    name = "timeline"

    def __init__(self, path: Path, *, per_node: int = PER_NODE, in_all: int = IN_ALL) -> None:
        self._path, self._per_node, self._in_all = path, per_node, in_all
        self._waiting: list[Line] = []
        self._writing: list[Line] = []
        self._since_pruned = 0
        self._failing = False
        self._guard = threading.Lock()  # of the two lists, never held while a disk is waited for
        self._thread = ThreadPoolExecutor(1, "timeline")
        self._file = Database(
            path,
            (_CREATE,),
            what="the timeline",
            hint="check server.state_dir, or remove this file: it is only the nodes' history",
            is_synchronous=False,
        )
        try:
            # Readers have a connection of their own: with WAL they do not wait for the writer.
            self._reader = sqlite3.connect(path, isolation_level=None, timeout=0.1, check_same_thread=False)
            self._number = self._reader.execute("SELECT coalesce(max(number), 0) FROM line").fetchone()[0]
        except sqlite3.Error as error:
            raise self._file.unusable(error) from None

    def add(self, line: Line) -> None:
        """Keep ``line``; it is found by `of` at once, on disk within about a second."""
        with self._guard:
            if len(self._waiting) < _MOST_WAITING:
                self._number += 1
                self._waiting.append({**line, "text": str(line["text"])[:_MAX_TEXT], "number": self._number})

    def of(self, node: str, limit: int = PER_NODE) -> list[Line]:
        """The latest lines of ``node`` (a MAC), of everything for "", oldest first."""
        where = "WHERE node = :node " if node else ""
        query = f"SELECT {_COLUMNS} FROM line {where}ORDER BY number DESC LIMIT :limit"  # noqa: S608
        with self._guard:
            pending = [line for line in (*self._writing, *self._waiting) if not node or line["node"] == node]
        try:
            rows = self._reader.execute(query, {"node": node, "limit": limit}).fetchall()
        except sqlite3.Error as error:
            self._complain(error)
            rows = []
        found = {row[0]: dict(zip(_COLUMNS.split(", "), row, strict=True)) for row in reversed(rows)}
        found.update((line["number"], line) for line in pending)  # some may be on disk by now
        latest = [found[number] for number in sorted(found)][-limit:]
        return [{key: value for key, value in line.items() if key != "number"} for line in latest]

    async def bind(self) -> None:
        """There is nothing to bind: the file is open."""

    async def serve(self) -> None:
        """Write what waits, once a second, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            if self._waiting:
                await loop.run_in_executor(self._thread, self.flush)

    async def close(self) -> None:
        """Write what still waits."""
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        self.flush()
        self._reader.close()
        self._file.close()

    def flush(self) -> None:
        """Write what waits, and forget what is too old. From one thread at a time."""
        with self._guard:
            if not self._writing:
                self._writing, self._waiting = self._waiting, []
        try:
            self._write(self._writing)
            self._failing = False
        except sqlite3.Error as error:
            self._complain(error)
            if len(self._writing) < _MOST_WAITING:  # tried again; else given up
                return
        with self._guard:
            self._writing = []

    def _write(self, lines: list[Line]) -> None:
        if not lines:
            return
        with self._file.transaction() as database:
            database.executemany(
                "INSERT INTO line VALUES (:number, :time, :kind, :node, :session, :text)",
                lines,
            )
            for node in {line["node"] for line in lines}:
                database.execute(_PRUNE_NODE, {"node": node, "keep": self._per_node})
            self._since_pruned += len(lines)
            if self._since_pruned >= min(_PRUNE_EVERY, self._in_all):
                self._since_pruned = 0
                database.execute(_PRUNE, {"keep": self._in_all})

    def _complain(self, error: sqlite3.Error) -> None:
        if not self._failing:  # once per failure
            log.error("the timeline cannot be kept", file=str(self._path), error=str(error))
        self._failing = True

    def __iter__(self) -> Iterator[Line]:
        return iter(self.of("", self._in_all))
