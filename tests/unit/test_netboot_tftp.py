"""The TFTP machine on a virtual clock, against a client written here from the RFCs, over a lossy line."""

import random
import struct
from collections.abc import Mapping
from ipaddress import ip_network
from itertools import pairwise

import pytest

from bootd.netboot.files import tftp
from bootd.netboot.files.tftp import Opcode, Request, Result, SendBlocks, SendOptions, Terms, Transfer
from bootd.netboot.files.tftp_caps import CapRule, cap_for
from bootd.wire.errors import PeerProtocolError


def ack(number: int) -> bytes:
    return struct.pack("!HH", 4, number & 0xFFFF)


def error(code: int, text: str = "") -> bytes:
    return struct.pack("!HH", 5, code) + text.encode() + b"\0"


def read_request(*words: str) -> bytes:
    return b"\0\x01" + b"".join(word.encode() + b"\0" for word in words)


REQUESTS = [
    (read_request("a", "octet"), Request(Opcode.READ, "a", "octet", {})),
    (read_request("a", "OCTET"), Request(Opcode.READ, "a", "octet", {})),
    (read_request("a", "netascii"), Request(Opcode.READ, "a", "netascii", {})),
    (
        read_request("/x/y", "octet", "BLKSIZE", "1432", "tsize", "0"),
        Request(Opcode.READ, "/x/y", "octet", {"blksize": "1432", "tsize": "0"}),
    ),
    (read_request("a", "octet", "tsize"), Request(Opcode.READ, "a", "octet", {})),  # a name without a value
    (read_request("a", "octet") + bytes(20), Request(Opcode.READ, "a", "octet", {})),  # padded by a ROM
    (b"\0\x02a\0octet\0", Request(Opcode.WRITE, "a", "octet", {})),
]


