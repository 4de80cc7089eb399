"""Pulling an image onto a file system that has no room for it (root: it is mounted here)."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.drivers.images.store import ImageStore
from bootd.drivers.registry.transfer import Progress
from bootd.errors import OperatorError
from tests.unit.docker_registry import DockerRegistry
from tests.unit.test_registry import content, disk, keep, pull, push

MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """24 MiB of room."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_no_room(tmp_path: Path, small: Path) -> None:
    here = ImageStore(tmp_path / "here")
    keep(here, disk())
    filler = small / "filler"
    filler.write_bytes(bytes(18 * MIB))
    with DockerRegistry(tmp_path / "registry") as registry:
        target = f"http://{registry.host}/lab"
        push(here, target)
        there = ImageStore(small / "images")
        # Known before anything travels.
        with pytest.raises(OperatorError, match=r"needs \d+ bytes, .* has room for \d+"):
            pull(there, target)
        assert not list((small / "images" / "chunks").rglob("*/*"))

        # Somebody else takes the room while it comes.
        filler.unlink()

        def fill(progress: Progress) -> None:
            if progress.done > 2 * MIB and not filler.exists():
                with filler.open("wb") as file:
                    try:
                        while True:
                            file.write(bytes(MIB))
                            file.flush()
                    except OSError:
                        pass

        with pytest.raises(OperatorError, match="no room for images") as full:
            pull(there, target, on=fill)
        assert "bootd image rm" in full.value.hint
        assert there.images() == []

        filler.write_bytes(b"")
        got = pull(there, target)
        assert got.present_chunks > 0
        assert content(there, "lab") == b"".join(disk())
        there.close()
    here.close()
