"""Writers that are killed at any moment: what was acknowledged is there, and nothing half is seen."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from bootd.drivers.images.store import ImageStore
from bootd.drivers.images.verify import verify
from tests.unit.images import CHUNK, Told, content, files, put, some_bytes

WRITER = """
import sys
from pathlib import Path
from bootd.drivers.images import store as module
from tests.unit.images import CHUNK, put, some_bytes
module.BATCH = 4  # names come often
store = module.ImageStore(Path(sys.argv[1]))
print("begun", flush=True)
number = int(sys.argv[2])
while True:
    data = some_bytes(number, 9 * CHUNK + 100)
    print(number, put(store, data, name=f"w{number}"), flush=True)
    number += 1
"""


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    acknowledged: dict[str, int] = {}
    number = seed * 1_000_000
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(number)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        for _ in range(source.randrange(3)):
            written, id_ = writer.stdout.readline().split()
            acknowledged[id_] = int(written)
        try:
            writer.wait(source.random() * 0.1)
        except subprocess.TimeoutExpired:
            writer.send_signal(signal.SIGKILL)
        for line in writer.communicate()[0].splitlines():
            written, id_ = line.split()
            acknowledged[id_] = int(written)
        assert writer.returncode == -signal.SIGKILL
        number += 1000
        for path in files(tmp_path):  # whatever has its name is whole
            assert len(path.parent.name + path.name) == 64
        check = verify(Told(), store=str(tmp_path))
        assert check["ok"], check
        store = ImageStore(tmp_path)
        assert acknowledged.keys() <= set(store.ids())
        for image in store.images():
            store.read_manifest(image.id)
        store.missing([])  # takes over what the dead one had finished
        store.close()
        assert list((tmp_path / "incoming").iterdir()) == []
    store = ImageStore(tmp_path)
    for id_, seen in acknowledged.items():
        assert content(store, id_) == some_bytes(seen, 9 * CHUNK + 100)
    assert verify(Told(), store=str(tmp_path))["ok"]


def test_an_upload_goes_on_where_a_killed_writer_was(tmp_path: Path) -> None:
    """Chunks that were put, though the writer never named nor committed them, need not be sent again."""
    code = (
        "import sys, os, signal; from pathlib import Path; from tests.unit.images import *\n"
        "store = ImageStore(Path(sys.argv[1])); data = some_bytes(7, 9 * CHUNK)\n"
        "for start in range(0, 9 * CHUNK, CHUNK):\n"
        "    piece = data[start : start + CHUNK]\n"
        "    store.put_chunk(blake3(piece).hexdigest(), piece)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    store = ImageStore(tmp_path)
    data = some_bytes(7, 9 * CHUNK)
    names = [blake3(data[start : start + CHUNK]).hexdigest() for start in range(0, 9 * CHUNK, CHUNK)]
    assert store.missing(names) == set()
    put(store, data)
    assert content(store, "golden") == data
