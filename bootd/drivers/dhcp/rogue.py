"""Before bootd gives addresses it asks whether somebody else does: two servers on one link hurt all machines there.

A DISCOVER and an INFORM are broadcast from a raw socket, as a client's would be, and whoever answers is named. The
INFORM is for servers that ping an address for seconds before they offer it, and answer this one at once.
"""

import asyncio
import secrets
import socket
from collections.abc import Iterable, Sequence

import structlog

from bootd.config import Dhcp
from bootd.drivers.links import Link
from bootd.errors import Exit, OperatorError
from bootd.netboot.addresses import rival

_ETH_P_IP = 0x0800
_EVERYBODY = b"\xff" * 6
_ROUNDS = 3  # a frame may be lost
_BATCH = 256

log = structlog.get_logger("bootd.dhcp")


async def check(settings: Dhcp, links: Sequence[Link]) -> None:
    """`OperatorError` (BUSY) when another server answers and ``dhcp.rogue`` is "refuse"; a warning when "warn"."""
    if settings.rogue == "off":
        return
    own = {address for link in links for address in link.addresses}
    usable = [link for link in links if link.up and link.addresses and link.mac]
    results = await asyncio.gather(*(_ask(link, own, settings.rogue_seconds) for link in usable))
    found = [f"{server} on {link.name}" for link, server in zip(usable, results, strict=True) if server]
    if not found:
        return
    text = f"another DHCP server gives addresses here: {', '.join(found)}"
    if settings.rogue == "warn":
        log.warning(text, hint="two servers on one link give one address to two machines")
        return
    raise OperatorError(
        text,
        'stop it, or set proxy = true under [dhcp] and remove the pools; dhcp.rogue = "warn" starts all the same',
        Exit.BUSY,
    )


async def _ask(link: Link, own: Iterable[str], seconds: float) -> str:
    """The first other server that answers on ``link`` within ``seconds``; "" for none."""
    transaction = secrets.randbits(32)
    mac = bytes.fromhex(link.mac.replace(":", ""))
    frames = rival.questions(transaction, mac, link.addresses[0])
    answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    except OSError as error:
        log.warning("cannot look for other DHCP servers", interface=link.name, error=error.strerror)
        return ""
    loop = asyncio.get_running_loop()
    try:
        opened.bind((link.name, _ETH_P_IP))
        loop.add_reader(opened, _receive, opened, transaction, frozenset(own), answered)
        for _ in range(_ROUNDS):
            for frame in frames:
                opened.sendto(frame, (link.name, _ETH_P_IP, 0, 0, _EVERYBODY))
            done, _pending = await asyncio.wait((answered,), timeout=seconds / _ROUNDS)
            if done:
                return answered.result()
    except OSError as error:
        log.warning("cannot look for other DHCP servers", interface=link.name, error=error.strerror)
    finally:
        loop.remove_reader(opened)
        opened.close()
        answered.cancel()
    return ""


def _receive(opened: socket.socket, transaction: int, own: frozenset[str], answered: asyncio.Future[str]) -> None:
    for _ in range(_BATCH):
        try:
            packet = opened.recv(4096)
        except OSError:
            return
        server = rival.answering_server(packet, transaction)
        if server and server not in own and not answered.done():
            answered.set_result(server)
