"""docs/images.md tells the truth: its reader, run as it stands there, restores an image."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bootd.drivers.images.store import ImageStore
from tests.unit.images import CHUNK, put, some_bytes

DOCUMENT = Path(__file__).parents[2] / "docs/images.md"


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    found = re.search(r"<!-- reader -->\n```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    assert len(found[1].splitlines()) <= 50
    assert "import bootd" not in found[1]
    assert "from bootd" not in found[1]
    path = tmp_path / "read_image.py"
    path.write_text(found[1])
    return path


def read(reader: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", str(reader), *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("reference", ["golden", "golden:latest", "id"])
def test_an_image_read_by_hand(tmp_path: Path, reader: Path, reference: str) -> None:
    data = some_bytes(1, 6 * CHUNK + 777)
    with ImageStore(tmp_path / "s") as store:
        id_ = put(store, data)
    done = read(reader, str(tmp_path / "s"), id_ if reference == "id" else reference, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == data


@pytest.mark.parametrize("what", ["chunks", "manifests"])
def test_the_reader_sees_damage(tmp_path: Path, reader: Path, what: str) -> None:
    with ImageStore(tmp_path / "s") as store:
        put(store, some_bytes(2, 3 * CHUNK))
    path = sorted(path for path in (tmp_path / "s" / what).rglob("*") if path.is_file())[-1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = read(reader, str(tmp_path / "s"), "golden", str(tmp_path / "out"))
    assert done.returncode != 0
    assert "damaged" in done.stderr or "Zstd" in done.stderr
