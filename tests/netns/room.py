"""Network rooms for tests: namespaces on one bridge, processes inside them, and nothing left behind.

    with Room("dhcp", "server", "client") as room:
        room.address("server", "10.9.0.2/24")
        daemon = room.start("server", ["dnsmasq", ...])
        daemon.wait_for(r"sockets bound")

Every name becomes a namespace with one interface ``eth0``, plugged into a bridge in a namespace of its own, so
nothing shows on this machine's network and several rooms may exist at once. Leaving the room ends its processes
and removes its namespaces, also after a failure; what a killed run left is swept away by the next room.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.namespaces import Namespaces, inside

_PREFIX = "bootd-test"
_KEPT = 1 << 20  # characters of output kept per process
PATIENCE = 3.0  # tests name what an idle machine takes; a shared one may take so many times as long


class RoomError(AssertionError):
    """What the room could not do, with the last lines of the process concerned."""


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds * PATIENCE:g} s: {what}"
        time.sleep(0.1)


class Process:
    """A program in a namespace; its standard output and error are collected, and waited on by pattern."""

    def __init__(self, who: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.who = who
        self._changed = threading.Condition()
        self._pieces: list[str] = []  # joined when somebody looks
        self._size = 0
        self._position = 0
        self._open = True
        self._popen = subprocess.Popen(
            # The kernel ends the program when this process dies, whatever ends it.
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if environment is None else {**os.environ, **environment},
        )
        threading.Thread(target=self._read, name=f"output of {who}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        """Everything printed so far."""
        with self._changed:
            return self._text()

    def running(self) -> bool:
        return self._popen.poll() is None

    def wait_for(self, pattern: str, seconds: float = 10.0) -> re.Match[str]:
        """The next match of ``pattern`` in the output, after the one waited for before."""
        compiled = re.compile(pattern)
        deadline = time.monotonic() + seconds * PATIENCE
        with self._changed:
            while True:
                found = compiled.search(self._text(), self._position)
                if found:
                    self._position = found.end()
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or not self._open:
                    why = f"nothing matched {pattern!r} in {seconds * PATIENCE:g} s" if self._open else "it ended"
                    raise RoomError(f"{self.who}: {why}; its output ends:\n{self._text()[-2000:]}")
                self._changed.wait(left)

    def send(self, text: str) -> None:
        """Write to its standard input."""
        if self._popen.stdin is not None:
            self._popen.stdin.write(text.encode())
            self._popen.stdin.flush()

    def wait(self, seconds: float = 10.0) -> int:
        """Exit status, once it ends by itself and its output has been read."""
        try:
            status = self._popen.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            raise RoomError(
                f"{self.who}: still running after {seconds * PATIENCE:g} s:\n{self.output[-2000:]}"
            ) from None
        with self._changed:
            self._changed.wait_for(lambda: not self._open, 5.0 * PATIENCE)
        return status

    def signal(self, number: int) -> None:
        if self.running():
            self._popen.send_signal(number)

    def stop(self, seconds: float = 5.0) -> int:
        """SIGTERM, and SIGKILL after ``seconds``; the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            return self._popen.wait(seconds)
        finally:
            if self._popen.stdin is not None:
                self._popen.stdin.close()

    def _text(self) -> str:
        """The last `_KEPT` characters, with the lock held."""
        text = "".join(self._pieces)
        excess = max(0, len(text) - _KEPT)
        self._pieces, self._size = [text[excess:]], len(text) - excess
        self._position = max(0, self._position - excess)
        return self._pieces[0]

    def _read(self) -> None:
        stream = self._popen.stdout
        while stream is not None and (piece := stream.read1(65536)):  # type: ignore[attr-defined]
            with self._changed:
                text = piece.decode("utf-8", "replace")
                self._pieces.append(text)
                self._size += len(text)
                if self._size > 2 * _KEPT:
                    self._text()
                self._changed.notify_all()
        with self._changed:
            self._open = False
            self._changed.notify_all()
        if stream is not None:
            stream.close()


class Room:
    """A bridge and the namespaces on it; a context manager."""

    def __init__(self, *names: str) -> None:
        """``names`` of the namespaces, lower-case letters and digits, ten at most each."""
        self._network = Namespaces(_PREFIX, names, RoomError)
        self._processes: list[Process] = []

    def __enter__(self) -> "Room":
        self._network.build()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        while self._processes:
            self._processes.pop().stop()
        self._network.remove()

    def namespace(self, name: str) -> str:
        """The full name, for ``ip netns exec`` or `setns`."""
        return self._network[name]

    def path(self, name: str) -> Path:
        """The file that ``setns`` wants."""
        return Path("/run/netns") / self._network[name]

    def address(self, name: str, cidr: str) -> None:
        """Give ``eth0`` of ``name`` an address, as ``10.9.0.2/24``."""
        broadcast = "brd + " if "/" in cidr else ""
        self._network.ip(self._network[name], f"address add {cidr} {broadcast}dev eth0")

    def mac(self, name: str, mac: str | None = None) -> str:
        """The MAC address of ``eth0``; set first when ``mac`` is given."""
        if mac is not None:
            self._network.ip(self._network[name], f"link set eth0 address {mac}")
        return self.run(name, ["cat", "/sys/class/net/eth0/address"]).strip()

    def end_left(self, *names: str) -> None:
        """End what has outlived the process that the test started: stage1 leaves a child that hands stage2 on."""
        for name in names:
            for pid in self.run(name, ["ip", "netns", "pids", self._network[name]]).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    def link(self, name: str, up: bool) -> None:
        """Plug ``name`` into the switch, or pull its cable."""
        self._network.ip(self._network.switch, f"link set dev {name} {'up' if up else 'down'}")

    def kernel(self, name: str, setting: str, value: int) -> None:
        """Set ``/proc/sys/SETTING`` of the namespace."""
        self.run(name, ["sh", "-c", f"echo {value} > /proc/sys/{setting}"])

    def limit(self, name: str, megabits: float) -> None:
        """What ``name`` receives at most, in megabits per second."""
        self._network.limit(name, megabits)

    def passed(self, name: str) -> tuple[int, int]:
        """Bytes of Ethernet frames, and frames, that the limit of ``name`` has let through to it."""
        words = ["ip", "netns", "exec", self._network.switch, "tc", "-s", "-j", "qdisc", "show", "dev", name]
        (shaper,) = [item for item in json.loads(self._network.run(words)) if item["kind"] == "tbf"]
        return shaper["bytes"], shaper["packets"]

    def run(self, name: str, command: Sequence[str], seconds: float = 20.0, check: bool = True) -> str:
        """Standard output of a program that ends by itself, run in the namespace."""
        return self._network.run(self._inside(name, command), seconds * PATIENCE, check)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
        """A program in the namespace, ended with the room."""
        process = Process(f"{command[0]} in {name}", self._inside(name, command), environment)
        self._processes.append(process)
        return process

    def _inside(self, name: str, command: Sequence[str]) -> list[str]:
        return [*inside(self._network[name]), *command]
