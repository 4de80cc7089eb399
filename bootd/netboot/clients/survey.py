"""Every client model in the room with this configuration: beside another DHCP server, and alone with us."""

from collections.abc import Sequence
from dataclasses import dataclass

from bootd.netboot.addresses.lease import Lease
from bootd.netboot.clients.air import NOBODY
from bootd.netboot.clients.grub import follow
from bootd.netboot.clients.room import AddressServer, Bootd, Play, Server, play
from bootd.netboot.clients.roster import CLIENTS
from bootd.netboot.offer import Interface, NodePolicy


@dataclass(frozen=True)
class Neighbour:
    """The other DHCP server of a proxied room. ``file``, ``next_server`` and ``vendor_class`` are what it adds."""

    address: str
    file: str = ""
    next_server: str = NOBODY
    vendor_class: str = ""


@dataclass(frozen=True)
class Result:
    client: str
    proxied: Play
    full: Play


def survey(
    interface: Interface,
    example: Lease,
    neighbour: Neighbour,
    policy: NodePolicy,
    clients: Sequence[str] = (),
) -> list[Result]:
    """One result for each model whose name contains one of ``clients`` (all without any).

    ``example`` is a lease as we would give it; the neighbour gives the same address.
    """
    theirs = Lease(
        example.address,
        example.netmask,
        neighbour.address,
        example.seconds,
        example.renewal,
        example.rebinding,
        name_servers=example.name_servers,
    )
    beside: list[Server] = [
        AddressServer(theirs, neighbour.file, neighbour.next_server, neighbour.vendor_class),
        Bootd(interface, policy=policy),
    ]
    alone: list[Server] = [Bootd(interface, example, policy)]
    group = interface.menu.multicast or "0.0.0.0"
    return [
        Result(
            client.name,
            follow(play(client, beside, group), neighbour.next_server, interface.address),
            follow(play(client, alone, group), interface.address, interface.address),
        )
        for client in CLIENTS
        if not clients or any(wanted.lower() in client.name.lower() for wanted in clients)
    ]
