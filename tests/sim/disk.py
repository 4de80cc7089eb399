"""A virtual disk, and what may be wrong with it."""

import random
from dataclasses import dataclass

CHUNK = 4096  # bytes; the least that a manifest allows


@dataclass
class Fault:
    """Of one disk. Chunks are counted from 0; -1: none."""

    broken_at: int = -1  # writing this chunk ends with an error
    error: str = ""
    forgets: int = -1  # this chunk is not kept
    times: int = 0  # so often
    slowness: float = 1.0


class Disk:
    """``read`` and ``write`` as the kernel does them; time is the caller's affair."""

    def __init__(self, chunks: int, chance: random.Random, fault: Fault) -> None:
        self.content = bytearray(chance.randbytes(64) * (chunks * CHUNK // 64))  # not blank
        self.fault = fault
        self.writes = 0

    def write(self, index: int, raw: bytes) -> str:
        """ "" or the error."""
        if index == self.fault.broken_at:
            return self.fault.error
        self.writes += 1
        if index == self.fault.forgets and self.fault.times > 0:
            self.fault.times -= 1
            return ""
        self.content[index * CHUNK : index * CHUNK + len(raw)] = raw
        return ""

    def read(self, index: int, length: int) -> bytes:
        return bytes(self.content[index * CHUNK : index * CHUNK + length])
