"""Marks of chunks over real file systems that are mounted and worked on: equal marks, equal bytes."""

import mmap
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bootd.wire.captured import CHUNK
from bootd.wire.control import Capture
from bootd.wire.digest import digest
from bootd.wire.marks import NONE
from stage2.marking import Owned, find_owners
from stage2.source import Source
from tests.netns import volumes
from tests.netns.room import until
from tests.netns.test_source import inventory
from tests.netns.volumes import MIB

ROUNDS = 12
KINDS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-b", "4096"],
    "ext4 of small blocks": ["mkfs.ext4", "-q", "-F", "-b", "1024", "-O", "^has_journal"],
    "ext4 without extents": ["mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^extent,^64bit"],
    "ext4 with data in inodes": ["mkfs.ext4", "-q", "-F", "-b", "1024", "-O", "inline_data"],
    "ext3": ["mkfs.ext3", "-q", "-F", "-b", "1024"],
    "ext2 of old inodes": ["mkfs.ext2", "-q", "-F", "-b", "1024", "-I", "128"],
}
Look = tuple[list[bytes], list[bytes], list[int]]


class Volume:
    """A file system in a file: worked on when it is mounted, looked at as a backup does."""

    def __init__(self, folder: Path, make: Sequence[str], size: int = 96 * MIB) -> None:
        self.folder, self.path = folder, folder / "volume"
        with self.path.open("wb") as stream:
            stream.truncate(size)
        volumes.run(*make, self.path)

    def work(self, work: Callable[[Path], None]) -> None:
        with volumes.loop(self.path) as device, volumes.mounted("ext4", device, self.folder / "mount") as place:
            work(place)
        self._settled()

    def _settled(self) -> None:
        """Left for good: a mount namespace of somebody else may hold it a while longer."""
        until(lambda: not volumes.run("losetup", "--associated", self.path), 60, "the file system is left")

    def written(self, when: int = 2_200_000_000) -> None:
        """As if the file system had been left then; by default long after the last change: every file counts."""
        volumes.run("env", f"E2FSPROGS_FAKE_TIME={when}", "debugfs", "-w", "-R", "dirty", self.path)
        volumes.run(
            "env", f"E2FSPROGS_FAKE_TIME={when}", "debugfs", "-w", "-R", "set_super_value state 1", self.path
        )

    def age(self) -> None:
        """All files as if they had been there for years."""
        with volumes.loop(self.path) as device, volumes.mounted("ext4", device, self.folder / "mount") as place:
            numbers = [item.stat().st_ino for item in place.rglob("*") if item.is_file()]
        self._settled()
        commands = "".join(
            f"set_inode_field <{number}> {time} 20200101\n" for number in numbers for time in ("ctime", "mtime")
        )
        subprocess.run(
            ["debugfs", "-w", "-f", "-", str(self.path)], input=commands.encode(), check=True, capture_output=True
        )

    def examine(self, look: Callable[[Source, Owned], None]) -> None:
        with volumes.loop(self.path) as device:
            disk = inventory(device)()[0]
            source = Source(Capture("t", disk, 0, False, False, "stay"), lambda: [disk])
            try:
                read = source.read_directly
                look(source, find_owners(source.description.volumes, lambda at, length: bytes(read(at, length))))
            finally:
                source.close()

    def look(self) -> Look:
        """The marks of all chunks, as a quick backup finds them, their digests, as a full one does, and how many
        bytes of each are in use."""
        marks, digests, used = [], [], []

        def look(source: Source, owned: Owned) -> None:
            assert not owned.notes, owned.notes
            for index in range(source.description.chunks):
                marks.append(owned.marker.mark(index, source.ranges_of(index), source.read_directly))
                digests.append(digest(source.read_chunk(index)))
                used.append(source.in_use(index))

        self.examine(look)
        return marks, digests, used


