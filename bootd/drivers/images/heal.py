"""Brings missing and damaged chunks, and manifests, from wherever there is a good copy.

That may be another store, another bootd, or a disk that holds the data. A copy is believed only as far as its
digest agrees, so any source may be asked.
"""

import http.client
import os
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from bootd.drivers.images.store import ImageStore
from bootd.drivers.images.verify import MAX_NAMED
from bootd.drivers.jobs.tell import Result, Tell
from bootd.errors import Exit, OperatorError
from bootd.images import manifest as manifests
from bootd.images.manifest import ImageError, ImageManifest
from bootd.member.durable import write_file
from bootd.wire.digest import Buffer, Decompressor
from bootd.wire.errors import PeerProtocolError
from bootd.wire.manifest import MAX_CHUNK_SIZE
from bootd.wire.stored import open_stored

REQUEST_SECONDS = 60.0
MAX_PATIENCE = 30  # times that a limit of the other side is waited for
MAX_WAIT = 10.0  # seconds each


class Donor(Protocol):
    """Where good copies may be. What it gives is not believed yet."""

    def manifest(self, id_: str) -> bytes | None:
        """An encoded manifest; None when there is none."""

    def chunk(self, name: str, image: ImageManifest, index: int) -> Buffer | None:
        """A chunk as a store keeps it, or raw; ``index``: where ``image`` has it. None when there is none."""


def heal(
    tell: Tell,
    *,
    store: str,
    source: str,
    images: Iterable[str] = (),
    token: str = "",
    authority: str = "",
) -> Result:
    """Mend ``images``, all without any, from ``source``: a store, a raw disk image or device, or the URL of a bootd
    (with ``token``, and ``authority``, a PEM file). What is damaged must have been found by `verify` before."""
    donor = open_donor(source, token, authority)
    with ImageStore(Path(store)) as held:
        mended, left, count = _mend(tell, held, donor, images)
    if left:
        some = ", ".join(name[:16] for name in sorted(left)[:MAX_NAMED])
        raise OperatorError(
            f"{mended} chunks are mended, {len(left)} are not: {some}", "try another source", Exit.PARTLY
        )
    return {"images": count, "mended": mended}


def _mend(tell: Tell, held: ImageStore, donor: Donor, images: Iterable[str]) -> tuple[int, dict[str, str], int]:
    """Chunks that are mended, what is not and why, and how many images were looked at."""
    wanted = [held.resolve(image) for image in images] or sorted(held.ids())
    mended = 0
    left: dict[str, str] = {}
    for id_ in wanted:
        image = _mend_manifest(held, donor, id_)
        if image is None:
            left[id_] = "its manifest is damaged, and the source has not got it"
            continue
        places: dict[str, int] = {}
        for index, name in enumerate(image.chunks):
            if name:
                places.setdefault(name, index)
        missing = sorted(held.missing(places), key=places.__getitem__)
        for number, name in enumerate(missing, 1):
            reason = _mend_chunk(held, donor, image, places[name])
            if reason:
                left[name] = reason
                tell.note(f"chunk {name} of {image.name}: {reason}")
            else:
                mended += 1
                tell.note(f"chunk {name} of {image.name}: mended")
            tell.progress(number, len(missing), image.name)
    return mended, left, len(wanted)


def open_donor(source: str, token: str = "", authority: str = "") -> Donor:
    """Whatever ``source`` names; `OperatorError` when it is nothing that could help."""
    if source.startswith(("http://", "https://")):
        return _Remote(source, token, authority)
    path = Path(source)
    if (path / "chunks").is_dir() and (path / "manifests").is_dir():
        return _Store(path)
    if path.is_dir() or not path.exists():
        raise OperatorError(
            f"{source} is neither a store of images nor a disk image",
            "name a folder of images, a file or a URL",
            Exit.INPUT,
        )
    return _Disk(path)


