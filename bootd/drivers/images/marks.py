"""Marks of the chunks of backups (`bootd.wire.marks`), beside the images: ``marks/NODE-SOURCE``.

One file for each source that was read of a node: a header, then the marks of the chunks of its latest image. What a
mark stands for is in that image's manifest, so without the image there is nothing to know. A file that is missing,
damaged or of another image means that everything is read.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from bootd.drivers.images.store import ImageStore
from bootd.errors import OperatorError
from bootd.images.manifest import ImageManifest
from bootd.member.durable import write_file
from bootd.wire import headed, marks
from bootd.wire.captured import MAX_SIZE
from bootd.wire.digest import digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.marks import MARK_SIZE, NONE, Clock

log = structlog.get_logger(__name__)

FOLDER = "marks"
_VERSION = 1
_MAX_HEADER = 1 << 20  # bytes
_MAX_FILE = _MAX_HEADER + (MAX_SIZE >> 20) * MARK_SIZE


@dataclass(frozen=True)
class Kept:
    """Of the latest image of a source. ``marks``: of its chunks, joined; ``clocks``: by UUID of a file system."""

    manifest: ImageManifest
    marks: bytes
    clocks: Mapping[str, Clock]

    def names(self, first: int, told: Sequence[bytes]) -> list[str | None]:
        """The names of the chunks from ``first`` on ("" for one of zeros) that have the marks that are told now,
        None for the others."""
        found: list[str | None] = []
        for index, mark in enumerate(told, first):
            own = self.marks[index * MARK_SIZE : (index + 1) * MARK_SIZE]
            found.append(self.manifest.chunks[index] if mark == own != NONE else None)
        return found

    def is_older(self, clocks: Mapping[str, Clock]) -> bool:
        """Whether all file systems have gone on from where they were: none was mounted by a clock that had gone
        back, for then new times may be those that old ones were."""
        for uuid, clock in clocks.items():
            then = self.clocks.get(uuid)
            if then is not None and clock != then and clock.mounted < then.written:
                return False
        return True


def load(store: ImageStore, node: str, source: str, size: int, chunk: int) -> Kept | None:
    """Of the latest image of ``source`` of the node; None when there is none that fits, or its file is damaged."""
    path = _path(store, node, source)
    try:
        header, content = headed.split(path.read_bytes(), "marks", version=_VERSION, limit=_MAX_FILE)
        id_ = header.get("image")
        if (
            not isinstance(id_, str)
            or header.get("source") != source
            or header.get("digest") != _digest(header, content)
        ):
            raise PeerProtocolError("marks: not those of this source, or damaged")  # noqa: TRY301 - one end for all
        manifest = store.read_manifest(id_)
        if (manifest.size, manifest.chunk_size) != (size, chunk) or len(content) != len(
            manifest.chunks
        ) * MARK_SIZE:
            raise PeerProtocolError("marks: of an image of another size")  # noqa: TRY301
        return Kept(manifest, content, marks.read_clocks(header.get("clocks")))
    except FileNotFoundError:
        return None
    except (PeerProtocolError, OperatorError, OSError) as error:
        log.warning("marks are of no use", path=str(path), error=str(error))
        return None


def keep(
    store: ImageStore, node: str, source: str, *, image: str, told: bytes, clocks: Mapping[str, Clock]
) -> None:
    """In the place of those that were kept of ``source`` before. `OperatorError` when the disk is full."""
    header = {
        "version": _VERSION,
        "image": image,
        "source": source,
        "clocks": {key: [clock.mounted, clock.written] for key, clock in clocks.items()},
    }
    header["digest"] = _digest(header, told)
    path = _path(store, node, source)
    try:
        path.parent.mkdir(exist_ok=True, mode=0o700)
        write_file(path, json.dumps(header, separators=(",", ":")).encode() + b"\n" + told)
    except OSError as error:
        raise store.unusable(error) from None


def drop(store: ImageStore, node: str, source: str = "") -> None:
    """What is kept of ``source`` of the node; "" = of all its sources."""
    paths = [_path(store, node, source)] if source else _of_node(store, node)
    for path in paths:
        path.unlink(missing_ok=True)


def drop_of_image(store: ImageStore, image: str) -> None:
    """The image is removed."""
    folder = store.directory / FOLDER
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError, ValueError), path.open("rb") as stream:
            if json.loads(stream.readline(_MAX_HEADER)).get("image") == image:
                path.unlink()


def _path(store: ImageStore, node: str, source: str) -> Path:
    return store.directory / FOLDER / f"{_word(node)}-{hashlib.sha256(source.encode()).hexdigest()[:24]}"


def _of_node(store: ImageStore, node: str) -> list[Path]:
    folder = store.directory / FOLDER
    return list(folder.glob(f"{_word(node)}-*")) if folder.is_dir() else []


def _word(node: str) -> str:
    return "".join(character for character in node.lower() if character.isalnum())


def _digest(header: Mapping[str, object], content: bytes) -> str:
    """Over all of the header but the digest itself, and the marks."""
    told = {key: value for key, value in header.items() if key != "digest"}
    return digest(json.dumps(told, sort_keys=True).encode() + b"\n" + content).hex()
