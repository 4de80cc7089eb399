"""What the fuzz is aimed at, and what must hold whatever arrives. A broken promise raises `Broken`.

One subject for each place where bytes of another machine come in: the decoder of frames, both sides of a link, the
manifest, the control messages. A subject is called with a seeded generator, makes one hostile input of it, and says
whether the input was accepted. Everything but `PeerProtocolError` leaves it, for the caller to report.
"""

import json
from random import Random

from bootd.wire import control, frames, link, manifest, tree
from bootd.wire.commands import Execute, Output, Piece, StopCommand
from bootd.wire.digest import digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Chunk, ChunkHeader, ChunkRange, Decoder, Encoding, Frame
from bootd.wire.logs import Log, LogLine
from bootd.wire.manifest import Part
from bootd.wire.scheme import encoding as scheme_encoding
from bootd.wire.scheme import fitting
from bootd.wire.scheme import text as scheme_text
from tests.property.wire_mutants import mutate, mutate_json, shuffle

CHUNK = 4096
COUNT = 6
# Greatest length of a payload per type, from the table in PROTOCOL.md; CHUNK is 44 + the chunk size.
GREATEST = {1: 40, 2: 202, 3: 32, 4: 65536, 6: 0, 7: 0, 8: 512}
MAX_BUFFER = max(GREATEST.values())  # bytes that a decoder asks for at a time, with chunks of 4 KiB


class Broken(Exception):  # noqa: N818 - what failed is the subject
    """A promise of the wire does not hold for this input."""


def expect(condition: bool, text: str) -> None:
    if not condition:
        raise Broken(text)


# --- frames ------------------------------------------------------------------------------------------------


