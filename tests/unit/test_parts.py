"""How an operator names partitions, and what becomes of sessions that write them."""

import pytest

from bootd.errors import Exit, OperatorError
from bootd.session.parts import Wish, disk_of, parse_wish


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("sda5", Wish("sda", 5, "")),
        ("/dev/sdab12", Wish("sdab", 12, "")),
        ("nvme0n1p5", Wish("nvme0n1", 5, "")),
        ("mmcblk0p1=/images/boot", Wish("mmcblk0", 1, "/images/boot")),
        ("5", Wish("", 5, "")),
        ("sda6=golden.img#5", Wish("sda", 6, "golden.img#5")),
        ("sda6=a=b", Wish("sda", 6, "a=b")),
    ],
)
def test_partitions_by_name(text: str, wish: Wish) -> None:
    assert parse_wish(text) == wish


@pytest.mark.parametrize(
    "text", ["", "sda", "sda0", "sda05", "nvme0n1", "nvme0n15", "sda5=", "5x", "sd a5", "sda1234"]
)
def test_what_names_no_partition(text: str) -> None:
    """`nvme0n15` names no partition: is it the fifth of nvme0n1, or another name space?"""
    with pytest.raises(OperatorError, match="names no partition") as error:
        parse_wish(text)
    assert error.value.code is Exit.USAGE


def test_the_disk_that_is_meant() -> None:
    five, six = parse_wish("sda5"), parse_wish("sda6")
    assert disk_of([five, six], "") == "name=sda"
    assert disk_of([five], "name=sda") == "name=sda"
    assert disk_of([parse_wish("5")], "serial=S1") == "serial=S1"
    for wishes, disk in (
        ([five, parse_wish("sdb6")], ""),
        ([five, parse_wish("6")], "only"),
        ([five], "serial=S1"),
        ([parse_wish("5")], ""),
        ([five, five], ""),
        ([parse_wish(f"sda{number}") for number in range(1, 66)], ""),
    ):
        with pytest.raises(OperatorError):
            disk_of(wishes, disk)
