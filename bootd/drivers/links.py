"""The network interfaces that are served, followed while they change: addresses, cables, cards that come and go.

Netlink says that something has changed; what there is now is then asked for anew. So a message that was lost, or
that this code does not know, cannot leave a wrong picture behind.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTMGRP_IPV4_IFADDR, RTMGRP_LINK

_SETTLE_SECONDS = 0.05  # a change comes as a burst of messages
_AGAIN_SECONDS = 1.0  # after netlink itself failed
_UP = 1  # IFF_UP
_SECONDARY = 1  # IFA_F_SECONDARY

log = structlog.get_logger("bootd.links")


@dataclass(frozen=True)
class Link:
    """One interface. ``addresses`` are IPv4, primary ones first; ``carrier``: a cable is in."""

    name: str
    index: int
    mac: str
    up: bool
    carrier: bool
    addresses: tuple[str, ...]


class Links:
    """What the kernel has, of ``names`` only; `on_change` is called in the loop with the new picture."""

    def __init__(self, names: Iterable[str], on_change: Callable[[dict[str, Link]], None]) -> None:
        self._names = frozenset(names)
        self._on_change = on_change
        self.links: dict[str, Link] = {}

    async def look(self) -> dict[str, Link]:
        """What there is now; ``links`` is that, too. `OSError` or `NetlinkError` when the kernel does not say."""
        async with AsyncIPRoute() as netlink:
            self.links = await self._ask(netlink)
        return self.links

    async def follow(self) -> None:
        """Until cancelled: call ``on_change`` for each difference."""
        while True:
            try:
                await self._follow()
            except (OSError, NetlinkError) as error:
                log.warning("interfaces cannot be followed, trying again", error=str(error))
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _follow(self) -> None:
        async with AsyncIPRoute() as netlink, AsyncIPRoute() as asking:
            await netlink.bind(groups=RTMGRP_LINK | RTMGRP_IPV4_IFADDR)
            await self._compare(asking)  # what happened since the last look
            changed = asyncio.Event()
            reader = asyncio.create_task(self._read(netlink, changed))
            try:
                while not reader.done():
                    await changed.wait()
                    await asyncio.sleep(_SETTLE_SECONDS)
                    changed.clear()
                    await self._compare(asking)
                await reader  # its error
            finally:
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError, NetlinkError):
                    await reader

    @staticmethod
    async def _read(netlink: AsyncIPRoute, changed: asyncio.Event) -> None:
        try:
            while True:
                async for _ in netlink.get():
                    changed.set()
        finally:
            changed.set()

    async def _compare(self, netlink: AsyncIPRoute) -> None:
        before = self.links
        self.links = await self._ask(netlink)
        if self.links != before:
            self._on_change(self.links)

    async def _ask(self, netlink: AsyncIPRoute) -> dict[str, Link]:
        links = {message["index"]: message async for message in await netlink.get_links()}
        addresses: dict[int, list[tuple[bool, str]]] = {}
        async for message in await netlink.get_addr(family=socket.AF_INET):
            text = message.get("local") or message.get("address")
            if text:
                addresses.setdefault(message["index"], []).append((bool(message["flags"] & _SECONDARY), text))
        made = {}
        for index, message in links.items():
            name = message.get("ifname")
            if name in self._names:
                made[name] = _link(name, index, message, addresses.get(index, []))
        return made


def _link(name: str, index: int, message: Any, addresses: list[tuple[bool, str]]) -> Link:
    ordered = tuple(text for _, text in sorted(addresses, key=lambda item: item[0]))  # the kernel's order otherwise
    up = bool(message["flags"] & _UP)
    carrier = up and bool(message.get("carrier", 1))
    return Link(name, index, message.get("address") or "", up, carrier, ordered)
