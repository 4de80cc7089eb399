"""Removing images, and chunks that no image is made of any more.

A removal crosses nothing: an image that is read is held (`reading.py`), and an image that comes in gets its name
under the store's lock, having looked that all its chunks are there. A chunk that somebody asked for lately stays.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from bootd.drivers.images import marks
from bootd.drivers.images.reading import alone
from bootd.drivers.images.store import ImageStore, StoredImage
from bootd.drivers.images.times import seconds_of
from bootd.drivers.jobs.tell import Result, Tell
from bootd.errors import Exit, OperatorError
from bootd.images.manifest import DIGEST, NoImageError
from bootd.images.names import LATEST, parse_reference
from bootd.images.retention import GRACE, Candidate, Rule, outdated
from bootd.member.durable import sync_folder, write_file

BATCH = 256  # chunks that are removed while everybody else waits
CLOCK_LAG = 2.0  # seconds: the kernel stamps files by a clock that is a tick behind
_NAMED = 50  # images that a result names


def remove(store: ImageStore, reference: str) -> StoredImage:
    """Remove an image and all that names it. NAME:latest is the newest that is left of its name. `OperatorError`
    (BUSY) while it is read."""
    try:
        return _remove(store, reference)
    except OSError as error:
        raise store.unusable(error) from None


def _remove(store: ImageStore, reference: str) -> StoredImage:
    with store.locked(alone=True):
        id_ = store.resolve(reference)
        images = {image.id: image for image in store.images()}
        image = images.get(id_)
        if image is None:
            raise OperatorError(f"image {id_[:12]} is damaged", "heal it first: bootd image heal", Exit.INPUT)
        with alone(store, id_):
            for name in image.tags:
                _drop(store, name)
            store.manifest_path(id_).unlink()
            sync_folder(store.directory / "manifests")
            marks.drop_of_image(store, id_)
        left = [other for other in images.values() if other.header.name == image.header.name and other.id != id_]
        if left and f"{image.header.name}:{LATEST}" in image.tags:
            folder = store.directory / "refs" / image.header.name
            folder.mkdir(exist_ok=True, mode=0o700)
            write_file(folder / LATEST, f"{left[-1].id}\n".encode())  # they are sorted by age
    return image


def untag(store: ImageStore, reference: str) -> None:
    """NAME:TAG names nothing any more; the image stays."""
    with store.locked(alone=True):
        store.resolve(reference)
        wanted = parse_reference(reference)
        if wanted.tag == LATEST:
            raise OperatorError(f"{wanted} follows what is stored", "remove the image, or leave it", Exit.USAGE)
        _drop(store, str(wanted))


def collect(
    tell: Tell,
    *,
    store: str,
    keep: Mapping[str, tuple[int, float]] | None = None,
    in_use: tuple[str, ...] = (),
    dry_run: bool = False,
    now_too: bool = False,
    clock: Callable[[], float] = time.time,
) -> Result:
    """Remove what the rules do not keep, then chunks of no image.

    ``keep``: (keep_last, keep_days) by name, "" for all others. ``in_use``: ids that stay whatever the rules say.
    ``now_too``: also chunks that somebody asked for within the last day, unless a writer that lives began before
    that. The result counts ``chunks`` and ``bytes``.
    """
    images, now = ImageStore(Path(store)), clock()
    with suppress(OperatorError), images:
        images.missing(())  # takes over what dead writers have left; a full disk has no room for that
    rules = {name: Rule(int(last), float(days)) for name, (last, days) in (keep or {}).items()}
    gone, removed = _retire(tell, images, rules, set(in_use), now, dry_run=dry_run)
    needed = set(_marked(images, gone if dry_run else frozenset()))
    known = set(images.ids())
    before = now - GRACE if not now_too else min([now, *_writers(images)])
    chunks = size = 0
    waste: list[Path] = []
    folders = sorted(path for path in (images.directory / "chunks").iterdir() if path.is_dir())
    for number, folder in enumerate(folders, 1):
        for path in folder.iterdir():
            if bytes.fromhex(folder.name + path.name) not in needed and path.stat().st_mtime < before:
                chunks, size = chunks + 1, size + path.stat().st_blocks * 512
                waste.append(path)
        if not dry_run:
            while waste:
                batch, waste = waste[:BATCH], waste[BATCH:]
                kept = _sweep(images, batch, known, needed, before)
                chunks, size = chunks - len(kept), size - sum(kept)
        tell.progress(number, len(folders), "folders of chunks")
    if not dry_run:
        _forget_damaged(images, needed)
        _forget_drafts(images, now - GRACE)
    return {"dry_run": dry_run, "images": removed, "removed": len(gone), "chunks": chunks, "bytes": size}


def _retire(
    tell: Tell, store: ImageStore, rules: Mapping[str, Rule], in_use: set[str], now: float, *, dry_run: bool
) -> tuple[frozenset[str], list[dict[str, str]]]:
    """Ids of what is removed, and what to say of it."""
    candidates = [
        Candidate(
            image.id,
            image.header.name,
            seconds_of(image.header.created),
            tuple(tag for tag in image.tags if tag != f"{image.header.name}:{LATEST}"),
            image.id in in_use,
        )
        for image in store.images()
    ]
    gone: set[str] = set()
    told: list[dict[str, str]] = []
    for image, why in outdated(candidates, rules, rules.get("", Rule()), now):
        if not dry_run:
            try:
                remove(store, image.id)
            except OperatorError as error:
                tell.note(f"{image.name} {image.id[:12]} stays: {error.message}")
                continue
        gone.add(image.id)
        told.append({"id": image.id, "name": image.name, "why": why})
    return frozenset(gone), told[:_NAMED]


def _marked(store: ImageStore, without: frozenset[str]) -> Iterator[bytes]:
    """Digests of the chunks of all images; `ImageError` for one that is damaged: what it needs is not known."""
    for id_ in store.ids():
        if id_ not in without:
            with suppress(NoImageError):  # removed meanwhile
                for name in store.read_manifest(id_).chunks:
                    if name:
                        yield bytes.fromhex(name)


def _sweep(store: ImageStore, batch: list[Path], known: set[str], needed: set[bytes], before: float) -> list[int]:
    """Remove ``batch``, but what an image that has come in since needs, or somebody has asked for since. Bytes of
    each that stays."""
    kept = []
    with store.locked(alone=True):
        for id_ in set(store.ids()) - known:
            known.add(id_)
            needed |= {bytes.fromhex(name) for name in store.read_manifest(id_).chunks if name}
        for path in batch:
            with suppress(FileNotFoundError):
                status = path.stat()
                if bytes.fromhex(path.parent.name + path.name) in needed or status.st_mtime >= before:
                    kept.append(status.st_blocks * 512)
                else:
                    path.unlink()
    return kept


def _writers(store: ImageStore) -> Iterator[float]:
    """When each writer began that lives, or that left something; seconds since the epoch."""
    for folder in (store.directory / "incoming").iterdir():
        begun = folder.name.partition("-")[0]
        yield float(begun) - CLOCK_LAG if begun.isdigit() else 0.0


def _forget_damaged(store: ImageStore, needed: set[bytes]) -> None:
    """What was put aside and is not needed, or is here again."""
    folder = store.directory / "damaged"
    for path in folder.iterdir() if folder.is_dir() else ():
        is_needed = DIGEST.match(path.name) and bytes.fromhex(path.name) in needed
        if not is_needed or store.chunk_path(path.name).exists():
            path.unlink(missing_ok=True)


def _forget_drafts(store: ImageStore, before: float) -> None:
    """What a writer that was killed had not given its name."""
    for folder in [
        store.directory / "manifests",
        store.directory / marks.FOLDER,
        *(store.directory / "refs").iterdir(),
    ]:
        with suppress(FileNotFoundError):  # its last name was removed meanwhile
            for path in list(folder.glob(".*")):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < before:
                        path.unlink()


def _drop(store: ImageStore, reference: str) -> None:
    wanted = parse_reference(reference)
    folder = store.directory / "refs" / wanted.name
    (folder / wanted.tag).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()  # with its last tag
        return
    sync_folder(folder)
