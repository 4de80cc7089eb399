"""Backups through a real daemon: the agent of stage2 reads a loop disk, and what comes back is what was there."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bootd.drivers.images.store import ImageStore
from bootd.errors import Exit
from tests.netns import volumes
from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.room import Process, Room, until
from tests.netns.volumes import MIB

MAC = "52:54:00:00:00:01"
SERIAL = "LOOP-1"
# A DOS table as a multi-boot machine has it: primary, extended with logical partitions, gaps between them.
LAYOUT = """label: dos
label-id: 0x1f2e3d4c
start=1MiB, size=40MiB, type=83, bootable
start=48MiB, size=330MiB, type=5
start=49MiB, size=16MiB, type=82
start=70MiB, size=64MiB, type=7
start=140MiB, size=200MiB, type=83
"""


class Bench:
    """One daemon, one node with a disk of 400 MiB on a loop device."""

    def __init__(self, room: Room, folder: Path, stack: ExitStack) -> None:
        self.room, self.folder, self.daemon = room, folder, Daemon(room, folder)
        self.file = folder / "disk"
        self.content: dict[str, bytes] = {}
        self._fill()
        self.device = stack.enter_context(volumes.disk(self.file))
        self.process = self.daemon.start()
        self.node: Process | None = None

    def _fill(self) -> None:
        """Old bytes all over, a boot loader in the gap, file systems with files."""
        noise = random.Random(6).randbytes(MIB)
        with self.file.open("wb") as stream:
            for number in range(400):
                stream.write(number.to_bytes(8, "big") + noise[8:])
        subprocess.run(["sfdisk", "-q", str(self.file)], input=LAYOUT.encode(), check=True, capture_output=True)
        with volumes.disk(self.file) as device:
            volumes.run("mkfs.ext4", "-q", "-F", f"{device}p1")
            volumes.run("mkswap", f"{device}p5")
            volumes.run("mkntfs", "-q", "-F", "-f", f"{device}p6")
            volumes.run("mkfs.ext4", "-q", "-F", "-b", "4096", f"{device}p7")
            for part, kind in (("p1", "ext4"), ("p6", "ntfs-3g"), ("p7", "ext4")):
                with volumes.mounted(kind, device + part, self.folder / "mount") as place:
                    self.content |= {f"{part}/{name}": data for name, data in volumes.write_files(place).items()}

    def files_of(self, path: Path) -> dict[str, bytes]:
        """All files in the three file systems of a disk."""
        found: dict[str, bytes] = {}
        with volumes.disk(path) as device:
            for part, kind in (("p1", "ext4"), ("p6", "ntfs-3g"), ("p7", "ext4")):
                with volumes.mounted(kind, device + part, self.folder / "mount") as place:
                    found |= {f"{part}/{item.name}": item.read_bytes() for item in place.glob("file*")}
        return found

    def start_node(self) -> Process:
        self.node = self.room.start(
            "n1",
            [sys.executable, "-m", "tests.netns.backup_node", MAC, "10.9.0.11", f"{ADDRESS}:{HTTP_PORT}",
             self.device, SERIAL],
        )  # fmt: skip
        return self.node

    def order(self, image: str, *words: str, expect: int = 0) -> str:
        """Have a backup made, without waiting; its id."""
        text = self.daemon.command("backup", MAC, image, "-m", "test", "--no-wait", "--json", *words, expect=expect)
        return str(json.JSONDecoder().raw_decode(text)[0]["id"])  # what is said on standard error follows

    def show(self, id_: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.daemon.command("backups", "show", id_, "--json"))
        return value

    def end_of(self, id_: str, seconds: float = 60.0) -> dict[str, Any]:
        until(lambda: self.show(id_)["ended"], seconds, f"backup {id_} has ended")
        return self.show(id_)

    def restore(self, image: str) -> Path:
        """By the store's own reader of chunks."""
        store = ImageStore(self.folder / "state" / "images")
        manifest = store.open(image)
        target = self.folder / "restored"
        with target.open("wb") as stream:
            for index in range(len(manifest.chunks)):
                stream.write(store.read_chunk(manifest, index))
        return target


@pytest.fixture
def bench() -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    try:
        with ExitStack() as stack, Room("server", "n1", "n2") as room:
            room.address("server", f"{ADDRESS}/24")
            room.address("n2", "10.9.0.12/24")
            room.address("n1", "10.9.0.11/24")
            yield Bench(room, folder, stack)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def table(path: Path) -> list[str]:
    """Partitions by sfdisk, without the name of the device."""
    lines = volumes.run("sfdisk", "--dump", path).decode().splitlines()
    return [line.partition(": ")[2] for line in lines if line.startswith(("/", "label"))]


