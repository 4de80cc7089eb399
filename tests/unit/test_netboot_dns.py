"""DNS decisions: expected values from the RFCs; messages taken apart by dnslib or written by hand."""

import struct

import pytest
from dnslib import EDNS0, QTYPE, RCODE, DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from bootd.config import parse
from bootd.errors import Exit, OperatorError
from bootd.netboot.names import answers as dns
from bootd.netboot.names import zone
from bootd.netboot.names.answers import Drop, Forward, Reply
from bootd.netboot.names.response_rate import ResponseRate, Verdict
from bootd.netboot.names.zone import Host

HOSTS = (
    Host("lab3", "10.9.0.13"),
    Host("Lab04", "10.9.0.14"),
    Host("quiet"),
    Host("print", "10.9.0.77", 7),
    Host("node-525400000009", "10.9.1.9"),
    Host("twin8", "10.9.0.8"),
    Host("other8", "10.9.0.9"),
)
ZONE = zone.build("Room.Example", "pc", "10.9.0.2", HOSTS, 42)
# "lAb3.room.EXAMPLE. A IN", id 0xbeef, RD; laid out by hand from RFC 1035 section 4.1.
QUERY = b"\xbe\xef\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04lAb3\x04room\x07EXAMPLE\x00\x00\x01\x00\x01"


def ask(name: str, kind: str = "A", *, forwards: bool = False) -> DNSRecord:
    reply = dns.decide(bytes(DNSRecord.question(name, kind).pack()), ZONE, allowed=True, forwards=forwards)
    assert isinstance(reply, Reply)
    return DNSRecord.parse(reply.data)


def told(record: DNSRecord) -> tuple[str, list[str], list[str]]:
    """Return code, answers and authority as text."""
    answers = [f"{rr.rname} {QTYPE[rr.rtype]} {rr.rdata}" for rr in record.rr]
    authority = [f"{rr.rname} {QTYPE[rr.rtype]}" for rr in record.auth]
    return RCODE[record.header.rcode], answers, authority


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("lab3.room.example", "A", ("NOERROR", ["lab3.room.example. A 10.9.0.13"], [])),
        ("LAB04.room.example", "A", ("NOERROR", ["LAB04.room.example. A 10.9.0.14"], [])),
        ("lab3.room.example", "AAAA", ("NOERROR", [], ["room.example. SOA"])),
        ("lab3.room.example", "CNAME", ("NOERROR", [], ["room.example. SOA"])),
        ("quiet.room.example", "A", ("NOERROR", [], ["room.example. SOA"])),
        ("nobody.room.example", "A", ("NXDOMAIN", [], ["room.example. SOA"])),
        ("a.lab3.room.example", "A", ("NXDOMAIN", [], ["room.example. SOA"])),
        ("bootd.room.example", "A", ("NOERROR", ["bootd.room.example. A 10.9.0.2"], [])),
        (
            "pc3.room.example",
            "A",
            ("NOERROR", ["pc3.room.example. CNAME lab3.room.example.", "lab3.room.example. A 10.9.0.13"], []),
        ),
        ("pc4.room.example", "CNAME", ("NOERROR", ["pc4.room.example. CNAME lab04.room.example."], [])),
        (
            "pc7.room.example",
            "A",
            ("NOERROR", ["pc7.room.example. CNAME print.room.example.", "print.room.example. A 10.9.0.77"], []),
        ),
        ("pc8.room.example", "A", ("NXDOMAIN", [], ["room.example. SOA"])),  # two nodes have the number
        ("pc525400000009.room.example", "A", ("NXDOMAIN", [], ["room.example. SOA"])),
        ("13.0.9.10.in-addr.arpa", "PTR", ("NOERROR", ["13.0.9.10.in-addr.arpa. PTR lab3.room.example."], [])),
        ("13.0.9.10.in-addr.arpa", "A", ("NOERROR", [], ["0.9.10.in-addr.arpa. SOA"])),
        ("99.0.9.10.in-addr.arpa", "PTR", ("NXDOMAIN", [], ["0.9.10.in-addr.arpa. SOA"])),
        ("room.example", "NS", ("NOERROR", ["room.example. NS bootd.room.example."], [])),
        ("room.example", "A", ("NOERROR", [], ["room.example. SOA"])),
        ("lab3", "A", ("NOERROR", ["lab3. A 10.9.0.13"], [])),
        ("nobody", "A", ("NXDOMAIN", [], [])),
        ("example", "A", ("NXDOMAIN", [], [])),
        ("example.com", "A", ("REFUSED", [], [])),
        ("1.2.0.192.in-addr.arpa", "PTR", ("REFUSED", [], [])),
        ("room.example", "AXFR", ("REFUSED", [], [])),
    ],
)
def test_names(name: str, kind: str, expected: tuple[str, list[str], list[str]]) -> None:
    record = ask(name, kind)
    assert told(record) == expected
    assert record.header.qr == 1
    assert str(record.q.qname) == name + "."


