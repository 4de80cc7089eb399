"""The gate: every wrong disk is refused, with a reason, and not one byte is written. Real loop devices as root."""

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootd.wire.control import Disk, Lock, Partition, Plan
from stage2.gate import RefusedError, match, open_target, open_targets
from stage2.inventory import table_digest

SIZE = 4 << 20
DISK = Disk("sda", SIZE, 512, "S1", "0x5000", "model", "sata", False, "", "d" * 64)
OTHER = Disk("sdb", SIZE, 512, "S2", "0x5001", "model", "sata", False, "", "e" * 64)
NAMELESS = replace(DISK, serial="", wwn="")


def plan_for(disk: Disk, image_size: int = SIZE, eligible: int = 1) -> Plan:
    return Plan("s1", "52:54:00:00:00:01", "ab" * 32, image_size, 1 << 20, disk, eligible)


def test_the_right_disk_under_another_name() -> None:
    moved = replace(DISK, name="sdc")
    assert match(plan_for(DISK, eligible=2), [OTHER, moved]) == moved


def test_an_excluded_disk_that_was_named() -> None:
    """The coordinator plans an excluded disk only when its serial or WWN was given; in use is still no."""
    stick = replace(OTHER, excluded="usb", transport="usb")
    assert match(plan_for(stick), [DISK, stick]) == stick
    used = replace(OTHER, excluded="mounted at /mnt")
    with pytest.raises(RefusedError, match="mounted"):
        match(plan_for(used), [DISK, used])


@pytest.mark.parametrize("present", [[DISK, OTHER], [replace(DISK, excluded="usb"), OTHER]])
def test_another_choice_of_disks_voids_the_plan(present: list[Disk]) -> None:
    """A disk that shows up late (a slow controller) may be the second one that the selector matches."""
    with pytest.raises(RefusedError, match=r"2 disks are eligible .*the plan was made with 1|is excluded: usb"):
        match(plan_for(DISK), present)


def test_a_nameless_disk_that_is_alone() -> None:
    loop = replace(OTHER, name="loop0", excluded="loop device")
    assert match(plan_for(NAMELESS), [NAMELESS, loop]) == NAMELESS


