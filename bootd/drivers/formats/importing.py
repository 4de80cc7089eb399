"""`bootd image import`: an image of another program becomes one of the store."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from bootd.drivers.formats import qemu
from bootd.drivers.formats.disks import choose, import_disk, import_partition
from bootd.drivers.formats.folder import Directory, open_plain, read_files
from bootd.drivers.formats.order import Order, Source
from bootd.drivers.formats.scratch import Scratch
from bootd.drivers.formats.streams import read_stream
from bootd.drivers.images.store import ImageStore
from bootd.drivers.jobs.tell import Result, Tell
from bootd.errors import Exit, OperatorError
from bootd.images.foreign import clonesys, clonezilla, fog
from bootd.images.foreign.clonesys import Description
from bootd.images.foreign.content import LOOK, Content, container
from bootd.images.foreign.errors import ForeignError
from bootd.images.foreign.layout import in_order
from bootd.images.names import parse_reference

_SECTOR = 512
_FIRST_OF_SPLIT = re.compile(r"(.*\.)(?:a{2,5}|0{2,5})\Z")
_LATER_OF_SPLIT = re.compile(r".*-img(?:\.[a-z0-9]+)?\.a[a-z]\Z|.*\.img\.\d{3}\Z")


def import_image(
    tell: Tell,
    *,
    store: str,
    path: str,
    name: str,
    user: str,
    comment: str = "",
    origin: str = "",
    tags: Iterable[str] = (),
    kind: str = "",
    device: str = "",
) -> Result:
    """Store the image in the file or directory ``path``; what it is, is seen in it. ``device`` chooses a disk or
    partition of several. ``images`` of the result tells id, name, size, format and what was new of each."""
    parse_reference(name)
    source = Path(path).absolute()
    images = ImageStore(Path(store))
    order = Order(tell, images, name, user, comment, origin, tuple(tags), kind)
    try:
        if source.is_dir():
            _import_directory(order, Directory(source), device)
        elif device:
            raise OperatorError("--device chooses from a directory", "leave it out for a file", Exit.USAGE)
        else:
            _import_file(order, source, name)
    except ForeignError as error:
        raise OperatorError(f"{path}: {error}", "", Exit.INPUT) from None
    finally:
        images.close()
    return {"images": order.images}


def _import_directory(order: Order, folder: Directory, device: str) -> None:
    if clonezilla.is_clonezilla(folder.names):
        disks, program, whole = clonezilla.read(folder), "clonezilla", clonezilla.is_whole(folder)
    elif fog.is_fog(folder.names):
        disks, program, whole = fog.read(folder), "fog", True
    elif any(clonesys.parse_name(file) for file in folder.names):
        _import_clonesys(order, folder, device)
        return
    else:
        raise ForeignError("no directory of Clonezilla, FOG or CloneSys: name a file in it")
    disk, stream = choose(disks, device, whole=whole)
    if stream is not None:
        import_partition(order, folder, stream, program)
        return
    for note in disk.notes:
        order.tell.note(note)
    import_disk(order, folder, disk, program)


def _import_clonesys(order: Order, folder: Directory, device: str) -> None:
    """All images of a repository, or those of one device; several get its name behind the order's."""
    found = [(file, parsed) for file in sorted(folder.names) if (parsed := clonesys.parse_name(file))]
    chosen = [(file, parsed) for file, parsed in found if device in ("", parsed.device)]
    if not chosen:
        raise ForeignError(f"there is no image of {device} in it")
    order.total = folder.size([file for file, _ in chosen])
    for file, parsed in chosen:
        words = re.sub(r"[^A-Za-z0-9._-]", "-", f"{order.name}-{parsed.device}-{parsed.name}")
        try:
            _import_file(order, folder.path / file, words[:128] if len(chosen) > 1 else order.name)
        except ForeignError as error:
            raise ForeignError(f"{file}: {error}") from None


def _import_file(order: Order, path: Path, name: str) -> None:
    start = b"".join(_take(read_files([path], lambda _: None), LOOK))
    files = _files(path)
    order.total = order.total or sum(file.stat().st_size for file in files)
    expected = sum(file.stat().st_size for file in files)
    if kind := container(start) or _footer(path):
        _import_virtual(order, path, kind, name)
        return
    content = Content(read_stream(files, order.came))
    source = Source(
        content, lambda: content.size, lambda: content.extents, "raw", str(path), expected, content=content
    )
    parsed, source.description = clonesys.parse_name(path.name), _description(path)
    if parsed is not None and source.description is not None:
        source.format, source.kind = "clonesys", "disk" if parsed.is_disk else "partition"
    order.keep(source, name)


def _import_virtual(order: Order, path: Path, kind: str, name: str) -> None:
    size = qemu.examine(path, kind)
    qemu.check(path, kind)
    with Scratch(order.store.directory, size) as scratch:
        qemu.unpack(path, kind, scratch)
        order.came(path.stat().st_size)
        order.keep(Source(scratch.data(0, size), lambda: size, lambda: None, kind, str(path), size), name)


def _footer(path: Path) -> str:
    """A virtual disk of fixed size that only its end tells: the last sector of a VHD."""
    descriptor = open_plain(path)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        is_fixed = end > _SECTOR and os.pread(descriptor, 8, end - _SECTOR) == b"conectix"
        return "vpc" if is_fixed else ""
    finally:
        os.close(descriptor)


def _files(path: Path) -> list[Path]:
    """``path``, with the files that `split` made after it."""
    first = _FIRST_OF_SPLIT.match(path.name)
    if first is None:
        if _LATER_OF_SPLIT.match(path.name):
            raise ForeignError("this is not the first of several parts: name the one that ends in aa or 000")
        return [path]
    names = frozenset(entry.name for entry in path.parent.iterdir() if entry.name.startswith(first[1]))
    return [path.parent / name for name in in_order(names, first[1])]


def _description(path: Path) -> Description | None:
    """What imagedesc.txt of CloneSys says of ``path``: beside it, or where CloneSys has it."""
    if clonesys.parse_name(path.name) is None:
        return None
    for place in (path.parent / "imagedesc.txt", path.parent.parent / "logs" / "imagedesc.txt"):
        if place.is_file() and not place.is_symlink():
            data = b"".join(_take(read_files([place], lambda _: None), clonesys.MAX_DESCRIPTIONS + 1))
            for description in clonesys.parse_descriptions(data):
                if description.file == path.name:
                    return description
    return None


def _take(pieces: Iterable[bytes], least: int) -> Iterator[bytes]:
    """Pieces until there are ``least`` bytes."""
    have = 0
    for piece in pieces:
        yield piece
        have += len(piece)
        if have >= least:
            return
