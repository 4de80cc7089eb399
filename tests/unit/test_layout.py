"""Layouts: what is sent, and a disk that gets one: judged by sfdisk, and by every byte around it."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootd.drivers.order_sources import layout_of, measure
from bootd.drivers.source import Sources
from bootd.errors import OperatorError
from bootd.wire.control import Disk, Partition, PartTarget, Plan
from bootd.wire.errors import PeerProtocolError
from bootd.wire.layout import MAX_LAYOUT, Layout, decode, digest
from stage2 import layout as partitioning
from stage2.gate import Target
from tests.netns.disks import MIB, TEN, LoopDisk

LOOKED = Sources()
SIZE = 40 * MIB
GPT = """label: gpt
label-id: 6D9F7A52-0D0C-4F7F-9F42-B007D0000001
1 : size=1M, type=21686148-6449-6E6F-744E-656564454649, attrs="LegacyBIOSBootable"
2 : name="root", uuid=6D9F7A52-0000-4F7F-9F42-B007D0000002
"""
BOOT, GAP = b"BOOT" * 110, b"second stage " * 1000


def golden(path: Path, script: str) -> Path:
    """A disk image with boot code, something in the gap, and content."""
    path.write_bytes(bytes(SIZE))
    subprocess.run(["sfdisk", "--quiet", path], input=script.encode(), check=True)
    with path.open("r+b") as stream:
        stream.write(BOOT)
        stream.seek(40 * 512)
        stream.write(GAP)
    return path


def said(path: Path) -> str:
    text = subprocess.run(["sfdisk", "--dump", path], check=True, capture_output=True, text=True).stdout
    return re.sub(r"^device:.*\n", "", text.replace(str(path), "DISK"), flags=re.MULTILINE)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    made = LoopDisk(tmp_path / "disk", SIZE + 8 * MIB, 1, TEN)
    yield made
    made.close()


def opened(disk: LoopDisk) -> Target:
    descriptor = os.open(disk.device, os.O_RDWR | os.O_EXCL | os.O_DIRECT)
    shown = Disk(disk.name, disk.size, 512, "S1", "", "", "", False, "", "d" * 64)
    return Target(shown, descriptor, (descriptor,))


@pytest.mark.parametrize("script", [TEN, GPT], ids=["ten partitions", "gpt"])
def test_table_boot_code_and_gap_of_the_golden_disk(tmp_path: Path, disk: LoopDisk, script: str) -> None:
    image = golden(tmp_path / "golden", script)
    layout = decode(layout_of(str(image), LOOKED))
    before = disk.content()
    target = opened(disk)
    try:
        partitioning.write(layout, target)
    finally:
        target.close()
    after = disk.content()
    assert said(disk.path).replace("last-lba", "") != ""
    ends = re.compile(r"^last-lba:.*\n", re.MULTILINE)
    assert ends.sub("", said(disk.path)) == ends.sub("", said(image))
    assert after[:440] == BOOT
    assert after[40 * 512 : 40 * 512 + len(GAP)] == GAP
    first = min(entry.start for entry in layout.table.entries) * 512
    changed = {
        at // 512 for at in range(first, disk.size - MIB, 512) if after[at : at + 512] != before[at : at + 512]
    }
    tables = {entry.start for entry in layout.table.entries if entry.is_extended}
    logical = [entry for entry in layout.table.entries if entry.number > 5]
    # Logical partitions have their own table sectors, between them; all else inside of partitions stays.
    inside = {sector for entry in layout.table.contents for sector in changed if entry.start <= sector < entry.end}
    assert not inside
    assert len(changed) <= len(tables) + len(logical)
    if script == GPT:
        text = subprocess.run(["sgdisk", "--verify", disk.path], check=True, capture_output=True, text=True).stdout
        assert "No problems found" in text


def test_a_table_alone_brings_no_boot_code(tmp_path: Path, disk: LoopDisk) -> None:
    image = golden(tmp_path / "golden", TEN)
    text = tmp_path / "table.json"
    text.write_text(subprocess.run(["sfdisk", "--json", image], check=True, capture_output=True, text=True).stdout)
    layout = decode(layout_of(str(text), LOOKED))
    assert layout.start == b""
    target = opened(disk)
    try:
        partitioning.write(layout, target)
    finally:
        target.close()
    assert disk.content()[:440] == bytes(440)
    assert said(disk.path) == said(image)


def test_no_write_leaves_its_partition(disk: LoopDisk) -> None:
    target = opened(disk)
    plan = Plan(
        "s", "m", "r", MIB, MIB, target.disk, 1, parts=(PartTarget(Partition(1, MIB, "", "", "", MIB), MIB),)
    )
    before = disk.content()
    try:
        (region,) = partitioning.regions(target, plan, "write")
        region.zero(0, MIB)
        region.sync()
        for offset, length in ((MIB, 512), (MIB - 512, 1024), (-512, 512)):
            with pytest.raises(OSError, match="of a partition of"):
                region.zero(offset, length)
    finally:
        target.close()
    after = disk.content()
    assert after == before[:MIB] + bytes(MIB) + before[2 * MIB :]


def test_a_plan_that_does_not_fit_its_layout(tmp_path: Path) -> None:
    layout = decode(layout_of(str(golden(tmp_path / "golden", TEN)), LOOKED))
    shown = Disk("sda", SIZE, 512, "S1", "", "", "", False, "", "d" * 64)
    good = Plan(
        "s", "m", "r", MIB, MIB, shown, 1, parts=(PartTarget(Partition(5, 4 * MIB, "", "", "", 8 * MIB), MIB),)
    )
    assert partitioning.misfit(layout, good) == ""
    for change, reason in (
        ({"disk": replace(shown, sector=4096)}, "sectors of 512"),
        ({"disk": replace(shown, size=SIZE - MIB)}, "needs a disk of"),
        ({"parts": (PartTarget(Partition(5, 4 * MIB, "", "", "", 9 * MIB), MIB),)}, "no partition 5"),
        ({"parts": (PartTarget(Partition(4, 33 * MIB, "", "", "", 7 * MIB), MIB),)}, "no partition 4"),
        ({"parts": (PartTarget(Partition(5, 4 * MIB, "", "", "", 8 * MIB), 5 * MIB),)}, "no partition 5"),
    ):
        assert reason in partitioning.misfit(layout, replace(good, **change))


def test_what_a_layout_makes_of_an_order(tmp_path: Path) -> None:
    image = golden(tmp_path / "golden", TEN)
    found = measure(str(image), "only", [], str(image), erase="S1", looked=LOOKED)
    assert [part.number for part in found.parts] == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert found.parts[3].source == f"slice:{8 * MIB}:{4 * MIB}:{image}"
    assert found.layout is not None
    assert (found.layout.digest, found.layout.erase) == (digest(layout_of(str(image), LOOKED)), "S1")
    assert found.layout.least == SIZE
    big = tmp_path / "big"
    big.write_bytes(bytes(5 * MIB))
    for parts, reason in (
        ([f"5={big}"], "partition 5 of the layout 4194304"),
        ([f"11={big}"], "has no partition 11"),
        ([f"4={big}"], "has no partition 4"),
        (["5"], "each --part is N=IMAGE"),
        ([f"10={big}", f"10={big}"], "named twice"),
    ):
        with pytest.raises(OperatorError, match=reason):
            measure(str(image), "only", parts, str(image), looked=LOOKED)


@pytest.mark.parametrize("data", [b"", b"{}", b"{}\n", b'{"version":1}\n', b"[" * 100, b"x" * (MAX_LAYOUT + 1)])
def test_what_is_no_layout_is_refused(data: bytes) -> None:
    with pytest.raises(PeerProtocolError, match="layout"):
        decode(data)


def test_bytes_that_would_reach_into_the_first_partition_are_refused(tmp_path: Path) -> None:
    line, _, start = layout_of(str(golden(tmp_path / "golden", TEN)), LOOKED).partition(b"\n")
    assert isinstance(decode(line + b"\n" + start), Layout)
    with pytest.raises(PeerProtocolError, match="before the first partition"):
        decode(line + b"\n" + start + b"x")
    value = json.loads(line)
    value["table"]["partitions"][0]["start"] = 8
    with pytest.raises(PeerProtocolError, match="before the first partition"):
        decode(json.dumps(value).encode() + b"\n" + start)
