"""Reads everything that images are made of, and names what is damaged.

A damaged chunk is put aside in ``damaged/``, so that the next backup that has it, or `heal`, brings a good one.
"""

from collections.abc import Iterable
from pathlib import Path

from bootd.drivers.images.put import in_order
from bootd.drivers.images.store import ImageStore
from bootd.drivers.jobs.tell import Result, Tell
from bootd.images.manifest import ImageError, ImageManifest
from bootd.wire.digest import Decompressor
from bootd.wire.errors import PeerProtocolError
from bootd.wire.stored import open_stored

MAX_NAMED = 20  # damaged chunks that the result names


def verify(tell: Tell, *, store: str, images: Iterable[str] = ()) -> Result:
    """Check ``images``, all without any, manifests and chunks. The result counts ``chunks``, ``bytes`` (stored),
    ``damaged`` and ``missing`` chunks, and names images that cannot be restored whole."""
    held = ImageStore(Path(store))
    ids = [held.resolve(image) for image in images] or sorted(held.ids())
    found: list[tuple[str, ImageManifest]] = []
    broken: dict[str, str] = {}
    for id_ in ids:
        try:
            found.append((id_, held.read_manifest(id_)))
        except ImageError as error:
            broken[id_] = error.message
            tell.note(error.message)
    names = sorted({name for _, manifest in found for name in manifest.chunks if name})
    sizes = check_chunks(tell, held, names)
    bad = {name: reason for name, (_, reason) in sizes.items() if reason}
    for id_, manifest in found:
        hurt = sum(1 for name in manifest.chunks if name in bad)
        if hurt:
            broken[id_] = f"{hurt} of its {len(manifest.chunks)} chunks are damaged or missing"
            tell.note(f"{manifest.name} ({id_[:12]}): {broken[id_]}")
    return {
        "images": len(ids),
        "chunks": len(names),
        "bytes": sum(size for size, _ in sizes.values()),
        "bad": len(bad),
        "bad_chunks": dict(sorted(bad.items())[:MAX_NAMED]),
        "broken": dict(sorted(broken.items())[:MAX_NAMED]),
        "ok": not broken,
    }


def check_chunks(tell: Tell, store: ImageStore, names: list[str]) -> dict[str, tuple[int, str]]:
    """Stored bytes of each chunk, and "" or what is wrong with it."""
    results: dict[str, tuple[int, str]] = {}

    def check(name: str) -> tuple[int, str]:
        return check_chunk(store, name)

    for number, (name, (size, reason)) in enumerate(zip(names, in_order(check, names), strict=True), 1):
        results[name] = size, reason
        if reason:
            tell.note(f"chunk {name}: {reason}")
        tell.progress(number, len(names), "chunks")
    return results


def check_chunk(store: ImageStore, name: str) -> tuple[int, str]:
    """Stored bytes, and "" or what is wrong. One that is damaged is put aside."""
    try:
        data = store.read_stored(name)
    except ImageError as error:
        return 0, error.message.partition(name)[2].strip() or error.message
    try:
        open_stored(data, bytes.fromhex(name), Decompressor())
    except PeerProtocolError as error:
        store.put_aside(name)
        return len(data), f"damaged: {error}"
    return len(data), ""
