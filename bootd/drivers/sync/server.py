"""The rsync server of one connection: a process that is handed the node's socket, and one folder.

It is rsync's own daemon mode, as inetd would start it: made for clients that nobody trusts. Its configuration is
written for this one task: a module to read, or to write, and nothing else.
"""

import asyncio
import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from bootd.wire.sync import COLLECT, IDLE_SECONDS, OVERLAY, SOURCE

log = structlog.get_logger(__name__)

RSYNC = "rsync"
MOST = 256  # at once
_LOG_LINES = 5


@dataclass(frozen=True)
class Module:
    """``name``: one of `bootd.wire.sync`; a node that asks for another one is told that there is none."""

    name: str
    path: str
    writable: bool = False


def modules_of(source: str, overlay: str, collected: str, *, collect: bool) -> tuple[Module, ...]:
    """What one task may reach. ``overlay`` "" = none."""
    if collect:
        return (Module(COLLECT, collected, writable=True),)
    return (Module(SOURCE, source), *((Module(OVERLAY, overlay),) if overlay else ()))


def configuration(modules: tuple[Module, ...], folder: str, *, is_root: bool) -> str:
    """rsyncd.conf(5). Who is not root keeps owners and modes in extended attributes (``fake super``), and links
    under a prefix that leads nowhere (``munge symlinks``), both of which are taken off again when they are sent."""
    own = (
        "uid = 0\ngid = 0\nuse chroot = yes\nmunge symlinks = no\n"
        if is_root
        else "use chroot = no\nfake super = yes\nmunge symlinks = yes\n"
    )
    lines = [
        f"log file = {folder}/log\nlock file = {folder}/lock\npid file =\nreverse lookup = no\n"
        f"timeout = {IDLE_SECONDS}\nmax verbosity = 1\ntransfer logging = no\n{own}"
    ]
    for module in modules:
        rights = (
            "read only = no\nwrite only = yes\n"
            if module.writable
            else "read only = yes\nrefuse options = copy-links copy-dirlinks copy-unsafe-links\n"
        )
        lines.append(f"[{module.name}]\npath = {module.path}\nlist = no\nnumeric ids = yes\n{rights}")
    return "\n".join(lines)


class Servers:
    """All rsync servers of the daemon."""

    def __init__(self) -> None:
        self._processes: dict[asyncio.subprocess.Process, str] = {}  # and the task of each

    @property
    def is_full(self) -> bool:
        return len(self._processes) >= MOST

    async def serve(self, descriptor: int, modules: tuple[Module, ...], task: str) -> None:
        """Hand the socket ``descriptor`` over; returns when rsync has ended. OSError when it cannot be started."""
        with tempfile.TemporaryDirectory(prefix="bootd-sync-") as folder:
            path = Path(folder) / "rsyncd.conf"
            path.write_text(configuration(modules, folder, is_root=os.geteuid() == 0))
            mode = "write" if any(module.writable for module in modules) else "read"
            words = [
                sys.executable,
                "-m",
                "bootd.drivers.sync.confined",
                mode,
                *(one.path for one in modules),
                "--",
            ]
            words += [RSYNC, "--daemon", "--no-detach", f"--config={path}"]
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=descriptor,
                stdout=descriptor,
                stderr=asyncio.subprocess.PIPE,
                cwd=folder,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
            self._processes[process] = task
            try:
                error = await process.stderr.read(4096) if process.stderr is not None else b""
                code = await process.wait()
            finally:
                del self._processes[process]
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, 9)
                    await process.wait()
            if code:
                said = error.decode(errors="replace") + _last_lines(Path(folder) / "log")
                log.info("rsync server", status=code, said=said.strip()[-500:])

    def end(self, task: str) -> None:
        """End those of a task that is over, which its node may not know."""
        for process, own in self._processes.items():
            if own == task:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, 15)

    async def close(self) -> None:
        """End them all."""
        for task in set(self._processes.values()):
            self.end(task)


def _last_lines(path: Path) -> str:
    with suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-_LOG_LINES:])
    return ""
