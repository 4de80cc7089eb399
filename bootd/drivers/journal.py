"""The one writer of the daemon's state: SQLite, WAL, every write synchronous, so a killed daemon loses nothing
that it has answered for.

Use from one thread. Each `write` is one transaction; `batch` makes one of several. Wall-clock time (seconds since
the epoch) is added here, for people: nothing decides on it.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bootd.drivers import contents
from bootd.drivers.database import Database
from bootd.session.captures import OPEN as OPEN_CAPTURES
from bootd.session.effects import (
    AuditRecord,
    Binding,
    CaptureRecord,
    ContentRecord,
    DefaultLabel,
    FilesOrder,
    ForgottenNode,
    GroupRecord,
    HostFileLine,
    HostFileRecord,
    KioskRecord,
    LayoutOrder,
    LockRecord,
    ManifestRecord,
    MemberRecord,
    NodeRecord,
    PartOrder,
    Record,
    RemovedGroup,
    RemovedKiosk,
    RemovedLock,
    SessionRecord,
    Verdict,
)
from bootd.session.machine import Machine
from bootd.session.states import ENDED
from bootd.wire.control import Disk, Join, Lock, Partition, PartTarget, decode_as, encode
from bootd.wire.errors import PeerProtocolError

MAX_DETAIL = 8192  # characters of one audit detail

_CREATE = """
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE node (
    mac TEXT PRIMARY KEY, name TEXT NOT NULL, token TEXT NOT NULL, label TEXT NOT NULL, once TEXT NOT NULL,
    automatic TEXT NOT NULL, parked TEXT NOT NULL, attempts INTEGER NOT NULL, inventory BLOB
) STRICT;
CREATE TABLE session (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, state TEXT NOT NULL,
    ended INTEGER NOT NULL, created REAL NOT NULL, changed REAL NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_is_fixed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
"""


_CREATE_OPEN = """
CREATE TABLE member (
    session TEXT NOT NULL, mac TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (session, mac)
) STRICT;
CREATE TABLE manifest (session TEXT PRIMARY KEY, encoded BLOB NOT NULL) STRICT;
"""


_CREATE_LOCK = """
CREATE TABLE lock (mac TEXT NOT NULL, place TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (mac, place)) STRICT;
"""

_CREATE_TOKENS = """
CREATE TABLE token (
    name TEXT PRIMARY KEY, digest BLOB NOT NULL UNIQUE, scope TEXT NOT NULL, created REAL NOT NULL,
    creator TEXT NOT NULL, expires REAL
) STRICT;
"""

_CREATE_NOTICES = """
CREATE TABLE notice (
    number INTEGER PRIMARY KEY, session TEXT NOT NULL, target TEXT NOT NULL, state TEXT NOT NULL, text TEXT NOT NULL
) STRICT;
"""

_CREATE_CAPTURES = """
CREATE TABLE capture (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, is_open INTEGER NOT NULL, body TEXT NOT NULL
) STRICT;
"""


_CREATE_REGISTRY = """
ALTER TABLE node ADD COLUMN more TEXT NOT NULL DEFAULT '{}';
CREATE TABLE node_group (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
CREATE TABLE host_file (mac TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
"""

_CREATE_CONTENT = """
CREATE TABLE content (
    mac TEXT NOT NULL, disk TEXT NOT NULL, partition INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (mac, disk, partition)
) STRICT;
"""

_CREATE_KIOSK = """
CREATE TABLE kiosk (mac TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
"""

# Steps from an empty file.
SCHEMA = (
    *(_CREATE, _CREATE_OPEN, _CREATE_LOCK, _CREATE_TOKENS, _CREATE_NOTICES, _CREATE_REGISTRY),
    *(_CREATE_CONTENT, _CREATE_KIOSK, _CREATE_CAPTURES),
)


@dataclass(frozen=True)
class Saved:
    """What a start of the daemon takes over. ``default_label`` "" = none kept."""

    nodes: tuple[NodeRecord, ...]
    default_label: str
    sessions: tuple[SessionRecord, ...]  # oldest first; every open one, and the latest that have ended
    members: tuple[MemberRecord, ...]  # of the open ones
    manifests: tuple[ManifestRecord, ...] = ()  # of the open ones
    locks: tuple[LockRecord, ...] = ()
    kiosks: tuple[KioskRecord, ...] = ()
    captures: tuple[CaptureRecord, ...] = ()  # every open one, and the latest that have ended
    groups: tuple[GroupRecord, ...] = ()
    host_files: tuple[HostFileRecord, ...] = ()


@dataclass(frozen=True)
class AuditLine:
    time: float  # seconds since the epoch
    who: str
    what: str
    detail: str


class Journal:
    """`OperatorError` from the constructor when the file cannot be used; from a write when the disk refuses it."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._file = Database(
            path,
            SCHEMA,
            what="state",
            hint="check server.state_dir: its owner, its free space, and that no other bootd uses it",
        )
        self._database = self._file.connection

    def close(self) -> None:
        self._file.close()

    def keep_copy(self) -> None:
        """Beside the file, once `load` has understood everything in it."""
        self._file.keep_copy()

    def write(self, record: Record) -> None:
        self.batch((record,))

    def batch(self, records: Iterable[Record]) -> None:
        """All of ``records`` or none of them are on the disk when this returns."""
        try:
            with self._file.transaction():
                for record in records:
                    self._put(record)
        except sqlite3.Error as error:
            raise self._file.unusable(error) from None

    def change(self, statement: str, values: Sequence[object], audit: AuditRecord) -> None:
        """``statement`` and its line of the audit: both are on the disk when this returns, or neither."""
        try:
            with self._file.transaction() as database:
                database.execute(statement, values)
                self._put(audit)
        except sqlite3.Error as error:
            raise self._file.unusable(error) from None

    def tokens(self) -> list[tuple[str, bytes, str, float, str, float | None]]:
        """Name, SHA-256, scope, creation, creator and end of each token; times in seconds since the epoch."""
        try:
            return self._database.execute(
                "SELECT name, digest, scope, created, creator, expires FROM token"
            ).fetchall()
        except sqlite3.Error as error:
            raise self._file.unusable(error) from None

    def notices(self) -> list[tuple[int, str, str, str, str]]:
        """Number, session, target, state and text of each notice, oldest first."""
        try:
            rows = self._database.execute("SELECT number, session, target, state, text FROM notice ORDER BY number")
            return rows.fetchall()
        except sqlite3.Error as error:
            raise self._file.unusable(error) from None

    def forget_notice(self, number: int) -> None:
        try:
            with self._file.transaction() as database:
                database.execute("DELETE FROM notice WHERE number = ?", (number,))
        except sqlite3.Error as error:
            raise self._file.unusable(error) from None

    def load(self, ended_sessions: int = 50) -> Saved:
        """Everything that a restart needs; a record that cannot be read is an `OperatorError`, never skipped."""
        try:
            nodes = self._database.execute(
                "SELECT mac, name, token, label, once, automatic, parked, attempts, inventory, more"
                " FROM node ORDER BY mac"
            ).fetchall()
            label = self._database.execute("SELECT value FROM setting WHERE key = 'default_label'").fetchone()
            sessions = self._database.execute(
                "SELECT body FROM session WHERE ended = 0 OR number IN"
                " (SELECT number FROM session WHERE ended = 1 ORDER BY number DESC LIMIT ?) ORDER BY number",
                (ended_sessions,),
            ).fetchall()
            return Saved(
                nodes=tuple(_node(*row) for row in nodes),
                default_label=label[0] if label else "",
                sessions=tuple(_session(row[0]) for row in sessions),
                members=tuple(_member(row[0]) for row in self._database.execute("SELECT body FROM member")),
                manifests=tuple(
                    ManifestRecord(*row) for row in self._database.execute("SELECT session, encoded FROM manifest")
                ),
                locks=tuple(
                    _lock(*row)
                    for row in self._database.execute("SELECT mac, place, body FROM lock ORDER BY mac, place")
                ),
                kiosks=tuple(
                    _kiosk(row[0]) for row in self._database.execute("SELECT body FROM kiosk ORDER BY mac")
                ),
                captures=tuple(
                    CaptureRecord(**json.loads(row[0]))
                    for row in self._database.execute(
                        "SELECT body FROM capture WHERE is_open = 1 OR number IN (SELECT number FROM capture"
                        " WHERE is_open = 0 ORDER BY number DESC LIMIT ?) ORDER BY number",
                        (ended_sessions,),
                    )
                ),
                groups=tuple(
                    _group(row[0]) for row in self._database.execute("SELECT body FROM node_group ORDER BY name")
                ),
                host_files=tuple(
                    _host_file(*row)
                    for row in self._database.execute("SELECT mac, body FROM host_file ORDER BY mac")
                ),
            )
        except (sqlite3.Error, PeerProtocolError, ValueError, TypeError, KeyError) as error:
            raise self._file.unusable(error) from None

    def audit(self, limit: int = 100, *, since: float = 0.0, who: str = "") -> list[AuditLine]:
        """The latest ``limit`` lines, oldest first: from ``since`` on (seconds since the epoch), of users whose
        name begins with ``who``."""
        try:
            rows = self._database.execute(
                "SELECT time, who, what, detail FROM audit WHERE time >= ? AND substr(who, 1, ?) = ?"
                " ORDER BY number DESC LIMIT ?",
                (since, len(who), who, limit),
            ).fetchall()
        except sqlite3.Error as error:
            raise self._file.unusable(error) from None
        return [AuditLine(*row) for row in reversed(rows)]

    def contents(self, mac: str) -> list[dict[str, Any]]:
        """What the disks and partitions of a node should hold and hold: see `contents.of_node`."""
        try:
            return contents.of_node(self._database, mac)
        except sqlite3.Error as error:
            raise self._file.unusable(error) from None

    def _put(self, record: Record) -> None:
        match record:
            case NodeRecord():
                self._put_node(record)
            case ForgottenNode(mac):
                self._database.execute("DELETE FROM node WHERE mac = ?", (mac,))
                self._database.execute("DELETE FROM content WHERE mac = ?", (mac,))
                self._database.execute("DELETE FROM kiosk WHERE mac = ?", (mac,))
                self._database.execute("DELETE FROM host_file WHERE mac = ?", (mac,))
                self._database.execute("DELETE FROM content WHERE mac = ?", (mac,))
            case KioskRecord(mac):
                body = json.dumps(asdict(record))
                self._database.execute("INSERT OR REPLACE INTO kiosk VALUES (?, ?)", (mac, body))
            case RemovedKiosk(mac):
                self._database.execute("DELETE FROM kiosk WHERE mac = ?", (mac,))
            case ContentRecord():
                contents.put(self._database, record, self._clock())
            case GroupRecord(name, label, macs):
                body = json.dumps({"name": name, "label": label, "macs": sorted(macs)})
                self._database.execute("INSERT OR REPLACE INTO node_group VALUES (?, ?)", (name, body))
            case RemovedGroup(name):
                self._database.execute("DELETE FROM node_group WHERE name = ?", (name,))
            case HostFileRecord(mac, lines):
                body = json.dumps([asdict(line) for line in lines])
                self._database.execute("INSERT OR REPLACE INTO host_file VALUES (?, ?)", (mac, body))
            case DefaultLabel(label):
                self._database.execute(
                    "INSERT INTO setting VALUES ('default_label', ?)"
                    " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    (label,),
                )
            case SessionRecord():
                self._put_session(record)
            case MemberRecord(session, mac):
                body = json.dumps(asdict(record))
                self._database.execute("INSERT OR REPLACE INTO member VALUES (?, ?, ?)", (session, mac, body))
            case ManifestRecord(session, encoded):
                self._database.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?)", (session, encoded))
            case LockRecord(mac, place):
                body = json.dumps({"lock": asdict(record.lock), "expires": record.expires})
                self._database.execute("INSERT OR REPLACE INTO lock VALUES (?, ?, ?)", (mac, place, body))
            case RemovedLock(mac, place):
                self._database.execute("DELETE FROM lock WHERE mac = ? AND place = ?", (mac, place))
            case CaptureRecord(id_):
                is_open = int(record.state in {state.value for state in OPEN_CAPTURES})
                self._database.execute(
                    "INSERT INTO capture (id, is_open, body) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                    " is_open = excluded.is_open, body = excluded.body",
                    (id_, is_open, json.dumps(asdict(record))),
                )
            case AuditRecord(who, what, detail):
                self._database.execute(
                    "INSERT INTO audit (time, who, what, detail) VALUES (?, ?, ?, ?)",
                    (self._clock(), who, what, detail[:MAX_DETAIL]),
                )

    def _put_node(self, record: NodeRecord) -> None:
        inventory = encode(record.join) if record.join is not None else None
        more = {
            "approved": record.approved,
            "number": record.number,
            "switch": record.switch,
            "machine": asdict(record.machine) if record.machine is not None else None,
            "changed": record.changed,
        }
        self._database.execute(
            "INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.mac,
                record.name,
                record.token,
                record.label,
                record.once,
                record.automatic,
                record.parked,
                record.attempts,
                inventory,
                json.dumps(more),
            ),
        )

    def _put_session(self, record: SessionRecord) -> None:
        now = self._clock()
        ended = int(record.state in {state.value for state in ENDED})
        self._database.execute(
            "INSERT INTO session (id, name, state, ended, created, changed, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET name = excluded.name, state = excluded.state, ended = excluded.ended,"
            " changed = excluded.changed, body = excluded.body",
            (record.id, record.name, record.state, ended, now, now, json.dumps(asdict(record))),
        )
        if ended:
            self._database.execute("DELETE FROM member WHERE session = ?", (record.id,))
            self._database.execute("DELETE FROM manifest WHERE session = ?", (record.id,))


def _node(*row: Any) -> NodeRecord:
    mac, name, token, label, once, automatic, parked, attempts, inventory, body = row
    more = json.loads(body)
    machine = more.get("machine")
    return NodeRecord(
        mac=mac,
        name=name,
        token=token,
        label=label,
        once=once,
        automatic=automatic,
        parked=parked,
        attempts=attempts,
        join=decode_as(Join, inventory) if inventory is not None else None,
        approved=bool(more.get("approved")),
        number=more.get("number"),
        switch=more.get("switch", ""),
        machine=Machine(**{**machine, "disks": tuple(machine["disks"])}) if machine is not None else None,
        changed=more.get("changed", ""),
    )


def _session(body: str) -> SessionRecord:
    value = json.loads(body)
    value["nodes"] = tuple(value["nodes"])
    value["without"] = tuple(value.get("without", ()))
    value["verdicts"] = tuple(_verdict(verdict) for verdict in value["verdicts"])
    value["bindings"] = tuple((mac, _binding(binding)) for mac, binding in value.get("bindings", ()))
    value["further"] = tuple(value.get("further", ()))
    value["parts"] = tuple(PartOrder(**part) for part in value.get("parts", ()))
    value["layout"] = LayoutOrder(**value["layout"]) if value.get("layout") else None
    files = value.get("files")
    value["files"] = FilesOrder(**{**files, **_tuples(files, "erase", "protect")}) if files else None
    return SessionRecord(**value)


def _tuples(value: dict[str, Any], *keys: str) -> dict[str, tuple[str, ...]]:
    return {key: tuple(value[key]) for key in keys}


def _verdict(value: dict[str, Any]) -> Verdict:
    binding = value.pop("binding", None)
    return Verdict(**value, binding=_binding(binding) if binding is not None else None)


def _binding(value: dict[str, Any]) -> Binding:
    return Binding(**{**value, "further": tuple(_binding(one) for one in value.get("further", ()))})


def _member(body: str) -> MemberRecord:
    value = json.loads(body)
    value["disk"] = _disk(value["disk"]) if value["disk"] is not None else None
    value["further"] = tuple(_disk(disk) for disk in value.get("further", ()))
    value["saved"] = tuple(value.get("saved", ()))
    value["locks"] = tuple(Lock(**lock) for lock in value.get("locks", ()))
    value["parts"] = tuple(
        PartTarget(Partition(**part["partition"]), part["size"]) for part in value.get("parts", ())
    )
    return MemberRecord(**value)


def _disk(value: dict[str, Any]) -> Disk:
    partitions = tuple(Partition(**partition) for partition in value.pop("partitions", ()))
    return Disk(**value, partitions=partitions)


def _kiosk(body: str) -> KioskRecord:
    value = json.loads(body)
    return KioskRecord(**{**value, "parts": tuple(value["parts"])})


def _group(body: str) -> GroupRecord:
    value = json.loads(body)
    return GroupRecord(value["name"], value["label"], frozenset(value["macs"]))


def _host_file(mac: str, body: str) -> HostFileRecord:
    return HostFileRecord(mac, tuple(HostFileLine(**line) for line in json.loads(body)))


def _lock(mac: str, place: str, body: str) -> LockRecord:
    value = json.loads(body)
    return LockRecord(mac, place, Lock(**value["lock"]), float(value["expires"]))
