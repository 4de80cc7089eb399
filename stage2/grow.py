"""After the clone: the last partition and its file system fill a disk that is larger than the image.

The disk is verified already, so what does not work is told, not fatal; nothing is grown by halves: the table comes
first, and a file system in a larger partition is whole. Identifiers, names and flags stay.
"""

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence

from bootd.wire.errors import PeerProtocolError
from bootd.wire.table import Entry, PartitionTable, grown, parse
from bootd.wire.targets import partition_name
from stage2 import signatures

SECONDS = 1800.0  # for every program: a check of a large file system takes its time
_BLKGETSIZE64 = 0x80081272  # linux/fs.h
_EXT = frozenset({"ext2", "ext3", "ext4"})
# What grows while it is mounted, and how.
_MOUNTED = {"xfs": ("xfs_growfs",), "btrfs": ("btrfs", "filesystem", "resize", "max")}


class GrowError(Exception):
    """One step did not work; the text says which and why."""


def grow(disk: str, dev_root: str = "/dev") -> str:
    """Grow what lies last on ``disk`` (kernel name); one sentence for the report, "" when it fills it already."""
    path = f"{dev_root}/{disk}"
    try:
        size = size_of(path)
        table = read_table(path)
        larger, last = grown(table, size)
        if table.label == "gpt":
            _run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--relocate", "gpt-bak-std", path])
        if larger == table:
            return ""
        write_table(path, larger, last)
        # All anew, for the kernel may still have those of the table before; nothing of this disk is in use now.
        _run(["partx", "--delete", path], ok=(0, 1))
        _run(["partx", "--add", path])
    except LookupError as error:
        return f"not grown: {error.args[0]}"
    except (GrowError, PeerProtocolError, OSError) as error:
        return f"not grown: {error}"
    name = partition_name(disk, last.number)
    text = f"{name} has {last.size * table.sector} bytes now"
    try:
        return f"{text}, {grow_filesystem(f'{dev_root}/{name}')}"
    except (GrowError, OSError) as error:
        return f"{text}, but its file system was not grown: {error}"


def size_of(path: str) -> int:
    """Bytes of a block device. OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        (size,) = struct.unpack("Q", fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8)))
    finally:
        os.close(descriptor)
    return int(size)


def read_table(path: str) -> PartitionTable:
    """What sfdisk reads there; `GrowError` or `PeerProtocolError` when that is no table that it knows."""
    return parse(_run(["sfdisk", "--json", path]))


def write_table(path: str, table: PartitionTable, last: Entry) -> None:
    """Change the sizes of ``last``, and of the extended partition around it, and nothing else of the table."""
    base = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--wipe-partitions", "never"]
    if table.label == "gpt":
        _run([*base, "--partno", str(last.number), path], f"size={last.size}\n")
    else:
        _run([*base, path], table.script())
    read = read_table(path).entry(last.number)
    if read != last:
        raise GrowError(f"the table says {read} where {last} was written")


def grow_filesystem(device: str) -> str:
    """Let the file system on ``device`` fill it; what was done. `GrowError` when it stays as it is."""
    kind = signatures.probe(device).get("TYPE", "")
    if kind in _EXT:
        _need("e2fsck", "resize2fs")
        _run(["e2fsck", "-f", "-p", device], ok=(0, 1))  # 1: mended; resize2fs wants it checked
        _run(["resize2fs", device])
    elif kind in _MOUNTED:
        _need(_MOUNTED[kind][0])
        with tempfile.TemporaryDirectory(prefix="bootd-grow-") as folder:
            _run(["mount", "-t", kind, device, folder])
            try:
                _run([*_MOUNTED[kind], folder])
            finally:
                _run(["umount", folder])
    elif kind == "ntfs":
        _need("ntfsresize")
        _run(["ntfsresize", "--no-progress-bar", "--force", "--force", device])  # Windows checks it when it starts
    elif kind == "":
        raise GrowError("there is none that blkid knows")
    else:
        raise GrowError(f"nothing here grows {kind}")
    return f"{kind} grown"


def _need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise GrowError(f"{program} is not in this stage2")


def _run(command: Sequence[str], text: str = "", ok: Sequence[int] = (0,)) -> str:
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GrowError(f"{command[0]}: {error}") from None
    if done.returncode not in ok:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise GrowError(f"{command[0]} failed: {said[-1] if said else done.returncode}")
    return done.stdout.decode(errors="replace")
