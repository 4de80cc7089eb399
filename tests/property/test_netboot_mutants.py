"""Whatever arrives, the parsers of the boot plane raise the peer's error or nothing, and decisions never raise."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from bootd.netboot import dhcp, loaders, offer
from bootd.netboot.dhcp import Message, Operation
from bootd.netboot.files import tftp
from bootd.netboot.offer import Ignore, Interface, NodePolicy, Offer
from bootd.wire.errors import PeerProtocolError

INTERFACE = Interface("eth0", "10.9.0.2", 7467, artefacts=loaders.ARTEFACTS)
OPTIONS = (
    b"\x35\x01\x01" + b"\x39\x02\x05\xc0" + b"\x37\x04\x01\x03\x42\x43" + b"\x61\x11\x00" + bytes(range(16))
    + b"\x5d\x02\x00\x07" + b"\x5e\x03\x01\x03\x10" + b"\x3c\x20PXEClient:Arch:00007:UNDI:003016"
    + b"\x4d\x04iPXE" + b"\x2b\x07\x47\x04\x00\x00\x00\x00\xff" + b"\x34\x01\x00" + b"\xff"
)  # fmt: skip
DISCOVER = (
    struct.pack("!BBBBIHH", 1, 1, 6, 0, 0x1234, 4, 0x8000) + bytes(16)
    + bytes.fromhex("525400123456").ljust(16, b"\0") + bytes(64) + bytes(128) + b"\x63\x82\x53\x63" + OPTIONS
)  # fmt: skip
READ = b"\0\x01pxelinux.cfg/01-52-54-00-12-34-56\0octet\0tsize\x000\0blksize\x001408\0windowsize\x004\0"


@st.composite
def mutants(draw: st.DrawFn, original: bytes) -> bytes:
    """``original`` with some bytes changed, a piece cut out or doubled, or its end gone."""
    data = bytearray(original)
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    start = draw(st.integers(0, len(data)))
    stop = draw(st.integers(start, len(data)))
    match draw(st.sampled_from(["keep", "cut", "double", "end"])):
        case "cut":
            del data[start:stop]
        case "double":
            data[start:start] = data[start:stop]
        case "end":
            del data[start:]
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(mutants(DISCOVER) | st.binary(max_size=600), st.sampled_from([67, 4011]))
def test_dhcp_mutants(data: bytes, port: int) -> None:
    try:
        message = dhcp.parse(data)
    except PeerProtocolError:
        return
    decision = offer.decide(message, NodePolicy(), INTERFACE, port, ("10.9.0.77", 68))
    assert isinstance(decision, Offer | Ignore)
    if isinstance(decision, Offer):
        reply = dhcp.parse(decision.reply)
        assert reply.operation is Operation.REPLY
        assert reply.transaction == message.transaction
        assert reply.your == "0.0.0.0"


def test_the_original_is_answered() -> None:
    """Else the mutants above would be mutants of something that is refused anyway."""
    assert isinstance(offer.decide(dhcp.parse(DISCOVER), NodePolicy(), INTERFACE, 67, ("0.0.0.0", 68)), Offer)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.integers(1, 254).filter(lambda code: code != 52), st.binary(max_size=600), max_size=12),
    st.binary(min_size=1, max_size=16),
    st.integers(0, 2**32 - 1),
)
def test_what_is_built_is_read_back(options: dict[int, bytes], hardware: bytes, transaction: int) -> None:
    built = dhcp.build(Message(Operation.REPLY, transaction, 1, hardware, options=options))
    if len(built) > 4096:
        return
    message = dhcp.parse(built)
    assert message.options == options
    assert message.hardware == hardware


@settings(max_examples=400, deadline=None)
@given(mutants(READ) | st.binary(max_size=600))
def test_tftp_request_mutants(data: bytes) -> None:
    try:
        request = tftp.parse_request(data)
    except PeerProtocolError:
        return
    terms = tftp.negotiate(request, 123456, 1500)
    assert 1 <= terms.window <= tftp.LARGEST_WINDOW
    assert tftp.SMALLEST_BLOCK <= terms.block <= 1468
    assert 0 < terms.ceiling <= tftp.LARGEST_TIMEOUT


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=40) | mutants(b"\0\x04\0\x01"), st.floats(0, 2)), max_size=40))
def test_tftp_transfer_under_fire(datagrams: list[tuple[bytes, float]]) -> None:
    """Any datagrams at any time: blocks that are asked for exist, and the transfer ends within its patience."""
    transfer = tftp.Transfer(5000, tftp.Terms(512, 4, 4.0, {"windowsize": "4"}))
    now = 0.0
    actions = [transfer.start(now)]
    for data, wait in datagrams:
        now += wait
        try:
            action = transfer.receive(data, now)
        except PeerProtocolError:
            action = None
        actions += [action] if action else []
        action = transfer.tick(now)
        actions += [action] if action else []
    for _ in range(50):
        now = max(now, transfer.deadline)
        action = transfer.tick(now)
        actions += [action] if action else []
    assert transfer.result is not None
    for action in actions:
        if isinstance(action, tftp.SendBlocks):
            assert action.first >= 1
            assert 1 <= action.blocks <= 4
            assert action.first + action.blocks - 1 <= 5000 // 512 + 1
