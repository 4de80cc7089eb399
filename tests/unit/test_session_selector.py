"""Which disk may be written: the grammar, the one match, and refusals that name every disk."""

import pytest

from bootd.errors import Exit, OperatorError
from bootd.session.selector import Refusal, choose, parse
from bootd.wire.control import Disk
from tests.unit.session_room import disk

IMAGE = 40 << 20


def chosen(text: str, *disks: Disk) -> str:
    result = choose(disks, parse(text), IMAGE)
    assert isinstance(result, Disk), result
    return result.name


def refused(text: str, *disks: Disk) -> str:
    result = choose(disks, parse(text), IMAGE)
    assert isinstance(result, Refusal), result
    return result.reason


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("serial=S1", "vda"),
        ("serial=S2", "vdb"),
        ("wwn=0xB", "vdb"),
        ("name=vdb", "vdb"),
        ("name=/dev/vdb", "vdb"),
        ("size=64M", "vda"),
        ("size=67108864", "vda"),
        ("size=64MiB", "vda"),
        ("size=100MB", "vdb"),
        ("size=100000000", "vdb"),
        ("size>=80M", "vdb"),
        ("size<=80M", "vda"),
        (" model=QEMU , serial=S2 ", "vdb"),
        ("size>=64M,size<=64M", "vda"),
    ],
)
def test_one_match(text: str, name: str) -> None:
    a, b = disk("vda", 64 << 20, "S1", wwn="0xA"), disk("vdb", 100_000_000, "S2", wwn="0xB")
    assert chosen(text, a, b) == name


def test_only_takes_the_only_eligible_disk() -> None:
    assert chosen("only", disk("sda", excluded="usb"), disk("vda")) == "vda"


@pytest.mark.parametrize("text", ["only", "model=QEMU", "size>=1M"])
def test_two_matches_are_a_refusal_that_names_both(text: str) -> None:
    reason = refused(text, disk("vda", serial="S1"), disk("vdb", serial="S2"))
    assert "2 disks match" in reason
    assert "vda" in reason
    assert "vdb" in reason


def test_two_disks_with_one_serial_are_a_refusal() -> None:
    assert "2 disks match" in refused("serial=S1", disk("vda"), disk("vdb"))


def test_no_match_names_every_disk_and_why_not() -> None:
    reason = refused("serial=X", disk("vda", serial="S1"), disk("vdb", serial=""), disk("sdc", excluded="mounted"))
    assert "serial is S1, not X" in reason
    assert "serial is not known, not X" in reason
    assert "excluded (mounted)" in reason
    for name in ("vda", "vdb", "sdc"):
        assert name in reason


def test_no_disk() -> None:
    assert refused("only") == "the node has no disk"


@pytest.mark.parametrize("text", ["only", "name=sda", "model=QEMU", "size>=1M"])
def test_excluded_disk_is_not_taken_unless_named_by_what_is_printed_on_it(text: str) -> None:
    assert "usb" in refused(text, disk("sda", excluded="usb"))


@pytest.mark.parametrize("text", ["serial=S1", "wwn=0xA", "wwn=0xA,size>=1M"])
def test_excluded_disk_may_be_named(text: str) -> None:
    assert chosen(text, disk("sda", excluded="usb", wwn="0xA")) == "sda"


@pytest.mark.parametrize("excluded", ["mounted", "mounted on /", "partition 2 is mounted", "Mounted"])
@pytest.mark.parametrize("text", ["only", "serial=S1", "wwn=0xA", "name=sda"])
def test_mounted_disk_is_never_taken(text: str, excluded: str) -> None:
    refused(text, disk("sda", excluded=excluded, wwn="0xA"))


def test_a_small_disk_is_a_refusal_and_never_steps_aside() -> None:
    small = disk("vda", IMAGE - 512, "S1")
    assert "smaller than the image" in refused("only", small)
    assert "2 disks match" in refused("only", small, disk("vdb"))
    assert chosen("only", disk("vda", IMAGE)) == "vda"


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "only,serial=S1", "serial", "serial=", "colour=red", "size=big", "size=1.5G", "size=5X",
        "size>5", "serial>=S", "serial=a,serial=b", "serial=a,,wwn=b", "size=1iB", "size=-1", "=x",
    ],
)  # fmt: skip
def test_malformed(text: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse(text)
    assert caught.value.code is Exit.USAGE
    assert caught.value.hint
