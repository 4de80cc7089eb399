"""Runs the DHCP service alone: ``python -m tests.netns.offers TOML``. Prints ``ready``; ends on SIGTERM."""

import asyncio
import signal
import sys

from bootd.config import parse
from bootd.drivers.dhcp.service import DhcpServer
from bootd.netboot.offer import NodePolicy


async def run(text: str) -> None:
    settings = parse(text)
    service = DhcpServer(settings, settings.server.interfaces, lambda _: NodePolicy(), lambda *_: None)
    try:
        await service.bind()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        serving = asyncio.create_task(service.serve())
        print("ready", flush=True)
        await asyncio.wait([asyncio.create_task(stop.wait()), serving], return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    finally:
        await service.close()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
