"""Tickets for images: for one address, until a time, and nobody makes one without the key."""

import pytest

from bootd.drivers.http.image_tickets import SECONDS, Tickets

NOW, HERE = 1_800_000_000.0, "192.0.2.7"


def test_a_ticket_is_for_one_address_and_a_while() -> None:
    tickets = Tickets()
    ticket, end = tickets.issue(HERE, NOW)
    assert end == NOW + SECONDS
    assert tickets.check(ticket, HERE, NOW)
    assert Tickets(tickets.key).check(ticket, HERE, end - 1)
    assert not tickets.check(ticket, HERE, end)
    assert not tickets.check(ticket, "192.0.2.8", NOW)
    assert not Tickets().check(ticket, HERE, NOW)


@pytest.mark.parametrize(
    "text",
    ["", "-", "x", "9999999999", "9999999999-", "9999999999-00", "-1-00", "١-00", "1" * 5000, "é-é", "\udcff-1"],
)
def test_what_is_no_ticket(text: str) -> None:
    assert not Tickets().check(text, HERE, NOW)


def test_a_later_end_needs_another_signature() -> None:
    tickets = Tickets()
    ticket, end = tickets.issue(HERE, NOW)
    signature = ticket.partition("-")[2]
    assert not tickets.check(f"{int(end) + 9}-{signature}", HERE, NOW)