def test_soa_says_how_long_a_name_is_not_there() -> None:
    """RFC 2308 section 5: the lesser of the SOA's own TTL and its last field."""
    authority = ask("nobody.room.example").auth[0]
    assert authority.ttl == authority.rdata.times[4] == zone.NEGATIVE_TTL
    assert authority.rdata.times[0] == 42
    assert ask("lab3.room.example").header.aa == 1


def test_case_is_kept_byte_for_byte() -> None:
    reply = dns.decide(QUERY, ZONE, allowed=True, forwards=False)
    assert isinstance(reply, Reply)
    assert reply.data[:2] == b"\xbe\xef"
    assert reply.data[12 : len(QUERY)] == QUERY[12:]
    # RFC 1035 section 4.1.4: a pointer to the question, then A, IN, TTL 60, four bytes.
    assert reply.data[len(QUERY) :] == b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x09\x00\x0d"


def test_any_gets_one_small_record() -> None:
    record = ask("lab3.room.example", "ANY")
    assert [(rr.rtype, rr.rdata.data) for rr in record.rr] == [(13, b"\x07RFC8482\x00")]


def test_foreign_names_are_passed_on_only_when_wanted() -> None:
    query = bytes(DNSRecord.question("example.com").pack())
    assert isinstance(dns.decide(query, ZONE, allowed=True, forwards=True), Forward)
    plain = query[:2] + b"\x00\x00" + query[4:]  # RD is not set
    for refused in (
        dns.decide(plain, ZONE, allowed=True, forwards=True),
        dns.decide(query, ZONE, allowed=False, forwards=True),
    ):
        assert isinstance(refused, Reply)
        assert RCODE[DNSRecord.parse(refused.data).header.rcode] == "REFUSED"
    unknown = bytes(DNSRecord.question("99.0.9.10.in-addr.arpa", "PTR").pack())
    assert isinstance(dns.decide(unknown, ZONE, allowed=True, forwards=True), Forward)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (QUERY[:11], "drop"),
        (b"", "drop"),
        (QUERY[:2] + b"\x81\x00" + QUERY[4:], "drop"),  # QR: a response
        (QUERY[:2] + b"\x80\x00" + QUERY[4:12], "drop"),
        (QUERY[:2] + b"\x28\x00" + QUERY[4:], 4),  # opcode 5, UPDATE
        (QUERY[:4] + b"\x00\x00" + QUERY[6:], 1),  # no question
        (QUERY[:4] + b"\x00\x02" + QUERY[6:], 1),
        (QUERY[:6] + b"\x00\x01" + QUERY[8:], 1),  # an answer in a query
        (QUERY[:12], 1),  # cut off
        (QUERY[:-1], 1),
        (QUERY[:12] + b"\xc0\x0c\x00\x01\x00\x01", 1),  # a pointer to itself
        (QUERY[:12] + b"\x40" + b"a" * 64 + b"\x00\x00\x01\x00\x01", 1),  # a label of 64 bytes
        (QUERY[:12] + (b"\x3f" + b"a" * 63) * 4 + b"\x00\x00\x01\x00\x01", 1),  # a name of 257 bytes
        (QUERY[:-1] + b"\x03", 5),  # class CHAOS
    ],
)
def test_what_is_no_query(data: bytes, expected: str | int) -> None:
    decision = dns.decide(data, ZONE, allowed=True, forwards=True)
    if expected == "drop":
        assert isinstance(decision, Drop)
        return
    assert isinstance(decision, Reply)
    assert decision.data[:2] == data[:2]
    assert decision.data[2] & 0x80
    assert decision.data[3] & 15 == expected


def test_edns() -> None:
    query = DNSRecord.question("lab3.room.example")
    query.add_ar(EDNS0(udp_len=4096))
    reply = dns.decide(bytes(query.pack()), ZONE, allowed=True, forwards=False)
    assert isinstance(reply, Reply)
    (opt,) = DNSRecord.parse(reply.data).ar
    assert (opt.rtype, opt.edns_len) == (41, 1232)
    assert dns.parse_question(bytes(query.pack())).limit == 1232
    assert dns.parse_question(QUERY).limit == 512
    newer = DNSRecord.question("lab3.room.example")
    newer.add_ar(EDNS0(udp_len=4096, version=1))
    refused = dns.decide(bytes(newer.pack()), ZONE, allowed=True, forwards=False)
    assert isinstance(refused, Reply)
    assert DNSRecord.parse(refused.data).ar[0].edns_rcode == 1  # the upper bits of BADVERS, 16
    twice = DNSRecord.question("lab3.room.example")
    twice.add_ar(EDNS0(), EDNS0())
    both = dns.decide(bytes(twice.pack()), ZONE, allowed=True, forwards=False)
    assert isinstance(both, Reply)
    assert both.data[3] & 15 == 1


