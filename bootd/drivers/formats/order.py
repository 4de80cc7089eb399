"""One order to import, and how what was read of a source becomes an image of the store."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bootd.drivers.formats.describe import Found, describe, places
from bootd.drivers.formats.intake import Intake
from bootd.drivers.images.store import ImageStore
from bootd.drivers.images.times import timestamp
from bootd.drivers.jobs.tell import Tell
from bootd.errors import Exit, OperatorError
from bootd.images.foreign.clonesys import Description
from bootd.images.foreign.content import Content
from bootd.images.foreign.errors import ForeignError
from bootd.images.manifest import ImageManifest
from bootd.images.names import parse_reference
from bootd.wire.manifest import suitable_chunk_size

_MAX_ORIGIN = 255  # characters


@dataclass
class Source:
    """What is to become an image. ``places``: offsets and data, rising; `size` and `extents` hold after them."""

    places: Iterable[tuple[int, bytes]]
    size: Callable[[], int]
    extents: Callable[[], list[tuple[int, int]] | None]
    format: str  # for people
    origin: str
    expected: int  # bytes, about
    kind: str = ""  # "disk" or "partition"; "" = as it looks
    description: Description | None = None
    content: Content | None = None  # of a single stream


@dataclass
class Order:
    """What an operator wants, and how far it is."""

    tell: Tell
    store: ImageStore
    name: str
    user: str
    comment: str
    origin: str = ""
    tags: tuple[str, ...] = ()
    kind: str = ""
    total: int = 0  # bytes of files to read
    done: int = 0
    images: list[dict[str, Any]] = field(default_factory=list)

    def came(self, count: int) -> None:
        """``count`` more bytes of the files are read."""
        self.done += count
        self.tell.progress(self.done, self.total, "read")

    def keep(self, source: Source, name: str = "") -> None:
        """Take all of ``source`` in and commit it as ``name`` [the order's]; nothing counts before that."""
        name = name or self.name
        told = source.description or Description("")
        comment = self.comment or told.comment
        parse_reference(name)
        if not comment.strip():
            raise OperatorError(f"{name}: no comment", "say what the image is for: -m COMMENT", Exit.USAGE)
        intake = Intake(self.store, suitable_chunk_size(source.expected))
        intake.take(source.places, source.size)
        found = describe(intake.read, intake.size, self.store.directory)
        extents = source.extents()
        format_ = "partclone" if source.content is not None and source.content.filesystem else source.format
        kind = self._kind(source, found, format_)
        manifest = ImageManifest(
            name=name,
            user=told.user or self.user,
            created=timestamp(told.created),
            comment=comment,
            origin=(self.origin or told.origin or source.origin)[:_MAX_ORIGIN],
            kind="disk" if kind == "disk" else "partition",
            size=intake.size,
            chunk_size=intake.chunk_size,
            table=found.table if kind == "disk" else None,
            filesystems=found.filesystems,
            extents=None if extents is None else tuple(extents),
            chunks=tuple(intake.names),
        )
        id_ = self.store.commit(manifest, self.tags)
        self.images.append(
            {
                "id": id_,
                "name": name,
                "format": format_,
                "kind": kind,
                "size": intake.size,
                "used": intake.size if extents is None else sum(length for _, length in extents),
                "partitions": len(list(places(manifest.table))) if manifest.table else 0,
                "chunks": len(intake.names),
                "new_chunks": intake.keeper.new_chunks,
                "new_bytes": intake.keeper.new_bytes,
            }
        )

    def _kind(self, source: Source, found: Found, format_: str) -> str:
        wanted = self.kind or source.kind
        if wanted == "disk" and found.is_disk is False:
            raise ForeignError("it is one filesystem without a partition table: import it with --kind partition")
        if found.is_disk is None:
            return wanted or ("partition" if format_ == "partclone" else "disk")
        return wanted or ("disk" if found.is_disk else "partition")
