"""Files as TFTP sends them: DATA packets in a row, made once for every transfer that wants the same ones.

A run of blocks is read at once, and each gets its header in front. What goes out is a slice of such a run, or in
lockstep one packet of it, so a block costs no copy of its own, and a window is one piece of memory for the kernel
to cut up (UDP_SEGMENT).
"""

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

from bootd.netboot.files.tftp import HEADER_BYTES, data_header

RUN_BYTES = 1 << 17  # of memory for one run, about
_ASIDE = 64  # bytes of it for each packet: its header, and what it costs to be an object of its own
CACHE_BYTES = 32 << 20  # runs kept for others, or for a transfer that comes back

Key = tuple[int, int, int, int, int, int, bool, int]


@dataclass(frozen=True, slots=True)
class Run:
    """Packets in a row: as one piece of memory to be cut up, or one by one (fewer places in memory for each)."""

    size: int  # bytes of memory, about
    whole: memoryview
    packets: tuple[bytes, ...]


class Cache:
    """Runs that were made last, up to ``most`` bytes."""

    def __init__(self, most: int = CACHE_BYTES) -> None:
        self._most = most
        self._runs: OrderedDict[Key, Run] = OrderedDict()
        self.bytes = 0

    def get(self, key: Key) -> Run | None:
        run = self._runs.get(key)
        if run is not None:
            self._runs.move_to_end(key)
        return run

    def put(self, key: Key, run: Run) -> None:
        self._runs[key] = run
        self.bytes += run.size
        while self.bytes > self._most and len(self._runs) > 1:
            _, oldest = self._runs.popitem(last=False)
            self.bytes -= oldest.size


class Packets:
    """The packets of one file for one transfer. Owns ``descriptor``.

    Holds only the runs that the blocks asked for last are in: memory is bounded by the window.
    """

    def __init__(self, descriptor: int, block: int, rollover: int, cache: Cache, *, lockstep: bool = False) -> None:
        """``lockstep``: they are taken by `row`, else by `pieces`."""
        status = os.fstat(descriptor)
        self.size = status.st_size
        self._descriptor, self._block, self._rollover, self._cache = descriptor, block, rollover, cache
        self._lockstep = lockstep
        file = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        self._identity = (*file, block, rollover, lockstep)
        self._packet = block + HEADER_BYTES
        self._blocks = max(1, RUN_BYTES // (block + _ASIDE))  # in one run
        self._held: dict[int, Run] = {}

    def close(self) -> None:
        """Safe to call twice."""
        self._held.clear()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def row(self, number: int) -> Iterator[bytes]:
        """The packet of block ``number``, counted from 1, and some of those behind it. `OSError` as in `pieces`."""
        index, place = divmod(number - 1, self._blocks)
        run = self._held.get(index) or self._take(index, index)
        return islice(run.packets, place, None)

    def pieces(self, first: int, count: int, most: int) -> Iterator[memoryview]:
        """``count`` packets from block ``first`` on, in pieces of up to ``most`` packets.

        `OSError` when the file cannot be read or has shrunk since the transfer began.
        """
        lowest = (first - 1) // self._blocks
        number, end = first, first + count
        while number < end:
            index, place = divmod(number - 1, self._blocks)
            run = self._held.get(index)
            if run is None:
                run = self._take(index, lowest)
            taken = min(end - number, self._blocks - place, most)
            yield run.whole[place * self._packet : (place + taken) * self._packet]
            number += taken

    def _take(self, index: int, lowest: int) -> Run:
        """The run ``index``, held from now on; those below ``lowest`` are let go."""
        key = (*self._identity, index)
        run = self._cache.get(key)
        if run is None:
            run = self._make(index)
            self._cache.put(key, run)
        for old in [held for held in self._held if held < lowest or held > index]:
            del self._held[old]
        self._held[index] = run
        return run

    def _make(self, index: int) -> Run:
        block, start = self._block, index * self._blocks * self._block
        wanted = min(self._blocks * block, self.size - start)
        data = os.pread(self._descriptor, wanted, start) if wanted > 0 else b""
        if len(data) != max(wanted, 0):
            raise OSError(errno.EIO, "the file has changed")
        # The block after the last whole one ends the file: it is short, perhaps empty.
        count = len(data) // block + 1 if start + len(data) == self.size else self._blocks
        whole, first = memoryview(data), index * self._blocks + 1
        parts = [
            (data_header(first + place, self._rollover), whole[start : start + block])
            for place, start in enumerate(range(0, min(count, self._blocks) * block, block))
        ]
        size = len(data) + len(parts) * _ASIDE
        if self._lockstep:
            return Run(size, memoryview(b""), tuple(map(b"".join, parts)))
        return Run(size, memoryview(b"".join(chain.from_iterable(parts))), ())
