"""The manifest of an image: everything about it but the bytes, which are in chunks named by their digests.

An encoded manifest is lines of UTF-8: a JSON object (`Header`), then one line ``OFFSET LENGTH`` for each extent in
use, then one line for each chunk: 64 hexadecimal digits, the BLAKE3-256 of its raw bytes, or nothing for a chunk of
zeros only. There is exactly one encoding of a manifest, and its BLAKE3-256 in hexadecimal digits is the id of the
image. docs/images.md shows it to whoever must read it without bootd.
"""

import re
import unicodedata
from typing import Any, Literal

import msgspec

from bootd.errors import Exit, OperatorError
from bootd.wire import digest
from bootd.wire.errors import PeerProtocolError
from bootd.wire.manifest import MAX_CHUNK_SIZE, MAX_CHUNKS, MIN_CHUNK_SIZE
from bootd.wire.tree import decode_tree

FORMAT = 1
MAX_EXTENTS = 1 << 20
MAX_HEADER = 1 << 20  # bytes
MAX_ENCODED = MAX_HEADER + MAX_EXTENTS * 42 + MAX_CHUNKS * 65
MAX_TEXT = 2000  # characters of a comment; other words are shorter
MAX_WORD = 255
MAX_SIZE = MAX_CHUNKS * MAX_CHUNK_SIZE  # bytes
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_CREATED = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)Z\Z", re.ASCII
)
_SECTORS = (512, 1024, 2048, 4096)
_HINT = "the image is damaged, or a newer bootd made it"

Extents = tuple[tuple[int, int], ...]


class ImageError(OperatorError):
    """An image, or a part of one, that is not what it should be."""

    def __init__(self, message: str, hint: str = _HINT, code: Exit = Exit.INPUT) -> None:
        super().__init__(message, hint, code)


class NoImageError(ImageError):
    """There is none of that name or id."""

    def __init__(self, what: str) -> None:
        super().__init__(f"there is no image {what}", "bootd image list shows those that there are")


class Filesystem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What blkid found. ``start`` and ``size`` in bytes from the begin of the image."""

    start: int
    size: int
    type: str
    label: str = ""
    uuid: str = ""


class _About(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: int = FORMAT
    name: str
    user: str  # who made it
    created: str  # UTC, 2026-01-31T23:59:59Z
    comment: str  # why
    origin: str = ""  # where it is from: a node and its disk, a file, a registry
    kind: Literal["disk", "partition", "files"] = "disk"  # files: an archive (`bootd.wire.tree`)
    size: int  # bytes
    sector: int = 512  # bytes of a logical sector of the device
    chunk_size: int = 1 << 20  # bytes; the last chunk may be shorter
    table: dict[str, Any] | None = None  # "partitiontable" of sfdisk --json; None = there is none
    filesystems: tuple[Filesystem, ...] = ()
    tree: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET  # `bootd.wire.tree.Tree`, of files; else not written


class Header(_About, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first line of a manifest: what a list of images shows."""

    extents: int | None  # how many follow; None = every byte is in use
    chunks: int  # how many follow


