"""Pools and reservations as bootd.toml writes them: what is usable, and what is refused with its reason."""

import ipaddress
from pathlib import Path

import pytest

from bootd import config
from bootd.drivers.dhcp.leases import addressing
from bootd.errors import Exit, OperatorError
from bootd.netboot.addresses.pool import dotted, number, parse_subnet

POOL = """
[dhcp]
proxy = false
[[dhcp.pool]]
subnet = "10.9.0.0/23"
range = ["10.9.0.100-10.9.0.199", "10.9.1.7"]
gateway = "10.9.0.1"
dns = ["10.9.0.2", "192.0.2.53"]
domain = "room.example"
lease_seconds = 600
"""


def test_pool_as_written() -> None:
    (subnet,) = (pool.parsed() for pool in config.parse(POOL).dhcp.pool)
    network = ipaddress.IPv4Network("10.9.0.0/23")
    assert str(subnet) == str(network)
    assert subnet.netmask == str(network.netmask)
    assert dotted(subnet.broadcast) == str(network.broadcast_address)
    assert subnet.size == 101
    given = [dotted(subnet.address_at(position)) for position in range(subnet.size)]
    assert given == [*(f"10.9.0.{last}" for last in range(100, 200)), "10.9.1.7"]
    assert subnet.address_at(subnet.size) == number("10.9.0.100")
    assert (subnet.routers, subnet.name_servers) == (("10.9.0.1",), ("10.9.0.2", "192.0.2.53"))
    assert (subnet.domain, subnet.seconds) == ("room.example", 600)


@pytest.mark.parametrize("address", ["10.9.0.0", "10.9.0.1", "10.9.1.255", "10.9.2.0", "10.8.255.255", "0.0.0.0"])
def test_what_is_inside(address: str) -> None:
    subnet = parse_subnet("10.9.0.0/23", [])
    network = ipaddress.IPv4Network("10.9.0.0/23")
    assert (number(address) in subnet) == (ipaddress.IPv4Address(address) in network)
    assert subnet.usable(number(address)) == (ipaddress.IPv4Address(address) in list(network.hosts()))


def test_a_network_is_ours_where_any_client_gets_an_address() -> None:
    """Only there another server is a rival, and only there routers are our business."""
    settings = config.parse(POOL + '[[dhcp.pool]]\nsubnet = "10.8.0.0/24"\n')
    ours = addressing(settings)
    assert ours.gives_on(["192.0.2.1", "10.9.0.2"])
    assert not ours.gives_on(["10.8.0.2"])  # reservations only
    assert not ours.gives_on(["192.0.2.1"])
    assert not ours.gives_on([])
    assert {dotted(address) for address in ours.kept_out} == {"10.9.0.1", "10.9.0.2", "192.0.2.53"}


def test_ignored_from_both_places() -> None:
    text = (
        '[dhcp]\nignore = ["52:54:00:AA:00:01"]\n[[node]]\nmac = "52:54:00:AA:00:02"\nname = "n2"\nignore = true\n'
    )
    assert config.parse(text).ignored == {"52:54:00:aa:00:01", "52:54:00:aa:00:02"}


NODE = '[[node]]\nmac = "52:54:00:00:00:0{0}"\nname = "n{0}"\naddress = "{1}"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (POOL.replace("proxy = false", ""), ["dhcp.proxy", "proxy = false"]),
        (POOL.replace("10.9.0.0/23", "10.9.0.1/23"), ["10.9.0.1/23", "host bits"]),
        (POOL.replace("10.9.0.0/23", "10.9.0.0/40"), ["10.9.0.0/40"]),
        (POOL.replace("10.9.1.7", "10.9.1.255"), ["10.9.1.255", "last address"]),
        (POOL.replace("10.9.1.7", "10.9.2.7"), ["10.9.2.7", "not inside"]),
        (POOL.replace("10.9.1.7", "10.9.0.150"), ["overlap at 10.9.0.150"]),
        (POOL.replace("100-10.9.0.199", "199-10.9.0.100"), ["ends before it begins"]),
        (POOL.replace('"10.9.0.1"', '"10.8.0.1"'), ["gateway 10.8.0.1"]),
        (POOL.replace("192.0.2.53", "dns.example"), ["dns.example"]),
        (POOL.replace("600", "10"), ["lease_seconds"]),
        (POOL.replace("room.example", "r\u00f6\u00f6m"), ["domain"]),
        (POOL + '[[dhcp.pool]]\nsubnet = "10.9.1.0/24"\n', ["10.9.0.0/23 and 10.9.1.0/24 overlap"]),
        (POOL + NODE.format(1, "10.9.0.7") + NODE.format(2, "10.9.0.7"), ["n1 and n2", "10.9.0.7"]),
        (POOL + NODE.format(1, "10.7.0.7"), ["n1", "10.7.0.7", "no [[dhcp.pool]]"]),
        (POOL + NODE.format(1, "10.9.1.255"), ["n1", "10.9.1.255"]),
        (NODE.format(1, "ten"), ["n1", "ten"]),
        ('[dhcp]\nignore = ["52:54"]', ["dhcp.ignore"]),
        ('[dhcp]\nrogue = "maybe"', ["dhcp.rogue"]),
        ('[dhcp]\nproxy = false\n[[dhcp.pool]]\nsubnet = "10.0.0.0/8"\nrange = "10.0.0.1-10.9.0.1"', ["65536"]),
        ('[dhcp]\nproxy = false\n[[dhcp.pool]]\nsubnet = "0.0.0.0/0"', ["larger than a /8"]),
    ],
)
def test_what_is_wrong_is_named(text: str, words: list[str]) -> None:
    with pytest.raises(OperatorError) as raised:
        config.parse(text)
    assert raised.value.code is Exit.CONFIG
    for word in words:
        assert word in str(raised.value)


def test_the_example_of_the_manual_is_accepted() -> None:
    text = (Path(__file__).parents[2] / "docs/addresses.md").read_text().split("```toml", 1)[1].split("```", 1)[0]
    settings = config.parse(text, "docs/addresses.md")
    (pool,) = settings.dhcp.pool
    assert number(settings.node[0].address) in pool.parsed()
    assert not settings.dhcp.proxy
