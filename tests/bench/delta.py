"""A partition reset to its image, beside rsync on the same change set: ``python -m tests.bench.delta`` (root).

One ext4 file system with files of many sizes is the image; a copy of it is the partition, on which ``--percent`` of
the files are rewritten, some removed and some added. Reset by: bootd (head and member on loopback, block by block:
compare, write what differs, sync, read it back), rsync by size and time, and rsync by checksum, which alone
promises what bootd does; dd only reads the device. Every reset begins with cold caches and ends synced. Prints one
JSON object a line, and keeps them in build/bench/delta.jsonl.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bootd.member.member import Member
from bootd.member.sources import FileSource, describe_sources, suitable_chunk_size
from bootd.member.store import BlockStore
from bootd.wire.control import Address, Arrange, MemberState, Report

MIB = 1 << 20
OUT = Path(__file__).parents[2] / "build/bench/delta.jsonl"
DEADLINE = 600.0  # seconds


def run(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@contextmanager
def mounted(device: str, folder: Path, options: str = "rw") -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    run("mount", "-t", "ext4", "-o", options, device, folder)
    try:
        yield folder
    finally:
        run("umount", folder)


@contextmanager
def looped(path: Path) -> Iterator[str]:
    device = run("losetup", "--find", "--show", "--direct-io=on", path).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


def fill(folder: Path, size: int, seed: int) -> list[Path]:
    """Files of 4 KiB to 8 MiB that do not compress, half of ``size`` together."""
    noise, done = random.Random(seed), 0
    made: list[Path] = []
    while done < size // 2:
        path = folder / f"{len(made) % 100:02}" / f"{len(made)}"
        path.parent.mkdir(exist_ok=True)
        content = noise.randbytes(4096 << noise.randrange(12))
        path.write_bytes(content)
        made.append(path)
        done += len(content)
    return made


def spoil(folder: Path, percent: float) -> int:
    """A day of work: files rewritten, removed, added; how many."""
    noise = random.Random(9)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    chosen = noise.sample(files, max(3, int(len(files) * percent / 100)))
    for number, path in enumerate(chosen):
        if number % 10 == 0:
            path.unlink()
        else:
            path.write_bytes(noise.randbytes(path.stat().st_size))
    (folder / "new").write_bytes(noise.randbytes(MIB))
    return len(chosen) + 1


def cold() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def reset_by_bootd(image: Path, device: str) -> dict[str, int]:
    """The ring's own member, as stage2 runs it; the head reads the image and digests it first, as it does once."""
    source = FileSource(str(image))
    manifest = describe_sources([source], suitable_chunk_size([source]), lambda _: None)
    cold()
    begun = time.monotonic()
    descriptor = os.open(device, os.O_RDWR | os.O_EXCL)
    last: list[Report] = []
    ready, ended = threading.Event(), threading.Event()

    def report(message: Report) -> bool:
        last[:] = [message]
        if message.state is MemberState.READY:  # everything is digested
            ready.set()
        if message.state in (MemberState.VERIFIED, MemberState.FAILED):
            ended.set()
        return True

    common = {"session": "bench", "join_token": "ab" * 16, "manifest": manifest, "listen_host": "127.0.0.1"}
    head = Member(node="head", store=source.store, report=lambda _: True, is_head=True, **common)  # type: ignore[arg-type]
    target = Member(
        node="target",
        store=BlockStore(descriptor, manifest.size),
        report=report,
        is_head=False,
        compare=True,
        **common,  # type: ignore[arg-type]
    )
    port = head.start()
    head.arrange(Arrange("bench", 1, None, ""))
    target.start()
    if not ready.wait(DEADLINE):
        raise SystemExit(f"bootd did not compare: {last}")
    target.arrange(Arrange("bench", 1, Address("127.0.0.1", port), "head"))
    if not ended.wait(DEADLINE) or last[0].state is not MemberState.VERIFIED:
        raise SystemExit(f"bootd did not end: {last}")
    seconds = time.monotonic() - begun
    target.stop()
    head.stop()
    os.close(descriptor)
    source.close()
    written = last[0].verified - last[0].kept
    return {"milliseconds": int(seconds * 1000), "written": written, "size": manifest.size}


def reset_by_rsync(golden: Path, room: Path, *words: str) -> dict[str, int]:
    cold()
    begun = time.monotonic()
    text = run("rsync", "-aHx", "--delete", "--stats", *words, f"{golden}/", f"{room}/")
    os.sync()
    line = next(line for line in text.splitlines() if line.startswith("Total transferred file size"))
    written = int("".join(character for character in line.split(":")[1] if character.isdigit()))
    return {"milliseconds": int((time.monotonic() - begun) * 1000), "written": written}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=2048, help="of the partition, half full")
    parser.add_argument("--percent", type=float, default=1.0, help="of the files that change")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("rsync") is None:
        raise SystemExit("bench delta: needs root and rsync")
    folder = Path(tempfile.mkdtemp(prefix="bootd-delta-"))
    try:
        measure(folder, arguments.mebibytes * MIB, arguments.percent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, size: int, percent: float) -> None:
    image = folder / "image"
    with image.open("wb") as stream:
        stream.truncate(size)
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    with looped(image) as device, mounted(device, folder / "golden") as golden:
        fill(golden, size, 1)
    for name in ("bootd", "rsync", "rsync --checksum"):
        room = folder / "room"
        run("cp", "--sparse=always", image, room)
        with looped(room) as device:
            with mounted(device, folder / "mount") as mount:
                changed = spoil(mount, percent)
            found = reset(name, image, device, folder)
        is_same = run("cmp", image, room) == "" if name == "bootd" else None
        note({"tool": name, "changed_files": changed, **found, "same_bytes": is_same})
    with looped(image) as device:
        cold()
        begun = time.monotonic()
        run("dd", f"if={device}", "of=/dev/null", "bs=1M", "iflag=direct", "status=none")
        note({"tool": "dd, reads only", "milliseconds": int((time.monotonic() - begun) * 1000), "size": size})


def note(row: dict[str, object]) -> None:
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with OUT.open("a") as file:
        file.write(json.dumps({**row, "load": os.getloadavg()[0], "time": time.time()}) + "\n")
    print(json.dumps(row), flush=True)


def reset(name: str, image: Path, device: str, folder: Path) -> dict[str, int]:
    if name == "bootd":
        return reset_by_bootd(image, device)
    with (
        looped(image) as source,
        mounted(source, folder / "golden", "ro,noload") as golden,
        mounted(device, folder / "mount") as mount,
    ):
        return reset_by_rsync(golden, mount, *name.split()[1:])


if __name__ == "__main__":
    main()
