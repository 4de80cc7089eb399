"""Connections of the file port on a real socket: those that ask for nothing, or for ever, are ended; no worker."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from bootd.drivers.http.files import application
from bootd.drivers.http.gate import Bounds
from bootd.drivers.http.server import HttpServer

Sent = list[tuple[str, str, int]]
BOUNDS = Bounds(connections=6, per_address=4, header_seconds=0.3, idle_seconds=0.3)


def talk(folder: Path, bounds: Bounds, conversation: Callable[[int], Awaitable[None]]) -> Sent:
    sent: Sent = []

    async def run() -> None:
        listener = socket.socket()
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        port: int = listener.getsockname()[1]
        server = HttpServer(listener, application(folder, lambda *what: sent.append(what)), bounds)
        await server.prepare()
        await server.serve()
        try:
            await conversation(port)
        finally:
            await server.close()

    asyncio.run(asyncio.wait_for(run(), 20))
    return sent


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


def test_who_sends_a_header_without_end_or_nothing_is_cut_off(tmp_path: Path) -> None:
    async def conversation(port: int) -> None:
        silent, other = await connect(port)
        slow, writer = await connect(port)
        writer.write(b"GET /file HT")
        async with asyncio.timeout(5):
            for reader in (silent, slow):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
        other.close()
        writer.close()

    talk(tmp_path, BOUNDS, conversation)


def test_one_byte_at_a_time_does_not_keep_a_connection(tmp_path: Path) -> None:
    """Every byte sets a naive timer back: here the time runs from the first one."""

    async def conversation(port: int) -> None:
        reader, writer = await connect(port)
        ended = asyncio.create_task(reader.read())
        sent = 0
        async with asyncio.timeout(5):
            while not ended.done():
                writer.write(b"GET / HTTP/1.1\r\nA: " if sent == 0 else b"x")
                sent += 1
                await asyncio.wait({ended}, timeout=0.05)
        writer.close()
        assert sent < 20
        assert isinstance(ended.exception(), ConnectionResetError) or ended.result() == b""

    talk(tmp_path, BOUNDS, conversation)


def test_one_address_has_its_share_and_gets_it_back(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10)

    async def ask(port: int) -> tuple[bytes, asyncio.StreamWriter]:
        reader, writer = await connect(port)
        writer.write(b"HEAD /file HTTP/1.1\r\nHost: x\r\n\r\n")
        return (await reader.readline()).strip(), writer

    async def conversation(port: int) -> None:
        answers = [await ask(port) for _ in range(6)]
        assert [answer.split()[1] for answer, _ in answers] == [b"200"] * 4 + [b"503"] * 2
        for _, writer in answers:
            writer.close()
            await writer.wait_closed()
        answer = b""
        async with asyncio.timeout(5):
            while answer != b"HTTP/1.1 200 OK":  # until the server has heard of the ends
                answer, writer = await ask(port)
                writer.close()
                await writer.wait_closed()

    talk(tmp_path, Bounds(connections=6, per_address=4), conversation)


def test_file_that_shrinks_ends_the_connection_and_is_not_reported(tmp_path: Path) -> None:
    """Its length has been promised: filling it up, or waiting for ever, would both be lies."""
    path = tmp_path / "file"
    path.write_bytes(bytes(64 << 20))

    async def conversation(port: int) -> None:
        reader, writer = await connect(port)
        writer.write(b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        os.truncate(path, 1000)
        got = 0
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(10):
                while data := await reader.read(1 << 20):
                    got += len(data)
        assert got < 64 << 20
        writer.close()

    assert talk(tmp_path, Bounds(), conversation) == []


def test_what_was_sent_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)

    async def conversation(port: int) -> None:
        reader, writer = await connect(port)
        for request, length in ((b"HEAD", 0), (b"GET", 1000)):
            writer.write(request + b" /file HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"Content-Length: 1000\r\n" in head
            assert b"chunked" not in head
            assert await reader.readexactly(length) == b"x" * length
        writer.close()

    assert talk(tmp_path, Bounds(), conversation) == [("/file", "127.0.0.1", 1000)]
