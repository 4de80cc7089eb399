"""What pushing and pulling share: progress, and several things at a time with the first error told."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from bootd.errors import OperatorError

PACKS = 3  # in hand at a time; each is in memory when it is sent, a chunk of each when it is fetched
QUESTIONS = 8  # asked at a time

Item = TypeVar("Item")


@dataclass
class Progress:
    """Bytes that have travelled, of how many; ``on_change`` is called at each step."""

    on_change: Callable[["Progress"], None] = lambda _: None
    done: int = 0
    total: int = 0
    note: str = ""  # why it waits; "" = it does not

    def add(self, count: int) -> None:
        self.done, self.note = self.done + count, ""
        self.on_change(self)

    def expect(self, total: int) -> None:
        self.total = total
        self.on_change(self)

    def wait(self, note: str) -> None:
        self.note = note
        self.on_change(self)


async def each(function: Callable[[Item], Awaitable[None]], items: Iterable[Item], at_a_time: int = PACKS) -> None:
    """``function`` for each of ``items``, so many at a time. The first error ends the others, and is raised."""
    room = asyncio.Semaphore(at_a_time)

    async def run(item: Item) -> None:
        try:
            await function(item)
        finally:
            room.release()

    try:
        async with asyncio.TaskGroup() as group:
            for item in items:
                await room.acquire()
                group.create_task(run(item))
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, OperatorError):
            raise first from None
        raise
