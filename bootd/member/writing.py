"""The three threads behind the window: write, make durable, read back and compare."""

from bootd.member.context import Context, describe
from bootd.wire.control import MemberState
from bootd.wire.digest import digest

SYNC_BYTES = 64 << 20
SYNC_SECONDS = 1.0


def run_writer(context: Context) -> None:
    """Writes what the window holds, in the order of arrival. Zeros are written too: the target is not blank."""
    while (entry := context.window.next_unwritten()) is not None:
        index = entry.header.index
        try:
            context.store.write(context.manifest.offset(index), entry.raw)
        except OSError as error:
            context.standing.fail(f"writing the target at byte {context.manifest.offset(index)}: {describe(error)}")
            return
        # In this order: from the moment an entry may leave the window, the chunk is readable from the disk.
        context.progress.mark_written(index)
        context.window.mark_written(entry)


def run_flusher(context: Context) -> None:
    """fdatasync after every 64 MiB, every second, and at the end; only then chunks count as durable."""
    while (batch := context.progress.wait_unsynced(SYNC_BYTES, SYNC_SECONDS)) is not None:
        try:
            context.store.sync()
        except OSError as error:
            context.standing.fail(f"flushing the target: {describe(error)}")
            return
        context.progress.mark_durable(batch)


def run_verifier(context: Context) -> None:
    """When all is durable, reads it back past the page cache. What differs is fetched again."""
    manifest, progress = context.manifest, context.progress
    while progress.wait_all_durable():
        if not context.standing.enter(MemberState.VERIFYING):
            return
        slot = context.pool.take()
        try:
            index = progress.next_durable(0)
            while index is not None:
                view = slot.memory[: manifest.length(index)]
                context.store.read_back(manifest.offset(index), view)
                if digest(view) == manifest.digest(index):
                    progress.mark_verified(index)
                else:
                    context.lose(index)
                    if context.standing.state is MemberState.FAILED:
                        return
                index = progress.next_durable(index + 1)
        except OSError as error:
            context.standing.fail(f"reading the target back: {describe(error)}")
            return
        finally:
            context.pool.put(slot)
        if progress.is_verified and not context.standing.enter(MemberState.VERIFIED):
            return
