"""DNS messages (RFC 1035, 6891): a query judged, and its answer from the zone. Sans-IO.

What arrives is read by bounded steps here: only the header, the one question and an OPT record matter, and a
hostile message must cost next to nothing. Answers are written by dnslib.
"""

import struct
from dataclasses import dataclass

from dnslib import CNAME, EDNS0, NS, PTR, QTYPE, RD, RR, SOA, A, DNSHeader, DNSLabel, DNSQuestion, DNSRecord

from bootd.netboot.names.zone import NEGATIVE_TTL, TTL, Found, Missing, Name, Record, Zone
from bootd.wire.errors import PeerProtocolError

HEADER = struct.Struct("!6H")
PLAIN_UDP = 512  # bytes of an answer to a client without EDNS (RFC 1035 section 2.3.4)
UDP_SIZE = 1232  # what we take and send at most over UDP: never a fragment
MAX_MESSAGE = 65535
IN, ANY_CLASS = 1, 255
ANY, HINFO, OPT = 255, 13, 41
_QR, _TC, _RD, _RA, _CD = 0x8000, 0x0200, 0x0100, 0x0080, 0x0010
_MAX_LABEL, _MAX_NAME, _MAX_ADDITIONAL = 63, 255, 4
_FIRST_META = 128  # types from here to 254 ask for something else than data (RFC 6895 section 3.1)


class Rcode:
    OK, FORMAT, SERVER, NO_NAME, NOT_IMPLEMENTED, REFUSED = range(6)
    BAD_VERSION = 16  # its upper bits are in OPT (RFC 6891 section 6.1.3)


@dataclass(frozen=True)
class Question:
    """The one question of a query. ``end`` is where it ends in the message."""

    id: int
    flags: int
    name: Name  # as it was spelled
    kind: int
    class_: int
    end: int
    edns: int | None = None  # the size that the client takes over UDP; None = no EDNS
    edns_version: int = 0

    @property
    def recursive(self) -> bool:
        return bool(self.flags & _RD)

    @property
    def limit(self) -> int:
        """Bytes of an answer over UDP."""
        return max(PLAIN_UDP, min(self.edns or PLAIN_UDP, UDP_SIZE))


@dataclass(frozen=True)
class Reply:
    """``key`` is what answers are counted by: a flood of names that are not there counts as one."""

    data: bytes
    key: object


@dataclass(frozen=True)
class Forward:
    """Not ours, and the client wants it looked up."""

    question: Question


@dataclass(frozen=True)
class Drop:
    reason: str


Decision = Reply | Forward | Drop


def decide(data: bytes, zone: Zone, *, allowed: bool, forwards: bool, tcp: bool = False) -> Decision:
    """What to do about ``data``, whatever it is; never raises for what a client sent.

    ``allowed``: its source may ask us; ``forwards``: there is somebody to be asked.
    """
    if len(data) < HEADER.size:
        return Drop("shorter than a header")
    id_, flags, questions, answers, authorities, _ = HEADER.unpack_from(data)
    if flags & _QR:
        return Drop("a response")  # answering it could go on for ever
    if (flags >> 11) & 15:
        return Reply(_bare(id_, flags, Rcode.NOT_IMPLEMENTED), Rcode.NOT_IMPLEMENTED)
    if questions != 1 or answers or authorities:
        return Reply(_bare(id_, flags, Rcode.FORMAT), Rcode.FORMAT)
    try:
        question = parse_question(data)
    except PeerProtocolError:
        return Reply(_bare(id_, flags, Rcode.FORMAT), Rcode.FORMAT)
    if question.edns is not None and question.edns_version:
        return Reply(respond(question, Rcode.BAD_VERSION, forwards=forwards), Rcode.BAD_VERSION)
    meta = _FIRST_META <= question.kind < ANY or question.kind == OPT
    if not allowed or question.class_ not in (IN, ANY_CLASS) or meta:
        return Reply(respond(question, Rcode.REFUSED, forwards=forwards), Rcode.REFUSED)
    kind = str(QTYPE.forward.get(question.kind, f"TYPE{question.kind}"))
    answer = zone.look_up(question.name, kind, complete=not forwards)
    if isinstance(answer, Found):
        return Reply(_positive(question, answer.records, zone, forwards, tcp), _lower(question.name))
    if isinstance(answer, Missing):
        if kind == "ANY" and answer.exists:
            return Reply(_any(question, forwards), _lower(question.name))
        return Reply(_negative(question, answer, zone, forwards), answer.apex)
    if forwards and question.recursive:
        return Forward(question)
    return Reply(respond(question, Rcode.REFUSED, forwards=forwards), Rcode.REFUSED)


def parse_question(data: bytes) -> Question:
    """The question, and what OPT says. `PeerProtocolError` when it is malformed."""
    try:
        id_, flags, _, answers, authorities, additional = HEADER.unpack_from(data)
        name, position = _read_name(data, HEADER.size)
        kind, class_ = struct.unpack_from("!HH", data, position)
        end = position = position + 4
        edns: int | None = None
        version = 0
        if answers or authorities:
            return Question(id_, flags, name, kind, class_, end)
        for _ in range(min(additional, _MAX_ADDITIONAL)):
            owner, position = _read_name(data, position)
            type_, size, ttl, length = struct.unpack_from("!HHIH", data, position)
            position += 10 + length
            if position > len(data):
                raise PeerProtocolError("a record goes beyond the message")
            if type_ == OPT:
                if owner or edns is not None:
                    raise PeerProtocolError("OPT twice, or with a name")  # RFC 6891 section 6.1.1
                edns, version = max(size, PLAIN_UDP), (ttl >> 16) & 255
    except (struct.error, IndexError):
        raise PeerProtocolError("the message is cut off") from None
    return Question(id_, flags, name, kind, class_, end, edns, version)


