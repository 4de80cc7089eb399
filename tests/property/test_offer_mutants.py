"""Whatever clients and servers send: the offer decision and the client models end with a value, never an exception.

The replies of the decision are read by scapy as well, which is no friend of ours.
"""

import dataclasses
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP

from bootd.netboot import dhcp, offer
from bootd.netboot.addresses.lease import Lease
from bootd.netboot.clients.air import EVERYBODY, Outcome, Received, Request
from bootd.netboot.clients.room import AddressServer, Bootd, play
from bootd.netboot.clients.roster import CLIENTS
from bootd.netboot.loaders import ARTEFACTS
from bootd.netboot.menu import Menu, MenuItem
from bootd.netboot.offer import Ignore, Interface, NodePolicy, Offer
from bootd.wire.errors import PeerProtocolError

SERVER = "10.9.0.2"
MENU = Menu(
    (MenuItem("Clone"), MenuItem("Old", file="a.{layer}", layers=2), MenuItem("Disk", local=True)), uefi=True
)
INTERFACE = Interface("eth0", SERVER, 7467, artefacts=ARTEFACTS | {"a.0", "a.1", "a.2"}, menu=MENU)
LEASE = Lease("10.9.0.100", "255.255.255.0", SERVER, 3600, 1800, 3150, name_servers=(SERVER,))
THEIRS = dataclasses.replace(LEASE, server="10.9.0.1")


@st.composite
def options(draw: st.DrawFn) -> dict[int, bytes]:
    """Options that matter, with values that do not fit."""
    codes = st.sampled_from([43, 52, 53, 54, 60, 61, 66, 67, 77, 82, 93, 94, 97, 175])
    values = st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [b"PXEClient:Arch:00000:UNDI:002001", b"HTTPClient:Arch:00016", b"PXEClient", b"Etherboot-5.0", b"iPXE"]
        ),
        st.sampled_from(
            [b"\x06\x00\xff", b"\x47\x04\x80\x01\x00\x02\xff", b"\x09\x01\x00\x0a\x00\xff", b"\x0a\x01"]
        ),
        st.integers(0, 45).map(lambda code: code.to_bytes(2, "big")),
        st.integers(0, 9).map(lambda kind: bytes((kind,))),
    )
    found = draw(st.dictionaries(codes, values, max_size=8))
    found.pop(52, None)
    return found


@settings(max_examples=400, deadline=None)
@given(options(), st.booleans(), st.sampled_from([67, 4011]), st.sampled_from(["", "0.0.0.0", "10.9.0.77"]))
def test_any_request_has_an_answer_or_a_reason(own: dict[int, bytes], leased: bool, port: int, client: str) -> None:
    base = dhcp.Message(dhcp.Operation.REQUEST, 7, 1, bytes.fromhex("525400000001"), options=own)
    message = dataclasses.replace(base, client=client or "0.0.0.0")
    decision = offer.decide(
        message, NodePolicy(), INTERFACE, port, (client or "0.0.0.0", 68), lease=LEASE if leased else None
    )
    assert isinstance(decision, Offer | Ignore)
    if isinstance(decision, Offer):
        read = BOOTP(decision.reply)
        assert read.op == 2
        assert isinstance(DHCP(decision.reply[240:]).options, list)
        assert len(decision.reply) >= 300
        assert dhcp.parse(decision.reply).your == (LEASE.address if leased and port == 67 else "0.0.0.0")


@dataclasses.dataclass(frozen=True)
class Mutating:
    """A server whose answers have been changed on the way."""

    server: Bootd | AddressServer
    change: Callable[[Received], Received | None]

    @property
    def address(self) -> str:
        return self.server.address

    def answer(self, request: Request) -> tuple[Received | None, str]:
        received, reason = self.server.answer(request)
        return (self.change(received) if received else None), reason


@settings(max_examples=150, deadline=None)
@given(
    options(),
    st.binary(max_size=30),
    st.integers(0, len(CLIENTS) - 1),
    st.booleans(),
    st.sampled_from([None, "0.0.0.0", EVERYBODY]),
)
def test_client_models_take_any_reply(
    own: dict[int, bytes], vendor: bytes, number: int, full: bool, siaddr: str
) -> None:
    def change(received: Received) -> Received | None:
        message = received.message
        changed = {**message.options, **{code: value for code, value in own.items() if code != 53}}
        if vendor:
            changed[43] = vendor
        message = dataclasses.replace(message, options=changed, server=siaddr or message.server)
        try:
            data = dhcp.build(message)
            return dataclasses.replace(received, message=dhcp.parse(data), length=len(data))
        except PeerProtocolError:
            return None

    servers = [Mutating(Bootd(INTERFACE, LEASE), change)] if full else [
        Mutating(AddressServer(THEIRS), change),
        Mutating(Bootd(INTERFACE), change),
    ]  # fmt: skip
    assert isinstance(play(CLIENTS[number], servers).outcome, Outcome)
