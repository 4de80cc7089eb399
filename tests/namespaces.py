"""Network namespaces around one bridge: made, found again when their owner has died, removed.

Names are ``PREFIX-PID-NUMBER-NAME``, so that nothing shows on this machine's own network, several of these may
exist at once, and what a killed run left can be told from what a living one needs.
"""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

# Words before a program that is to have mounts of its own. What others unmount is unmounted there too: in a private
# copy it would stay mounted until the program ends, and who mounts it again, otherwise than before, finds it busy.
APART = ("unshare", "--mount", "--propagation", "slave")
_SECONDS = 20.0  # for one `ip` or `tc`, and any other program that only sets something up
Failure = Callable[[str], Exception]


class Namespaces:
    """One per name, each with ``eth0`` plugged into the bridge ``switch`` in a namespace of its own."""

    _count = 0

    def __init__(self, prefix: str, names: Sequence[str], failure: Failure) -> None:
        """``names``: lower-case letters and digits, ten at most each. ``failure`` makes what is raised."""
        Namespaces._count += 1
        self._prefix, self._failure = prefix, failure
        self.base = f"{prefix}-{os.getpid()}-{Namespaces._count}"
        self.switch = f"{self.base}-switch"
        self._full = {name: f"{self.base}-{name}" for name in names}

    def __getitem__(self, name: str) -> str:
        """The full name, for ``ip netns exec`` or `setns`."""
        return self._full[name]

    def build(self) -> None:
        """Make them all, after what dead processes left was swept away; on failure nothing stays."""
        sweep(self._prefix)
        try:
            self.run(["ip", "netns", "add", self.switch])
            self.ip(self.switch, "link set lo up")
            self.ip(self.switch, "link add switch type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
            self.ip(self.switch, "link set switch up")
            for name, full in self._full.items():
                self.run(["ip", "netns", "add", full])
                self.ip(full, "link set lo up")
                self.ip(self.switch, f"link add name {name} type veth peer name eth0 netns {full}")
                self.plug(name)
                self.ip(full, "link set eth0 up")
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        for full in (*self._full.values(), self.switch):
            delete(full)

    def plug(self, port: str) -> None:
        """Connect an interface of the switch's namespace to the bridge."""
        self.ip(self.switch, f"link set dev {port} master switch up")

    def limit(self, port: str, megabits: float) -> None:
        """What leaves the bridge at ``port`` at most, in megabits per second, with the buffer of a small switch."""
        rate = f"{int(megabits * 1000)}kbit"
        arguments = f"qdisc replace dev {port} root tbf rate {rate} burst 128k limit 512k"
        self.run([*inside(self.switch), "tc", *arguments.split()])

    def ip(self, full: str, arguments: str) -> None:
        self.run(["ip", "-n", full, *arguments.split()])

    def run(self, command: Sequence[str], seconds: float = _SECONDS, check: bool = True) -> str:
        """Standard output of a program that ends by itself."""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except FileNotFoundError:
            raise self._failure(f"{command[0]} is not installed") from None
        if check and done.returncode:
            raise self._failure(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-800:]}")
        return done.stdout


def inside(full: str) -> list[str]:
    """What to put before a command line that shall run in the namespace ``full``.

    `ip netns exec` mounts /sys anew, too: that is what makes /sys/class/net the namespace's own.
    """
    return ["ip", "netns", "exec", full]


def delete(full: str) -> None:
    subprocess.run(["ip", "netns", "delete", full], capture_output=True, timeout=_SECONDS)


def is_orphan(prefix: str, name: str) -> bool:
    """Whether ``name`` has the form of ours and the process that made it is dead; its programs died with it."""
    found = re.match(rf"{re.escape(prefix)}-(\d+)-\w+(?:-[a-z0-9]+)?\Z", name)
    return found is not None and not Path(f"/proc/{found.group(1)}").exists()


def sweep(prefix: str) -> None:
    """Delete the namespaces of dead processes."""
    listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=_SECONDS).stdout
    for line in listing.splitlines():
        name = line.split()[0] if line.split() else ""
        if is_orphan(prefix, name):
            delete(name)