@pytest.mark.parametrize(
    ("planned", "present", "reason"),
    [
        (DISK, [], "is not here; there are: no disks"),
        (DISK, [OTHER], r"disk sda \(S1\) is not here; there are: sdb \(S2\)"),
        (DISK, [DISK, replace(DISK, name="sdb")], "2 disks match sda .*: sda, sdb"),
        (DISK, [replace(DISK, serial="S9")], "is not here"),  # same WWN, another serial: not the same
        (DISK, [replace(DISK, wwn="0x9999")], "is not here"),
        (DISK, [replace(DISK, wwn="")], "is not here"),
        (DISK, [replace(DISK, size=SIZE - 512)], "has 4193792 bytes, the plan says 4194304"),
        (DISK, [replace(DISK, size=SIZE + 512)], "the plan says"),
        (DISK, [replace(DISK, sector=4096)], "sectors of 4096"),
        (DISK, [replace(DISK, table_digest="f" * 64)], "partition table of sda .* has changed"),
        (DISK, [replace(DISK, excluded="mounted at /mnt")], "excluded: mounted at /mnt"),
        (DISK, [replace(DISK, excluded="removable", removable=True)], "excluded: removable"),
        (replace(DISK, excluded="usb"), [DISK], "is excluded: no longer"),
        (replace(DISK, excluded="read-only"), [DISK], "was excluded when it was made: read-only"),
        (replace(DISK, table_digest=""), [replace(DISK, table_digest="")], "no digest"),
        (NAMELESS, [NAMELESS, replace(NAMELESS, name="sdb")], "no serial and no WWN, and is one of 2: sda, sdb"),
        (NAMELESS, [NAMELESS, OTHER], "one of 2: sda, sdb"),
        (NAMELESS, [replace(NAMELESS, name="sdb")], "is not here"),
        (NAMELESS, [DISK], "is not here"),  # a disk with a serial is another one
        (NAMELESS, [replace(NAMELESS, table_digest="f" * 64)], "has changed"),
        (NAMELESS, [replace(NAMELESS, size=SIZE * 2)], "the plan says"),
    ],
)
def test_refusals(planned: Disk, present: list[Disk], reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        match(plan_for(planned), present)


def test_image_larger_than_the_disk() -> None:
    with pytest.raises(RefusedError, match="the image needs 4194305"):
        match(plan_for(DISK, SIZE + 1), [DISK])


# --- real devices ---------------------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
CONTENT = b"".join(number.to_bytes(8, "big") for number in range(SIZE // 8))


class Loop:
    """A loop device over a file with known content."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(CONTENT)
        done = subprocess.run(["losetup", "--find", "--show", str(path)], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no loop device: {done.stderr.decode().strip()}")
        self.device = done.stdout.decode().strip()
        self.name = self.device.removeprefix("/dev/")

    def disk(self) -> Disk:
        descriptor = os.open(self.device, os.O_RDONLY)
        try:
            digest = table_digest(descriptor, SIZE)
        finally:
            os.close(descriptor)
        return replace(DISK, name=self.name, serial=f"S-{self.name}", wwn="", table_digest=digest)

    def untouched(self) -> bool:
        subprocess.run(["blockdev", "--flushbufs", self.device], check=True)
        return hashlib.sha256(self.path.read_bytes()).digest() == hashlib.sha256(CONTENT).digest()

    def detach(self) -> None:
        subprocess.run(["blockdev", "--setrw", self.device], check=False)  # the kernel keeps it for the next file
        subprocess.run(["losetup", "--detach", self.device], check=False)


@pytest.fixture
def loops(tmp_path: Path) -> Iterator[Callable[[], Loop]]:
    made: list[Loop] = []

    def make() -> Loop:
        made.append(Loop(tmp_path / f"disk{len(made)}"))
        return made[-1]

    yield make
    for loop in made:
        loop.detach()


@needs_root
def test_opens_directly_exclusively_and_for_writing(loops: Callable[[], Loop]) -> None:
    loop = loops()
    disk = loop.disk()
    target = open_target(plan_for(disk), lambda: [disk])
    (descriptor,), found = target.writable, target.disk
    try:
        assert found == disk
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        assert flags & os.O_DIRECT
        assert flags & os.O_ACCMODE == os.O_RDWR
        with pytest.raises(OSError, match="busy"):
            os.close(os.open(loop.device, os.O_RDWR | os.O_EXCL))
        with pytest.raises(RefusedError, match="cannot be opened alone"):
            open_target(plan_for(disk), lambda: [disk])
    finally:
        os.close(descriptor)
    assert loop.untouched()


@needs_root
def test_table_that_changes_after_the_inventory(loops: Callable[[], Loop]) -> None:
    loop = loops()
    disk = loop.disk()

    def take_then_change() -> list[Disk]:
        with open(loop.device, "r+b") as stream:  # noqa: PTH123 - a device
            stream.seek(SIZE - 512)
            stream.write(b"EFI PART")
        return [disk]

    with pytest.raises(RefusedError, match="changed while it was being opened"):
        open_target(plan_for(disk), take_then_change)


@needs_root
def test_inventory_that_calls_another_device_by_this_name(loops: Callable[[], Loop]) -> None:
    first, second = loops(), loops()
    with open(second.device, "r+b") as stream:  # noqa: PTH123 - a device
        stream.write(b"another disk")
    lie = replace(first.disk(), name=second.name)
    with pytest.raises(RefusedError, match="changed while it was being opened"):
        open_target(plan_for(lie), lambda: [lie])
    assert first.untouched()
    assert second.path.read_bytes()[12:] == CONTENT[12:]


@needs_root
def test_smaller_device_than_the_inventory_says(loops: Callable[[], Loop]) -> None:
    loop = loops()
    lie = replace(loop.disk(), size=SIZE * 2)
    with pytest.raises(RefusedError, match=r"cannot be checked|changed from"):
        open_target(plan_for(lie), lambda: [lie])
    assert loop.untouched()


@needs_root
def test_mounted_device_that_the_inventory_missed(loops: Callable[[], Loop], tmp_path: Path) -> None:
    loop = loops()
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext2", loop.device], check=True)
    before = loop.path.read_bytes()
    disk = loop.disk()
    place = tmp_path / "mnt"
    place.mkdir()
    mounted = subprocess.run(["mount", "-o", "ro", loop.device, str(place)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(RefusedError, match="cannot be opened alone"):
            open_target(plan_for(disk), lambda: [disk])
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert loop.path.read_bytes() == before


@needs_root
def test_read_only_device(loops: Callable[[], Loop]) -> None:
    loop = loops()
    disk = loop.disk()
    subprocess.run(["blockdev", "--setro", loop.device], check=True)
    with pytest.raises(RefusedError, match=r"read-only|cannot be opened alone"):
        open_target(plan_for(disk), lambda: [disk])
    assert loop.untouched()


@needs_root
def test_refusals_write_nothing(loops: Callable[[], Loop]) -> None:
    first, second = loops(), loops()
    disks = [first.disk(), second.disk()]
    twins = [replace(disk, serial="SAME") for disk in disks]
    cases: list[tuple[Disk, list[Disk]]] = [
        (twins[0], twins),
        (replace(disks[0], serial=""), [replace(disk, serial="") for disk in disks]),
        (disks[0], [replace(disks[0], excluded="removable"), disks[1]]),
        (disks[0], [replace(disks[0], size=SIZE - 512), disks[1]]),
        (replace(disks[0], table_digest="0" * 64), disks),
    ]
    for planned, present in cases:
        with pytest.raises(RefusedError):
            open_target(plan_for(planned), lambda present=present: present)  # type: ignore[misc]
    assert first.untouched()
    assert second.untouched()


@needs_root
def test_locked_disks_stay_as_they_are(loops: Callable[[], Loop]) -> None:
    """Whatever the server had planned: the gate judges the plan's locks by what it sees on the disks."""
    first, second = loops(), loops()
    part = Partition(1, 1 << 20, "6d9f7a52-01", "ext4", "home")
    disks = [replace(first.disk(), partitions=(part,)), second.disk()]
    owner = Lock("", 0, "", "anna", "her thesis")
    for lock in (
        owner,
        replace(owner, disk=disks[0].serial),
        replace(owner, disk=disks[0].serial, partition=3),
        replace(owner, partuuid="6d9f7a52-01"),
        replace(owner, partuuid="nowhere-01"),
    ):
        plan = replace(plan_for(disks[0], eligible=2), locks=(lock,))
        with pytest.raises(RefusedError, match="is locked by anna: her thesis"):
            open_target(plan, lambda: disks)
    assert first.untouched()
    free = replace(plan_for(disks[1], eligible=2), locks=(replace(owner, partuuid="6d9f7a52-01"),))
    open_target(free, lambda: disks).close()
    assert second.untouched()


def test_a_link_or_a_file_is_no_disk(tmp_path: Path) -> None:
    (tmp_path / "sda").write_bytes(CONTENT)
    with pytest.raises(RefusedError, match=r"not a block device|cannot be opened alone"):
        open_target(plan_for(DISK), lambda: [DISK], str(tmp_path))
    (tmp_path / "sda").unlink()
    (tmp_path / "sda").symlink_to("/dev/null")
    with pytest.raises(RefusedError, match="cannot be opened alone"):
        open_target(plan_for(DISK), lambda: [DISK], str(tmp_path))


# --- several disks ----------------------------------------------------------------------------------------------


@needs_root
def test_further_disks_are_opened_as_the_first_is(loops: Callable[[], Loop]) -> None:
    first, second = loops(), loops()
    disks = [first.disk(), second.disk()]
    plan = replace(plan_for(disks[0]), eligible=2, further=(disks[1],))
    targets = open_targets(plan, lambda: disks)
    try:
        assert [target.disk.name for target in targets] == [first.name, second.name]
        for loop in (first, second):
            with pytest.raises(OSError, match="busy"):
                os.open(loop.device, os.O_RDWR | os.O_EXCL)
    finally:
        for target in targets:
            target.close()
    assert first.untouched()
    assert second.untouched()


@needs_root
def test_one_refusal_lets_go_of_all(loops: Callable[[], Loop]) -> None:
    """Every way in which the second disk may be another one than the plan's; the first is free again."""
    first, second = loops(), loops()
    one, two = first.disk(), second.disk()
    for shown, reason in (
        (replace(two, table_digest="f" * 64), "has changed since"),
        (replace(two, size=two.size + 512), "the plan says"),
        (replace(two, serial="S-other"), "is not here"),
        (replace(two, excluded="mounted at /srv"), "excluded: mounted"),
    ):
        plan = replace(plan_for(one), eligible=2, further=(two,))
        present = [one, shown, *([OTHER] if shown.excluded else [])]  # always two that are eligible
        with pytest.raises(RefusedError, match=reason):
            open_targets(plan, present.copy)
        os.close(os.open(first.device, os.O_RDWR | os.O_EXCL))
    lock = Lock("S-" + second.name, 0, "", "ann", "mine")
    plan = replace(plan_for(one), eligible=2, further=(two,), locks=(lock,))
    with pytest.raises(RefusedError, match="mine"):
        open_targets(plan, lambda: [one, two])
    with pytest.raises(RefusedError, match="not empty"):
        open_targets(
            replace(plan_for(one), eligible=2, further=(two,), empty=True),
            lambda: [one, replace(two, filesystem="xfs")],
        )
    with pytest.raises(RefusedError, match="names a disk twice"):
        open_targets(replace(plan_for(one), eligible=2, further=(one,)), lambda: [one, two])
    os.close(os.open(first.device, os.O_RDWR | os.O_EXCL))
    assert first.untouched()
    assert second.untouched()


@needs_root
def test_a_disk_that_was_empty_has_to_be_empty_whatever_holds_of_the_other(loops: Callable[[], Loop]) -> None:
    """One of two may be erased, so the plan does not ask for empty disks; the other one was planned as empty."""
    first, second = loops(), loops()
    one, two = first.disk(), second.disk()
    full = replace(one, filesystem="xfs")
    plan = replace(plan_for(full), eligible=2, further=(two,), empty=False)
    for target in open_targets(plan, lambda: [full, two]):
        target.close()
    with pytest.raises(RefusedError, match="not empty"):
        open_targets(plan, lambda: [full, replace(two, filesystem="xfs")])
    with pytest.raises(RefusedError, match="together, the image needs"):
        open_targets(replace(plan, image_size=one.size + two.size + 1), lambda: [full, two])
    for target in open_targets(replace(plan, image_size=one.size + two.size), lambda: [full, two]):
        target.close()
    assert first.untouched()
    assert second.untouched()
