"""An image becomes a raw file."""

import os
from pathlib import Path

from bootd.drivers.images.put import in_order
from bootd.drivers.images.reading import reading
from bootd.drivers.images.store import ImageStore
from bootd.drivers.jobs.tell import Result, Tell
from bootd.errors import Exit, OperatorError
from bootd.wire.digest import Buffer


def get_file(tell: Tell, *, store: str, image: str, path: str) -> Result:
    """Write ``image`` to the new file ``path``, sparse where it is zero; every chunk is compared with its digest.
    The file has its name when it is whole and on the disk."""
    target, images = Path(path), ImageStore(Path(store))
    partial = target.parent / f".{target.name}.{os.getpid()}"
    if target.exists():
        raise OperatorError(f"{path} is there already", "name a new file", Exit.INPUT)
    with reading(images, image) as (id_, manifest):

        def read(index: int) -> Buffer:
            return images.read_chunk(manifest, index) if manifest.chunks[index] else b""

        try:
            with partial.open("xb", buffering=0) as file:
                file.truncate(manifest.size)
                done = 0
                for index, raw in enumerate(in_order(read, range(len(manifest.chunks)))):
                    view, place = memoryview(raw), index * manifest.chunk_size
                    while view:
                        count = os.pwrite(file.fileno(), view, place)
                        view, place = view[count:], place + count
                    done += manifest.length(index)
                    tell.progress(done, manifest.size, "written")
                os.fsync(file.fileno())
            partial.rename(target)
        except OSError as error:
            raise OperatorError(
                f"cannot write {path}: {error.strerror}", "make room, or name another place"
            ) from None
        finally:
            partial.unlink(missing_ok=True)
    return {"id": id_, "path": path, "size": manifest.size}
