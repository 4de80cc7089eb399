"""An image of the store to a registry: only what no image there has travels."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bootd.drivers.images.store import ImageStore
from bootd.drivers.registry.client import RegistryClient
from bootd.drivers.registry.transfer import QUESTIONS, Progress, each
from bootd.errors import Exit, OperatorError
from bootd.images.manifest import ImageError, ImageManifest
from bootd.images.oci import artefact, packs
from bootd.images.oci.packs import Pack, PackedChunk
from bootd.images.oci.reference import RegistryReference
from bootd.wire.digest import Decompressor
from bootd.wire.errors import PeerProtocolError
from bootd.wire.stored import open_stored

NEIGHBOURS = 32  # tags whose packs are looked at, beside the one that is pushed to


@dataclass(frozen=True)
class Pushed:
    """``digest`` is the manifest's in the registry; bytes are those of blobs that were sent."""

    image: str
    reference: str
    digest: str
    sent_bytes: int
    sent_packs: int
    reused_packs: int
    requests: int


class Push:
    """One image on its way to one reference. `run` once."""

    def __init__(
        self,
        store: ImageStore,
        client: RegistryClient,
        target: RegistryReference,
        progress: Progress,
        *,
        mount_from: Sequence[str] = (),
        pack_bytes: int = packs.PACK_BYTES,
    ) -> None:
        """``mount_from``: other repositories of the registry, whose packs are used where it lets us."""
        if target.digest:
            raise OperatorError(f"{target} names a digest", "push to a tag: REPOSITORY:TAG", Exit.USAGE)
        self._store, self._client, self._target, self._progress = store, client, target, progress
        self._mount_from = [target.at_repository(name).repository for name in mount_from]
        self._pack_bytes = pack_bytes
        self._sent_bytes = self._sent_packs = 0

    async def run(self, image: str) -> Pushed:
        """Push the image that ``image`` names in the store. `OperatorError`."""
        repository = self._target.repository
        id_ = await asyncio.to_thread(self._store.resolve, image)
        manifest = await asyncio.to_thread(self._store.read_manifest, id_)
        used, missing = await self._choose(tuple(manifest.lengths()))
        sizes = await asyncio.to_thread(self._sizes, missing)
        self._progress.expect(sum(sizes.values()))
        made: dict[int, Pack] = {}

        async def upload(numbered: tuple[int, list[str]]) -> None:
            number, names = numbered
            made[number] = await self._upload(names)

        await each(upload, enumerate(_groups(missing, sizes, self._pack_bytes)))
        all_packs = [*used, *(made[number] for number in sorted(made))]
        index = packs.encode_index(all_packs)
        config = await asyncio.to_thread(self._store.read_encoded, id_)
        for data in (index, config):
            if await self._client.put_blob(repository, artefact.sha256(data), data):
                self._sent_bytes += len(data)
        document = artefact.build(
            artefact.describe(artefact.CONFIG_TYPE, config),
            artefact.describe(artefact.INDEX_TYPE, index),
            [artefact.Descriptor(artefact.PACK_TYPE, pack.digest, pack.size) for pack in all_packs],
            _annotations(id_, manifest),
        )
        digest = await self._client.put_manifest(repository, self._target.tag, document)
        return Pushed(
            id_,
            str(self._target),
            digest,
            self._sent_bytes,
            self._sent_packs,
            len(used),
            self._client.requests,
        )

    async def _choose(self, needed: Sequence[str]) -> tuple[list[Pack], list[str]]:
        """Packs that the repository has, or is given by the registry, and chunks that are in none."""
        known = {pack.digest: pack for pack in await self._packs_of(self._target.repository, self._target.tag)}
        own = set(known)
        sources: dict[str, str] = {}
        for repository in self._mount_from:
            for pack in await self._packs_of(repository):
                if known.setdefault(pack.digest, pack) is pack:
                    sources[pack.digest] = repository
        sure: set[str] = set()
        while True:
            used, missing = packs.choose_packs(needed, known.values())
            doubtful = [pack for pack in used if pack.digest not in sure]
            if not doubtful:
                return used, missing

            async def ask(pack: Pack) -> None:
                if await self._has(pack, sources.get(pack.digest, "") if pack.digest not in own else ""):
                    sure.add(pack.digest)
                else:
                    del known[pack.digest]

            await each(ask, doubtful, QUESTIONS)

    async def _has(self, pack: Pack, source: str) -> bool:
        """An index may name what has been removed since."""
        repository = self._target.repository
        if await self._client.blob_size(repository, pack.digest) == pack.size:
            return True
        return bool(source) and await self._client.mount_blob(repository, pack.digest, source)

    async def _packs_of(self, repository: str, first: str = "") -> list[Pack]:
        """The packs of the images in a repository, those of ``first`` first. What is no image is passed over."""
        tags = await self._client.list_tags(repository)
        others = [tag for tag in reversed(tags) if tag != first][:NEIGHBOURS]
        found: dict[str, list[Pack]] = {}
        order = [first, *others] if first in tags else others

        async def look(tag: str) -> None:
            with suppress(ImageError):
                found[tag] = await self._packs_of_tag(repository, tag)

        await each(look, order)
        different = {pack.digest: pack for tag in order for pack in found.get(tag, ())}
        return list(different.values())

    async def _packs_of_tag(self, repository: str, tag: str) -> list[Pack]:
        answer = await self._client.get_manifest(repository, tag)
        if answer is None:
            return []
        document = artefact.parse(answer[0], f"{repository}:{tag}")
        layer = document.layers[0]
        if await self._client.blob_size(repository, layer.digest) != layer.size:
            return []
        data = await self._client.get_document(repository, layer.digest, layer.size)
        return list(packs.parse_index(data, document.layers[1:], f"{repository}:{tag}").packs)

    def _sizes(self, names: Iterable[str]) -> dict[str, int]:
        sizes = {}
        for name in names:
            try:
                sizes[name] = self._store.chunk_path(name).stat().st_size
            except OSError:
                sizes[name] = len(self._store.read_stored(name))  # says what is wrong
        return sizes

    async def _upload(self, names: list[str]) -> Pack:
        pack, data = await asyncio.to_thread(self._build, names)
        if await self._client.put_blob(self._target.repository, pack.digest, data, self._progress.add):
            self._sent_packs += 1
            self._sent_bytes += len(data)
        else:
            self._progress.add(len(data))
        return pack

    def _build(self, names: list[str]) -> tuple[Pack, bytearray]:
        """A pack of these chunks. Each is compared with its digest: what is damaged here is not spread."""
        data, chunks, decompressor = bytearray(), [], Decompressor()
        for name in names:
            stored = self._store.read_stored(name)
            try:
                open_stored(stored, bytes.fromhex(name), decompressor)
            except PeerProtocolError:
                raise ImageError(
                    f"chunk {name} is damaged, the image is not pushed",
                    "bootd image verify names what is damaged; bootd image heal mends it from another copy",
                ) from None
            data += stored
            chunks.append(PackedChunk(name, len(stored)))
        return Pack(artefact.sha256(data), len(data), tuple(chunks)), data


def _groups(names: Iterable[str], sizes: Mapping[str, int], pack_bytes: int) -> Iterator[list[str]]:
    """In order, each of ``pack_bytes`` or a little more; so whoever pushes the rest again makes the same packs."""
    group: list[str] = []
    size = 0
    for name in names:
        group.append(name)
        size += sizes[name]
        if size >= pack_bytes:
            yield group
            group, size = [], 0
    if group:
        yield group


def _annotations(id_: str, manifest: ImageManifest) -> dict[str, str]:
    """What other tools show (OCI Image Format Specification 1.1, "Pre-Defined Annotation Keys")."""
    return {
        artefact.IMAGE_ID: id_,
        "org.opencontainers.image.title": manifest.name,
        "org.opencontainers.image.created": manifest.created,
        "org.opencontainers.image.authors": manifest.user,
        "org.opencontainers.image.description": manifest.comment,
    }