@pytest.mark.parametrize(("data", "expected"), REQUESTS)
def test_requests(data: bytes, expected: Request) -> None:
    assert tftp.parse_request(data) == expected


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0\x01", b"\0\x01a\0", b"\0\x01a\0octet", b"\0\x03\0\x01data\0", b"\0\x04\0\x01",
     b"\xff\xffa\0b\0", b"\0\x01\0octet\0", b"\0\x01a\0mail\0", b"\0\x01\xff\0octet\0",
     read_request("a" * 2000, "octet")],
)  # fmt: skip
def test_malformed_requests(data: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        tftp.parse_request(data)


NEGOTIATIONS: list[tuple[dict[str, str], int, Terms]] = [
    ({}, 1500, Terms(512, 1, 4.0, {})),
    ({"blksize": "1432"}, 1500, Terms(1432, 1, 4.0, {"blksize": "1432"})),
    ({"blksize": "1468"}, 1500, Terms(1468, 1, 4.0, {"blksize": "1468"})),
    ({"blksize": "65464"}, 1500, Terms(1468, 1, 4.0, {"blksize": "1468"})),
    ({"blksize": "8192"}, 9000, Terms(8192, 1, 4.0, {"blksize": "8192"})),
    ({"blksize": "7"}, 1500, Terms(512, 1, 4.0, {})),  # RFC 2348: 8 is the least
    ({"blksize": "lots", "tsize": "0"}, 1500, Terms(512, 1, 4.0, {"tsize": "9999"})),
    ({"timeout": "2"}, 1500, Terms(512, 1, 2.0, {"timeout": "2"})),
    ({"timeout": "255"}, 1500, Terms(512, 1, 4.0, {"timeout": "255"})),
    ({"timeout": "0"}, 1500, Terms(512, 1, 4.0, {})),  # RFC 2349: 1 to 255
    ({"windowsize": "8"}, 1500, Terms(512, 8, 4.0, {"windowsize": "8"})),
    ({"windowsize": "65535"}, 1500, Terms(512, 64, 4.0, {"windowsize": "64"})),
    ({"windowsize": "0", "multicast": ""}, 1500, Terms(512, 1, 4.0, {})),
]


@pytest.mark.parametrize(("options", "mtu", "terms"), NEGOTIATIONS)
def test_negotiation(options: Mapping[str, str], mtu: int, terms: Terms) -> None:
    assert tftp.negotiate(Request(Opcode.READ, "a", "octet", options), 9999, mtu) == terms


def packets(transfer: Transfer, action: object, content: bytes) -> list[bytes]:
    """What the driver puts on the wire for an action."""
    if isinstance(action, SendOptions):
        return [action.packet]
    if not isinstance(action, SendBlocks):
        return []
    block = transfer.terms.block
    return [
        struct.pack("!HH", 3, number & 0xFFFF) + content[(number - 1) * block : number * block]
        for number in range(action.first, action.first + action.blocks)
    ]


class Client:
    """RFC 1350 and 7440 from the other side: confirms each window, and the last good block at a gap."""

    def __init__(self, block: int, window: int) -> None:
        self.block, self.window = block, window
        self.content = b""
        self.number = 0
        self.done = False
        self._since = 0

    def receive(self, packet: bytes) -> bytes | None:
        opcode, number = struct.unpack_from("!HH", packet)
        if opcode == 6:
            return ack(0)
        if number != (self.number + 1) & 0xFFFF:
            self._since = 0
            return ack(self.number)
        self.number += 1
        self._since += 1
        self.content += packet[4:]
        self.done = len(packet) - 4 < self.block
        if self.done or self._since >= self.window:
            self._since = 0
            return ack(self.number)
        return None


def run(
    size: int, terms: Terms, loss: float = 0.0, seed: int = 0, last_ack_lost: bool = False
) -> tuple[Transfer, Client, float, int]:
    """A transfer over a line with 5 ms each way: (machine, client, virtual seconds, data packets sent)."""
    draw = random.Random(seed)
    content = b"".join(struct.pack("!I", number) for number in range(size // 4 + 1))[:size]
    transfer, client = Transfer(size, terms), Client(terms.block, terms.window)
    now, sent = 0.0, 0
    line: list[tuple[float, int, bytes, bool]] = []  # (when, order, packet, to the client)

    def put(packet: bytes, to_client: bool) -> None:
        nonlocal sent
        sent += to_client
        lost = draw.random() < loss or (last_ack_lost and client.done and not to_client)
        if not lost:
            line.append((now + 0.005, len(line) + sent, packet, to_client))

    for packet in packets(transfer, transfer.start(now), content):
        put(packet, True)
    while transfer.result is None:
        line.sort()
        if line and line[0][0] <= transfer.deadline:
            now, _, packet, to_client = line.pop(0)
            if to_client:
                answer = client.receive(packet)
                if answer is not None:
                    put(answer, False)
                continue
            action: object = transfer.receive(packet, now)
        else:
            now = transfer.deadline
            action = transfer.tick(now)
        for outgoing in packets(transfer, action, content):
            put(outgoing, True)
    assert client.content == content[: len(client.content)]
    if transfer.result in (Result.COMPLETE, Result.UNCONFIRMED):
        assert client.content == content
    return transfer, client, now, sent


@pytest.mark.parametrize("window", [1, 4, 64])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 40_000])
def test_whole_files_without_loss(size: int, window: int) -> None:
    terms = Terms(512, window, 4.0, {"windowsize": str(window)} if window > 1 else {})
    transfer, _, _, sent = run(size, terms)
    assert transfer.result is Result.COMPLETE
    assert transfer.retransmissions == 0
    assert sent == size // 512 + 1 + (window > 1)


def test_block_numbers_wrap() -> None:
    transfer, client, _, _ = run(8 * 66_000, Terms(8, 64, 4.0, {"windowsize": "64"}))
    assert transfer.result is Result.COMPLETE
    assert client.number == 66_001


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("window", [1, 16])
def test_loss_is_mended_soon(window: int, seed: int) -> None:
    terms = Terms(512, window, 4.0, {"windowsize": str(window), "tsize": "60000"})
    transfer, _, seconds, sent = run(60_000, terms, loss=0.05, seed=seed)
    assert transfer.result in (Result.COMPLETE, Result.UNCONFIRMED)
    assert seconds < 12  # about ten losses; a server with a timer of 1 s and no back-off reset needs longer
    assert sent < 118 * 4


def test_last_acknowledgement_may_never_come() -> None:
    transfer, client, seconds, _ = run(3000, Terms(512, 1, 4.0, {}), last_ack_lost=True)
    assert client.done
    assert transfer.result is Result.UNCONFIRMED
    assert seconds < 12


def test_repeated_acknowledgements_do_not_double_the_traffic() -> None:
    """The Sorcerer's Apprentice (RFC 1123 section 4.2.3.1)."""
    transfer = Transfer(5120, Terms(512, 1, 4.0, {}))
    assert transfer.start(0.0) == SendBlocks(1, 1)
    assert transfer.receive(ack(1), 0.01) == SendBlocks(2, 1)
    assert transfer.receive(ack(1), 0.02) is None
    assert transfer.receive(ack(1), 0.2) is None
    assert transfer.receive(ack(2), 0.21) == SendBlocks(3, 1)


def test_gap_in_a_window_goes_on_after_the_last_good_block() -> None:
    transfer = Transfer(512 * 20, Terms(512, 8, 4.0, {"windowsize": "8"}))
    transfer.start(0.0)
    assert transfer.receive(ack(0), 0.01) == SendBlocks(1, 8)
    assert transfer.receive(ack(3), 0.02) == SendBlocks(4, 8)  # 4 was lost
    assert transfer.receive(ack(3), 0.05) == SendBlocks(4, 8)  # 4 was lost again
    assert transfer.receive(ack(3), 0.0501) is None  # an echo of the same gap
    assert transfer.receive(ack(11), 0.07) == SendBlocks(12, 8)


def test_silent_client_is_given_up_with_longer_and_longer_waits() -> None:
    transfer = Transfer(5120, Terms(512, 1, 4.0, {"tsize": "5120"}))
    transfer.start(0.0)
    times = [0.0]
    while transfer.result is None:
        times.append(transfer.deadline)
        transfer.tick(transfer.deadline)
    assert transfer.result is Result.SILENT
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert waits == sorted(waits)
    assert max(waits) <= 4.0
    assert 10 < times[-1] < 60
    assert transfer.retransmissions == tftp.ATTEMPTS - 1


def test_waiting_time_follows_the_line() -> None:
    transfer = Transfer(512 * 40, Terms(512, 1, 4.0, {}))
    transfer.start(0.0)
    now = 0.0
    for number in range(1, 30):
        now += 0.5  # a slow client
        transfer.receive(ack(number), now)
    assert 0.5 < transfer.deadline - now < 1.5
    for number in range(30, 40):
        now += 0.001
        transfer.receive(ack(number), now)
    assert transfer.deadline - now < 1.5


@pytest.mark.parametrize("code", [0, 8])
def test_size_probe_is_not_a_failure(code: int) -> None:
    """OVMF asks for tsize, reads the OACK and aborts."""
    transfer = Transfer(850528, tftp.negotiate(Request(Opcode.READ, "a", "octet", {"tsize": "0"}), 850528, 1500))
    assert transfer.start(0.0) == SendOptions(b"\0\x06tsize\x00850528\0")
    transfer.receive(error(code, "User aborted the transfer"), 0.1)
    assert transfer.result is Result.PROBED
    assert transfer.receive(ack(0), 0.2) is None
    assert transfer.tick(100.0) is None


def test_abort_in_the_middle_is_one() -> None:
    transfer = Transfer(5120, Terms(512, 1, 4.0, {"tsize": "5120"}))
    transfer.start(0.0)
    transfer.receive(ack(0), 0.1)
    transfer.receive(ack(1), 0.2)
    transfer.receive(error(3, "disk full"), 0.3)
    assert transfer.result is Result.ABORTED
    assert transfer.detail == "error 3 disk full"


@pytest.mark.parametrize(
    "data", [b"", b"\0\x04", b"\0\x03\0\x01x", b"\0\x02a\0octet\0", b"\0\x07\0\x01", b"\xff" * 40]
)
def test_malformed_packets_change_nothing(data: bytes) -> None:
    transfer = Transfer(5120, Terms(512, 1, 4.0, {}))
    transfer.start(0.0)
    with pytest.raises(PeerProtocolError):
        transfer.receive(data, 0.1)
    assert transfer.receive(ack(1), 0.2) == SendBlocks(2, 1)


def test_request_again_and_future_acknowledgements_are_passed_over() -> None:
    transfer = Transfer(5120, Terms(512, 1, 4.0, {}))
    transfer.start(0.0)
    assert transfer.receive(read_request("a", "octet"), 0.1) is None
    assert transfer.receive(ack(7), 0.1) is None
    assert transfer.receive(ack(65535), 0.1) is None
    assert transfer.receive(ack(1), 0.2) == SendBlocks(2, 1)


def test_netascii() -> None:
    """RFC 764 by way of RFC 1350 section 1."""
    assert tftp.netascii(b"a\nb\rc\r\n") == b"a\r\nb\r\0c\r\0\r\n"


def test_error_packet() -> None:
    assert tftp.error_packet(tftp.ErrorCode.NOT_FOUND, "no such file") == b"\0\x05\0\x01no such file\0"


def test_cap_and_headers_bound_what_is_given() -> None:
    request = Request(Opcode.READ, "a", "octet", {"blksize": "1468", "windowsize": "16"})
    terms = tftp.negotiate(request, 10, 1500, tftp.Cap(1024, 1))
    assert (terms.block, terms.window) == (1024, 1)
    assert terms.options == {"blksize": "1024", "windowsize": "1"}
    assert tftp.negotiate(request, 10, 1500, headers=tftp.HEADERS_IPV6).block == 1448
    assert tftp.negotiate(request, 10, 1500, tftp.Cap(0, 0)).block == tftp.SMALLEST_BLOCK


RULES = (
    CapRule(tftp.Cap(512, 1), mac="b8:27:eb"),
    CapRule(tftp.Cap(1024, 4), network=ip_network("10.9.0.0/24")),
    CapRule(tftp.Cap(1428, 8), network=ip_network("fe80::/10")),
)


@pytest.mark.parametrize(
    ("mac", "address", "cap"),
    [
        ("b8:27:eb:00:00:01", "10.9.0.5", tftp.Cap(512, 1)),
        ("", "10.9.0.5", tftp.Cap(1024, 4)),
        ("52:54:00:00:00:01", "10.9.1.5", tftp.Cap()),
        ("52:54:00:00:00:01", "fe80::1", tftp.Cap(1428, 8)),
    ],
)
def test_first_rule_that_fits(mac: str, address: str, cap: tftp.Cap) -> None:
    assert cap_for(RULES, mac, address) == cap


@pytest.mark.parametrize("rollover", [0, 1])
def test_rollover_is_the_clients_wish(rollover: int) -> None:
    """After 65535 comes 0 (what everybody does), or 1 where the client asked for it."""
    request = Request(Opcode.READ, "a", "octet", {"blksize": "8", "rollover": str(rollover)})
    terms = tftp.negotiate(request, 8 * 140_000, 1500)
    assert terms.options["rollover"] == str(rollover)
    transfer = Transfer(8 * 140_000, terms)
    transfer.start(0.0)
    assert transfer.receive(ack(0), 0.0) == SendBlocks(1, 1)
    travels = 1
    for number in range(1, 140_001):
        assert transfer.receive(struct.pack("!HH", 4, travels), 0.0) == SendBlocks(number + 1, 1)
        travels = travels + 1 if travels < 65535 else rollover
        if number in (65534, 65535, 131069, 131070, 131071):
            assert tftp.data_header(number + 1, rollover) == struct.pack("!HH", 3, travels)
    assert transfer.receive(struct.pack("!HH", 4, travels), 0.0) is None
    assert transfer.result is Result.COMPLETE
    assert tftp.negotiate(Request(Opcode.READ, "a", "octet", {"rollover": "2"}), 1, 1500).options == {}


def test_lost_end_of_a_window_is_found_by_sending_its_last_block() -> None:
    """Long before the timeout, and one packet only: the client then names the gap, or confirms all."""
    transfer = Transfer(512 * 100, Terms(512, 8, 4.0, {"windowsize": "8"}))
    transfer.start(0.0)
    transfer.receive(ack(0), 0.001)
    assert transfer.receive(ack(8), 0.002) == SendBlocks(9, 8)
    assert transfer.deadline - 0.002 < 0.05
    at = transfer.deadline
    assert transfer.tick(at) == SendBlocks(16, 1)
    assert 0.1 <= transfer.deadline - 0.002 < 0.3
    assert transfer.receive(ack(14), at + 0.001) == SendBlocks(15, 8)
    assert transfer.tick(transfer.deadline) == SendBlocks(22, 1)
    assert transfer.tick(transfer.deadline) == SendBlocks(15, 8)  # nothing came: the whole window, as ever


def test_losses_far_apart_never_add_up_to_a_long_wait() -> None:
    """The first block is lost, so nothing is known of the client; then a dozen blocks are confirmed within a
    millisecond or two before the next loss. Each loss costs the first time-out at most."""
    terms = tftp.negotiate(tftp.Request(tftp.Opcode.READ, "f", "octet", {}), 512 * 400, 1500)
    transfer = tftp.Transfer(512 * 400, terms)
    now, waits = 0.0, []
    transfer.start(now)
    for block in range(1, 200):
        if block % 13 == 1:
            waits.append(transfer.deadline - now)
            now = transfer.deadline
            assert transfer.tick(now) == tftp.SendBlocks(block, 1)
        now += 0.0001
        assert transfer.receive(struct.pack("!HH", 4, block), now) == tftp.SendBlocks(block + 1, 1)
    assert max(waits) <= tftp.FIRST_TIMEOUT, waits


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("options", [{}, {"blksize": "8"}, {"blksize": "8", "rollover": "1"}, {"windowsize": "4"}])
def test_the_short_way_leads_where_the_long_one_does(options: dict[str, str], seed: int) -> None:
    chance = random.Random(seed)
    size = 8 * 66_000 if seed == 0 and "blksize" in options else chance.randrange(20_000)
    terms = tftp.negotiate(Request(Opcode.READ, "f", "octet", options), size, 1500)
    short, long = Transfer(size, terms), Transfer(size, terms)
    now, rare = 0.0, 0.001 if size > 20_000 else 0.1
    action: tftp.Action | None = short.start(now)
    assert long.start(now) == action
    last, steps = ack(0), 0
    while short.result is None:
        if isinstance(action, SendBlocks):
            last = struct.pack("!HH", 4, tftp.wire_number(action.first + action.blocks - 1, terms.rollover))
        draw = chance.random()
        if draw < rare:  # it was lost: both wait as long as the more patient one wants to
            now = max(short.deadline, long.deadline)
            action = short.tick(now)
            assert long.tick(now) == action
            continue
        now += 0.0005
        data = last
        if draw < 2 * rare:
            data = chance.choice((last + b"\0", ack(chance.randrange(1 << 16)), error(0, "enough"), b""))
        known = short.step(data, now)
        steps += known
        try:
            expected = long.receive(data, now)
        except PeerProtocolError:
            with pytest.raises(PeerProtocolError):
                short.receive(data, now)
            continue
        action = short.current if known else short.receive(data, now)
        assert action == expected
    assert (short.result, short.detail, short.retransmissions) == (long.result, long.detail, long.retransmissions)
    if short.result is Result.COMPLETE and size > 2_000 and "windowsize" not in options:
        assert steps


@pytest.mark.parametrize("data", [b"", b"\0\4", ack(1) + b"\0", ack(2), b"\0\4\1\0"])
def test_the_short_way_is_for_one_datagram_only(data: bytes) -> None:
    transfer = Transfer(5000, Terms(512, 1, 4.0, {"tsize": "5000"}))
    transfer.start(0.0)
    assert not transfer.step(ack(0), 0.001)
    assert transfer.receive(ack(0), 0.001) == SendBlocks(1, 1)
    assert not transfer.step(data, 0.002)
    assert transfer.step(ack(1), 0.002)
    assert transfer.current == SendBlocks(2, 1)
    assert not transfer.step(ack(1), 0.003)  # again


def test_after_a_loss_the_short_way_waits_for_a_measurement() -> None:
    transfer = Transfer(512 * 40, Terms(512, 1, 4.0, {}))
    transfer.start(0.0)
    transfer.receive(ack(1), 0.001)
    assert transfer.step(ack(2), 0.002)
    now = transfer.deadline
    assert transfer.tick(now) == SendBlocks(3, 1)
    assert not transfer.step(ack(3), now + 0.001)  # Karn: which of the two it answers is not known
    assert transfer.receive(ack(3), now + 0.001) == SendBlocks(4, 1)
    assert transfer.deadline - now > 0.15  # doubled still
    assert not transfer.step(ack(4), now + 0.002)
    assert transfer.receive(ack(4), now + 0.002) == SendBlocks(5, 1)
    assert transfer.deadline - now < 0.15
    assert transfer.step(ack(5), now + 0.003)
