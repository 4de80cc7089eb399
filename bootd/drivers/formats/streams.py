"""Files to raw bytes: unpacked here, or by the tool of the format."""

import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, cast

from bootd.drivers.formats.folder import read_files
from bootd.images.foreign.compression import START, Compression, recognise, unpack
from bootd.images.foreign.errors import ForeignError

_TOOLS = {Compression.LZ4: ("lz4", "-dc", "-"), Compression.LZOP: ("lzop", "-dc")}
_OUTPUT = 1 << 18  # bytes read from a tool at once
_MAX_COMPLAINT = 300


def read_stream(paths: Sequence[Path], on_read: Callable[[int], None]) -> Iterator[bytes]:
    """The raw bytes of the files ``paths``, which are one stream; `ForeignError` if it is not whole."""
    pieces = read_files(paths, on_read)
    start = b""
    for piece in pieces:
        start += piece
        if len(start) >= START:
            break
    compression = recognise(start[:START])
    if compression in _TOOLS:
        return through_tool(_TOOLS[compression], chain((start,), pieces), compression.value)
    return unpack(chain((start,), pieces), compression)


def through_tool(command: Sequence[str], pieces: Iterator[bytes], name: str) -> Iterator[bytes]:
    """What ``command`` makes of ``pieces``. It says by its exit status whether the stream was whole."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
    except FileNotFoundError:
        raise ForeignError(
            f"it is compressed with {name}: install {command[0]} (apt install {command[0]})"
        ) from None
    given, taken, told = (cast(IO[bytes], pipe) for pipe in (process.stdin, process.stdout, process.stderr))
    failure: list[BaseException] = []
    complaint: list[bytes] = []

    def give() -> None:
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[given.write(view) or 0 :]
        except BrokenPipeError:
            pass  # it has ended, and says why
        except BaseException as error:
            failure.append(error)
        finally:
            given.close()

    def hear() -> None:
        while text := told.read(4096):
            if sum(map(len, complaint)) < _MAX_COMPLAINT:
                complaint.append(text)

    threads = [threading.Thread(target=work, name=f"bootd-{name}", daemon=True) for work in (give, hear)]
    for thread in threads:
        thread.start()
    try:
        while raw := taken.read(_OUTPUT):
            yield raw
        status = process.wait()
    finally:
        process.kill()
        process.wait()
        for thread in threads:
            thread.join()
        taken.close()
        told.close()
    if failure:
        raise failure[0]
    if status:
        text = b"".join(complaint).decode("utf-8", "replace").strip()[:_MAX_COMPLAINT]
        raise ForeignError(f"the {name} stream is damaged or truncated: {text}")
