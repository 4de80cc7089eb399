"""Which interface is served: decided from what ``ip -json address`` prints (recorded), never guessed."""

import pytest

from bootd.config import Server
from bootd.drivers.interfaces import Candidate, choose, list_interfaces, parse_listing
from bootd.errors import Exit, OperatorError

LO = Candidate("lo", True, True, ("127.0.0.1",))
ETH0 = Candidate("eth0", True, False, ("192.0.2.1", "192.0.2.2"))
ETH1 = Candidate("eth1", True, False, ("198.51.100.1",))
DOWN = Candidate("eth2", False, False, ("203.0.113.1",))
BARE = Candidate("eth3", True, False, ())


def test_recorded_listing() -> None:
    listing = [
        {
            "ifname": "lo",
            "flags": ["LOOPBACK", "UP", "LOWER_UP"],
            "addr_info": [{"family": "inet", "local": "127.0.0.1", "prefixlen": 8}],
        },
        {
            "ifname": "ens3",
            "flags": ["BROADCAST", "MULTICAST", "UP", "LOWER_UP"],
            "addr_info": [
                {"family": "inet", "local": "192.0.2.5", "prefixlen": 24},
                {"family": "inet6", "local": "fe80::1", "prefixlen": 64},
            ],
        },
        {},
    ]
    assert parse_listing(listing) == [LO, Candidate("ens3", True, False, ("192.0.2.5",))]


def test_this_machine_can_be_listed() -> None:
    assert any(item.loopback for item in list_interfaces())


@pytest.mark.parametrize(
    ("candidates", "server", "expected"),
    [
        ([LO, ETH0], Server(), ("eth0", "192.0.2.1")),
        ([LO, ETH0, DOWN, BARE], Server(), ("eth0", "192.0.2.1")),
        ([LO, ETH0, ETH1], Server(interface="eth1"), ("eth1", "198.51.100.1")),
        ([LO, ETH0, ETH1], Server(interface="eth0", address="192.0.2.2"), ("eth0", "192.0.2.2")),
        ([LO, ETH0, ETH1], Server(address="198.51.100.1"), ("eth1", "198.51.100.1")),
        ([LO], Server(interface="lo"), ("lo", "127.0.0.1")),
    ],
)
def test_the_one_that_is_clear(candidates: list[Candidate], server: Server, expected: tuple[str, str]) -> None:
    (chosen,) = choose(candidates, server)
    assert (chosen.name, chosen.address) == expected


def test_several_that_are_named() -> None:
    server = Server(interface=("eth1", "eth0"), address="192.0.2.2")
    chosen = [(item.name, item.address) for item in choose([LO, ETH0, ETH1], server)]
    assert chosen == [("eth1", "198.51.100.1"), ("eth0", "192.0.2.2")]
    for wrong in (Server(interface=("eth0", "eth2")), Server(interface=("eth0", "eth9"))):
        with pytest.raises(OperatorError):
            choose([LO, ETH0, DOWN], wrong)


@pytest.mark.parametrize(
    ("candidates", "server", "words"),
    [
        ([], Server(), ["there is none"]),
        ([LO], Server(), ["lo (127.0.0.1)"]),
        ([LO, DOWN, BARE], Server(), ["eth2 (203.0.113.1, down)", "eth3 (no IPv4 address)"]),
        ([LO, ETH0, ETH1], Server(), ["eth0 (192.0.2.1, 192.0.2.2)", "eth1 (198.51.100.1)"]),
        ([LO, ETH0], Server(interface="nope"), ["nope", "eth0"]),
        ([LO, DOWN], Server(interface="eth2"), ["down"]),
        ([LO, BARE], Server(interface="eth3"), ["no IPv4 address"]),
        ([LO, ETH0], Server(interface="eth0", address="192.0.2.9"), ["192.0.2.9", "192.0.2.1"]),
        ([LO, ETH0], Server(address="192.0.2.9"), ["192.0.2.9"]),
    ],
)
def test_what_is_not_clear_is_listed(candidates: list[Candidate], server: Server, words: list[str]) -> None:
    with pytest.raises(OperatorError) as raised:
        choose(candidates, server)
    assert raised.value.code is Exit.CONFIG
    assert raised.value.hint
    for word in words:
        assert word in raised.value.message
