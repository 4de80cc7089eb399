"""An image as a registry has it: an OCI image manifest (OCI Image Format Specification 1.1) with these blobs.

- config: the image's own manifest, byte for byte;
- first layer: the index, which says where in the packs each chunk is (`packs.py`);
- all other layers: the packs that the image needs.

`artifactType` says what it is, so does the config's media type to registries that are older than that field.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence

import msgspec

from bootd.images.manifest import ImageError

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTEFACT_TYPE = "application/vnd.bootd.image.v1"
CONFIG_TYPE = "application/vnd.bootd.image.manifest.v1"
INDEX_TYPE = "application/vnd.bootd.image.index.v1+json"
PACK_TYPE = "application/vnd.bootd.image.pack.v1"
MAX_MANIFEST = 4 << 20  # bytes; registries are asked to take so much (OCI Distribution Specification 1.1)
MAX_DOCUMENT = 1 << 30  # bytes of a config or an index
IMAGE_ID = "dev.bootd.image.id"  # annotation

_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One blob: ``size`` in bytes, ``digest`` as ``sha256:HEX``."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}


class Artefact(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The manifest that a registry gives a tag to."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] = {}


def sha256(data: bytes | bytearray | memoryview) -> str:
    """``sha256:HEX`` of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def describe(media_type: str, data: bytes) -> Descriptor:
    """The descriptor of a blob."""
    return Descriptor(media_type, sha256(data), len(data))


def build(
    config: Descriptor, index: Descriptor, packs: Sequence[Descriptor], annotations: Mapping[str, str]
) -> bytes:
    """The manifest of an image. `ImageError` when it has so many packs that registries would not take it."""
    artefact = Artefact(2, MANIFEST_TYPE, ARTEFACT_TYPE, config, (index, *packs), dict(sorted(annotations.items())))
    data = msgspec.json.encode(artefact)
    if len(data) > MAX_MANIFEST:
        raise ImageError(
            f"the image has {len(packs)} packs: its manifest would be larger than the {MAX_MANIFEST} bytes that"
            " registries take",
            "push it to an empty repository, where it needs fewer",
        )
    return data


def parse(data: bytes, where: str) -> Artefact:
    """The manifest of an image of ours, checked. `ImageError` that names ``where`` for anything else."""
    try:
        artefact = msgspec.json.decode(data, type=Artefact)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise wrong(where, f"its manifest cannot be read: {error}") from None
    config, layers = artefact.config, artefact.layers
    kind = artefact.artifact_type or (config.media_type if config else "") or artefact.media_type or "nothing known"
    if artefact.schema_version != 2 or config is None or config.media_type != CONFIG_TYPE:
        raise ImageError(
            f"{where} is no image of bootd: it is {kind[:100]!r}",
            "container images and other artefacts cannot be deployed; bootd image push makes what can",
        )
    if not layers or layers[0].media_type != INDEX_TYPE:
        raise wrong(where, "its first layer is no index")
    for item in (config, *layers):
        if not _DIGEST.fullmatch(item.digest) or item.size < 0:
            raise wrong(where, f"its manifest names a blob by {item.digest[:80]!r} of {item.size} bytes")
    for item in layers[1:]:
        if item.media_type != PACK_TYPE:
            raise wrong(where, f"it has a layer of the unknown type {item.media_type[:100]!r}")
    for item in (config, layers[0]):
        if item.size > MAX_DOCUMENT:
            raise wrong(where, f"{item.digest} would have {item.size} bytes")
    return artefact


def wrong(where: str, why: str) -> ImageError:
    """What is in a registry is not what it must be."""
    return ImageError(f"{where}: {why}", "push the image again from where it is whole")
