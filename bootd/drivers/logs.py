"""What the nodes said on their consoles: kept across restarts, within bounds for each node and in all."""

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bootd.drivers.database import Database
from bootd.errors import OperatorError
from bootd.wire.logs import Log, printable

PER_NODE = 5000  # lines kept
IN_ALL = 500_000
MAX_ID = 64  # characters of a boot or session id
_PRUNE_EVERY = 5000  # lines written between two looks at the bound in all

_CREATE = """
CREATE TABLE line (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, node TEXT NOT NULL, boot TEXT NOT NULL,
    stage TEXT NOT NULL, place INTEGER NOT NULL, up INTEGER NOT NULL, session TEXT NOT NULL, text TEXT NOT NULL,
    UNIQUE (node, boot, stage, place)
) STRICT;
CREATE INDEX of_node ON line (node, number);
"""
_INSERT = (
    "INSERT OR IGNORE INTO line (time, node, boot, stage, place, up, session, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT = (
    "SELECT number, time, boot, stage, up, session, text FROM line"
    " WHERE node = ? AND number > ? AND (? = '' OR session = ?)"
)
_FIRST = f"{_SELECT} ORDER BY number LIMIT ?"
_LATEST = f"{_SELECT} ORDER BY number DESC LIMIT ?"
_PRUNE_NODE = """
DELETE FROM line WHERE node = :node AND number <= (
    SELECT number FROM line WHERE node = :node ORDER BY number DESC LIMIT 1 OFFSET :keep)
"""
_PRUNE = "DELETE FROM line WHERE number <= (SELECT number FROM line ORDER BY number DESC LIMIT 1 OFFSET :keep)"


class LogStore:
    """Methods block, and may be called from any thread. `OperatorError` when the file cannot be used."""

    def __init__(
        self,
        path: Path,
        *,
        per_node: int = PER_NODE,
        in_all: int = IN_ALL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._per_node, self._in_all, self._clock = per_node, in_all, clock
        self._guard = threading.Lock()
        self._since_pruned = 0
        self._file = Database(
            path,
            (_CREATE,),
            what="the nodes' logs",
            hint="check server.state_dir, or remove this file: nothing but the nodes' logs is in it",
            is_synchronous=False,
        )

    def add(self, log: Log) -> None:
        """Keep these lines; those that are kept already are passed over."""
        now, stage = self._clock(), "stage1" if log.stage == "stage1" else "stage2"
        rows = [
            (
                now,
                log.node,
                printable(log.boot)[:MAX_ID],
                stage,
                log.first + place,
                line.up,
                printable(line.session)[:MAX_ID],
                printable(line.text),
            )
            for place, line in enumerate(log.lines)
        ]
        try:
            with self._guard, self._file.transaction() as database:
                database.executemany(_INSERT, rows)
                database.execute(_PRUNE_NODE, {"node": log.node, "keep": self._per_node})
                self._since_pruned += len(rows)
                if self._since_pruned >= min(_PRUNE_EVERY, self._in_all):
                    self._since_pruned = 0
                    database.execute(_PRUNE, {"keep": self._in_all})
        except (sqlite3.Error, OverflowError) as error:
            raise self._unusable(error) from None

    def of(self, node: str, *, session: str = "", after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """Lines of ``node`` (a MAC), oldest first: the latest, or with ``after`` the first behind that number."""
        query = _FIRST if after else _LATEST
        try:
            with self._guard:
                rows = self._file.connection.execute(query, (node, after, session, session, limit)).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from None
        names = ("number", "time", "boot", "stage", "up", "session", "text")
        lines = [dict(zip(names, row, strict=True)) for row in rows]
        return lines if after else lines[::-1]

    def clear(self, node: str) -> int:
        """Forget all lines of ``node``; how many there were."""
        try:
            with self._guard, self._file.transaction() as database:
                return database.execute("DELETE FROM line WHERE node = ?", (node,)).rowcount
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def close(self) -> None:
        with self._guard:
            self._file.close()

    def _unusable(self, error: Exception) -> OperatorError:
        return self._file.unusable(error) if isinstance(error, sqlite3.Error) else OperatorError(str(error))