def test_a_whole_disk_and_the_second_time_only_what_changed(bench: Bench) -> None:
    before = digest(bench.file)
    id_ = bench.order("golden", "--after", "stay", "--tag", "first", "--user", "Eva")
    assert bench.show(id_)["state"] == "waiting"
    assert [node["next_label"] for node in bench.daemon.state()["nodes"]] == ["kamethod"]
    bench.start_node()
    done = bench.end_of(id_)
    assert done["state"] == "done", str(done)
    assert done["total"] < 300 * MIB
    assert 0 < done["wire"] <= done["sent"]
    assert digest(bench.file) == before, "the node's disk is as it was"

    store = ImageStore(bench.folder / "state" / "images")
    manifest = store.open("golden:first")
    assert (manifest.user, manifest.comment, manifest.kind, manifest.size) == ("Eva", "test", "disk", 400 * MIB)
    assert manifest.table is not None
    assert manifest.table["label"] == "dos"
    assert [item.type for item in manifest.filesystems] == ["ext4", "swap", "ntfs", "ext4"]
    assert SERIAL in manifest.origin

    restored = bench.restore("golden")
    assert bench.files_of(restored) == bench.content
    old, new = bench.file.read_bytes(), restored.read_bytes()
    for name, start, end in (("loader", 0, MIB), ("extended", 48 * MIB, 49 * MIB), ("end", 378 * MIB, 400 * MIB)):
        assert old[start:end] == new[start:end], f"the gap {name} is kept"
    assert table(restored) == table(bench.file)

    with volumes.mounted("ext4", f"{bench.device}p7", bench.folder / "mount") as place:
        (place / "new").write_bytes(random.Random(7).randbytes(3 * MIB))
    again = bench.end_of(bench.order("golden", "--after", "stay"))
    assert again["state"] == "done", str(again)
    assert 3 * MIB <= again["sent"] < 16 * MIB
    assert bench.show(id_)["image_id"] != again["image_id"]
    assert bench.node is not None
    assert bench.node.running()


def test_one_partition_and_then_the_reboot(bench: Bench) -> None:
    bench.daemon.command("label", "set", "kamethod", "--node", MAC)
    node = bench.start_node()
    node.wait_for("joined")
    text = bench.daemon.command(
        "backup",
        MAC,
        "parts",
        "-m",
        "test",
        "--part",
        f"{Path(bench.device).name}p6",
        "--part",
        "7",
        "--timeout",
        "30",
        seconds=60,
    )
    assert "image parts-6" in text
    assert "image parts-7" in text
    assert node.wait(20) == 0, "it has rebooted"
    manifest = ImageStore(bench.folder / "state" / "images").open("parts-6")
    assert (manifest.kind, manifest.table, manifest.size) == ("partition", None, 64 * MIB)
    restored = bench.restore("parts-7")
    with volumes.loop(restored) as device, volumes.mounted("ext4", device, bench.folder / "mount") as place:
        found = {f"p7/{item.name}": item.read_bytes() for item in place.glob("file*")}
    assert found == {name: data for name, data in bench.content.items() if name.startswith("p7/")}


PROBE = """
import http.client, json, sys, time
connection = http.client.HTTPConnection("%s", %d, timeout=20)
times = []
while not sys.stdin.closed and len(times) < 100000:
    begun = time.monotonic()
    connection.request("GET", "/boot/nothing")
    connection.getresponse().read()
    times.append(time.monotonic() - begun)
    time.sleep(0.01)
    print(json.dumps(times[-1]), flush=True)
"""


