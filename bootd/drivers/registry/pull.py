"""An image from a registry into the store: only chunks that are not here travel, and all are checked."""

import asyncio
import contextlib
import hashlib
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from bootd.drivers.images.store import ImageStore
from bootd.drivers.registry.client import RegistryClient
from bootd.drivers.registry.transfer import Progress, each
from bootd.errors import Exit, OperatorError
from bootd.images import manifest as manifests
from bootd.images.manifest import NAME, ImageError
from bootd.images.names import parse_reference
from bootd.images.oci import artefact, packs
from bootd.images.oci.packs import PackedChunk, PackFetch, Piece
from bootd.images.oci.reference import RegistryReference
from bootd.wire.digest import Decompressor
from bootd.wire.errors import PeerProtocolError
from bootd.wire.stored import unpack


@dataclass(frozen=True)
class Pulled:
    """``digest`` is the manifest's in the registry; ``tags`` those that the store gave the image, as NAME:TAG."""

    image: str
    reference: str
    digest: str
    tags: list[str]
    fetched_bytes: int
    fetched_chunks: int
    present_chunks: int
    requests: int


class Pull:
    """One image from one reference. `run` once; what it got stays in the store: the next one fetches the rest."""

    def __init__(
        self, store: ImageStore, client: RegistryClient, source: RegistryReference, progress: Progress
    ) -> None:
        self._store, self._client, self._source, self._progress = store, client, source, progress
        self._where = str(source)
        self._fetched_bytes = self._fetched_chunks = 0

    async def run(self, name: str = "") -> Pulled:
        """The image gets its own name, with the tag that it has there; and ``name`` (NAME or NAME:TAG)."""
        named = parse_reference(name) if name else None
        digest, document = await self._manifest()
        config, layer = document.config, document.layers[0]
        if config is None:
            raise artefact.wrong(self._where, "it has no config")
        repository = self._source.repository
        encoded = await self._client.get_document(repository, config.digest, config.size)
        manifest = manifests.parse(encoded)
        id_ = manifests.image_id(encoded)
        if document.annotations.get(artefact.IMAGE_ID, id_) != id_:
            raise artefact.wrong(self._where, "its config is not the image that it says")
        lengths = manifest.lengths()
        missing = await asyncio.to_thread(self._store.missing, lengths)
        if missing:
            data = await self._client.get_document(repository, layer.digest, layer.size)
            index = packs.parse_index(data, document.layers[1:], self._where)
            await self._fetch(missing, index, lengths)
        # An old version that is fetched is not the latest here, unless it is that there.
        tags = [self._source.tag] if NAME.match(self._source.tag) else []
        await asyncio.to_thread(self._store.commit, manifest, tags, latest=False)
        given = [f"{manifest.name}:{tag}" for tag in tags]
        if named is not None:
            await asyncio.to_thread(self._store.tag, id_, str(named))
            given.append(str(named))
        return Pulled(
            id_,
            self._where,
            digest,
            given,
            self._fetched_bytes,
            self._fetched_chunks,
            len(lengths) - len(missing),
            self._client.requests,
        )

    async def _manifest(self) -> tuple[str, artefact.Artefact]:
        found = await self._client.get_manifest(self._source.repository, self._source.target)
        if found is None:
            raise ImageError(f"{self._where} is not in the registry", "check the repository and the tag")
        return found[1], artefact.parse(found[0], self._where)

    async def _fetch(self, missing: Collection[str], index: packs.PackIndex, lengths: dict[str, int]) -> None:
        fetches, absent = packs.plan_fetch(missing, index.packs)
        if absent:
            raise artefact.wrong(self._where, f"{len(absent)} chunks are in none of its packs")
        size = sum(fetch.size for fetch in fetches)
        free = shutil.disk_usage(self._store.directory).free
        if size > free:
            raise OperatorError(
                f"{self._where} needs {size} bytes, {self._store.directory} has room for {free}",
                "free some: bootd image rm NAME:TAG, then bootd image gc",
                Exit.ERROR,
            )
        self._progress.expect(size)

        async def fetch_one(fetch: PackFetch) -> None:
            # Twice: a bit that flipped on the way is not there the second time.
            try:
                await self._fetch_pack(fetch, missing, lengths)
            except ImageError as error:
                self._progress.wait(f"{error.message}; fetched once more")
                await self._fetch_pack(fetch, missing, lengths)

        try:
            await each(fetch_one, fetches)
        finally:
            await asyncio.to_thread(self._store.flush)  # what is here need not come again

    async def _fetch_pack(self, fetch: PackFetch, missing: Collection[str], lengths: dict[str, int]) -> None:
        pack, whole = fetch.pack, hashlib.sha256()
        came = kept = 0
        try:
            for piece in fetch.pieces:
                splitter = _Splitter(piece)
                reading = self._client.read_blob(
                    self._source.repository, pack.digest, pack.size, piece.start, piece.stop
                )
                async with contextlib.aclosing(reading) as parts:
                    async for part in parts:
                        came += len(part)
                        ready = [item for item in splitter.feed(part) if item[0].digest in missing]
                        if ready:
                            kept += await asyncio.to_thread(self._keep, ready, lengths, pack.digest)
                        if fetch.whole:
                            whole.update(part)
                        self._progress.add(len(part))
            if fetch.whole and f"sha256:{whole.hexdigest()}" != pack.digest:
                raise artefact.wrong(self._where, f"blob {pack.digest} has other bytes than its digest says")
        except ImageError:
            self._progress.add(-came)
            raise
        self._fetched_bytes += came
        self._fetched_chunks += kept

    def _keep(self, ready: list[tuple[PackedChunk, bytes]], lengths: dict[str, int], blob: str) -> int:
        """Into the store, which compares each with its digest; how many."""
        for chunk, data in ready:
            try:
                unpack(data, lengths[chunk.digest], Decompressor())
                self._store.put_stored(chunk.digest, data)
            except (PeerProtocolError, ImageError):
                raise artefact.wrong(
                    self._where, f"in blob {blob}, chunk {chunk.digest} is not what its digest says"
                ) from None
        return len(ready)


class _Splitter:
    """Cuts the bytes of a piece into its chunks."""

    def __init__(self, piece: Piece) -> None:
        self._chunks: Iterator[PackedChunk] = iter(piece.chunks)
        self._next = next(self._chunks, None)
        self._held = bytearray()

    def feed(self, part: bytes) -> list[tuple[PackedChunk, bytes]]:
        """The chunks that are whole now."""
        self._held += part
        ready, position = [], 0
        while self._next is not None and len(self._held) - position >= self._next.length:
            stop = position + self._next.length
            ready.append((self._next, bytes(self._held[position:stop])))
            position = stop
            self._next = next(self._chunks, None)
        del self._held[:position]
        return ready