class _Store:
    """Another store: nothing in it is changed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def manifest(self, id_: str) -> bytes | None:
        return _read(self._path / "manifests" / id_)

    def chunk(self, name: str, _image: ImageManifest, _index: int) -> Buffer | None:
        return _read(self._path / "chunks" / name[:2] / name[2:])


class _Disk:
    """A raw disk, or one like it: the bytes where the image has them."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise OperatorError(
                f"cannot open {path}: {error.strerror}", "name another source", Exit.INPUT
            ) from None

    def manifest(self, _id: str) -> bytes | None:
        return None

    def chunk(self, _name: str, image: ImageManifest, index: int) -> Buffer | None:
        try:
            raw = bytearray(os.pread(self._descriptor, image.length(index), index * image.chunk_size))
        except OSError:
            return None
        _blank_unused(raw, image, index * image.chunk_size)
        return raw


class _Remote:
    """Another bootd's operator interface."""

    def __init__(self, url: str, token: str, authority: str) -> None:
        parts = urlsplit(url)
        if not parts.hostname:
            raise OperatorError(f"{url} names no host", "https://HOST:7469", Exit.USAGE)
        self._url, self._base = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=authority or None)
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=REQUEST_SECONDS, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=REQUEST_SECONDS)

    def manifest(self, id_: str) -> bytes | None:
        return self._get(f"/api/v1/images/{id_}/manifest", manifests.MAX_ENCODED)

    def chunk(self, name: str, _image: ImageManifest, _index: int) -> Buffer | None:
        return self._get(f"/api/v1/chunks/{name}", MAX_CHUNK_SIZE)

    def _get(self, path: str, limit: int) -> bytes | None:
        for _ in range(MAX_PATIENCE):
            response, data = self._ask(path, limit)
            if response.status != 429:
                break
            after = response.headers.get("Retry-After", "")
            time.sleep(min(float(after), MAX_WAIT) if after.isdigit() else 1.0)
        if response.status in (401, 403):
            raise OperatorError(
                f"{self._url} refuses the token", "give one of scope export: --token-file", Exit.REFUSED
            )
        if response.status != 200 or len(data) > limit:
            self._connection.close()
            return None
        return data

    def _ask(self, path: str, limit: int) -> tuple[http.client.HTTPResponse, bytes]:
        """The answer; asked again once, where the other side has closed a connection that was idle."""
        trouble: Exception | None = None
        for _ in range(2):
            try:
                self._connection.request("GET", self._base + path, headers=self._headers)
                response = self._connection.getresponse()
                return response, response.read(limit + 1)
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                trouble = error
                if not isinstance(error, ConnectionError):
                    break
        raise OperatorError(f"{self._url} does not answer: {trouble}", "is [api] enabled there?", Exit.UNREACHABLE)


def _mend_manifest(store: ImageStore, donor: Donor, id_: str) -> ImageManifest | None:
    """The manifest of the image, from here or from there; None when there is no good one."""
    try:
        return store.read_manifest(id_)
    except ImageError:
        pass
    encoded = donor.manifest(id_)
    if encoded is None or manifests.image_id(encoded) != id_:
        return None
    image = manifests.parse(encoded)
    with store.locked(alone=True):
        write_file(store.manifest_path(id_), encoded)
    return image


def _mend_chunk(store: ImageStore, donor: Donor, image: ImageManifest, index: int) -> str:
    """ "" when the chunk is here again, else why not."""
    name = image.chunks[index]
    data = donor.chunk(name, image, index)
    if data is None:
        return "the source has not got it"
    try:
        raw = open_stored(data, bytes.fromhex(name), Decompressor())
    except PeerProtocolError:
        return "the source has other bytes there"
    store.put_chunk(name, raw)
    return ""


def _blank_unused(raw: bytearray, image: ImageManifest, start: int) -> None:
    """What the image does not count as in use is zeros in it, whatever the disk holds there."""
    if image.extents is None:
        return
    position, end = start, start + len(raw)
    for offset, length in image.extents:
        if offset + length <= position:
            continue
        if offset >= end:
            break
        if offset > position:
            raw[position - start : offset - start] = bytes(offset - position)
        position = min(end, offset + length)
    raw[position - start :] = bytes(end - position)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
