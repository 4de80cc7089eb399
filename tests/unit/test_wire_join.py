"""Joins as other versions of stage2 write them, against what this one makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from bootd.wire.control import Disk, Hardware, Join, Nic, decode, encode
from bootd.wire.errors import PeerProtocolError

VECTORS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "bootd/wire/vectors/join.json").read_text()
)


def read(name: str) -> Join:
    message = decode(json.dumps(VECTORS[name]).encode())
    assert isinstance(message, Join)
    return message


def test_a_join_without_hardware_is_one_of_an_older_stage2() -> None:
    join = read("first")
    assert join.hardware == Hardware()
    assert join.disks[0] == Disk(
        "sda",
        512110190592,
        512,
        "S3Z8NB0K",
        "0x5002538d40000000",
        "Samsung SSD 850",
        "sata",
        False,
        "",
        "00",
    )


def test_a_join_with_hardware() -> None:
    hardware = read("with_hardware").hardware
    assert (hardware.board_serial, hardware.cores) == ("/1AB2CD3/", 4)
    assert hardware.nics == (Nic("eno1", "52:54:00:12:34:56", "e1000e", "pci", 1000, True),)
    assert json.loads(encode(read("with_hardware"))) == VECTORS["with_hardware"]


def test_what_a_newer_stage2_says_more_is_passed_over() -> None:
    assert read("from_the_future").hardware == Hardware(product="Board 9")


@pytest.mark.parametrize(
    ("key", "value"), [("cores", -1), ("cores", "4"), ("vendor", None), ("nics", {}), ("nics", [{"name": "eno1"}])]
)
def test_what_does_not_fit_is_refused(key: str, value: object) -> None:
    wrong = json.loads(json.dumps(VECTORS["with_hardware"]))
    wrong["hardware"][key] = value
    with pytest.raises(PeerProtocolError, match=f"join.hardware.{key}"):
        decode(json.dumps(wrong).encode())