def test_an_answer_that_is_too_long_is_cut_over_udp_only() -> None:
    origin = ".".join(["long" * 10] * 4)
    wide = zone.build(origin, "pc", "10.9.0.2", [Host("n" * 60 + "1", "10.9.0.3")], 1)
    addresses = dict.fromkeys(wide.addresses, ("10.9.0.3",) * 40)
    wide = zone.Zone(wide.origin, wide.server, "10.9.0.2", 1, addresses, wide.aliases, wide.pointers, wide.reverse)
    query = bytes(DNSRecord.question(f"pc1.{origin}").pack())
    short, whole = (dns.decide(query, wide, allowed=True, forwards=False, tcp=tcp) for tcp in (False, True))
    assert isinstance(short, Reply)
    assert isinstance(whole, Reply)
    assert DNSRecord.parse(short.data).header.tc == 1
    assert DNSRecord.parse(short.data).rr == []
    assert len(DNSRecord.parse(whole.data).rr) == 41
    assert len(short.data) <= 512 < len(whole.data)


def test_relayed_answers_must_answer_the_question() -> None:
    question = dns.parse_question(QUERY)
    answer = DNSRecord.parse(QUERY).reply()
    sent = struct.pack("!H", 0x1234)
    lower = sent + bytes(answer.pack())[2:12] + QUERY[12:].lower()
    relayed = dns.relay(question, QUERY, lower, 0x1234)
    assert relayed is not None
    assert relayed[:2] == b"\xbe\xef"
    assert relayed[12:] == QUERY[12:]
    assert dns.relay(question, QUERY, lower, 0x1235) is None
    assert dns.relay(question, QUERY, sent + QUERY[2:], 0x1234) is None  # not a response
    assert dns.relay(question, QUERY, lower.replace(b"lab3", b"lab4"), 0x1234) is None
    assert dns.relay(question, QUERY, lower[:-1], 0x1234) is None


def test_rate_limit_per_network_and_name() -> None:
    rate = ResponseRate(10)
    verdicts = [rate.judge("10.9.0.7", "a", 100.0) for _ in range(26)]
    assert verdicts[:20] == [Verdict.ANSWER] * 20
    assert verdicts[20:] == [Verdict.TRUNCATE, Verdict.DROP] * 3
    assert rate.judge("10.9.0.8", "a", 100.0) is not Verdict.ANSWER  # the same /24
    assert rate.judge("10.9.1.7", "a", 100.0) is Verdict.ANSWER
    assert rate.judge("10.9.0.7", "b", 100.0) is Verdict.ANSWER
    assert rate.judge("10.9.0.7", "a", 101.0) is Verdict.ANSWER  # ten more by now
    many = sum(rate.judge("10.9.2.7", name, 100.0) is Verdict.ANSWER for name in range(1000))
    assert many == 200  # other names do not help
    for network in range(20_000):
        rate.judge(f"10.{network >> 8}.{network & 255}.1", "a", 102.0)
    assert len(rate) <= 8192


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('zone = "a..b"', "a..b"),
        ('zone = "9.10.in-addr.arpa"', "in-addr"),
        ('prefix = "3pc"', "3pc"),
        ('upstream = ["dns.example"]', "dns.example"),
        ('upstream = ["192.0.2.1:0"]', "192.0.2.1:0"),
        ('clients = ["10.0.0.1/8"]', "10.0.0.1/8"),
    ],
)
def test_settings_are_checked(text: str, part: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse(f"[dns]\n{text}\n")
    assert caught.value.code is Exit.CONFIG
    assert part in caught.value.message


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_mutants_never_raise(data: st.DataObject) -> None:
    mutant = bytearray(QUERY + b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00")
    mutant[11] = 1
    for _ in range(data.draw(st.integers(0, 5))):
        mutant[data.draw(st.integers(0, len(mutant) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(mutant)))
    message = bytes(mutant[:cut] if data.draw(st.booleans()) else mutant)
    decision = dns.decide(message, ZONE, allowed=True, forwards=data.draw(st.booleans()))
    if isinstance(decision, Reply):
        assert decision.data[:2] == message[:2]
        assert decision.data[2] & 0x80
        assert len(decision.data) <= 1232


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_never_raise(message: bytes) -> None:
    assert isinstance(dns.decide(message, ZONE, allowed=True, forwards=True), Drop | Reply | Forward)
