"""What the threads of one member share."""

import socket
from dataclasses import dataclass
from typing import Protocol

from bootd.member.buffers import SlotPool
from bootd.member.monitor import Monitor
from bootd.member.sockets import FrameSocket
from bootd.member.store import Store
from bootd.wire.frames import Decoder
from bootd.wire.manifest import Manifest
from bootd.wire.ring.member import MAX_SUCCESSORS, Limits, RingMember

WINDOW_BYTES = 24 << 20
LEAST_WINDOW = 4  # chunks
CHECKERS = 2  # threads that read back: one reads while the other digests


class Security(Protocol):
    """What TLS needs: `bootd.member.tls.TlsSettings`, which is not imported here because few sessions use it."""

    def socket(self, connection: socket.socket, decoder: Decoder, *, is_accepting: bool) -> FrameSocket:
        """``connection`` inside TLS."""


@dataclass(frozen=True)
class Context:
    """``monitor`` guards every decision; ``store`` and ``manifest`` may be used without it."""

    manifest: Manifest
    store: Store
    limits: Limits
    monitor: Monitor
    pool: SlotPool
    tls: Security | None

    def socket(self, connection: socket.socket, decoder: Decoder, *, is_accepting: bool) -> FrameSocket:
        """Carries frames over ``connection``, in TLS if the session asks for it."""
        if self.tls is None:
            return FrameSocket(connection, decoder)
        return self.tls.socket(connection, decoder, is_accepting=is_accepting)


def make_context(
    *,
    node: str,
    session: str,
    token: str,
    manifest: Manifest,
    store: Store,
    is_head: bool,
    compare: bool,
    limits: Limits,
    tls: Security | None,
) -> Context:
    """A context whose window and buffers stay within some 60 MiB whatever the size of image and chunks."""
    page_rounded = -(-manifest.chunk_size // 4096) * 4096
    capacity = max(LEAST_WINDOW, min(WINDOW_BYTES // page_rounded, manifest.count + 1))
    # One slot per chunk in the window, one per successor that is being served, one per checking thread.
    pool = SlotPool(page_rounded, capacity + MAX_SUCCESSORS + CHECKERS)
    core = RingMember(
        node=node,
        session=session,
        token=token,
        manifest=manifest,
        capacity=capacity,
        limits=limits,
        is_head=is_head,
        compare=compare,
        completes=store.completes,
    )
    return Context(manifest, store, limits, Monitor(core, pool), pool, tls)


def describe(error: OSError) -> str:
    """The kernel's words without Python's decoration."""
    return error.strerror or str(error)
