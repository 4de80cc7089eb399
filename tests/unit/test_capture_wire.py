"""What is in use, and how a node describes it: ranges, partclone's log, the description, hostile forms of all."""

import itertools
import json
import random
import struct
from dataclasses import replace

import pytest

from bootd.wire import btrfs, captured, marks, used, volumes, xfs_log
from bootd.wire.captured import Description, Volume
from bootd.wire.control import Capture, CaptureReport, CaptureState, decode, encode
from bootd.wire.errors import PeerProtocolError
from bootd.wire.marks import MARK_SIZE, NONE, Clock, Question
from tests.unit.session_room import disk, mac

# Written by partclone.extfs 0.3.23 of Debian 12 for an ext4 of 64 MiB with blocks of 1 KiB.
LOG = b"""\
# Domain logfile created by unset_name v0.3.23
# Source: /dev/loop2
# Offset: 0x00000000
# current_pos  current_status
0x04000000     ?
#      pos        size  status
0x00000000  0x00448400  +
0x00448400  0x003B8000  ?
0x00800400  0x00040800  +
0x00840C00  0x007BF800  ?
0x01000400  0x00400000  +
0x01400400  0x00400000  ?
0x01800400  0x00040800  +
0x01840C00  0x00FBF800  ?
0x02800400  0x00040800  +
0x02840C00  0x00FBF800  ?
0x03800400  0x00040800  +
0x03840C00  0x007BF400  ?
"""
SIZE = 64 << 20
RANGES = (
    (0, 0x448400),
    (0x800400, 0x40800),
    (0x1000400, 0x400000),
    (0x1800400, 0x40800),
    (0x2800400, 0x40800),
    (0x3800400, 0x40800),
)


def test_a_domain_log_of_partclone() -> None:
    assert used.parse_domain_log(LOG.splitlines(), SIZE) == RANGES
    assert used.total(RANGES) == 9513 * 1024, "as many blocks as partclone has counted"


def test_what_lies_behind_the_file_system_is_in_use() -> None:
    assert used.parse_domain_log(LOG.splitlines(), SIZE + 4096) == (*RANGES, (SIZE, 4096))
    last = LOG.replace(b"0x03840C00  0x007BF400  ?", b"0x03840C00  0x007BF400  +")
    assert used.parse_domain_log(last.splitlines(), SIZE + 512)[-1] == (0x3800400, SIZE + 512 - 0x3800400)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"0x00448400  0x003B8000  ?", b"0x00448401  0x003B8000  ?"),  # a gap
        (b"0x00448400  0x003B8000  ?\n", b""),
        (b"0x03840C00  0x007BF400", b"0x03840C00  0x007BF401"),  # beyond the end
        (b"0x00448400  0x003B8000  ?", b"0x00448400  0x003B8000  *"),
        (b"0x00448400  0x003B8000  ?", b"0x00448400  0x003B8000"),
        (b"0x00448400  0x003B8000  ?", b"0x00448400  -0x003B8000  ?"),
        (b"0x00448400  0x003B8000  ?", b"4490240  0x003B8000  ?"),
        (b"0x00448400  0x003B8000  ?", b"0x00448400  0x00  ?"),
        (b"0x00000000  0x00448400", b"0x_0000  0x00448400"),
        (LOG, b""),
        (LOG, b"partclone: command not found\n"),
        (LOG, b"\xff" * 100),
    ],
)
def test_logs_that_are_none(old: bytes, new: bytes) -> None:
    assert old in LOG
    with pytest.raises(PeerProtocolError, match="domain log"):
        used.parse_domain_log(LOG.replace(old, new).splitlines(), SIZE)


def test_ranges_against_a_set_of_bytes() -> None:
    """Every operation beside the same one on sets of numbers."""
    draw = random.Random(11)
    for _ in range(300):
        ranges = [(draw.randrange(90), draw.randrange(12)) for _ in range(draw.randrange(8))]
        size = draw.randrange(1, 110)
        members = {byte for start, length in ranges for byte in range(start, start + length)}
        joined = used.union(ranges)
        assert {byte for start, length in joined for byte in range(start, start + length)} == members
        assert all(sum(left) < right[0] for left, right in itertools.pairwise(joined))
        free = {byte for start, length in used.outside(ranges, size) for byte in range(start, start + length)}
        assert free == set(range(size)) - members
        begin, end = sorted((draw.randrange(110), draw.randrange(110)))
        found = {
            byte
            for start, length in used.Cutter(joined).within(begin, end)
            for byte in range(start, start + length)
        }
        assert found == members & set(range(begin, end))
        assert members <= {byte for start, length in used.union(ranges, 5) for byte in range(start, start + length)}


def test_many_ranges_become_few_and_lose_nothing() -> None:
    ranges = [(number * (1 << 20), 4096) for number in range(5000)]
    short = used.shortened(ranges, 100)
    assert len(short) <= 100
    cutter = used.Cutter(short)
    assert all(list(cutter.within(start, start + length)) == [(start, length)] for start, length in ranges)


DESCRIPTION = Description(
    kind="disk",
    size=SIZE,
    sector=512,
    table={"label": "dos", "partitions": [{"node": "/dev/sda1", "start": 2048, "size": 4096, "type": "83"}]},
    volumes=(Volume(1 << 20, 2 << 20, "ext4", "root", "0f4e1b8d-73a2-4f6e-9a54-0c3e5a1b2c3d"),),
    ranges=RANGES,
)


def test_a_description_comes_back() -> None:
    assert captured.decode(captured.encode(DESCRIPTION)) == DESCRIPTION
    assert DESCRIPTION.chunks == 64
    assert replace(DESCRIPTION, size=SIZE + 1).chunks == 65


