"""`bootd image export`: an image of the store becomes a file or directory that other programs read.

It gets its name when it is whole and on the disk. What has that name already is never written over.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zstandard

from bootd.drivers.formats import qemu
from bootd.drivers.formats.describe import places
from bootd.drivers.formats.scratch import Scratch
from bootd.drivers.images.get import get_file
from bootd.drivers.images.put import in_order
from bootd.drivers.images.reading import reading
from bootd.drivers.images.store import ImageStore
from bootd.drivers.jobs.tell import Result, Tell
from bootd.errors import Exit, OperatorError
from bootd.images.foreign import clonezilla_files, tables
from bootd.images.foreign.clonezilla_files import Part
from bootd.images.foreign.errors import ForeignError
from bootd.images.foreign.partclone import Writer
from bootd.images.manifest import ImageManifest
from bootd.member.durable import sync_file, sync_folder

FORMATS = ("raw", "qcow2", "clonezilla", "partclone")
DISK = "sda"  # as Clonezilla is to call it; it restores to any disk
_LEVEL = 3
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_SEVERAL = 4  # chunks at once from which threads are worth it
_HIDDEN = 1 << 20  # bytes behind the boot record, at most
_BOOT_RECORD = 512


def export_image(tell: Tell, *, store: str, image: str, path: str, format_: str) -> Result:
    """Write ``image`` to the new ``path`` in one of `FORMATS`; every chunk is compared with its digest."""
    if format_ not in FORMATS:
        raise OperatorError(f"no format {format_[:20]!r}", f"there are {', '.join(FORMATS)}", Exit.USAGE)
    if format_ == "raw":
        return {**get_file(tell, store=store, image=image, path=path), "format": "raw"}
    images, target = ImageStore(Path(store)), Path(path).absolute()
    write = {"qcow2": _write_qcow2, "clonezilla": _write_clonezilla, "partclone": _write_partclone}[format_]
    try:
        with reading(images, image) as (id_, manifest), _new(target) as partial:
            if manifest.kind == "files":
                raise ForeignError("it is an archive of files (tar)")  # noqa: TRY301 - one way out
            write(_Reader(images, manifest, tell), partial)
    except ForeignError as error:
        raise OperatorError(
            f"{image}: {error}", "bootd image export --format raw takes every image", Exit.INPUT
        ) from None
    except OSError as error:
        hint = (
            "name a place that bootd may write: below /var/lib/bootd"
            if error.errno in _CLOSED
            else "make room there"
        )
        raise OperatorError(f"cannot write {path}: {error.strerror}", hint) from None
    finally:
        images.close()
    return {"id": id_, "path": path, "size": manifest.size, "format": format_}


class _Reader:
    """The bytes of an image, in whatever pieces they are wanted; tells how far it is."""

    def __init__(self, store: ImageStore, manifest: ImageManifest, tell: Tell) -> None:
        self.manifest, self.folder = manifest, store.directory
        self._store, self._tell, self._done = store, tell, 0
        self._last = -1, b""  # a chunk and its number

    def read(self, offset: int, length: int) -> bytes:
        """A small piece; short at the end of the image."""
        end = min(offset + length, self.manifest.size)
        return b"".join(self.pieces(offset, end - offset))

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """``length`` bytes from ``offset`` on."""
        size, end = self.manifest.chunk_size, offset + length
        indexes = range(offset // size, -(-end // size))
        many = len(indexes) > _SEVERAL
        for index, raw in zip(
            indexes, in_order(self._chunk, indexes) if many else map(self._chunk, indexes), strict=True
        ):
            yield raw[max(0, offset - index * size) : end - index * size]

    def _chunk(self, index: int) -> bytes:
        """The last one stays at hand: small pieces follow each other."""
        last = self._last
        if last[0] != index:
            self._last = last = index, bytes(self._store.read_chunk(self.manifest, index))
        return last[1]

    def came(self, count: int, total: int) -> None:
        """``count`` more of ``total`` bytes are written."""
        self._done += count
        self._tell.progress(self._done, total, "written")

    def used(self, start: int, size: int) -> list[tuple[int, int]]:
        """What is in use of the ``size`` bytes from ``start`` on, counted from there."""
        extents = self.manifest.extents
        if extents is None:
            return [(0, size)]
        found = []
        for offset, length in extents:
            begin, end = max(offset, start), min(offset + length, start + size)
            if begin < end:
                found.append((begin - start, end - begin))
        return found


def _write_qcow2(reader: _Reader, target: Path) -> None:
    manifest = reader.manifest
    with Scratch(target.parent, manifest.size) as scratch:
        for index, name in enumerate(manifest.chunks):
            if name:
                offset = index * manifest.chunk_size
                scratch.write(offset, reader.read(offset, manifest.length(index)))
            reader.came(manifest.length(index), manifest.size)
        qemu.pack(scratch, target)
    sync_file(target)


def _write_partclone(reader: _Reader, target: Path) -> None:
    manifest = reader.manifest
    if manifest.kind != "partition":
        raise ForeignError("the image is of a disk, partclone's format is for partitions: --format clonezilla")
    kind = manifest.filesystems[0].type if manifest.filesystems else ""
    _, word = clonezilla_files.names(kind) or ("", "raw")
    _write_partition(reader, target, 0, manifest.size, word)


def _write_clonezilla(reader: _Reader, folder: Path) -> None:
    manifest = reader.manifest
    table = manifest.table
    if (
        manifest.kind != "disk"
        or table is None
        or table.get("label") not in ("dos", "gpt")
        or manifest.sector != 512
    ):
        raise ForeignError(
            "Clonezilla's directories are for disks with a DOS table or a GPT and sectors of 512 bytes"
        )
    folder.mkdir()
    at = {filesystem.start: filesystem for filesystem in manifest.filesystems}
    parts = []
    for number, (start, size) in _numbered(table):
        found = at.get(start)
        words = (found.type, found.uuid, found.label) if found else ("", "", "")
        parts.append(Part(number, start, size, *words))
    with Scratch(reader.folder, manifest.size) as scratch:
        for offset, length in tables.regions(reader.read, manifest.size):
            scratch.write(offset, reader.read(offset, length))
        dump = scratch.run("sfdisk", "--dump", scratch.path)
        text = dump.stdout.decode("utf-8", "replace").replace(f"{scratch.path}p", f"/dev/{DISK}")
        text = text.replace(scratch.path, f"/dev/{DISK}")
    if dump.returncode:
        raise ForeignError("sfdisk does not read the partition table of the image")
    for name, words_ in clonezilla_files.text_files(
        DISK, manifest.size, table["label"], text, tuple(parts)
    ).items():
        (folder / name).write_text(words_)
    for name, data in _records(reader, table, parts).items():
        (folder / name).write_bytes(data)
    for part in parts:
        if part.type == "swap":
            continue
        words_of = clonezilla_files.names(part.type)
        name = f"{DISK}{part.number}.{words_of[0] if words_of else 'dd'}-ptcl-img.zst"
        _write_partition(reader, folder / name, part.start, part.size, words_of[1] if words_of else "")
    for path in folder.iterdir():
        sync_file(path)


def _records(reader: _Reader, table: dict[str, object], parts: list[Part]) -> dict[str, bytes]:
    """Boot record and what else describes the disk, as bytes."""
    size = reader.manifest.size
    first = min((part.start for part in parts), default=_HIDDEN)
    found = {f"{DISK}-mbr": reader.read(0, _BOOT_RECORD)}
    if table["label"] == "gpt":
        tail = min(tables.TAIL, size)
        found |= clonezilla_files.gpt_files(DISK, reader.read(0, tables.HEAD), reader.read(size - tail, tail))
        return found
    found[f"{DISK}-hidden-data-after-mbr"] = reader.read(_BOOT_RECORD, min(first, _HIDDEN) - _BOOT_RECORD)
    for number, (start, _) in _numbered(table, extended=True):
        found[f"{DISK}{number}-ebr"] = reader.read(start, _BOOT_RECORD)
    return found


def _write_partition(reader: _Reader, target: Path, start: int, size: int, word: str) -> None:
    """One partition, compressed with zstd: partclone's format, or its bytes where ``word`` is ""."""
    writer = Writer(word, size, reader.used(start, size)) if word else None
    with target.open("xb") as file:
        packer = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, threads=2).stream_writer(
            file, closefd=False
        )
        with packer:
            total = reader.manifest.size
            if writer is None:
                for piece in reader.pieces(start, size):
                    packer.write(piece)
                    reader.came(len(piece), total)
                return
            packer.write(writer.start())
            for offset, length in writer.extents():
                for piece in reader.pieces(start + offset, length):
                    packer.write(writer.add(piece))
                    reader.came(len(piece), total)
            packer.write(writer.end())


def _numbered(table: dict[str, object], *, extended: bool = False) -> Iterator[tuple[int, tuple[int, int]]]:
    """Number, start and size (bytes) of the partitions that hold data, or of the extended ones."""
    data = set(places(table))
    listed = table.get("partitions")
    for part in listed if isinstance(listed, list) else []:
        place = part["start"] * 512, part["size"] * 512
        digits = str(part["node"])[len(str(part["node"]).rstrip("0123456789")) :]
        if (place in data) is not extended and digits:
            yield int(digits), place


@contextmanager
def _new(target: Path) -> Iterator[Path]:
    """A place beside ``target`` that gets its name when the block ends well, and is gone when it does not."""
    if os.path.lexists(target):
        raise OperatorError(f"{target} is there already", "name a new file or directory", Exit.INPUT)
    partial = target.parent / f".{target.name}.{os.getpid()}"
    try:
        yield partial
        (sync_folder if partial.is_dir() else sync_file)(partial)
        partial.rename(target)
        sync_folder(target.parent)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
