"""What the store tells about its images, as the API and the command line show it. Sizes in bytes."""

from typing import Any

import msgspec

from bootd.drivers.images.reading import reading
from bootd.drivers.images.store import ImageStore, StoredImage


def list_images(store: ImageStore, name: str = "") -> list[dict[str, Any]]:
    """All images, oldest first; with ``name`` those that were stored under it."""
    return [view(image) for image in store.images() if not name or image.header.name == name]


def view(image: StoredImage) -> dict[str, Any]:
    """One image of a list."""
    header = image.header
    return {
        "id": image.id,
        "name": header.name,
        "tags": list(image.tags),
        "user": header.user,
        "created": header.created,
        "comment": header.comment,
        "origin": header.origin,
        "kind": header.kind,
        "size": header.size,
        "stored": image.stored,
    }


def show(store: ImageStore, reference: str) -> dict[str, Any]:
    """One image with all that its manifest says, but the chunks: those are counted. ``stored_bytes``: what its
    chunks take on the disk, also those that other images share."""
    with reading(store, reference) as (id_, manifest):
        image = next(image for image in store.images() if image.id == id_)
        names = {name for name in manifest.chunks if name}
        stored = missing = 0
        for name in names:
            try:
                stored += store.chunk_path(name).stat().st_size
            except FileNotFoundError:
                missing += 1
        used = manifest.size if manifest.extents is None else sum(length for _, length in manifest.extents)
        return {
            **view(image),
            "sector": manifest.sector,
            "chunk_size": manifest.chunk_size,
            "chunks": len(manifest.chunks),
            "zero_chunks": sum(1 for name in manifest.chunks if not name),
            "distinct_chunks": len(names),
            "missing_chunks": missing,
            "stored_bytes": stored,
            "used_bytes": used,
            "table": manifest.table,
            "filesystems": [
                {name: getattr(item, name) for name in item.__struct_fields__} for item in manifest.filesystems
            ],
            "tree": None if manifest.tree is msgspec.UNSET else manifest.tree,
        }


def history(store: ImageStore, name: str) -> list[dict[str, Any]]:
    """Every version that was stored as ``name``, oldest first, and what each brought beside the one before:
    ``new_chunks``, and ``new_bytes`` of image."""
    before: set[str] = set()
    found = []
    for image in store.images():
        if image.header.name != name:
            continue
        lengths = store.read_manifest(image.id).lengths()
        new = lengths.keys() - before
        line = view(image)
        found.append({**line, "new_chunks": len(new), "new_bytes": sum(lengths[name] for name in new)})
        before = set(lengths)
    return found
