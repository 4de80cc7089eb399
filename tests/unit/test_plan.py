"""``bootd plan`` against a real operators' interface: cards, refusals, exit codes; and what deploy asks."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootd.drivers.source import sector_of
from bootd.errors import Exit
from bootd.wire.control import Partition
from tests.unit.operators import Operators
from tests.unit.session_room import disk

OLD = replace(
    disk(size=64 << 20),
    model="SAMSUNG [bold]860",
    partitions=(Partition(1, 1 << 20, "aa-01", "vfat", "EFI"), Partition(2, 60 << 20, "", "", "")),
)
DATA = replace(disk("vdb", serial="S2", excluded="raid member"), filesystem="linux_raid_member")


@pytest.fixture
def room() -> Iterator[tuple[Operators, str]]:
    with tempfile.TemporaryDirectory(prefix="bootd-") as folder:
        image = Path(folder) / "image"
        image.write_bytes(b"\0" * 512 + b"EFI PART" + b"\0" * (4 << 20))
        image.write_bytes(image.read_bytes()[: 4 << 20])
        made = Operators(Path(folder))
        yield made, str(image)
        made.close()


def test_cards(room: tuple[Operators, str], capsys: pytest.CaptureFixture[str]) -> None:
    operators, image = room
    operators.join(1, OLD, DATA)
    operators.run(capsys, "lock", "add", "lab1", "--disk", "S2", "--reason", "archive", "--owner", "eva")
    code, out, _ = operators.run(capsys, "plan", image, "lab1", "lab2", "--disk", "only")
    assert code == 0
    assert (
        out
        == f"""\
image   {image} (4.2 MB, for sectors of 512 bytes)
disk    only

lab1  52:54:00:00:00:01
  ERASE   vda  SAMSUNG [bold]860  serial S1  67.1 MB  (67108864 bytes)
          now: partition 1  1.0 MB  vfat 'EFI'  aa-01
          now: partition 2  62.9 MB  no filesystem known
  WRITE   4.2 MB of the image
  keep    vdb  QEMU  serial S2  67.1 MB  (67108864 bytes): excluded, raid member
          now: linux_raid_member on the whole disk
  LOCK    disk S2 is locked by eva: archive

lab2  52:54:00:00:00:02
  not seen yet: its disk is chosen when it joins
"""
    )
    assert operators.engine.state()["sessions"] == []


def test_exit_code_4_when_all_are_refused(room: tuple[Operators, str], capsys: pytest.CaptureFixture[str]) -> None:
    operators, image = room
    operators.join(1, replace(OLD, sector=4096))
    operators.join(2, OLD)
    operators.run(capsys, "lock", "add", "lab2", "--disk", "--reason", "exam", "--owner", "eva")
    code, out, _ = operators.run(capsys, "plan", image, "lab[1-2]", "--disk", "only", "--json")
    assert code == Exit.REFUSED
    cards = json.loads(out)["nodes"]
    assert [card["refusal"] for card in cards] == [
        "vda has sectors of 4096 bytes, the image was made for 512",
        "every disk is locked by eva: exam",
    ]
    assert [(card["disk"], card["write"]) for card in cards] == [(None, 0)] * 2
    assert operators.run(capsys, "plan", image, "lab[1-3]", "--disk", "only")[0] == 0  # lab3 may still come
    operators.run(capsys, "lock", "remove", "lab2", "--disk")
    assert operators.run(capsys, "plan", image, "lab[1-2]", "--disk", "only")[0] == 0
    code, _, error = operators.run(capsys, "plan", image + "-not", "lab1", "--disk", "only")
    assert (code, "no such file on the server" in error) == (Exit.INPUT, True)


def test_deploy_shows_the_same_cards_before_it_asks(
    room: tuple[Operators, str], capsys: pytest.CaptureFixture[str]
) -> None:
    operators, image = room
    operators.join(1, OLD)
    operators.run(capsys, "lock", "add", "lab1", "--disk", "--reason", "exam", "--owner", "eva")
    _, out, _ = operators.run(capsys, "plan", image, "lab1", "--disk", "only")
    code, _, error = operators.run(capsys, "deploy", image, "lab1", "--disk", "only")
    assert code == Exit.USAGE  # nobody at the keyboard to be asked
    assert error.startswith(out)
    assert "REFUSED every disk is locked by eva: exam" in error


def test_sectors_of_an_image(tmp_path: Path) -> None:
    for place, sector in ((512, 512), (4096, 4096), (1024, 0)):
        image = bytearray(8192)
        image[place : place + 8] = b"EFI PART"
        (tmp_path / "image").write_bytes(image)
        assert sector_of(str(tmp_path / "image")) == sector
    (tmp_path / "image").write_bytes(b"x")
    assert sector_of(str(tmp_path / "image")) == 0
