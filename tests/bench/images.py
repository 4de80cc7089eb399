"""``make bench-images``: backup and restore of one disk beside partclone with zstd, and dd with gzip.

The disk is a file of several gigabytes behind a loop device, with an ext4 file system that is half full: half of
its data compresses, half does not; what is free holds zeros. Every tool reads the same device and writes a file
system of this machine; a run ends when its output is on the disk (``sync -f``). Caches are as the run before left
them, so each tool is run twice and the second counts. Restores go to a new file, which must equal the disk byte for
byte (partclone leaves free blocks out: there, every file in it must). Rates are bytes of the whole disk a second.

``second``: 1 % of the data has changed since. ``node backup``: see `capture`. ``ring``: how fast a head feeds one
successor on this machine that throws everything away, from the raw file and from the store. One JSON line per
result: build/bench/images.jsonl.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bootd.drivers.images.store import ImageStore
from bootd.wire.stored import image_source
from tests.bench.capture import captures

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
OUT = ROOT / "build/bench/images.jsonl"
BOOTD = str(Path(sys.executable).parent / "bootd")
PIECE = 4 * MIB  # bytes of each file in the file system
UNMOUNT_SECONDS = 120
Row = dict[str, Any]


class Disk:
    """The disk, its loop device and its file system."""

    def __init__(self, folder: Path, mebibytes: int) -> None:
        self.path, self.folder, self.size = folder / "disk.img", folder, mebibytes * MIB
        self.pieces = mebibytes * MIB // 2 // PIECE
        self.changes = 0
        with self.path.open("wb") as file:
            file.truncate(self.size)
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", "-b", "4096", str(self.path))
        with self.mounted() as place:
            for number in range(self.pieces):
                (place / f"{number}").write_bytes(piece(number))

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        place = self.folder / "mounted"
        place.mkdir(exist_ok=True)
        run("mount", "-o", "loop", str(self.path), str(place))
        try:
            yield place
        finally:
            unmount(place, self.path)

    @contextmanager
    def device(self) -> Iterator[str]:
        name = run("losetup", "--find", "--show", "--read-only", str(self.path)).strip()
        try:
            yield name
        finally:
            run("losetup", "--detach", name)

    def change(self, share: float) -> int:
        """Overwrite so much of the data, in files of their own, with bytes that never were there; how many."""
        count = max(1, round(self.pieces * share))
        self.changes += 1
        with self.mounted() as place:
            for number in range(count):
                (place / f"{number * self.pieces // count}").write_bytes(piece(number + 1_000_000 * self.changes))
        return count * PIECE


def unmount(place: Path, disk: Path) -> None:
    """And wait for the end of the loop device: a mount namespace of somebody else may hold the file system a while
    longer, and only then its last metadata is written; and mount(8) would take the same device again."""
    run("umount", str(place))
    deadline = time.monotonic() + UNMOUNT_SECONDS
    while run("losetup", "--associated", str(disk)):
        if time.monotonic() > deadline:
            raise RuntimeError("somebody else holds the file system of this bench mounted")
        time.sleep(0.1)


def piece(number: int) -> bytes:
    """Half words, half noise."""
    source = random.Random(number)
    words = b"".join(b"line %d of file %d\n" % (line, number) for line in range(PIECE // 2 // 16))
    return words[: PIECE // 2] + source.randbytes(PIECE // 2)


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def timed(command: str, output: Path) -> Row:
    """Seconds, CPU seconds and the largest process of a shell pipeline, until its output is on the disk."""
    record = output.parent / "measured"
    whole = f"set -o pipefail; {command} && sync -f {output}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.measured", str(record), "bash", "-c", whole],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
    found = json.loads(record.read_text())
    return {"seconds": found["ended"] - found["began"], "cpu": found["cpu"], "rss": found["rss"]}


def disk_usage(path: Path) -> int:
    return int(run("du", "-s", "-B1", str(path)).split()[0])


def content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def files_in(disk: Path, place: Path) -> dict[str, str]:
    """Digests of the files in the file system on ``disk``."""
    place.mkdir(exist_ok=True)
    run("mount", "-o", "loop,ro", str(disk), str(place))
    try:
        return {path.name: content(path) for path in place.iterdir() if path.is_file()}
    finally:
        unmount(place, disk)


class Tool:
    """How to back up and restore with one of them: shell pipelines."""

    def __init__(self, name: str, backup: Callable[[str, Path], str], restore: Callable[[Path, Path], str]) -> None:
        self.name, self.backup, self.restore = name, backup, restore


TOOLS = (
    Tool(
        "bootd",
        lambda device, out: f"{BOOTD} image --store {out} put {device} disk -m bench",
        lambda kept, out: f"{BOOTD} image --store {kept} get disk {out}",
    ),
    Tool(
        "partclone+zstd",
        lambda device, out: f"partclone.ext4 -q -c -s {device} -o - -L /dev/null | zstd -q -1 -T0 -o {out}",
        lambda kept, out: f"zstd -q -dc {kept} | partclone.restore -q -C -s - -O {out} -L /dev/null",
    ),
    Tool(
        "dd|gzip",
        lambda device, out: f"dd if={device} bs=1M status=none | gzip -c > {out}",
        lambda kept, out: f"gzip -dc {kept} | dd of={out} bs=1M iflag=fullblock status=none",
    ),
)


def bench(tool: Tool, disk: Disk, folder: Path, times: int) -> Iterator[Row]:
    """Backup and restore; the last run of each counts."""
    kept, back = folder / f"kept-{tool.name.partition('+')[0].replace('|', '-')}", folder / "back.img"
    row: Row = {"tool": tool.name, "bytes": disk.size}
    with disk.device() as device:
        for _ in range(times):
            remove(kept)
            found = timed(tool.backup(device, kept), kept.parent)
    yield {
        **row,
        "what": "backup",
        **found,
        "mb_per_second": disk.size / 1e6 / found["seconds"],
        "kept": disk_usage(kept),
    }
    for _ in range(times):
        back.unlink(missing_ok=True)
        if tool.name.startswith("partclone"):
            with back.open("wb") as file:
                file.truncate(disk.size)
        found = timed(tool.restore(kept, back), back.parent)
    if tool.name.startswith("partclone"):
        if files_in(back, folder / "mounted") != files_in(disk.path, folder / "mounted"):
            raise RuntimeError(f"{tool.name}: what came back differs")
    elif content(back) != content(disk.path):
        raise RuntimeError(f"{tool.name}: what came back differs")
    yield {**row, "what": "restore", **found, "mb_per_second": disk.size / 1e6 / found["seconds"]}
    back.unlink()


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def second(disk: Disk, folder: Path, first: Row) -> Row:
    """A backup by bootd after 1 % of the data has changed."""
    changed = disk.change(0.01)
    kept = folder / "kept-bootd"
    before = disk_usage(kept)
    with disk.device() as device:
        command = f"{BOOTD} image --store {kept} put {device} disk -m second --json > {folder}/second.json"
        found = timed(command, folder)
    told = json.loads((folder / "second.json").read_text())
    return {
        "tool": "bootd",
        "what": "second",
        "bytes": disk.size,
        "changed": changed,
        **found,
        "mb_per_second": disk.size / 1e6 / found["seconds"],
        "new_bytes": told["new_bytes"],
        "new_share": told["new_bytes"] / (disk.size // 2),
        "new_kept": disk_usage(kept) - before,
        "faster_than_first": first["seconds"] / found["seconds"],
        "less_cpu_than_first": first["cpu"] / found["cpu"],
    }


def ring(disk: Disk, folder: Path, kind: str, times: int) -> Row:
    """The rate at which a head feeds a successor; the best of several runs."""
    store = folder / "kept-bootd"
    with ImageStore(store) as images:
        source = str(disk.path) if kind == "file" else image_source("disk", images.resolve("disk"))
    best: Row = {}
    for _ in range(times):
        words = [sys.executable, "-m", "tests.bench.image_ring", source, str(store)]
        found = json.loads(subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        if not best or found["seconds"] < best["seconds"]:
            best = found
    return {
        "tool": "bootd",
        "what": f"ring from {kind}",
        "bytes": disk.size,
        **best,
        "mb_per_second": disk.size / 1e6 / best["seconds"],
    }


def shown(rows: list[Row]) -> Table:
    table = Table("what", "tool", "MB/s", "seconds", "CPU s", "RSS MB", "kept MB", "new", box=None)
    for row in rows:
        table.add_row(
            row["what"],
            row["tool"],
            f"{row['mb_per_second']:.0f}",
            f"{row['seconds']:.2f}",
            f"{row['cpu']:.2f}",
            f"{row['rss'] / 1e6:.0f}",
            f"{row['kept'] / 1e6:.0f}" if "kept" in row else "",
            f"{row['new_share']:.2%}, {row['faster_than_first']:.1f}x faster" if "new_share" in row else "",
        )
    return table


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bootd-bench-", dir=options.folder))
    rows: list[Row] = []
    OUT.parent.mkdir(parents=True, exist_ok=True)
    try:
        disk = Disk(folder, options.mebibytes)

        def note(row: Row) -> None:
            rows.append({**row, "load": os.getloadavg()[0], "time": time.time()})
            with OUT.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")

        for tool in TOOLS:
            for row in bench(tool, disk, folder, options.runs):
                note(row)
        for kind in ("file", "store"):
            note(ring(disk, folder, kind, options.runs + 1))
        first = next(row for row in rows if row["tool"] == "bootd" and row["what"] == "backup")
        note(second(disk, folder, first))
        for row in captures(folder / "capture", disk.size, disk.device, lambda: disk.change(0.01)):
            note(row)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    Console(width=140).print(shown(rows))


if __name__ == "__main__":
    main()
