"""The threads behind the window: write, make durable, read back."""

import time

from bootd.member.context import Context, describe
from bootd.wire.digest import digest
from bootd.wire.frames import Encoding
from bootd.wire.ring.member import Wake
from bootd.wire.ring.window import Entry


def run_writer(context: Context) -> None:
    """Writes what the window holds, in the order of arrival. Zeros are written or discarded too: the target is not
    blank, unless the store knows that it is."""
    monitor, manifest, store = context.monitor, context.manifest, context.store
    while (entry := _next_entry(context)) is not None:
        header, offset = entry.header, manifest.offset(entry.header.index)
        try:
            if header.encoding is Encoding.ZERO:
                store.zero(offset, header.raw_length)
            else:
                store.write(offset, memoryview(entry.raw))
        except OSError as error:
            monitor.fail(f"writing the target at byte {offset}: {describe(error)}")
            return
        with monitor as core:
            core.wrote(entry, time.monotonic())


def run_flusher(context: Context) -> None:
    """fdatasync as the ledger asks for it; only then chunks count as durable."""
    monitor = context.monitor
    while (batch := _next_batch(context)) is not None:
        try:
            context.store.sync()
        except OSError as error:
            monitor.fail(f"flushing the target: {describe(error)}")
            return
        with monitor as core:
            core.synced(batch)


def run_checker(context: Context) -> None:
    """Reads the target past the page cache and hashes it: before READY when it is compared, and when all is
    durable. Several threads may do so side by side."""
    monitor, manifest, store = context.monitor, context.manifest, context.store
    while (index := _next_check(context)) is not None:
        slot = context.pool.take()
        try:
            view = slot.memory[: manifest.length(index)]
            store.read_back(manifest.offset(index), view)
            found = digest(view)
        except OSError as error:
            monitor.fail(f"reading the target back: {describe(error)}")
            return
        finally:
            context.pool.put(slot)
        with monitor as core:
            core.checked(index, found)


def _next_entry(context: Context) -> Entry | None:
    with context.monitor as core:
        while core.is_going:
            entry = core.window.take_unwritten()
            if entry is not None:
                return entry
            context.monitor.wait(Wake.WRITE)
    return None


def _next_batch(context: Context) -> list[int] | None:
    with context.monitor as core:
        while core.is_going:
            batch = core.ledger.take_unsynced(time.monotonic())
            if batch is not None:
                return batch
            context.monitor.wait(Wake.SYNC, core.ledger.sync_due)
    return None


def _next_check(context: Context) -> int | None:
    """The next chunk to read back; None at the end of the member. Waits for a target that has an end of its own."""
    monitor = context.monitor
    while True:
        with monitor as core:
            while core.is_going:
                index = core.next_check()
                if index is not None:
                    return index
                if core.take_completion():
                    break
                monitor.wait(Wake.CHECK)
            else:
                return None
        reason = context.store.complete(monitor.stopping)
        with monitor as core:
            core.completed(reason)