class Work:
    """What people and programs do to files, drawn from ``draw``."""

    def __init__(self, place: Path, draw: random.Random) -> None:
        self.place, self.draw = place, draw

    def round(self) -> None:
        doings = [
            self.create, self.append, self.overwrite, self.rewrite, self.chmod, self.rename, self.delete, self.map,
            self.copy, self.punch, self.allocate, self.link, self.attribute, self.folder, self.old_times,
            self.shrink, self.symbolic,
        ]  # fmt: skip
        for _ in range(self.draw.randrange(1, 12)):
            try:
                self.draw.choice(doings)()
            except OSError as error:
                if error.errno not in (28, 95):  # full, or not of this kind of file system
                    raise

    def file(self) -> Path:
        files = sorted(item for item in self.place.rglob("*") if item.is_file() and not item.is_symlink())
        return self.draw.choice(files)

    def name(self) -> Path:
        return self.place / f"new{self.draw.randrange(1 << 30)}"

    def create(self) -> None:
        self.name().write_bytes(self.draw.randbytes(self.draw.choice((10, 900, 5000, 300_000))))

    def append(self) -> None:
        with self.file().open("ab") as stream:
            stream.write(self.draw.randbytes(self.draw.choice((1, 1000, 100_000))))

    def overwrite(self) -> None:
        path = self.file()
        with path.open("r+b") as stream:
            stream.seek(self.draw.randrange(path.stat().st_size + 1))
            stream.write(self.draw.randbytes(100))

    def rewrite(self) -> None:
        path = self.file()
        path.write_bytes(self.draw.randbytes(path.stat().st_size))

    def shrink(self) -> None:
        path = self.file()
        os.truncate(path, self.draw.randrange(path.stat().st_size + 1))

    def chmod(self) -> None:
        self.file().chmod(self.draw.choice((0o600, 0o644, 0o755)))

    def rename(self) -> None:
        self.file().rename(self.name())

    def delete(self) -> None:
        if sum(1 for item in self.place.rglob("*") if item.is_file()) > 30:
            self.file().unlink()

    def map(self) -> None:
        path = self.file()
        size = path.stat().st_size
        if size:
            with path.open("r+b") as stream, mmap.mmap(stream.fileno(), size) as memory:
                memory[self.draw.randrange(size)] ^= 0x55

    def copy(self) -> None:
        subprocess.run(
            ["cp", "--reflink=never", str(self.file()), str(self.name())], capture_output=True, check=False
        )

    def punch(self) -> None:
        path = self.file()
        words = ["--punch-hole", "--offset", str(self.draw.randrange(64) << 12), "--length", "8192"]
        subprocess.run(["fallocate", *words, str(path)], capture_output=True, check=False)

    def allocate(self) -> None:
        path = self.name()
        subprocess.run(["fallocate", "--length", "200000", str(path)], capture_output=True, check=False)
        if path.exists() and self.draw.random() < 0.5:
            with path.open("r+b") as stream:
                stream.seek(50_000)
                stream.write(b"in the middle")

    def link(self) -> None:
        os.link(self.file(), self.name())

    def attribute(self) -> None:
        os.setxattr(self.file(), "user.word", self.draw.randbytes(self.draw.choice((8, 600))))

    def folder(self) -> None:
        folder = self.name()
        folder.mkdir()
        (folder / "inside").write_bytes(b"x" * 3000)

    def symbolic(self) -> None:
        self.name().symlink_to("far/" * self.draw.choice((5, 100)))

    def old_times(self) -> None:
        """Change a file, and put its mtime back, as rsync and tar do."""
        path = self.file()
        before = path.stat()
        with path.open("r+b") as stream:
            stream.write(self.draw.randbytes(10))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def populate(place: Path) -> None:
    draw = random.Random(1)
    for number in range(40):
        (place / f"file{number}").write_bytes(draw.randbytes(draw.choice((500, 4096, 40_000, 3 * MIB // 2))))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_marks_mean_equal_bytes(tmp_path: Path, kind: str) -> None:
    """Many rounds of work; what was ever told of a mark holds whenever it comes again."""
    volume = Volume(tmp_path, KINDS[kind])
    volume.work(populate)
    volume.age()
    draw = random.Random(kind)
    known: dict[tuple[int, bytes], bytes] = {}
    before: list[bytes] = []
    skipped = total = changed = 0
    for _ in range(ROUNDS):
        if "old inodes" not in kind:  # whose times are seconds: there the margin has to do
            volume.written()
        marks, digests, used = volume.look()
        for index, mark in enumerate(marks):
            if mark == NONE or not used[index]:
                continue
            assert known.setdefault((index, mark), digests[index]) == digests[index], f"chunk {index}"
            skipped += bool(before) and before[index] == mark
        total += sum(map(bool, used)) if before else 0
        changed += sum(one != other for one, other in zip(before, marks, strict=True)) if before else 0
        before = marks
        volume.work(lambda place: Work(place, draw).round())
    print(f"{kind}: {skipped} of {total} chunks in use were known, {changed} marks changed")
    assert skipped > total // 8
    assert changed


def place_of(volume: Volume, name: str) -> int:
    """Byte of the volume at which the file begins, by debugfs."""
    block = int(volumes.run("debugfs", "-R", f"bmap /{name} 0", volume.path).split()[0])
    for line in volumes.run("dumpe2fs", "-h", volume.path).decode().splitlines():
        if line.startswith("Block size:"):
            return block * int(line.split()[-1])
    raise AssertionError("no block size")


def write_past(volume: Volume, offset: int) -> None:
    """As who knows nothing of the file system: 64 bytes of another kind."""
    with volume.path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"~" * 64)


@pytest.mark.parametrize("what", ["swap", "grub"])
def test_what_is_written_past_the_file_system_is_always_read(tmp_path: Path, what: str) -> None:
    volume = Volume(tmp_path, KINDS["ext4"])

    def work(place: Path) -> None:
        populate(place)
        if what == "swap":
            (place / "special").write_bytes(bytes(4 * MIB))
            volumes.run("mkswap", place / "special")
        else:
            text = b"# GRUB Environment Block\nsaved_entry=0\n"
            (place / "special").write_bytes(text + b"#" * (1024 - len(text)))

    volume.work(work)
    volume.age()
    volume.written()
    marks, digests, _ = volume.look()
    place = place_of(volume, "special") + (2 * MIB if what == "swap" else 100)
    write_past(volume, place)
    later, differing, _ = volume.look()
    index = place // CHUNK
    assert digests[index] != differing[index]
    assert marks[index] == NONE or marks[index] != later[index]
    assert sum(mark != NONE for mark in marks) > 10


def test_what_marks_are_trusted_for(tmp_path: Path) -> None:
    """Bytes of a plain file that are changed through the device: no mark can tell. docs/backup.md says so."""
    volume = Volume(tmp_path, KINDS["ext4"])
    volume.work(populate)
    volume.age()
    marks, digests, used = volume.look()
    biggest = max(range(len(used)), key=lambda index: (marks[index] != NONE, used[index]))
    with volume.path.open("r+b") as stream:
        stream.seek(biggest * CHUNK + CHUNK // 2)
        stream.write(b"~")
    later, differing, _ = volume.look()
    assert later[biggest] == marks[biggest] != NONE
    assert digests[biggest] != differing[biggest]


def test_files_that_were_just_changed_are_read(tmp_path: Path) -> None:
    """The next change may come within the same tick."""
    volume = Volume(tmp_path, KINDS["ext4"])
    times: list[int] = []

    def work(place: Path) -> None:
        populate(place)
        times.extend(int(item.stat().st_ctime) for item in place.glob("file*"))

    def count(source: Source, owned: Owned) -> None:
        counts.append(owned.files)

    volume.work(work)
    counts: list[int] = []
    for written in (min(times) + 2, max(times) + 3):
        volume.written(written)
        volume.examine(count)
    assert counts[0] < counts[1] == 40


def test_a_check_that_was_forced_ends_all_trust(tmp_path: Path) -> None:
    """e2fsck may have repaired what no time tells."""
    volume = Volume(tmp_path, KINDS["ext4"])
    volume.work(populate)
    volume.age()
    volume.written()
    marks = volume.look()[0]
    volumes.run("debugfs", "-w", "-R", "set_super_value lastcheck 20380101", volume.path)
    assert not {mark for mark in volume.look()[0] if mark != NONE} & set(marks)


def test_what_is_not_known_is_read_whole(tmp_path: Path) -> None:
    notes = []

    def look(_: Source, owned: Owned) -> None:
        notes.append(owned.notes)
        assert owned.marker.mark(1, [(CHUNK, 10)], lambda _, length: bytes(length)) == NONE

    big = Volume(tmp_path, ["mkfs.ext4", "-q", "-F", "-O", "bigalloc"])
    big.examine(look)
    if shutil.which("mkfs.vfat"):
        Volume(tmp_path, ["mkfs.vfat", "-F32"]).examine(look)
    assert "features that are not known" in notes[0][0]
    assert all("read whole" in note[0] for note in notes)
