"""What the tests of images share: stores, bytes that are each different, and images made of them."""

import random
from pathlib import Path

from blake3 import blake3

from bootd.drivers.images.store import ImageStore
from bootd.images.manifest import ImageManifest

CHUNK = 1 << 20


class Told:
    """A `bootd.drivers.jobs.tell.Tell` that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.at = (0, 0)

    def progress(self, done: int, total: int, text: str = "") -> None:
        self.at = done, total

    def note(self, text: str) -> None:
        self.notes.append(text)


def put(store: ImageStore, data: bytes, name: str = "golden", created: str = "2026-01-31T10:00:00Z") -> str:
    """An image of ``data``, chunk by chunk as any client does it; its id."""
    pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    names = ["" if not any(piece) else blake3(piece).hexdigest() for piece in pieces]
    wanted = store.missing(names)
    for digest, piece in zip(names, pieces, strict=True):
        if digest in wanted:
            store.put_chunk(digest, piece)
    return store.commit(
        ImageManifest(
            name=name, user="ann", created=created, comment="for the test", size=len(data), chunks=tuple(names)
        )
    )


def content(store: ImageStore, reference: str) -> bytes:
    """All bytes of an image."""
    manifest = store.open(reference)
    return b"".join(bytes(store.read_chunk(manifest, index)) for index in range(len(manifest.chunks)))


def some_bytes(seed: int, size: int) -> bytes:
    """Half of it compresses, some of it is zeros."""
    source = random.Random(seed)
    data = bytearray(source.randbytes(size))
    for start in range(0, size, 2 * CHUNK):
        line = b"seed %d block %12d\n" % (seed, start)
        data[start : start + CHUNK] = (line * (CHUNK // len(line) + 1))[: len(data[start : start + CHUNK])]
    data[3 * CHUNK : 4 * CHUNK] = bytes(len(data[3 * CHUNK : 4 * CHUNK]))
    return bytes(data)


def files(folder: Path) -> list[Path]:
    """All chunks of a store."""
    return sorted(path for path in (folder / "chunks").rglob("*") if path.is_file())
