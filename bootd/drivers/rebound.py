"""Services on the address of one interface, built anew when that address becomes another one.

TFTP and HTTP tell their clients where to go on, so they are made for one address. While the interface has none, or
is away, they stay as they are: sockets work again when the same address is back.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from bootd.drivers.health import troubles_of
from bootd.drivers.interfaces import Interface
from bootd.drivers.links import Link, Links
from bootd.drivers.service import Service
from bootd.errors import OperatorError

log = structlog.get_logger("bootd.links")


class Rebound:
    """`Service` that holds those which ``build`` makes for an address; ``wanted`` goes before other addresses."""

    def __init__(self, interface: Interface, wanted: str, build: Callable[[str], Sequence[Service]]) -> None:
        self.name = f"on {interface.name}"
        self._interface, self._address, self._wanted = interface.name, interface.address, wanted
        self._build = build
        self._services: Sequence[Service] = ()
        self._changed = asyncio.Event()
        self._links = Links((interface.name,), self._on_change)

    @property
    def trouble(self) -> str:
        """For `Health`."""
        if not self._services:
            return f"no files are served on {self._interface}: see the log"
        return "; ".join(troubles_of(self._services))

    async def bind(self) -> None:
        self._services = self._build(self._address)
        for service in self._services:
            await service.bind()

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._links.follow(), name=f"links of {self._interface}")
            while True:
                running = group.create_task(self._run(), name=self.name)
                await self._changed.wait()
                self._changed.clear()
                running.cancel()
                await asyncio.wait((running,))
                await self._renew()

    async def close(self) -> None:
        for service in self._services:
            await service.close()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for service in self._services:
                group.create_task(service.serve(), name=service.name)

    async def _renew(self) -> None:
        """The services on the new address; without them, and told, when they cannot be."""
        await self.close()
        try:
            await self.bind()
        except OperatorError as error:
            log.error("nothing is served on the new address", interface=self._interface, error=str(error))  # noqa: TRY400
            await self.close()
            self._services = ()
            return
        log.info("files are served on another address", interface=self._interface, address=self._address)

    def _on_change(self, links: dict[str, Link]) -> None:
        link = links.get(self._interface)
        addresses = link.addresses if link else ()
        address = self._wanted if self._wanted in addresses else next(iter(addresses), "")
        if address and address != self._address:
            self._address = address
            self._changed.set()