def test_boot_service_does_not_wait_for_the_store(bench: Bench) -> None:
    """The loop that answers DHCP, TFTP and HTTP is asked all the time while a disk comes in as fast as it can."""
    probe = bench.room.start("n2", [sys.executable, "-c", PROBE % (ADDRESS, HTTP_PORT)])
    probe.wait_for(r"0\.")
    id_ = bench.order("golden", "--after", "stay")
    bench.start_node()
    until(lambda: bench.show(id_)["state"] == "reading", 30, "it is being read")
    before = len(probe.output.splitlines())
    done = bench.end_of(id_)
    times = sorted(float(line) for line in probe.output.splitlines()[before:-1])
    probe.stop()
    assert done["state"] == "done", str(done)
    assert len(times) > 20
    print(f"{len(times)} requests: median {times[len(times) // 2]:.4f} s, longest {times[-1]:.4f} s")
    assert times[len(times) // 2] < 0.1
    assert times[-1] < 1.0


def killed_node(bench: Bench) -> None:
    assert bench.node is not None
    bench.node.signal(signal.SIGKILL)
    bench.node.wait(5)
    bench.start_node()


def killed_daemon(bench: Bench) -> None:
    bench.process.signal(signal.SIGKILL)
    bench.process.wait(5)
    bench.process = bench.daemon.start()


def lost_network(bench: Bench) -> None:
    bench.room.link("n1", False)
    until(lambda: "silent" in reason(bench), 30, "the daemon misses the node")
    bench.room.link("n1", True)


def reason(bench: Bench) -> str:
    return str(bench.daemon.state()["backups"][-1]["reason"])


@pytest.mark.parametrize("death", [killed_node, killed_daemon, lost_network])
def test_it_goes_on_after_a_death(bench: Bench, death: Callable[[Bench], None]) -> None:
    bench.room.limit("server", 80)  # of what the node sends
    id_ = bench.order("golden", "--after", "stay")
    bench.start_node()
    until(lambda: bench.show(id_)["sent"] > 20 * MIB, 60, "something is sent")
    death(bench)
    done = bench.end_of(id_, 120)
    assert done["state"] == "done", (done, bench.node and bench.node.output[-2000:])
    assert bench.files_of(bench.restore("golden")) == bench.content
    if death is killed_node:
        assert done["sent"] < done["total"] - 20 * MIB, "what was sent before is not sent again"


def test_cancelled_and_refused(bench: Bench) -> None:
    bench.room.limit("server", 80)  # of what the node sends
    id_ = bench.order("golden", "--after", "stay")
    node = bench.start_node()
    until(lambda: bench.show(id_)["sent"] > 4 * MIB, 60, "something is sent")
    bench.daemon.command("backups", "cancel", id_)
    assert bench.show(id_)["state"] == "cancelled"
    node.wait_for("backup ended: cancelled")
    assert not ImageStore(bench.folder / "state" / "images").images()
    with volumes.mounted("ext4", f"{bench.device}p7", bench.folder / "mount"):
        text = bench.daemon.command("backup", MAC, "golden", "-m", "test", expect=Exit.REFUSED)
        assert "unmount it" in text
        text = bench.daemon.command("backup", MAC, "golden", "-m", "test", "--part", "9", expect=Exit.REFUSED)
        assert "no partition 9" in text
    volumes.run("ntfsfix", f"{bench.device}p6")
    text = bench.daemon.command("backup", MAC, "golden", "-m", "test", expect=Exit.REFUSED)
    assert "marked dirty" in text
    assert "--dirty" in text


def test_a_source_that_is_written_to_meanwhile_is_no_image(bench: Bench) -> None:
    bench.room.limit("server", 80)  # of what the node sends
    id_ = bench.order("golden", "--after", "stay")
    bench.start_node()
    until(lambda: bench.show(id_)["sent"] > 4 * MIB, 60, "it is being read")
    volumes.run(
        "dd", "if=/dev/zero", f"of={bench.device}p7", "bs=4096", "count=1", "seek=9000", "conv=fsync,notrunc"
    )
    done = bench.end_of(id_, 120)
    assert done["state"] == "failed", done
    assert "written to while it was read" in done["reason"]
    assert not ImageStore(bench.folder / "state" / "images").images()


def left(device: str) -> None:
    """Wait until nobody has the volume mounted: a mount namespace of somebody else may hold it a while longer."""

    def is_free() -> bool:
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
        except OSError:
            return False
        return True

    until(is_free, 60, "the volume is left")
    volumes.run("blockdev", "--flushbufs", device)


def age(device: str, bench: Bench) -> None:
    """All files of a volume as if they had been there for years."""
    with volumes.mounted("ext4", device, bench.folder / "mount") as place:
        numbers = [item.stat().st_ino for item in place.iterdir() if item.is_file()]
    left(device)
    words = [f"set_inode_field <{number}> {time} 20200101\n" for number in numbers for time in ("ctime", "mtime")]
    subprocess.run(
        ["debugfs", "-w", "-f", "-", device], input="".join(words).encode(), check=True, capture_output=True
    )
    volumes.run("blockdev", "--flushbufs", device)


def marks_of(bench: Bench) -> list[Path]:
    folder = bench.folder / "state" / "images" / "marks"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def manifest_of(bench: Bench, done: dict[str, Any]) -> tuple[str, ...]:
    assert done["state"] == "done", str(done)
    return ImageStore(bench.folder / "state" / "images").open(done["image_id"]).chunks


def test_quick_reads_what_has_changed_and_makes_the_same_image(bench: Bench) -> None:
    part = f"{bench.device}p7"
    with volumes.mounted("ext4", part, bench.folder / "mount") as place:
        for number in range(8):
            (place / f"large{number}").write_bytes(random.Random(number).randbytes(8 * MIB))
    age(part, bench)
    bench.start_node()

    def backup(*words: str) -> dict[str, Any]:
        return bench.end_of(bench.order("golden", "--after", "stay", *words))

    first = backup()
    assert (first["quick"], first["skipped"]) == (False, 0)
    assert len(marks_of(bench)) == 1

    with volumes.mounted("ext4", part, bench.folder / "mount") as place:
        (place / "large3").write_bytes(random.Random(99).randbytes(8 * MIB))
        (place / "new").write_bytes(b"new" * 1000)
    left(part)
    second = backup("--quick")
    assert second["quick"]
    assert second["skipped"] > 24 * MIB, second
    assert 8 * MIB <= second["sent"] < 24 * MIB
    assert any("ntfs" in note and "read whole" in note for note in second["notes"])
    full = backup()
    assert manifest_of(bench, second) == manifest_of(bench, full) != manifest_of(bench, first)
    assert full["sent"] == 0

    marks = marks_of(bench)[0]
    damaged = bytearray(marks.read_bytes())
    damaged[-100] ^= 1
    marks.write_bytes(damaged)
    third = backup("--quick")
    assert third["skipped"] == 0, "damaged marks: everything is read"
    fourth = backup("--quick")
    assert fourth["skipped"] > 32 * MIB
    assert manifest_of(bench, full) == manifest_of(bench, third) == manifest_of(bench, fourth)

    for index, name in enumerate(manifest_of(bench, fourth)):
        if name and 160 < index < 300:  # chunks that were skipped, gone from the store
            (bench.folder / "state" / "images" / "chunks" / name[:2] / name[2:]).unlink(missing_ok=True)
    fifth = backup("--quick")
    assert manifest_of(bench, fifth) == manifest_of(bench, fourth)
    assert bench.restore("golden").stat().st_size == 400 * MIB, "every chunk of it is there again"

    bench.daemon.command("image", "rm", fifth["image_id"], "--yes")
    assert not marks_of(bench), "they go with their image"


def test_quick_reads_everything_when_its_sample_differs(bench: Bench) -> None:
    """Files that were changed behind the file system's back, all of them, so that the sample must see it."""
    part = f"{bench.device}p7"
    with volumes.mounted("ext4", part, bench.folder / "mount") as place:
        (place / "large").write_bytes(random.Random(1).randbytes(48 * MIB))
    age(part, bench)
    bench.start_node()
    first = bench.end_of(bench.order("golden", "--after", "stay"))
    with Path(part).open("r+b") as stream:
        for mebibyte in range(200):
            stream.seek(mebibyte * MIB)
            data = stream.read(MIB)
            if len(set(data[:64])) > 40:  # of the large file: noise
                stream.seek(mebibyte * MIB + MIB // 2)
                stream.write(b"~" * 4096)
    volumes.run("blockdev", "--flushbufs", part)
    done = bench.end_of(bench.order("golden", "--after", "stay", "--quick"))
    assert done["skipped"] == 0, done
    assert any("everything is read" in note for note in done["notes"]), done
    full = bench.end_of(bench.order("golden", "--after", "stay"))
    assert manifest_of(bench, done) == manifest_of(bench, full) != manifest_of(bench, first)


def test_quick_goes_on_after_the_death_of_the_daemon(bench: Bench) -> None:
    part = f"{bench.device}p7"
    with volumes.mounted("ext4", part, bench.folder / "mount") as place:
        for number in range(8):
            (place / f"large{number}").write_bytes(random.Random(number).randbytes(8 * MIB))
    age(part, bench)
    bench.start_node()
    bench.end_of(bench.order("golden", "--after", "stay"))
    with volumes.mounted("ext4", part, bench.folder / "mount") as place:
        for number in range(5):
            (place / f"large{number}").write_bytes(random.Random(number + 50).randbytes(8 * MIB))
    left(part)
    bench.room.limit("server", 40)
    id_ = bench.order("golden", "--after", "stay", "--quick")
    until(lambda: bench.show(id_)["sent"] > 10 * MIB, 60, "something is sent")
    killed_daemon(bench)
    done = bench.end_of(id_, 120)
    assert done["skipped"] > 8 * MIB, done
    bench.room.limit("server", 8000)
    full = bench.end_of(bench.order("golden", "--after", "stay"))
    assert manifest_of(bench, done) == manifest_of(bench, full)
    assert full["sent"] == 0
