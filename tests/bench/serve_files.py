"""``python -m tests.bench.serve_files FOLDER TFTP_PORT HTTP_PORT [TOML [ADDRESS]]``: the daemon's file services
alone, on 127.0.0.1 or ADDRESS. Ends on SIGTERM."""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from msgspec.structs import replace

from bootd.config import parse
from bootd.drivers.http.bulk import BulkService
from bootd.drivers.logging_setup import set_up_logging
from bootd.drivers.service import Service
from bootd.drivers.tftp.service import TftpServer
from bootd.drivers.tree import VirtualTree

ADDRESS = "127.0.0.1"


async def run(folder: Path, tftp_port: int, http_port: int, text: str, address: str) -> None:
    settings = parse(text)
    settings = replace(settings, tftp=replace(settings.tftp, port=tftp_port))
    tree = VirtualTree(folder, lambda _mac: None, address, 7467)
    services: list[Service] = [
        TftpServer(settings, address, tree, lambda *_: None),
        BulkService(address, http_port, folder, workers=settings.server.bulk_workers),
    ]
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    for service in services:
        await service.bind()
    tasks = [asyncio.create_task(service.serve()) for service in services]
    print("ready", flush=True)
    await stop.wait()
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    for service in services:
        await service.close()


if __name__ == "__main__":
    set_up_logging()
    text, address, *_ = (*sys.argv[4:6], "", "")
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), text, address or ADDRESS))
