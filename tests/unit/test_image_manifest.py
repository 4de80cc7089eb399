"""Manifests of images: one encoding, limits, and errors that say what is wrong."""

import json
import random
from typing import Any

import pytest
from blake3 import blake3

from bootd.errors import OperatorError
from bootd.images.manifest import Filesystem, ImageError, ImageManifest, encode, image_id, parse

A, B = blake3(b"a").hexdigest(), blake3(b"b").hexdigest()
TABLE = {"label": "dos", "id": "0x1234", "device": "/dev/sda", "partitions": [{"node": "/dev/sda1", "start": 2048}]}


def manifest(**changes: Any) -> ImageManifest:
    values: dict[str, Any] = {
        "name": "debian12",
        "user": "ann",
        "created": "2026-01-31T23:59:59Z",
        "comment": "before the exam, für alle",
        "origin": "pc1 sda",
        "size": 3 * (1 << 20) + 5,
        "table": TABLE,
        "filesystems": (Filesystem(512, 1 << 20, "ext4", "root", "uuid-1"),),
        "extents": ((0, 512), (1 << 20, 5)),
        "chunks": (A, "", A, B),
    }
    return ImageManifest(**{**values, **changes})


def test_a_manifest_as_docs_images_describes_it() -> None:
    """Written out by hand from the description."""
    header = {
        "format": 1,
        "name": "debian12",
        "user": "ann",
        "created": "2026-01-31T23:59:59Z",
        "comment": "before the exam, für alle",
        "origin": "pc1 sda",
        "kind": "disk",
        "size": 3145733,
        "sector": 512,
        "chunk_size": 1048576,
        "table": {key: TABLE[key] for key in sorted(TABLE)},
        "filesystems": [{"start": 512, "size": 1048576, "type": "ext4", "label": "root", "uuid": "uuid-1"}],
        "extents": 2,
        "chunks": 4,
    }
    line = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    expected = f"{line}\n0 512\n1048576 5\n{A}\n\n{A}\n{B}\n".encode()
    assert encode(manifest()) == expected
    assert parse(expected) == manifest()
    assert image_id(expected) == blake3(expected).hexdigest()


def test_lengths() -> None:
    assert manifest().length(3) == 5
    assert manifest().lengths() == {A: 1 << 20, B: 5}
    with pytest.raises(IndexError):
        manifest().length(4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../../etc"}, "no name of an image"),
        ({"user": " "}, "who made this image"),
        ({"comment": ""}, "who made this image"),
        ({"comment": "red\x1b[31m"}, "control characters"),
        ({"comment": "x" * 3000}, "too long"),
        ({"user": "\udcff"}, "control characters"),
        ({"created": "yesterday"}, "created at"),
        ({"created": "2026-01-31T23:59:59+01:00"}, "created at"),
        ({"created": "2026-01-31T23:59:59Z\n"}, "created at"),
        ({"size": 0, "chunks": ()}, "0 bytes"),
        ({"size": 1 << 60}, "bytes"),
        ({"sector": 500}, "sectors of 500"),
        ({"chunk_size": 1000}, "chunks of 1000"),
        ({"chunks": (A, B)}, "2 chunks"),
        ({"chunks": (A, B, A, "zz")}, "no digest"),
        ({"chunks": (A, B, A, A + "\n")}, "no digest"),
        ({"extents": ((0, 0),)}, "extent 0 0"),
        ({"extents": ((0, 512), (100, 5))}, "extent 100 5"),
        ({"extents": ((0, 1 << 30),)}, "outside"),
        ({"filesystems": (Filesystem(0, 1 << 40, "ext4"),)}, "outside"),
        ({"format": 2}, "format 2"),
        ({"table": {"x": "y" * (2 << 20)}}, "header has"),
        ({"table": {"x": "\udcff"}}, "partition table"),
    ],
)
def test_what_a_manifest_may_not_say(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        encode(manifest(**changes))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"null\n",
        b"[" * 100_000,
        b"\xff\xfe\n",
        encode(manifest())[:-1],
        encode(manifest()) + b"\n",
        encode(manifest()).replace(b'"size":', b'"size": '),  # the same values, written otherwise
        encode(manifest()).replace(b"0 512\n", b"00 512\n"),
        encode(manifest()).replace(b"0 512\n", b"0 512 \n"),
        encode(manifest()).replace(b'"chunks":4', b'"chunks":4000000'),
        encode(manifest()).replace(b'"chunks":4', b'"chunks":-1'),
        encode(manifest()).replace(A.encode(), A.upper().encode()),
        encode(manifest()).replace(b'"format":1', b'"format":9'),
        encode(manifest()).replace(b'"kind":"disk"', b'"kind":"tape"'),
    ],
)
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(ImageError):
        parse(data)


def test_mutants_give_an_image_or_an_error_for_the_operator() -> None:
    """And an image that is accepted is written again as the same bytes."""
    source = random.Random(4711)
    good = encode(manifest())
    accepted = 0
    for _ in range(5000):
        data = bytearray(good)
        for _ in range(source.randint(1, 3)):
            place = source.randrange(len(data))
            match source.randrange(3):
                case 0:
                    data[place] = source.randrange(256)
                case 1:
                    del data[place : place + source.randint(1, 4)]
                case 2:
                    data[place:place] = data[source.randrange(len(data)) :][: source.randint(1, 9)]
        try:
            found = parse(bytes(data))
        except OperatorError:
            continue
        accepted += 1
        assert encode(found) == bytes(data)
    assert accepted > 50