class ImageManifest(_About, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A checked manifest, when `encode` or `parse` has seen it.

    ``extents``: (offset, length) in bytes of what is in use, rising, without overlap; all else reads as zeros.
    None: every byte is in use. ``chunks``: hexadecimal digests, "" for a chunk of zeros.
    """

    extents: Extents | None = None
    chunks: tuple[str, ...]

    def length(self, index: int) -> int:
        """Bytes of chunk ``index``; `IndexError` outside the image."""
        if not 0 <= index < len(self.chunks):
            raise IndexError(f"chunk {index} of {len(self.chunks)}")
        return min(self.chunk_size, self.size - index * self.chunk_size)

    def lengths(self) -> dict[str, int]:
        """Raw bytes of each different chunk that is stored, by digest."""
        found = {name: self.chunk_size for name in self.chunks[:-1] if name}
        if self.chunks and self.chunks[-1]:
            found[self.chunks[-1]] = self.length(len(self.chunks) - 1)
        return found


def encode(manifest: ImageManifest) -> bytes:
    """The one encoding of ``manifest``; `ImageError` says what is wrong with it."""
    _check(manifest)
    values = {name: getattr(manifest, name) for name in _About.__struct_fields__}
    extents = None if manifest.extents is None else len(manifest.extents)
    value = Header(**values, extents=extents, chunks=len(manifest.chunks))
    try:
        header = msgspec.json.encode(value, order="deterministic")
        if msgspec.json.encode(msgspec.json.decode(header, type=Header), order="deterministic") != header:
            raise ValueError("it has numbers that JSON does not carry")  # noqa: TRY301 - one way out
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ImageError(f"{name_of(manifest)}: its partition table or tree is none: {error}") from None
    if len(header) > MAX_HEADER:
        raise ImageError(f"manifest whose header has {len(header)} bytes", "its partition table is no table")
    lines = [header]
    lines += [b"%d %d" % extent for extent in manifest.extents or ()]
    lines += [name.encode() for name in manifest.chunks]
    return b"\n".join(lines) + b"\n"


def parse(data: bytes) -> ImageManifest:
    """The manifest in ``data``; `ImageError` for everything that is not exactly one."""
    if len(data) > MAX_ENCODED:
        raise ImageError(f"manifest of {len(data)} bytes")
    line, _, rest = data.partition(b"\n")
    header = parse_header(line)
    wanted = (header.extents or 0) + header.chunks
    lines = rest.split(b"\n", wanted)
    if len(lines) != wanted + 1 or lines.pop():
        raise ImageError(f"manifest of {name_of(header)} has not the {wanted} lines that it announces")
    values = {name: getattr(header, name) for name in _About.__struct_fields__}
    extents = None if header.extents is None else tuple(map(_extent, lines[: header.extents]))
    try:
        chunks = tuple(line.decode("ascii") for line in lines[header.extents or 0 :])
    except UnicodeDecodeError:
        raise ImageError(f"manifest of {name_of(header)} names a chunk in something else than digits") from None
    manifest = ImageManifest(**values, extents=extents, chunks=chunks)
    if encode(manifest) != data:
        raise ImageError(f"manifest of {name_of(header)} is not written as bootd writes it")
    return manifest


def parse_header(line: bytes) -> Header:
    """The first line, without its end; `ImageError`. Only its types are checked."""
    if len(line) > MAX_HEADER:
        raise ImageError(f"manifest whose header has {len(line)} bytes")
    try:
        header = msgspec.json.decode(line, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ImageError(f"not a manifest: {error}") from None
    if header.format != FORMAT:
        raise ImageError(f"manifest of format {header.format}, only {FORMAT} is known here")
    if not 1 <= header.chunks <= MAX_CHUNKS or not 0 <= (header.extents or 0) <= MAX_EXTENTS:
        raise ImageError(f"manifest of {header.chunks} chunks and {header.extents} extents")
    return header


def image_id(encoded: bytes) -> str:
    """The id of the image that ``encoded`` describes."""
    return digest.digest(encoded).hex()


def name_of(manifest: _About) -> str:
    """For errors: who reads them need not see what an attacker wrote."""
    return manifest.name if NAME.match(manifest.name) else "an image without a proper name"


def _extent(line: bytes) -> tuple[int, int]:
    offset, _, length = line.partition(b" ")
    if not (offset.isdigit() and length.isdigit()) or len(line) > 41:
        raise ImageError("manifest with an extent that is no offset and length")
    return int(offset), int(length)


def _check(manifest: ImageManifest) -> None:
    name = name_of(manifest)
    if manifest.format != FORMAT:
        raise ImageError(f"manifest of format {manifest.format}, only {FORMAT} is known here")
    if not NAME.match(manifest.name):
        raise ImageError(
            f"{manifest.name[:200]!r} is no name of an image",
            "1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit",
            Exit.USAGE,
        )
    if not manifest.user.strip() or not manifest.comment.strip():
        raise ImageError(f"{name}: who made this image, and why?", "give a user and a comment", Exit.USAGE)
    if not _CREATED.match(manifest.created):
        raise ImageError(f"{name}: created at {manifest.created[:40]!r}", "a time is 2026-01-31T23:59:59Z (UTC)")
    if not 1 <= manifest.size <= MAX_SIZE:
        raise ImageError(f"{name}: an image of {manifest.size} bytes", f"1 to {MAX_SIZE} are possible")
    if manifest.sector not in _SECTORS:
        raise ImageError(f"{name}: sectors of {manifest.sector} bytes", f"known are {_SECTORS}")
    size = manifest.chunk_size
    if not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE or size & (size - 1):
        raise ImageError(f"{name}: chunks of {size} bytes")
    if len(manifest.chunks) != -(-manifest.size // size) or len(manifest.chunks) > MAX_CHUNKS:
        raise ImageError(f"{name}: {len(manifest.chunks)} chunks of {size} for {manifest.size} bytes")
    for chunk in manifest.chunks:
        if chunk and not DIGEST.match(chunk):
            raise ImageError(f"{name}: {chunk[:70]!r} is no digest of a chunk")
    if (manifest.kind == "files") is (manifest.tree is msgspec.UNSET):
        raise ImageError(f"{name}: an image of files has a tree, and no other one has")
    if manifest.tree is not msgspec.UNSET:
        try:
            decode_tree(manifest.tree)
        except PeerProtocolError as error:
            raise ImageError(f"{name}: {error}") from None
    _check_words(name, manifest)
    _check_extents(name, manifest)


def _check_words(name: str, manifest: ImageManifest) -> None:
    words = [manifest.user, manifest.origin]
    for filesystem in manifest.filesystems:
        words += [filesystem.type, filesystem.label, filesystem.uuid]
        if filesystem.start < 0 or filesystem.size < 0 or filesystem.start + filesystem.size > manifest.size:
            raise ImageError(f"{name}: a file system from {filesystem.start} of {filesystem.size} bytes is outside")
    limits = [(word, MAX_WORD) for word in words] + [(manifest.comment, MAX_TEXT)]
    for word, limit in limits:
        if len(word) > limit:
            raise ImageError(f"{name}: {word[:40]!r}… is too long", f"at most {limit} characters", Exit.USAGE)
        if not is_plain(word):
            raise ImageError(f"{name}: {word[:80]!r} has control characters", "leave them out", Exit.USAGE)


def is_plain(text: str) -> bool:
    """Whether ``text`` is one line that a terminal only shows."""
    return not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)


def _check_extents(name: str, manifest: ImageManifest) -> None:
    if manifest.extents is None:
        return
    if len(manifest.extents) > MAX_EXTENTS:
        raise ImageError(f"{name}: {len(manifest.extents)} extents", f"join them: {MAX_EXTENTS} are possible")
    end = 0
    for offset, length in manifest.extents:
        if length < 1 or offset < end or offset + length > manifest.size:
            raise ImageError(f"{name}: extent {offset} {length} overlaps, is empty or ends outside of the image")
        end = offset + length
