"""Runs ProxyDHCP and TFTP alone, for the tests: ``python -m tests.netns.boot_plane BOOT_DIR [TOML]``.

Serves ``eth0`` with the address given in the settings; prints ``ready`` and one JSON line per event; ends on
SIGTERM. Every node gets the label ``kamethod``.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path

from msgspec.structs import replace

from bootd.config import parse
from bootd.drivers.dhcp.service import DhcpServer
from bootd.drivers.service import Service
from bootd.drivers.tftp.service import TftpServer
from bootd.drivers.tree import VirtualTree
from bootd.errors import Exit, OperatorError
from bootd.netboot.offer import NodePolicy
from bootd.netboot.render import RenderContext


async def run(boot_dir: Path, text: str) -> None:
    settings = parse(text)
    settings = replace(settings, server=replace(settings.server, boot_dir=str(boot_dir)))
    address = settings.server.address

    def context(mac: str) -> RenderContext:
        server = settings.server
        return RenderContext(
            address, server.http_port, server.bulk_port, settings.labels, "kamethod", mac, "ab" * 16
        )

    def policy(mac: str) -> NodePolicy:
        return NodePolicy("kept out by an operator" if mac == "52:54:00:00:00:66" else "")

    def event(kind: str, mac: str, client: str, detail: str) -> None:
        print(json.dumps({"kind": kind, "mac": mac, "address": client, "detail": detail}), flush=True)

    tree = VirtualTree(boot_dir, context, address, settings.server.http_port)
    services: list[Service] = [
        DhcpServer(settings, settings.server.interfaces, policy, event),
        TftpServer(settings, address, tree, event),
    ]
    try:
        for service in services:
            await service.bind()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        tasks = [asyncio.create_task(service.serve()) for service in services]
        print("ready", flush=True)
        await asyncio.wait([asyncio.create_task(stop.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for service in services:
            await service.close()


def main() -> int:
    try:
        asyncio.run(run(Path(sys.argv[1]), sys.argv[2]))
    except OperatorError as error:
        print(f"bootd: {error}", file=sys.stderr)
        return error.code
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
