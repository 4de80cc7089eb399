"""Which installed system a sync mounts, on real file systems: one, two, none, a damaged one."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.wire.control import Sync
from stage2.gate import RefusedError
from stage2.places import FOLDER, installed
from tests.netns import volumes
from tests.netns.loop_node import disk_at


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def device(folder: Path) -> Iterator[str]:
    file = folder / "disk"
    with file.open("wb") as stream:
        stream.truncate(96 << 20)
    layout = b"label: gpt\nstart=1MiB, size=40MiB\nstart=42MiB, size=40MiB\n"
    subprocess.run(["sfdisk", "-q", str(file)], input=layout, check=True, capture_output=True)
    with volumes.disk(file) as device:
        for number in (1, 2):
            volumes.run("mkfs.ext4", "-q", "-F", f"{device}p{number}")
        install(f"{device}p1", folder)
        yield device


def install(part: str, folder: Path) -> None:
    with volumes.mounted("ext4", part, folder / "mount") as root:
        (root / "etc").mkdir()
        (root / "etc/fstab").write_text("server:/x /srv nfs defaults 0 0\n")
        (root / "srv").mkdir()


def order(name: str, device: str, **changes: object) -> Sync:
    return Sync(f"test-{name}", "lab", "/", disk="S1", **changes)  # type: ignore[arg-type]


def digest(device: str) -> bytes:
    return volumes.run("sha256sum", device)


def test_the_one_root_is_found_and_left_as_it_was(device: str) -> None:
    wanted = order("one", device)
    with installed(wanted, lambda: [disk_at(device, "S1")]) as place:
        assert place.folder == f"{FOLDER}/test-one"
        assert (Path(place.folder) / "etc/fstab").exists()
        assert place.foreign == ("/srv",)
        assert place.notes == ("/srv (server:/x) is left as it is",)
    assert not Path(place.folder).exists()


def test_a_dry_run_does_not_change_a_byte(device: str) -> None:
    before = digest(device)
    with (
        installed(order("dry", device, dry=True), lambda: [disk_at(device, "S1")]) as place,
        pytest.raises(OSError, match="Read-only"),
    ):
        (Path(place.folder) / "new").touch()
    volumes.run("blockdev", "--flushbufs", device)
    assert digest(device) == before


def test_two_roots_or_none_are_refused(device: str, folder: Path) -> None:
    install(f"{device}p2", folder)
    take = lambda: [disk_at(device, "S1")]  # noqa: E731
    with (
        pytest.raises(RefusedError, match=r"2 partitions .* hold an installed system"),
        installed(order("two", device), take),
    ):
        pass
    with installed(order("two", device, partition=2), take) as place:
        assert (Path(place.folder) / "etc/fstab").exists()
    for number in (1, 2):
        volumes.run("mkfs.ext4", "-q", "-F", f"{device}p{number}")
    with pytest.raises(RefusedError, match="0 partitions"), installed(order("none", device), take):
        pass
    assert not list(Path(FOLDER).glob("test-*"))


def test_a_damaged_file_system_is_refused_and_not_mounted(device: str) -> None:
    subprocess.run(["debugfs", "-w", "-R", "clri <2>", f"{device}p1"], check=True, capture_output=True)
    with (
        pytest.raises(RefusedError, match=r"is damaged|p1"),
        installed(order("bad", device, partition=1), lambda: [disk_at(device, "S1")]),
    ):
        pass
    assert not Path(f"{FOLDER}/test-bad").exists()
