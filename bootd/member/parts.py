"""Several stores as one: each part of a manifest has a source or a target of its own."""

import threading
from bisect import bisect_right
from collections.abc import Sequence

from bootd.member.store import Store
from bootd.wire.frames import Encoding
from bootd.wire.manifest import Manifest


class PartStore:
    """``stores``: one for each part of ``manifest``, in its order. Offsets are those of the manifest: a part begins
    where its first chunk does, and nothing that is asked for crosses a part."""

    def __init__(self, manifest: Manifest, stores: Sequence[Store]) -> None:
        if len(stores) != len(manifest.parts):
            raise ValueError(f"{len(stores)} stores for {len(manifest.parts)} parts")
        self.size = manifest.size
        self._starts = [manifest.part_start(number) * manifest.chunk_size for number in range(len(stores))]
        self._stores = tuple(stores)
        self.completes = any(store.completes for store in stores)
        self._names = tuple(part.name for part in manifest.parts)
        self._lock = threading.Lock()
        self._dirty: set[int] = set()  # numbers of stores written since their last sync

    def read(self, offset: int, buffer: memoryview) -> None:
        number, inner = self._place(offset)
        self._stores[number].read(inner, buffer)

    def packed(self, offset: int, length: int) -> tuple[Encoding, bytes] | None:
        number, inner = self._place(offset)
        return self._stores[number].packed(inner, length)

    def write(self, offset: int, buffer: memoryview) -> None:
        number, inner = self._place(offset)
        with self._naming(number):
            self._stores[number].write(inner, buffer)
        self._touch(number)

    def zero(self, offset: int, length: int) -> None:
        number, inner = self._place(offset)
        with self._naming(number):
            self._stores[number].zero(inner, length)
        self._touch(number)

    def sync(self) -> None:
        """All stores that were written; one that fails is tried again with the next sync."""
        with self._lock:
            dirty, self._dirty = self._dirty, set()
        while dirty:
            number = dirty.pop()
            try:
                with self._naming(number):
                    self._stores[number].sync()
            except OSError:
                with self._lock:
                    self._dirty |= dirty | {number}
                raise

    def read_back(self, offset: int, buffer: memoryview) -> None:
        number, inner = self._place(offset)
        self._stores[number].read_back(inner, buffer)

    def complete(self, stop: threading.Event) -> str:
        """The ends of all, one after the other; the first reason against."""
        for number, store in enumerate(self._stores):
            reason = store.complete(stop) if store.completes else ""
            if reason:
                return f"{self._names[number]}: {reason}"
        return ""

    def close(self) -> None:
        for store in self._stores:
            store.close()

    def _place(self, offset: int) -> tuple[int, int]:
        """Number of the store, and the offset there."""
        number = bisect_right(self._starts, offset) - 1
        return number, offset - self._starts[number]

    def _touch(self, number: int) -> None:
        with self._lock:
            self._dirty.add(number)

    def _naming(self, number: int) -> "_Naming":
        return _Naming(self._names[number])


class _Naming:
    """Errors of a store that is one of many say which one."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and self._name:
            raise OSError(error.errno, f"{self._name}: {error.strerror or error}") from None