def respond(
    question: Question,
    rcode: int,
    answers: tuple[RR, ...] = (),
    authority: tuple[RR, ...] = (),
    *,
    authoritative: bool = False,
    truncated: bool = False,
    forwards: bool = False,
) -> bytes:
    """A response to ``question`` that spells its name as it did."""
    header = DNSHeader(
        id=question.id,
        qr=1,
        aa=int(authoritative),
        tc=int(truncated),
        rd=int(question.recursive),
        ra=int(forwards),
        rcode=rcode & 15,
    )
    record = DNSRecord(
        header,
        q=DNSQuestion(DNSLabel(question.name), question.kind, question.class_),
        rr=list(answers),
        auth=list(authority),
    )
    if question.edns is not None:
        record.add_ar(EDNS0(udp_len=UDP_SIZE, ext_rcode=rcode >> 4))
    return bytes(record.pack())


def truncated(question: Question, *, forwards: bool = False) -> bytes:
    """Nothing but "ask again over TCP"."""
    return respond(question, Rcode.OK, truncated=True, forwards=forwards)


def relay(question: Question, query: bytes, answer: bytes, sent_id: int) -> bytes | None:
    """The upstream's ``answer`` to ``query`` that went out with ``sent_id``, made fit for the client; None when it
    is no answer to it (RFC 5452 section 9)."""
    if len(answer) < question.end or not answer[2] & 0x80:
        return None
    id_, _, questions, *_ = HEADER.unpack_from(answer)
    own = query[HEADER.size : question.end]
    if id_ != sent_id or questions != 1 or answer[HEADER.size : question.end].lower() != own.lower():
        return None
    return struct.pack("!H", question.id) + answer[2 : HEADER.size] + own + answer[question.end :]


def _positive(question: Question, records: tuple[Record, ...], zone: Zone, forwards: bool, tcp: bool) -> bytes:
    owner = _lower(question.name)
    answers = tuple(
        _written(record, question.name if record.owner == owner else record.owner, zone) for record in records
    )
    data = respond(question, Rcode.OK, answers, authoritative=True, forwards=forwards)
    return data if tcp or len(data) <= question.limit else truncated(question, forwards=forwards)


def _negative(question: Question, missing: Missing, zone: Zone, forwards: bool) -> bytes:
    """NODATA or NXDOMAIN, with the SOA that says how long (RFC 2308 sections 2 and 5)."""
    rcode = Rcode.OK if missing.exists else Rcode.NO_NAME
    if not missing.apex:  # a plain name: it is in no zone, so nobody can say for how long
        return respond(question, rcode, forwards=forwards)
    authority = (_written(Record(missing.apex, "SOA"), missing.apex, zone, NEGATIVE_TTL),)
    return respond(question, rcode, (), authority, authoritative=True, forwards=forwards)


def _any(question: Question, forwards: bool) -> bytes:
    """One small record in place of all (RFC 8482 section 4.2)."""
    hinfo = RR(DNSLabel(question.name), HINFO, IN, TTL, RD(b"\x07RFC8482\x00"))
    return respond(question, Rcode.OK, (hinfo,), authoritative=True, forwards=forwards)


def _written(record: Record, owner: Name, zone: Zone, ttl: int = TTL) -> RR:
    value = record.value
    match record.kind:
        case "A":
            data: RD = A(value)
        case "CNAME":
            data = CNAME(DNSLabel(value))
        case "PTR":
            data = PTR(DNSLabel(value))
        case "NS":
            data = NS(DNSLabel(value))
        case _:
            mailbox = DNSLabel((b"hostmaster", *zone.origin))
            data = SOA(DNSLabel(zone.server), mailbox, (zone.serial, 3600, 600, 86400, NEGATIVE_TTL))
    return RR(DNSLabel(owner), QTYPE.reverse[record.kind], IN, ttl, data)


def _read_name(data: bytes, position: int) -> tuple[Name, int]:
    """Labels and where they end. A query has nothing yet that a pointer could mean (RFC 1035 section 4.1.4)."""
    labels: list[bytes] = []
    start = position
    while length := data[position]:
        if length > _MAX_LABEL:
            raise PeerProtocolError("a label is too long, or a pointer")
        labels.append(data[position + 1 : position + 1 + length])
        position += 1 + length
        if position - start >= _MAX_NAME:
            raise PeerProtocolError("a name is too long")
    return tuple(labels), position + 1


def _bare(id_: int, flags: int, rcode: int) -> bytes:
    """A response without a question, to what could not be read."""
    kept = flags & (0x7800 | _RD | _CD)
    return HEADER.pack(id_, _QR | kept | rcode, 0, 0, 0, 0)


def _lower(name: Name) -> Name:
    return tuple(label.lower() for label in name)