def test_descriptions_that_are_none() -> None:
    data = captured.encode(DESCRIPTION)
    line, _, rest = data.partition(b"\n")
    pairs = [*RANGES[:-1], (RANGES[-1][0], SIZE)]
    bad = [
        b"",
        rest,
        line,
        line + b"\n" + rest[:-1],
        line + b"\n" + rest + bytes(16),
        line + b"\n" + rest[16:] + rest[:16],
        line + b"\n" + b"".join(struct.pack(">QQ", *pair) for pair in pairs),
        line.replace(b'"kind":"disk"', b'"kind":"file"') + b"\n" + rest,
        line.replace(b'"sector":512', b'"sector":513') + b"\n" + rest,
        line.replace(b'"size":67108864', b'"size":0') + b"\n" + rest,
        line.replace(b'"size":67108864', b'"size":true') + b"\n" + rest,
        line.replace(b'"size":67108864', b'"size":99999999999999999999') + b"\n" + rest,
        line.replace(b'"label":"root"', b'"label":"ro\\u001b[2Jot"') + b"\n" + rest,
        line.replace(b'"start":1048576', b'"start":67108864') + b"\n" + rest,
        line.replace(b'"volumes":[', b'"volumes":[7,') + b"\n" + rest,
        line.replace(b'"table":{', b'"table":[{').replace(b'},"volumes"', b'}],"volumes"') + b"\n" + rest,
    ]
    for number, item in enumerate(bad):
        with pytest.raises(PeerProtocolError, match="description"):
            captured.decode(item)
        assert item != data, number


def test_any_change_of_a_byte_is_read_or_refused_and_nothing_else() -> None:
    data = captured.encode(DESCRIPTION)
    draw = random.Random(12)
    for _ in range(2000):
        mutant = bytearray(data)
        for _ in range(draw.randrange(1, 4)):
            mutant[draw.randrange(len(mutant))] = draw.randrange(256)
        try:
            found = captured.decode(bytes(mutant))
        except PeerProtocolError:
            continue
        assert all(start + length <= found.size for start, length in found.ranges)


def test_answers() -> None:
    assert captured.decode_answer(captured.encode_answer([3, 1]), 4) == [1, 3]
    for bad in (b"", b"[]", b'{"missing":3}', b'{"missing":[4]}', b'{"missing":[-1]}', b'{"missing":[true]}'):
        with pytest.raises(PeerProtocolError):
            captured.decode_answer(bad, 4)


def test_the_messages_of_a_capture() -> None:
    order = Capture("t1", disk(), 5, True, False, "stay")
    assert decode(encode(order)) == order
    value = json.loads(encode(order))
    del value["marks"], value["quick"]  # as a daemon says it that knows no marks
    assert decode(json.dumps(value).encode()) == order
    report = CaptureReport(mac(1), "t1", CaptureState.READING, 7, 5, 3, 2, "", ("sda1: xfs, all of it",))
    assert decode(encode(report)) == report


def test_marks_as_they_are_sent() -> None:
    told = Question(3, "S1  400 0", {"ab" * 16: Clock(5, 7)}, (b"m" * MARK_SIZE, NONE))
    assert marks.decode(marks.encode(told)) == told
    known = [None, captured.ZEROS, b"d" * 32, None]
    assert marks.decode_answer(marks.encode_answer(known), 4) == known
    draw = random.Random(17)
    for good, decoder in (
        (marks.encode(told), marks.decode),
        (marks.encode_answer(known), lambda data: marks.decode_answer(data, 4)),
    ):
        for _ in range(500):
            data = bytearray(good[: draw.randrange(len(good) + 1)] if draw.random() < 0.3 else good)
            for _ in range(draw.randrange(4)):
                if data:
                    data[draw.randrange(len(data))] = draw.randrange(256)
            try:
                decoder(bytes(data))
            except PeerProtocolError:
                continue
    with pytest.raises(PeerProtocolError):
        marks.decode_answer(b"\1" * 4, 4)


def reader(data: bytes) -> volumes.Read:
    return lambda offset, size: data[offset : offset + size]


def test_first_blocks_of_garbage_are_judged_not_clean_and_nothing_is_raised() -> None:
    """A read error aside, no file system can make the judges fail."""
    draw = random.Random(13)
    for kind in (*volumes.PARTCLONE, volumes.HIBERNATED):
        for length in (0, 17, 600, 200_000):
            noise = draw.randbytes(length)
            assert volumes.unclean(kind, reader(noise)), kind
    block = bytearray(1 << 16)
    block[:4] = b"XFSB"
    for _ in range(300):
        block[4:200] = draw.randbytes(196)
        xfs_log.unclean(reader(bytes(block)))


def test_what_is_kept_twice_is_in_use_twice() -> None:
    chunks = [btrfs.Chunk(0, 100, (1000, 5000)), btrfs.Chunk(100, 50, (2000,))]
    assert btrfs.with_copies([(1010, 20), (2000, 10), (5090, 30)], chunks) == (
        (1010, 20),
        (1090, 10),
        (2000, 10),
        (5010, 20),
        (5090, 30),
    )


def test_chunk_trees_that_are_none() -> None:
    draw = random.Random(14)
    for _ in range(300):
        block = bytearray(draw.randbytes(80 << 10))
        block[65536 + 64 : 65536 + 72] = b"_BHRfS_M"
        block[65536 + 148 : 65536 + 152] = struct.pack("<I", 4096)
        block[65536 + 160 : 65536 + 164] = struct.pack("<I", draw.randrange(0, 300))
        block[65536 + 811 + 8] = 228
        with pytest.raises(PeerProtocolError, match="btrfs"):
            btrfs.read_chunks(reader(bytes(block)), 1 << 30)
