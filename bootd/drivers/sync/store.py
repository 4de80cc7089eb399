"""What syncs leave behind a restart: keys of agents on running systems, and schedules."""

import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bootd.drivers.database import Database

_CREATE = """
CREATE TABLE agent (node TEXT PRIMARY KEY, digest BLOB NOT NULL, created REAL NOT NULL, who TEXT NOT NULL) STRICT;
CREATE TABLE schedule (id TEXT PRIMARY KEY, content TEXT NOT NULL) STRICT;
"""
BOOT, LOGON = "boot", "logon"
PREFIX = "bootd-agent_"


@dataclass(frozen=True)
class Schedule:
    """``at``: time of day of the server, `BOOT` or `LOGON`. ``due``: MACs that wait to be up."""

    id: str
    set: str
    nodes: str  # host set, as the operator said it
    at: str
    freeze: bool
    staged: bool
    reboot: bool
    cap: int
    who: str
    due: tuple[str, ...] = ()


@dataclass(frozen=True)
class Agent:
    node: str
    digest: bytes
    created: float  # seconds since the epoch
    who: str


class SyncStore:
    """Methods block, shortly. `OperatorError` when the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._guard = threading.Lock()
        self._file = Database(
            path,
            (_CREATE,),
            what="keys of sync agents, and schedules",
            hint="check server.state_dir, or remove this file, and enrol the agents again",
        )
        try:
            rows = self._file.connection.execute("SELECT node, digest, created, who FROM agent").fetchall()
            self.agents = {row[0]: Agent(*row) for row in rows}
            rows = self._file.connection.execute("SELECT content FROM schedule ORDER BY rowid").fetchall()
            found = [json.loads(row[0]) for row in rows]
            self.schedules = {one["id"]: Schedule(**{**one, "due": tuple(one["due"])}) for one in found}
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            raise self._file.unusable(error) from None

    def enrol(self, node: str, now: float, who: str) -> str:
        """A new key for the agent of ``node``, shown this once; one that it had counts no more."""
        key = PREFIX + secrets.token_urlsafe(32)
        agent = Agent(node, _digest(key), now, who)
        self._write("INSERT OR REPLACE INTO agent VALUES (?, ?, ?, ?)", (node, agent.digest, now, who))
        self.agents[node] = agent
        return key

    def revoke(self, node: str) -> bool:
        """Whether it had one."""
        known = self.agents.pop(node, None)
        self._write("DELETE FROM agent WHERE node = ?", (node,))
        return known is not None

    def is_agent(self, node: str, key: str) -> bool:
        known = self.agents.get(node)
        return known is not None and hmac.compare_digest(known.digest, _digest(key))

    def keep(self, schedule: Schedule) -> None:
        self._write("INSERT OR REPLACE INTO schedule VALUES (?, ?)", (schedule.id, json.dumps(asdict(schedule))))
        self.schedules[schedule.id] = schedule

    def remove(self, id_: str) -> Schedule | None:
        known = self.schedules.pop(id_, None)
        if known is not None:
            self._write("DELETE FROM schedule WHERE id = ?", (id_,))
        return known

    def set_due(self, id_: str, due: tuple[str, ...]) -> None:
        known = self.schedules.get(id_)
        if known is not None and known.due != due:
            self.keep(replace(known, due=due))

    def close(self) -> None:
        with self._guard:
            self._file.close()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            with self._guard, self._file.transaction() as database:
                database.execute(statement, values)
        except sqlite3.Error as error:
            raise self._file.unusable(error) from None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
