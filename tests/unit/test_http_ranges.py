"""Conditions and ranges: examples and rules of RFC 9110, sections 13 and 14."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootd.netboot.files.http_ranges import (
    Decision,
    Failed,
    NotModified,
    Parts,
    Unsatisfiable,
    Version,
    Whole,
    decide,
    ranges,
)

# RFC 9110 section 5.6.7 gives this date; 784111777 is what `date -d` says of it.
DATE, SECONDS = "Sun, 06 Nov 1994 08:49:37 GMT", 784111777
LATER, EARLIER = "Sun, 06 Nov 1994 08:49:38 GMT", "Sun, 06 Nov 1994 08:49:36 GMT"
VERSION = Version('"1a-2b"', SECONDS)


@pytest.mark.parametrize(
    ("header", "decision"),
    [
        # Section 14.1.2, with its representation of 10000 bytes.
        ("bytes=0-499", Parts(((0, 500),))),
        ("bytes=500-999", Parts(((500, 500),))),
        ("bytes=-500", Parts(((9500, 500),))),
        ("bytes=9500-", Parts(((9500, 500),))),
        ("bytes=0-0,-1", Parts(((0, 1), (9999, 1)))),
        ("bytes= 0-0, 4500-5499, -1", Parts(((0, 1), (4500, 1000), (9999, 1)))),
        ("bytes=500-600,601-999", Parts(((500, 101), (601, 399)))),
        ("bytes=9000-20000", Parts(((9000, 1000),))),
        ("bytes=-20000", Parts(((0, 10000),))),
        ("BYTES=1-1", Parts(((1, 1),))),
        ("bytes=10000-", Unsatisfiable()),
        ("bytes=10000-,20000-30000", Unsatisfiable()),
        ("bytes=-0", Unsatisfiable()),
        ("bytes=10000-,5-5", Parts(((5, 1),))),
        ("bytes=5-4", Whole()),  # invalid: ignored
        ("bytes=a-b", Whole()),
        ("bytes=", Whole()),
        ("bytes=1-2-3", Whole()),
        ("bytes=--1", Whole()),
        ("lines=1-2", Whole()),
        ("0-1", Whole()),
        ("bytes=0-,0-,0-", Whole()),  # section 14.2: more than the file
        ("bytes=" + ",".join(["1-1"] * 17), Whole()),
        ("bytes=" + "9" * 30 + "-", Whole()),
    ],
)
def test_ranges(header: str, decision: Decision) -> None:
    assert ranges(header, 10000) == decision


def test_empty_file_has_no_range() -> None:
    assert ranges("bytes=0-", 0) == Unsatisfiable()
    assert ranges("bytes=-5", 0) == Unsatisfiable()


@pytest.mark.parametrize(
    ("headers", "decision"),
    [
        ({}, Whole()),
        ({"If-None-Match": '"1a-2b"'}, NotModified()),
        ({"If-None-Match": 'W/"1a-2b"'}, NotModified()),  # weak comparison (section 13.1.2)
        ({"If-None-Match": '"x", "1a-2b"'}, NotModified()),
        ({"If-None-Match": "*"}, NotModified()),
        ({"If-None-Match": '"x"', "If-Modified-Since": DATE}, Whole()),  # the date is not looked at
        ({"If-Modified-Since": DATE}, NotModified()),
        ({"If-Modified-Since": LATER}, NotModified()),
        ({"If-Modified-Since": EARLIER}, Whole()),
        ({"If-Modified-Since": "yesterday"}, Whole()),
        ({"If-Match": '"1a-2b"'}, Whole()),
        ({"If-Match": 'W/"1a-2b"'}, Failed()),  # strong comparison (section 13.1.1)
        ({"If-Match": '"x"'}, Failed()),
        ({"If-Unmodified-Since": EARLIER}, Failed()),
        ({"If-Unmodified-Since": DATE}, Whole()),
        ({"Range": "bytes=0-0"}, Parts(((0, 1),))),
        ({"Range": "bytes=0-0", "If-Range": '"1a-2b"'}, Parts(((0, 1),))),
        ({"Range": "bytes=0-0", "If-Range": 'W/"1a-2b"'}, Whole()),
        ({"Range": "bytes=0-0", "If-Range": '"x"'}, Whole()),
        ({"Range": "bytes=0-0", "If-Range": DATE}, Parts(((0, 1),))),
        ({"Range": "bytes=0-0", "If-Range": LATER}, Whole()),
        ({"Range": "bytes=0-0", "If-None-Match": '"1a-2b"'}, NotModified()),
    ],
)
def test_conditions(headers: dict[str, str], decision: Decision) -> None:
    assert decide(headers, VERSION, 100) == decision


def test_head_has_no_range() -> None:
    assert decide({"Range": "bytes=0-0"}, VERSION, 100, reads=False) == Whole()


def test_date() -> None:
    assert VERSION.date == DATE


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="bytes=0123456789-, \t\xff", max_size=60), st.integers(0, 1 << 40))
def test_whatever_is_asked_for_lies_in_the_file(rest: str, size: int) -> None:
    decision = ranges("bytes=" + rest, size)
    if isinstance(decision, Parts):
        assert decision.ranges
        for start, length in decision.ranges:
            assert 0 <= start < start + length <= size


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["If-Match", "If-None-Match", "If-Range", "If-Modified-Since", "If-Unmodified-Since"]),
        st.text(max_size=40) | st.just(DATE),
    )
)
def test_no_header_makes_it_fail(headers: dict[str, str]) -> None:
    assert isinstance(decide(headers, VERSION, 5), NotModified | Failed | Whole)
