"""Digests of files that were sent before: a second session with the same file starts at once.

A file is the same while its path, device, inode, size, mtime and ctime are. That is no proof, and none is needed:
the head digests every chunk again before it goes out. An entry is a manifest behind its own digest, in a file named
after the path.
"""

import contextlib
import os
import stat
import time
from collections.abc import Sequence

from bootd.wire import manifest
from bootd.wire.digest import DIGEST_SIZE, digest
from bootd.wire.errors import PeerProtocolError

MAX_ENTRIES = 64
SETTLED_NS = 2_000_000_000  # a file changed less than that ago may change again within one tick of its clock
_SUFFIX = ".digests"
_KEY_SIZE = DIGEST_SIZE
_Key = tuple[str, bytes]  # name of the entry; what the file was like


class DigestCache:
    """Entries in ``folder``, which is made when the first is kept. Whatever goes wrong costs only time."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def key(self, path: str, descriptor: int, chunk_size: int) -> _Key | None:
        """What an entry for the open file is called; None for one that is not remembered."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < SETTLED_NS:
            return None
        seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, chunk_size)
        return self._name(path), digest(repr((os.path.realpath(path), seen)).encode())

    def get(self, key: _Key, size: int, chunk_size: int) -> list[bytes] | None:
        """The digests of the chunks; None when they are not known."""
        name, state = key
        try:
            with open(os.path.join(self._folder, name), "rb") as file:
                data = file.read(_KEY_SIZE + DIGEST_SIZE + manifest.MAX_ENCODED)
        except OSError:
            return None
        encoded = data[_KEY_SIZE + DIGEST_SIZE :]
        if data[:_KEY_SIZE] != state or data[_KEY_SIZE : _KEY_SIZE + DIGEST_SIZE] != digest(encoded):
            return None
        try:
            image = manifest.parse(encoded)
        except PeerProtocolError:
            return None
        if (image.size, image.chunk_size, len(image.parts)) != (size, chunk_size, 1):
            return None
        return [image.digest(index) for index in range(image.count)]

    def put(self, key: _Key, size: int, chunk_size: int, digests: Sequence[bytes]) -> None:
        """Remember; the oldest entries beyond `MAX_ENTRIES` go."""
        name, state = key
        encoded = manifest.build(size, chunk_size, digests).encoded
        draft = os.path.join(self._folder, f".{name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            with open(draft, "wb", opener=_open_private) as file:
                file.write(state + digest(encoded) + encoded)
            os.replace(draft, os.path.join(self._folder, name))
            self._prune()

    def forget(self, path: str) -> None:
        """The entry of ``path`` misled."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._folder, self._name(path)))

    def _name(self, path: str) -> str:
        return digest(os.fsencode(os.path.realpath(path)))[:16].hex() + _SUFFIX

    def _prune(self) -> None:
        with os.scandir(self._folder) as entries:
            known = [(entry.stat().st_mtime_ns, entry.path) for entry in entries if entry.name.endswith(_SUFFIX)]
        for _, path in sorted(known)[:-MAX_ENTRIES]:
            os.unlink(path)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