def _chunk(index: int, encoding: Encoding = Encoding.RAW, length: int = CHUNK) -> bytes:
    raw = index.to_bytes(4, "big") * (length // 4)
    payload = {Encoding.RAW: raw, Encoding.ZSTD: raw[: length // 2], Encoding.ZERO: b""}[encoding]
    header = ChunkHeader(index, encoding, length, digest(raw), len(payload))
    return frames.encode_chunk_header(header) + payload


IMAGE = manifest.build(COUNT * CHUNK, CHUNK, [digest(i.to_bytes(4, "big") * (CHUNK // 4)) for i in range(COUNT)])
VALID: tuple[bytes, ...] = (
    frames.encode(frames.Challenge(1, bytes(range(32)))),
    frames.encode(frames.Hello(1, "room", 7, "52:54:00:00:00:01", bytes(32), bytes(range(32)))),
    frames.encode(frames.Welcome(bytes(range(32)))),
    frames.encode(frames.Want((ChunkRange(0, 5), ChunkRange(7, 1), ChunkRange(9, 3)))),
    frames.encode(frames.Want(tuple(ChunkRange(3 * i, 2) for i in range(40)))),
    frames.encode(frames.End()),
    frames.encode(frames.Ping()),
    frames.encode(frames.Reject("has failed: no space left on device")),
    _chunk(3, Encoding.ZERO),
    _chunk(4, Encoding.RAW, 64),
    _chunk(5, Encoding.ZSTD, 128),
)


def encode(frame: Frame) -> bytes:
    if isinstance(frame, Chunk):
        return frames.encode_chunk_header(frame.header) + bytes(frame.payload)
    return frames.encode(frame)


def frame_stream(random: Random) -> bool:
    """Mutated streams into `Decoder`: bounded buffers, and what is accepted is what arrived, byte for byte."""
    stream = b"".join(random.choices(VALID, k=random.choice((1, 1, 2, 3))))
    stream = mutate(random, stream, random.choice(VALID))
    max_chunk = CHUNK if random.random() < 0.9 else 65536
    decoder = Decoder(max_chunk=max_chunk, allocate=lambda header: _room(header, max_chunk))
    accepted: list[Frame] = []
    try:
        _feed(decoder, stream, accepted, max_chunk, random)
    except PeerProtocolError as error:
        try:
            decoder.buffer()
        except PeerProtocolError as again:
            expect(str(again) == str(error), "a spent decoder says something else")
        else:
            raise Broken("a decoder goes on after an error") from None
        return False
    finally:
        told = b"".join(encode(frame) for frame in accepted)
        expect(stream.startswith(told), "accepted frames are not what arrived")
    expect(decoder.inside_frame or told == stream, "bytes were swallowed")
    return not decoder.inside_frame


def _feed(decoder: Decoder, stream: bytes, accepted: list[Frame], max_chunk: int, random: Random) -> None:
    """As a driver does: into the decoder's own buffer, in pieces."""
    rest = memoryview(stream)
    whole = random.random() < 0.8
    while rest:
        buffer = decoder.buffer()
        expect(0 < len(buffer) <= max(MAX_BUFFER, max_chunk), f"a buffer of {len(buffer)} bytes")
        count = min(len(buffer), len(rest))
        if not whole and count > 1:
            count = random.randrange(1, count + 1)
        buffer[:count] = rest[:count]
        rest = rest[count:]
        frame = decoder.advance(count)
        if frame is not None:
            accepted.append(frame)


def _room(header: ChunkHeader, max_chunk: int) -> memoryview:
    expect(header.payload_length <= max_chunk, f"{header.payload_length} bytes asked for a chunk")
    return memoryview(bytearray(header.payload_length))


# --- links -------------------------------------------------------------------------------------------------

SESSION, MEMBER, TOKEN, EPOCH = "room", "52:54:00:00:00:01", "a secret of the session", 7
NONCES = (bytes(range(32)), bytes(range(32, 64)))  # of the accepting, of the dialling side
WANTED = (ChunkRange(0, 4), ChunkRange(4, COUNT - 4))


def _dial(
    session: str = SESSION, epoch: int = EPOCH, token: str = TOKEN, nonce: bytes = NONCES[1]
) -> link.DialLink:
    return link.DialLink(
        session=session, epoch=epoch, member=MEMBER, token=token, nonce=nonce, manifest=IMAGE
    )  # fmt: skip


def _accept(epoch: int, session: str = SESSION, token: str = TOKEN) -> link.AcceptLink:
    return link.AcceptLink(session=session, epoch=epoch, token=token, nonce=NONCES[0], chunk_count=COUNT)


def _converse(dial: link.DialLink, accept: link.AcceptLink) -> tuple[list[bytes], list[bytes]]:
    """What both sides of a true conversation send: the predecessor, the successor."""
    down, up = [accept.challenge()], []
    hello = dial.receive(Decoder().feed(down[0])[0])
    if isinstance(hello, link.Send):
        up.append(hello.data)
        welcome = accept.receive(Decoder().feed(hello.data)[0])
        if isinstance(welcome, link.Established | link.Refused):
            down.append(welcome.data)
        if isinstance(welcome, link.Established):
            dial.receive(Decoder().feed(welcome.data)[0])
            for wanted in WANTED:
                up.append(dial.want([wanted]))
                down += [frames.encode(frames.Ping())]
                down += [_chunk(i) for i in range(wanted.first, wanted.first + wanted.count)]
                down += [frames.encode(frames.End())]
                for data in down[-wanted.count - 2 :]:
                    dial.receive(Decoder().feed(data)[0])
    return down, up


DOWN, UP = _converse(_dial(), _accept(EPOCH))
_OTHERS = [
    _converse(_dial(session="other"), _accept(EPOCH, session="other")),
    _converse(_dial(epoch=EPOCH - 1), _accept(EPOCH)),
    _converse(_dial(token="another secret"), _accept(EPOCH, token="another secret")),
    _converse(_dial(nonce=bytes(32)), _accept(EPOCH)),
]
DOWN_DONORS = [*DOWN, *VALID, *(data for down, _ in _OTHERS for data in down)]
UP_DONORS = [*UP, *VALID, *(data for _, up in _OTHERS for data in up)]
GENUINE_WELCOME = DOWN[1]
# What knows the token and names the session; its epoch is judged by the acceptor.
GENUINE_HELLOS = {UP[0]: EPOCH, _OTHERS[1][1][0]: EPOCH - 1, _OTHERS[3][1][0]: EPOCH}


def dialled_link(random: Random) -> bool:
    """A hostile predecessor: nobody without the token is believed, and only what was wanted is taken in, once."""
    machine = _dial()
    due: set[int] = set()
    wants = iter(WANTED)
    sent = shuffle(random, DOWN, DOWN_DONORS)

    def allocate(header: ChunkHeader) -> memoryview:
        machine.check_chunk(header)
        expect(header.index in due, f"chunk {header.index} was not due")
        return memoryview(bytearray(header.payload_length))

    decoder = Decoder(max_chunk=CHUNK, allocate=allocate)
    for data in sent:
        for frame in decoder.feed(data):
            event = machine.receive(frame)
            match event:
                case link.Established():
                    expect(encode(frame) == GENUINE_WELCOME, "a forged WELCOME was believed")
                case link.Arrived(chunk):
                    due.remove(chunk.header.index)
                case link.Served():
                    expect(not due, "END was taken with chunks outstanding")
                case link.Alive():
                    expect(isinstance(frame, frames.Ping), "alive without PING")
                case link.Refused():
                    return False
            if isinstance(event, link.Established | link.Served):
                wanted = next(wants, None)
                if wanted is None:
                    return True
                machine.want([wanted])
                due.update(range(wanted.first, wanted.first + wanted.count))
    return False


def accepted_link(random: Random) -> bool:
    """A hostile successor: only the true HELLO of an epoch that is not over is let in."""
    epoch = random.choice((0, EPOCH, EPOCH, EPOCH, EPOCH + 1))
    machine = _accept(epoch)
    decoder = Decoder(max_chunk=0)
    was_served = False
    for data in shuffle(random, UP, UP_DONORS):
        for frame in decoder.feed(data):
            match machine.receive(frame):
                case link.Established():
                    expect(GENUINE_HELLOS.get(encode(frame), -1) >= epoch, "a forged or late HELLO was let in")
                case link.Refused(data=answer):
                    (told,) = Decoder().feed(answer)
                    expect(isinstance(told, frames.Reject), "a refusal is not a REJECT")
                    return False
                case link.Serve(ranges):
                    served = [
                        index for item in ranges[:COUNT] for index in (item.first, item.first + item.count - 1)
                    ]
                    expect(served == sorted(served), "ranges that do not ascend are served")
                    expect(served[0] >= 0 and served[-1] < COUNT, "chunks beyond the image are served")
                    was_served = True
                    if random.random() < 0.8:
                        machine.served()
    return was_served


# --- manifests ---------------------------------------------------------------------------------------------


def _parts(*sizes: tuple[str, int, int]) -> bytes:
    parts = [Part(name, size, phase) for name, size, phase in sizes]
    count = sum(-(-part.size // CHUNK) for part in parts)
    return manifest.build_parts(parts, CHUNK, [bytes([i % 256]) * 32 for i in range(count)]).encoded


MANIFESTS: tuple[bytes, ...] = (
    IMAGE.encoded,
    manifest.build(1, CHUNK, [bytes(32)]).encoded,
    manifest.build(3 * CHUNK - 7, CHUNK, [bytes(32)] * 3).encoded,
    _parts(("vda1", 5000, 0), ("vda2", 1, 0)),
    _parts(("table", 512, 0), ("boot", 3 * CHUNK, 1), ("räume", CHUNK + 1, 1), ("x" * 255, 7, 2)),
)


def manifests(random: Random) -> bool:
    """What parses is exactly what arrived, and its chunks make up its size."""
    data = mutate(random, random.choice(MANIFESTS), random.choice(MANIFESTS))
    value = manifest.parse(data)
    expect(value.encoded == data, "another manifest than the one that arrived")
    lengths = [value.length(index) for index in range(value.count)]
    expect(sum(lengths) == value.size, "chunks do not make up the size")
    expect(all(0 < length <= value.chunk_size for length in lengths), "a chunk longer than chunks are")
    expect(len(value.digest(value.count - 1)) == 32, "the last chunk has no digest")
    expect(value.phase_end(value.phases - 1) == value.count, "phases do not end with the last chunk")
    return True


# --- control messages --------------------------------------------------------------------------------------

_DISK = control.Disk("vda", 1 << 40, 512, "SER-1", "0x5000", "model", "sata", False, "", "0" * 64)
_PLAN = control.Plan("room", MEMBER, "0" * 64, 1 << 30, 1 << 20, _DISK, 1)
_HARDWARE = control.Hardware(
    "Dell", "OptiPlex", cores=4, nics=(control.Nic("eno1", MEMBER, "e1000e", "pci", 1000, True),)
)
MESSAGES: tuple[bytes, ...] = tuple(
    control.encode(message)
    for message in (
        control.Join(MEMBER, "uuid", "x86_64", "bios", "10.0.0.9", "", "ka", 1 << 30, (_DISK, _DISK), _HARDWARE),
        control.Report(MEMBER, "room", control.MemberState.RECEIVING, 3, 4711, 10, 9, 8, 7, trouble="predecessor"),
        control.Wait("no session wants this node"),
        control.Prepare(_PLAN, "00" * 16),
        control.Arrange("room", 3, control.Address("10.0.0.8", 4711), "head-room"),
        control.Arrange("room", 4, None, ""),
        control.Finish("room", "reboot"),
        control.Cancel("room", "because"),
        Log(MEMBER, "6e0b", "stage2", 7, (LogLine(1234, "room", "joined"), LogLine(1250, "", "durable 9"))),
        Execute("7f", ("lsblk", "--json"), 60),
        StopCommand("7f"),
        Output(MEMBER, "7f", 2, (Piece("out", "sda\n"), Piece("err", "?")), True, 1, "time limit", 3),
    )
)


def control_messages(random: Random) -> bool:
    """What is understood says the same when it is told again, and its strings are text that can be written down."""
    data = mutate_json(random, random.choice(MESSAGES), random.choice(MESSAGES))
    message = control.decode(data)
    told = control.encode(message)
    expect(control.decode(told) == message, "a message changes when it is told again")
    if rb"\ud" in told:
        json.dumps(json.loads(told), ensure_ascii=False).encode()
    return True


# --- schemes -----------------------------------------------------------------------------------------------

SCHEMES: tuple[bytes, ...] = tuple(
    scheme_encoding.encode(scheme_text.parse(written))
    for written in (
        "linux 3500\nextended fill\nlogical swap 500\nlogical linux fill\n",
        '[[partition]]\nkind = "esp"\nsize = "512M"\n[[partition]]\nsize = "fill"\nmount = "/"\nlabel = "root"\n',
        """boot_code = "63oA"
[[partition]]
kind = "raid"
name = "r"
size = "fill"
disks = [0, 1]
[[array]]
name = "md"
level = "raid1"
members = ["r"]
[[group]]
name = "g"
members = ["md"]
[[volume]]
name = "root"
group = "g"
size = "5G"
filesystem = "xfs"
make = ["-m", "reflink=0"]
""",
    )
)


def schemes(random: Random) -> bool:
    """What is understood says the same when it is told again, and goes on disks or not, with a reason."""
    data = mutate_json(random, random.choice(SCHEMES), random.choice(SCHEMES))
    scheme = scheme_encoding.decode(data)
    expect(
        scheme_encoding.decode(scheme_encoding.encode(scheme)) == scheme, "a scheme changes when it is told again"
    )
    disk = fitting.Bare(random.choice((0, 1 << 30, 40 << 30, 5 << 40)), random.choice((512, 4096)))
    answer = fitting.fit(scheme, [disk] * scheme.disks, random.choice(("bios", "uefi")))
    if isinstance(answer, fitting.Misfit):
        expect(bool(answer.reason), "no reason why it does not fit")
    else:
        expect(all(table.least <= disk.size for table in answer.tables), "a table beyond the end of the disk")
    return True


# --- orders for trees of files -----------------------------------------------------------------------------

TREES: tuple[bytes, ...] = (
    tree.encode(
        tree.TreeOrder(
            tree.Tree(
                (tree.Mount("/", "ext4", 1 << 30, 1 << 29, 900), tree.Mount("", "swap", 1 << 29, 0, 0)), "bios"
            ),
            exclude=("/tmp",),
            modules=("ata_piix",),
            hooks=(("10-name", "#!/bin/sh"),),
            scheme=SCHEMES[0],
        )
    ),
    tree.encode(tree.TreeOrder(tree.Tree((tree.Mount("/", "", 0, 0, 1),)), loader="none", scheme=SCHEMES[1])),
)


def tree_orders(random: Random) -> bool:
    """What is understood says the same when it is told again, and names no folder that leads astray."""
    line, _, scheme = random.choice(TREES).partition(b"\n")
    order = tree.decode(mutate_json(random, line, TREES[1].partition(b"\n")[0]) + b"\n" + scheme)
    expect(tree.decode(tree.encode(order)) == order, "an order changes when it is told again")
    places = [mount.path for mount in order.tree.mounts if mount.path]
    expect(all(".." not in path.split("/") for path in (*places, *order.exclude)), "a folder that leads astray")
    return True
