"""Programs with a time limit whose every line goes to the log; and those of the tree, inside the tree.

A program of the tree runs in its own mount, process, host name and IPC namespaces: what is mounted for it is gone
when it ends, and so is every process that it left behind. What others unmount meanwhile is unmounted there too, so
nothing of theirs is held busy. Its /dev is a copy, its /sys read-only, its /run and /tmp are empty.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from stage2.customise.facts import CustomiseError
from stage2.customise.tree import Tree

MAX_LINE = 2000  # characters of one line of output
MAX_LINES = 4000  # lines of one program that go to the log
KILL_SECONDS = 30.0  # a process that waits for a disk ends when the disk has answered
TAIL = 5  # last lines that tell why it failed
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOUNTED = ("/dev", "/proc", "/sys", "/run", "/tmp")  # noqa: S108 (folders of the tree)
_ENVIRONMENT = {
    "PATH": PATH,
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "DEBIAN_FRONTEND": "noninteractive",
}
# $1 the tree, $2 host name, $3 number of pairs "source target" (targets below its /run), $4 number of pairs
# "UUID device" for /dev/disk/by-uuid, then the pairs and the command. grub-mkconfig writes root=UUID=… only where
# that link exists, and here is no udevd that makes it.
_ENTER = """\
set -e
root=$1; name=$2; binds=$3; links=$4; shift 4
mount -t tmpfs -o mode=0755,size=16m tmpfs "$root/dev"
for node in /dev/*; do
    case $node in /dev/shm | /dev/pts | /dev/mqueue | /dev/hugepages | /dev/disk) continue ;; esac
    cp -a "$node" "$root/dev/" 2>/dev/null || :
done
mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/dev/disk/by-uuid"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t proc proc "$root/proc"
mount --bind /sys "$root/sys"
mount -o remount,bind,ro "$root/sys"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mkdir -p "$root/run/lock"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
while [ "$binds" -gt 0 ]; do
    mkdir -p "$root/run/$2"
    mount --bind "$1" "$root/run/$2"
    mount -o remount,bind,ro "$root/run/$2"
    shift 2; binds=$((binds - 1))
done
while [ "$links" -gt 0 ]; do
    ln -sfn "$2" "$root/dev/disk/by-uuid/$1"
    shift 2; links=$((links - 1))
done
echo "$name" >/proc/sys/kernel/hostname
exec chroot "$root" "$@"
"""

Tell = Callable[[str], None]


def run(
    command: Sequence[str],
    seconds: float,
    tell: Tell,
    *,
    name: str = "",
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """Run a program of this stage2; its last lines. `CustomiseError` when it fails, or is not done in ``seconds``.

    ``name`` is what the log calls it.
    """
    name = name or os.path.basename(command[0])
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**_ENVIRONMENT, **(environment or {})},
            cwd="/",
        )
    except OSError as error:
        raise CustomiseError(f"{command[0]} cannot be run: {error.strerror}") from None
    lines: deque[str] = deque(maxlen=200)
    told = 0
    with process:
        is_late = True
        try:
            for line in _lines(process, time.monotonic() + seconds):
                lines.append(line)
                told += 1
                if told <= MAX_LINES and line:
                    tell(f"{name}: {line}")
            is_late = process.poll() is None and not _ends(process)
        finally:
            if process.poll() is None:
                _kill(process)
    if is_late:
        raise CustomiseError(f"{name} did not end within {seconds:.0f} seconds")
    if process.returncode != 0:
        said = " / ".join([line.strip() for line in lines if line.strip()][-TAIL:])
        raise CustomiseError(f"{name} failed ({process.returncode}): {said or 'it said nothing'}")
    return list(lines)


class Chroot:
    """Programs of the tree. ``links``: device by UUID; ``hostname`` is what they see."""

    def __init__(self, tree: Tree, hostname: str, links: Mapping[str, str], tell: Tell) -> None:
        self._tree, self._hostname, self._links, self._tell = tree, hostname, dict(links), tell

    def run(
        self,
        command: Sequence[str],
        seconds: float,
        *,
        name: str = "",
        binds: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> list[str]:
        """As `running.run`. ``binds``: folders of this stage2 by their place below the tree's /run, read-only."""
        for folder in _MOUNTED:
            if not self._tree.exists(folder):
                self._tree.make_folder(folder)
            self._tree.outside(folder)  # no link: mount(8) would follow it out of the tree
        pairs = [word for target, source in (binds or {}).items() for word in (source, target)]
        pairs += [word for uuid, device in self._links.items() for word in (uuid, device)]
        enter = [
            *("unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child=KILL", "--uts"),
            *("--ipc", "--", "/bin/sh", "-c", _ENTER, "sh", self._tree.root, self._hostname),
            *(str(len(binds or {})), str(len(self._links)), *pairs, *command),
        ]
        return run(enter, seconds, self._tell, name=name or os.path.basename(command[0]), environment=environment)


def _lines(process: subprocess.Popen[bytes], end: float) -> Iterator[str]:
    """Lines until the output is closed, or until ``end`` (monotonic)."""
    if process.stdout is None:
        return
    descriptor = process.stdout.fileno()
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            left = end - time.monotonic()
            if left <= 0 or not selector.select(left):
                return
            data = os.read(descriptor, 65536)
            if not data:
                break
            *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                yield _printable(line)
            if len(rest) > MAX_LINE:
                yield _printable(rest)
                rest = b""
    if rest:
        yield _printable(rest)


def _ends(process: subprocess.Popen[bytes]) -> bool:
    """Whether a program that has closed its output ends by itself at once."""
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End it with all that it has started inside of its process namespace.

    The first process of that namespace is the child of unshare, which ends when the kernel has ended them all: so
    the child is killed, not its parent, who could not be waited for longer than itself.
    """
    with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as stream:
            children = [int(word) for word in stream.read().split()]
        for child in children:
            os.kill(child, signal.SIGKILL)
        process.wait(KILL_SECONDS if children else 0.0)
    if process.poll() is None:
        process.kill()


def _printable(line: bytes) -> str:
    text = line.decode(errors="replace")[:MAX_LINE]
    return "".join(character if character.isprintable() else " " for character in text).rstrip()
