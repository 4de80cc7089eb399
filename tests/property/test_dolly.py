"""dolly's texts and bytes from anybody: only what is foreseen comes out, whatever comes in."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from bootd.dolly.client import ClientSession, Failed, Forward, Parameters, Whole, Write
from bootd.dolly.config import Config, read_trailer
from bootd.dolly.errors import DollyError
from bootd.dolly.grammar import MAX_FILES, parse
from bootd.dolly.head import HeadSession
from tests.unit.test_dolly_grammar import DISK, PLUS, STAGE2

KEYWORDS = (
    "infile outfile compressed split iofiles segsize add add2 fanout hyphennormal server firstclient lastclient"
)
WORDS = (
    *re.findall(r"\S+", f"{KEYWORDS} clients dummy endconfig 3 2G > >> a.tar.Z /dev/sda 1:-fast node1 node2 # é ٣"),
    *("endconfig bootd 1 of 2", "- raw /x", "9" * 5000, "\0"),
)
LINES = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), max_size=14).map("\n".join)


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """An example with a piece of it replaced."""
    text = draw(st.sampled_from((STAGE2, DISK, PLUS)))
    at, length = draw(st.integers(0, len(text))), draw(st.integers(0, 30))
    return text[:at] + draw(st.text("\n\0 #>ab1é", max_size=12) | LINES) + text[at + length :]


@settings(max_examples=400, deadline=None)
@given(LINES | mutants())
def test_a_configuration_or_an_error_of_its_own(text: str) -> None:
    try:
        found: Config | None = parse(text)
        read_trailer(text)
    except DollyError:
        found = None
    assert found is None or (found.clients and len(found.files) <= MAX_FILES)


def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    places = sorted(draw(st.sets(st.integers(0, len(data)), max_size=6)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if start < end]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_cut_of_control_and_data_in_any_order_gives_the_whole_stream_or_an_error(data: st.DataObject) -> None:
    """The total may come before, within or behind the data."""
    body = data.draw(st.binary(max_size=9000))
    pieces = data.draw(st.composite(lambda draw: cut(draw, body))())
    says = data.draw(st.sampled_from((len(body), len(body), len(body) + 1, max(0, len(body) - 1))))
    total = says.to_bytes(8, "little")
    events = [("data", piece) for piece in pieces]
    for piece in data.draw(st.composite(lambda draw: cut(draw, total))()):
        events.append(("control", piece))
    order = data.draw(st.permutations(range(len(events))))
    rest = {"data": iter(pieces), "control": iter([item for kind, item in events if kind == "control"])}
    client = ClientSession()
    assert isinstance(client.control(STAGE2.encode())[0], Parameters)
    client.linked("12.12.12.1")
    client.ready()
    written, forwarded, ends = b"", b"", []
    for number in order:
        kind = events[number][0]
        item = next(rest[kind])
        for action in client.data(memoryview(item)) if kind == "data" else client.control(item):
            written += bytes(action.data) if isinstance(action, Write) else b""
            forwarded += bytes(action.data) if isinstance(action, Forward) else b""
            if isinstance(action, Whole | Failed):
                ends.append(action)
        if ends:
            break
    if says == 0:
        assert [type(end) for end in ends] == [Failed]
        return
    if not ends:  # some bytes are missing
        ends += [action for action in client.data_end() if isinstance(action, Failed)]
    if says == len(body):
        assert (written, forwarded, ends) == (body, body, [Whole(len(body))])
    elif says > len(body):
        assert [type(end) for end in ends] == [Failed]
    else:
        assert ends == [Whole(says)] or [type(end) for end in ends] == [Failed]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.binary(max_size=60) | st.sampled_from([b"Host ready 'a'.\n", b"Host failed 'b': x.\n"]), max_size=8)
)
def test_a_head_takes_anything_from_its_clients(pieces: list[bytes]) -> None:
    config = parse(DISK)
    head = HeadSession(config, b"")
    head.connected()
    for piece in pieces:
        head.backflow(0, piece)
    head.verdicts()
