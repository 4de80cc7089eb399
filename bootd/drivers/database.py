"""A SQLite file of the daemon: opened, checked, brought to its schema, written in whole transactions.

A file that is damaged, newer, or somebody else's is never written to and never replaced: the daemon does not start,
and says where the last good copy is. Only where there is no file a new one is made, whole and under another name
first, so that an empty file is a damage and not a beginning.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import structlog

from bootd.errors import Exit, OperatorError
from bootd.member.durable import sync_file, sync_folder

log = structlog.get_logger(__name__)

BUSY_SECONDS = 2.0
COPY = ".backup"  # what a start could read, beside the file
_BESIDE = ("-wal", "-shm", "-journal")  # SQLite's own


class Database:
    """``path`` in WAL mode; made, with its folder, for the daemon's user alone.

    ``steps``: the statements that bring an empty file to schema 1, that to schema 2, and so on. ``what`` is kept in
    it, in the words of an error, and ``hint`` says what to do about a file that cannot be used. ``is_synchronous``:
    a commit is on the disk when it returns; else a crash of the machine may cost the last ones. Before a new
    schema a copy of the old file is kept. The connection may pass from thread to thread, one at a time.
    `OperatorError` when the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        steps: Sequence[str],
        *,
        what: str,
        hint: str,
        is_synchronous: bool = True,
    ) -> None:
        self._path, self._what, self._hint = path, what, hint
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                self._make(steps)
            elif path.is_file() and path.stat().st_size == 0:
                raise self._damaged("it is empty, though bootd never leaves it so")
            self.connection = _connect(path)
        except sqlite3.DatabaseError as error:  # not a database; a page that cannot be read
            raise self.unusable(error) from None
        except OSError as error:
            raise self.unusable(error) from None
        try:
            self._check(steps)  # before anything is written, the journal mode too
            _configure(self.connection, is_synchronous=is_synchronous)
            self._migrate(steps)
        except (sqlite3.Error, OperatorError) as error:
            self.connection.close()
            raise (error if isinstance(error, OperatorError) else self.unusable(error)) from None

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is done inside, or nothing; `sqlite3.Error` as it comes."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # SQLite itself rolls back when the disk is full
                self.connection.execute("ROLLBACK")
            raise

    def unusable(self, error: Exception) -> OperatorError:
        """``error`` as an operator reads it: a full disk or a missing permission is no damage; what cannot be read
        is, be it a page or a record."""
        if isinstance(error, OSError | sqlite3.OperationalError | sqlite3.IntegrityError):
            return OperatorError(f"cannot keep {self._what} in {self._path}: {error}", self._hint, Exit.ERROR)
        return self._damaged(str(error))

    def keep_copy(self) -> None:
        """To be called when all that is in it could be read: this is what an operator goes back to."""
        self._keep(COPY)

    def _damaged(self, reason: str) -> OperatorError:
        path = self._path
        copy = path.with_name(path.name + COPY)
        aside = f"mv {path} {path}.damaged"
        hint = f"no copy of it is kept; {self._hint}. To begin anew: {aside}"
        try:
            made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(copy.stat().st_mtime))
            hint = (
                f"the last good copy is {copy}, of {made}; what was done since is missing there, locks too."
                f" To go on from it: {aside}; rm -f {path}-wal {path}-shm; cp -p {copy} {path}"
            )
        except OSError:
            pass
        return OperatorError(f"{path} ({self._what}) is damaged: {reason}", hint, Exit.ERROR)

    def _make(self, steps: Sequence[str]) -> None:
        """A whole database of the newest schema, or no file at all, whenever this is killed."""
        left = [name for suffix in _BESIDE if (name := self._path.with_name(self._path.name + suffix)).exists()]
        if left:
            raise self._damaged(f"it is gone, though {left[0].name} is there")
        new = self._path.with_name(self._path.name + ".new")
        _remove(new)
        new.touch(mode=0o600)
        with closing(_connect(new)) as connection:
            _configure(connection, is_synchronous=True)
            _run(connection, steps, 0)
        _rename(new, self._path)

    def _check(self, steps: Sequence[str]) -> None:
        """Damage, files that are no databases of ours, and those of a newer bootd."""
        (found,) = self.connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise self._damaged(str(found))
        if self._version() == 0 and self.connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise OperatorError(
                f"{self._path} is a database of another program",
                f"move it away, or set another server.state_dir; {self._hint}",
                Exit.CONFIG,
            )
        version = self._version()
        if version > len(steps):
            copy = self._path.with_name(f"{self._path.name}.schema{len(steps)}")
            older = f"; what it was before the newer one came is in {copy}" if copy.exists() else ""
            raise OperatorError(
                f"{self._path} has schema {version}, this bootd knows {len(steps)}",
                f"start the newer bootd that wrote it{older}; else {self._hint}",
                Exit.CONFIG,
            )

    def _version(self) -> int:
        return int(self.connection.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self, steps: Sequence[str]) -> None:
        version = self._version()
        if version < len(steps):
            if version:
                self._keep(f".schema{version}")
            _run(self.connection, steps, version)

    def _keep(self, suffix: str) -> None:
        """As it is now, in one piece under its name or not at all. A disk without room for it stops nobody."""
        copy = self._path.with_name(self._path.name + suffix)
        new = copy.with_name(copy.name + ".new")
        try:
            _remove(new)
            new.touch(mode=0o600)
            with closing(sqlite3.connect(new)) as target:
                self.connection.backup(target)
                target.execute("PRAGMA journal_mode = DELETE")  # one file: nothing to forget when it is copied
            _rename(new, copy)
        except (OSError, sqlite3.Error) as error:
            _remove(new)
            log.warning("no copy is kept", file=str(self._path), copy=str(copy), error=str(error))


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)


def _configure(connection: sqlite3.Connection, *, is_synchronous: bool) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if is_synchronous else 'NORMAL'}")


def _run(connection: sqlite3.Connection, steps: Sequence[str], version: int) -> None:
    """One transaction with the version in it: a start that is killed here changes nothing."""
    statements = "".join(steps[version:])
    connection.executescript(f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {len(steps)}; COMMIT;")


def _remove(path: Path) -> None:
    for suffix in ("", *_BESIDE):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _rename(new: Path, path: Path) -> None:
    """Both on the disk when this returns."""
    sync_file(new)
    new.replace(path)
    sync_folder(path.parent)
