"""Debian with systemd as its first process, booted by systemd-nspawn in a namespace of a room.

    with Room("server", "client") as room, Container(room, "server", debian(), {packages: "/packages"}) as machine:
        machine.run("dpkg", "--install", "/packages/bootd_0.1.0_amd64.deb")

The tree stays as it is: what the container writes goes to memory and is gone with it. This machine need not have
been booted by systemd, nor have only the unified cgroup hierarchy; the container gets that one and none else.
"""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from bootd.build.cache import Cache, digest_of
from tests.netns.room import Process, Room, RoomError

SUITE = "bookworm"
# What a Debian server has, and the package's own dependencies, for there is no network in the container.
PACKAGES = ("systemd", "systemd-sysv", "dbus", "iproute2", "python3", "libstdc++6", "procps", "curl")
ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root", "COLUMNS=200")
_HIERARCHIES = ("unified", "systemd")  # below /sys/fs/cgroup, where the old ones are beside the unified one
_CGROUPS = Path("/sys/fs/cgroup")
_BOOT_SECONDS = 40.0


def debian() -> Path:
    """The tree, made once by mmdebstrap and kept in the build cache."""

    def make(path: Path) -> None:
        command = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            SUITE,
            str(path),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise RoomError(f"mmdebstrap: {done.stderr[-2000:]}")

    return Cache(Path("build/cache").absolute()).get("nspawn-debian", digest_of(SUITE, *PACKAGES), make, keep=1)


class Container:
    """A context manager; inside it systemd has started everything."""

    def __init__(self, room: Room, name: str, tree: Path, shared: Mapping[Path, str]) -> None:
        """``name`` is the room's namespace that it gets; ``shared`` are folders to be seen there, read-only."""
        self._room, self._name, self._tree, self._shared = room, name, tree, shared
        self._folder = Path(tempfile.mkdtemp(prefix="bootd-nspawn-"))
        self._machine = f"bootd-test-{os.getpid()}"
        self._process: Process | None = None
        self._leader = 0

    def __enter__(self) -> "Container":
        try:
            self._boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._end()

    @property
    def prefix(self) -> list[str]:
        """What to put before a command line that shall run in the container."""
        enter = ["nsenter", "--target", str(self._leader), "--all", "--root", "--"]
        return [*enter, "env", "-i", *ENVIRONMENT]

    def start(self, *command: str) -> Process:
        """A program that goes on; the test stops it, or its end comes with the container's."""
        return Process(f"{command[0]} in {self._machine}", [*self.prefix, *command])

    def run(self, *command: str, expect: int = 0, data: bytes = b"", seconds: float = 60.0) -> str:
        """Standard output and error of a program, which must end with status ``expect``."""
        done = subprocess.run(
            [*self.prefix, *command], input=data, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds
        )
        text = done.stdout.decode(errors="replace")
        if done.returncode != expect:
            raise RoomError(f"{' '.join(command)[:200]}: status {done.returncode}, not {expect}:\n{text[-3000:]}")
        return text

    def put(self, path: str, data: bytes) -> None:
        """Write a file, as root would."""
        self.run("sh", "-c", f'umask 022; cat > "{path}"', data=data)

    def exists(self, path: str) -> bool:
        return subprocess.run([*self.prefix, "test", "-e", path], timeout=10).returncode == 0

    def property(self, unit: str, name: str) -> str:
        """Of a unit, as ``systemctl show`` says it."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def _boot(self) -> None:
        command = ["systemd-nspawn", f"--directory={self._tree}", "--boot", "--volatile=overlay", "--register=no"]
        command += [f"--machine={self._machine}", f"--network-namespace-path={self._room.path(self._name)}"]
        command += ["--console=pipe", "--notify-ready=yes", "--link-journal=no", "--quiet"]
        command += [f"--bind-ro={path}:{place}" for path, place in self._shared.items()]
        if not Path("/run/systemd/system").is_dir():  # nobody here gives it a cgroup: it gets one from us
            command = ["sh", "-c", _enter_cgroups(self._machine) + 'exec "$@"', "sh", *command, "--keep-unit"]
        notify = self._folder / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind(str(notify))
            told.settimeout(0.5)
            environment = {"NOTIFY_SOCKET": str(notify), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
            self._process = Process(self._machine, command, environment)
            self._await_ready(told, self._process)

    def _await_ready(self, told: socket.socket, process: Process) -> None:
        deadline = time.monotonic() + _BOOT_SECONDS
        while time.monotonic() < deadline and process.running():
            try:
                message = told.recv(4096).decode(errors="replace")
            except TimeoutError:
                continue
            if found := re.search(r"X_NSPAWN_LEADER_PID=(\d+)", message):
                self._leader = int(found[1])
            if "READY=1" in message.splitlines() and self._leader:
                return
        raise RoomError(f"the container did not boot:\n{process.output[-3000:]}")

    def _end(self) -> None:
        if self._process is not None:
            self._process.stop(15.0)  # SIGTERM: an orderly shutdown
            self._process = None
        for hierarchy in _hierarchies():
            for group in sorted(hierarchy.glob(f"{self._machine}/**/"), reverse=True):
                try:
                    group.rmdir()
                except OSError:
                    continue
        shutil.rmtree(self._folder, ignore_errors=True)


def _hierarchies() -> list[Path]:
    """The cgroup hierarchies that systemd uses on this machine."""
    return [path for path in (_CGROUPS / name for name in _HIERARCHIES) if path.is_dir()] or [_CGROUPS]


def _enter_cgroups(name: str) -> str:
    """A piece of shell that puts the shell into a cgroup of its own."""
    folders = [hierarchy / name for hierarchy in _hierarchies()]
    return "".join(f"mkdir -p {path} && echo $$ > {path}/cgroup.procs && " for path in folders)
