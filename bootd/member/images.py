"""An image of the store as what the head reads: its chunks go out as they are kept.

docs/images.md describes what is read here. The image is held as long as it is open: nobody removes it meanwhile.
"""

import errno
import fcntl
import json
import os
import threading

from bootd.member.store import PlainStore, StoreError
from bootd.wire.digest import Decompressor, digest, zero_digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Encoding
from bootd.wire.stored import unpack


class ImageContent(PlainStore):
    """Image ``id_`` of the store in ``folder``, or ``size`` bytes of it from ``start`` on. `StoreError`."""

    def __init__(self, folder: str, id_: str, start: int = 0, size: int | None = None) -> None:
        if not id_:
            raise StoreError("the source names no image: image:NAME@ID is awaited")
        path = os.path.join(folder, "manifests", id_)
        try:
            self._held = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"image {id_[:12]} is not in {folder}: {error.strerror}") from None
        try:
            fcntl.flock(self._held, fcntl.LOCK_SH)
            with open(self._held, "rb", closefd=False) as file:
                encoded = file.read()
            if digest(encoded).hex() != id_ or not os.fstat(self._held).st_nlink:
                raise StoreError(f"the manifest of image {id_[:12]} is damaged or has been removed")  # noqa: TRY301
            self._read_manifest(encoded)
            whole = self._whole
            self.size = whole - start if size is None else size
            if start < 0 or self.size < 1 or start + self.size > whole:
                text = f"image {id_[:12]} has {whole} bytes, {start + self.size} were expected"
                raise StoreError(text)  # noqa: TRY301
        except BaseException:
            os.close(self._held)
            raise
        self._start = start
        self._chunks = os.path.join(folder, "chunks")
        self._given = bytearray(len(self._names))  # chunks that went out as they are kept
        self._local = threading.local()

    def read(self, offset: int, buffer: memoryview) -> None:
        position, end = self._start + offset, self._start + offset + len(buffer)
        done = 0
        while position < end:
            index, inner = divmod(position, self.chunk_size)
            count = min(self._length(index) - inner, end - position)
            raw = self._open(index)
            buffer[done : done + count] = raw[inner : inner + count]
            position, done = position + count, done + count

    def packed(self, offset: int, length: int) -> tuple[Encoding, bytes] | None:
        index = self._whole_chunk(offset, length)
        if index is None:
            return None
        if not self._names[index]:
            return Encoding.ZERO, b""
        if self._given[index]:
            self._open(index)
        self._given[index] = 1
        data = self._read_stored(index)
        if len(data) > length:
            raise self._damaged(index)
        return (Encoding.RAW if len(data) == length else Encoding.ZSTD), data

    def digest(self, offset: int, length: int) -> bytes | None:
        """Of these bytes; None where they are no whole chunk."""
        index = self._whole_chunk(offset, length)
        if index is None:
            return None
        name = self._names[index]
        if name:
            return bytes.fromhex(name)
        if length not in self._zeros:
            self._zeros[length] = zero_digest(length)
        return self._zeros[length]

    def write(self, offset: int, buffer: memoryview) -> None:
        raise OSError(errno.EROFS, f"an image is never written: {len(buffer)} bytes at {offset}")

    def sync(self) -> None:
        """Nothing was written."""

    def read_back(self, offset: int, buffer: memoryview) -> None:
        self.read(offset, buffer)

    def close(self) -> None:
        os.close(self._held)

    def _read_manifest(self, encoded: bytes) -> None:
        """What is needed of a manifest whose digest is right: it was checked when the image was made."""
        line, _, rest = encoded.partition(b"\n")
        header = json.loads(line)
        if header.get("format") != 1:
            raise StoreError(f"an image of format {header.get('format')!r} is not known here")
        self._whole, self.chunk_size = int(header["size"]), int(header["chunk_size"])
        self._names = rest.decode("ascii").split("\n")[header["extents"] or 0 :][: header["chunks"]]
        self._zeros: dict[int, bytes] = {}

    def _length(self, index: int) -> int:
        return min(self.chunk_size, self._whole - index * self.chunk_size)

    def _whole_chunk(self, offset: int, length: int) -> int | None:
        index, inner = divmod(self._start + offset, self.chunk_size)
        return index if inner == 0 and length == self._length(index) else None

    def _open(self, index: int) -> bytes | bytearray | memoryview:
        """The raw bytes of a chunk, compared with its digest. The last one of each thread is kept: who reads across
        chunks asks for each twice."""
        name, length = self._names[index], self._length(index)
        if not name:
            return bytes(length)
        last: tuple[int, bytes] | None = getattr(self._local, "last", None)
        if last is not None and last[0] == index:
            return last[1]
        if not hasattr(self._local, "decompressor"):
            self._local.decompressor = Decompressor()
        try:
            raw = unpack(self._read_stored(index), length, self._local.decompressor)
        except PeerProtocolError:
            raise self._damaged(index) from None
        if digest(raw).hex() != name:
            raise self._damaged(index)
        self._local.last = index, raw
        return raw

    def _read_stored(self, index: int) -> bytes:
        name = self._names[index]
        try:
            with open(os.path.join(self._chunks, name[:2], name[2:]), "rb", buffering=0) as file:
                return file.readall()
        except FileNotFoundError:
            raise self._damaged(index, "missing") from None

    def _damaged(self, index: int, how: str = "damaged") -> OSError:
        return OSError(
            errno.EIO, f"chunk {self._names[index]} of the image is {how}: bootd image verify, then heal"
        )
