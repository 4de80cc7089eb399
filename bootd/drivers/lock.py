"""One daemon per run folder: an exclusive flock(2), which the kernel gives back however the daemon ends."""

import fcntl
import os
from pathlib import Path

from bootd.errors import Exit, OperatorError


class RunLock:
    """``run_dir/bootd.lock``, with the daemon's pid in it for people."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "bootd.lock"
        self._fd = -1

    def acquire(self) -> None:
        """`OperatorError` (BUSY) when another daemon has it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OperatorError(
                f"cannot use {self._path}: {error.strerror}", "see server.run_dir in bootd.toml", Exit.CONFIG
            ) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            self.release()
            raise OperatorError(
                f"bootd is running already with this run_dir (pid {pid or 'unknown'})",
                "stop that one, or give this one another server.run_dir",
                Exit.BUSY,
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
