"""Holding an image while it is read: what is held is not removed, nor are its chunks, in whatever process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from bootd.drivers.images.store import ImageStore
from bootd.errors import Exit, OperatorError
from bootd.images.manifest import ImageError, ImageManifest, NoImageError


@contextmanager
def reading(store: ImageStore, reference: str) -> Iterator[tuple[str, ImageManifest]]:
    """The id and the manifest of an image that stays until the end of the block."""
    id_ = store.resolve(reference)
    descriptor = hold(store, id_)
    try:
        yield id_, store.read_manifest(id_)
    finally:
        os.close(descriptor)


def hold(store: ImageStore, id_: str) -> int:
    """A descriptor; the image stays until it is closed, and with it whoever inherits it has ended."""
    try:
        descriptor = os.open(store.manifest_path(id_), os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # removed meanwhile
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ImageError(f"image {id_[:16]} cannot be read: {error.strerror}") from None
    raise NoImageError(id_[:16])


@contextmanager
def alone(store: ImageStore, id_: str) -> Iterator[None]:
    """That nobody holds the image; `OperatorError` (BUSY) if somebody does."""
    try:
        descriptor = os.open(store.manifest_path(id_), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NoImageError(id_[:16]) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OperatorError(
                f"image {id_[:16]} is in use",
                "wait for the end of what reads it: bootd state, bootd job list",
                Exit.BUSY,
            ) from None
        yield
    finally:
        os.close(descriptor)
