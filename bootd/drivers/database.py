"""A SQLite file of the daemon: opened, brought to its schema, written in whole transactions."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bootd.errors import Exit, OperatorError

BUSY_SECONDS = 2.0


class Database:
    """``path`` in WAL mode; made, with its folder, for the daemon's user alone.

    ``steps``: the statements that bring an empty file to schema 1, that to schema 2, and so on. ``what`` is kept in
    it, in the words of an error, and ``hint`` says what to do about a file that cannot be used. ``is_synchronous``:
    a commit is on the disk when it returns; else a crash of the machine may cost the last ones. The connection may
    pass from thread to thread, one at a time. `OperatorError` when the file cannot be used.
    """

    def __init__(
        self, path: Path, steps: Sequence[str], *, what: str, hint: str, is_synchronous: bool = True
    ) -> None:
        self._path, self._what, self._hint = path, what, hint
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            self.connection = sqlite3.connect(
                path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise self.unusable(error) from None
        try:
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute(f"PRAGMA synchronous = {'FULL' if is_synchronous else 'NORMAL'}")
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
            self.connection.execute("ROLLBACK")
            raise

    def unusable(self, error: Exception) -> OperatorError:
        """``error`` as an operator reads it."""
        return OperatorError(f"cannot keep {self._what} in {self._path}: {error}", self._hint, Exit.ERROR)

    def _migrate(self, steps: Sequence[str]) -> None:
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(steps):
            raise OperatorError(
                f"{self._path} has schema {version}, this bootd knows {len(steps)}",
                f"start the newer bootd that wrote it; else {self._hint}",
                Exit.CONFIG,
            )
        if version < len(steps):
            # One transaction with the version in it: a start that is killed here changes nothing.
            statements = "".join(steps[version:])
            self.connection.executescript(
                f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {len(steps)}; COMMIT;"
            )
