"""A scheme as JSON, for plans and nodes, and the objects that the TOML form consists of too: strict in both.

A scheme decides what is written to a disk, so a key that is not known is refused: it would mean something.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bootd.wire.errors import PeerProtocolError
from bootd.wire.scheme.model import (
    ESP,
    FILL,
    LINUX,
    MAX_PARTITIONS,
    NOTHING,
    SWAP,
    Array,
    Content,
    Group,
    Partition,
    Scheme,
    SchemeError,
    Volume,
)

MAX_SCHEME = 1 << 18  # bytes, encoded
UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d{1,12})(?:\.(\d{1,3}))? ?(?:([KMGT])(?:iB)?)?\Z")
_VERSION = 1
_CONTENT = ("filesystem", "label", "mount", "options", "make")
_KEYS = {
    "partition": {"kind", "size", "type", "logical", "active", "name", "disk", "disks", *_CONTENT},
    "array": {"name", "level", "members", "metadata", *_CONTENT},
    "group": {"name", "members"},
    "volume": {"name", "group", "size", *_CONTENT},
}
Made = TypeVar("Made")


def encode(scheme: Scheme) -> bytes:
    """The same scheme gives the same bytes."""
    value = {"version": _VERSION, **as_object(scheme)}
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def digest(data: bytes) -> str:
    """What a plan is bound to, hex."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes) -> Scheme:
    """The scheme in ``data``; `PeerProtocolError` says what does not fit."""
    if len(data) > MAX_SCHEME:
        raise PeerProtocolError(f"scheme of {len(data)} bytes, at most {MAX_SCHEME} allowed")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PeerProtocolError(f"scheme: {error}") from None
    if not isinstance(value, dict) or value.pop("version", None) != _VERSION:
        raise PeerProtocolError(f"scheme: no object of version {_VERSION}")
    try:
        return of_object(value)
    except SchemeError as error:
        where = f"{error.list_name} {error.index + 1}: " if error.index >= 0 else ""
        raise PeerProtocolError(f"scheme: {where}{error.text}") from None


def as_object(scheme: Scheme) -> dict[str, Any]:
    """What `of_object` reads; what is as usual is left out."""
    value: dict[str, Any] = {"table": scheme.table}
    if scheme.boot_code:
        value["boot_code"] = base64.b64encode(scheme.boot_code).decode()
    value["partition"] = [_partition_object(one) for one in scheme.partitions]
    arrays = [
        {"name": one.name, "level": one.level, "members": list(one.members), "metadata": one.metadata}
        | _content_object(one.content)
        for one in scheme.arrays
    ]
    groups = [{"name": one.name, "members": list(one.members)} for one in scheme.groups]
    volumes = [
        {"name": one.name, "group": one.group, "size": format_size(one.size)} | _content_object(one.content)
        for one in scheme.volumes
    ]
    return value | {
        name: made for name, made in (("array", arrays), ("group", groups), ("volume", volumes)) if made
    }


def _partition_object(one: Partition) -> dict[str, Any]:
    value: dict[str, Any] = {"kind": one.kind, "size": format_size(one.size)}
    for key, text in (("type", one.type), ("name", one.name)):
        if text:
            value[key] = text
    for key, flag in (("logical", one.is_logical), ("active", one.is_active)):
        if flag:
            value[key] = True
    if one.disks != (0,):
        value["disks"] = list(one.disks)
    return value | _content_object(one.content)


def _content_object(content: Content) -> dict[str, Any]:
    value: dict[str, Any] = {key: getattr(content, key) for key in _CONTENT if getattr(content, key)}
    return value | ({"make": list(content.make)} if content.make else {})


def of_object(value: Mapping[str, Any]) -> Scheme:
    """The scheme that an object of JSON or TOML describes. `SchemeError`."""
    unknown = set(value) - {"table", "boot_code", *_KEYS}
    if unknown:
        raise SchemeError(f"{min(unknown)!r} is not known")
    return Scheme(
        partitions=_several(value, "partition", _partition),
        arrays=_several(value, "array", _array),
        groups=_several(value, "group", _group),
        volumes=_several(value, "volume", _volume),
        table=_text(value, "table", "auto"),
        boot_code=_boot_code(value),
    )


def _several(value: Mapping[str, Any], name: str, make: Callable[[Mapping[str, Any]], Made]) -> tuple[Made, ...]:
    found = value.get(name, [])
    if not isinstance(found, list) or len(found) > MAX_PARTITIONS:
        raise SchemeError(f"{name}: a list of at most {MAX_PARTITIONS}")
    made = []
    for index, one in enumerate(found):
        try:
            made.append(make(_known(one, name)))
        except SchemeError as error:
            raise SchemeError(error.text, name, index) from None
    return tuple(made)


def _known(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise SchemeError("it is no table of keys and values")
    unknown = set(value) - _KEYS[name]
    if unknown:
        raise SchemeError(f"{min(unknown)!r} is not known; {name} has {', '.join(sorted(_KEYS[name]))}")
    return value


def _partition(value: Mapping[str, Any]) -> Partition:
    kind = _text(value, "kind", LINUX)
    content = _content(value)
    if kind == SWAP and not content.filesystem:
        content = Content(SWAP, content.label, content.mount, content.options, content.make)
    if kind == ESP and not content.filesystem:
        mount = content.mount or "/boot/efi"
        content = Content("vfat", content.label, mount, content.options or "umask=0077", content.make)
    if "disk" in value and "disks" in value:
        raise SchemeError("disk and disks say the same: one of them")
    disks = value.get("disks", [value.get("disk", 0)])
    if not isinstance(disks, list) or not all(type(one) is int for one in disks):
        raise SchemeError("disks: a list of whole numbers")
    return Partition(
        kind=kind,
        size=_size(value),
        content=content,
        type=_text(value, "type").lower(),
        is_logical=_flag(value, "logical"),
        is_active=_flag(value, "active"),
        name=_text(value, "name"),
        disks=tuple(disks),
    )


def _array(value: Mapping[str, Any]) -> Array:
    members, metadata = _texts(value, "members"), _text(value, "metadata", "1.2")
    return Array(_text(value, "name"), _text(value, "level"), members, _content(value), metadata)


def _group(value: Mapping[str, Any]) -> Group:
    return Group(_text(value, "name"), _texts(value, "members"))


def _volume(value: Mapping[str, Any]) -> Volume:
    return Volume(_text(value, "name"), _text(value, "group"), _size(value), _content(value))


def _content(value: Mapping[str, Any]) -> Content:
    if not any(value.get(key) for key in _CONTENT):
        return NOTHING
    words = (_text(value, "label"), _text(value, "mount"), _text(value, "options"), _texts(value, "make"))
    filesystem = _text(value, "filesystem")
    if not filesystem and words[1] and value.get("kind") not in (SWAP, ESP):
        filesystem = "ext4"
    return Content(filesystem, *words)


def _boot_code(value: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(_text(value, "boot_code"), validate=True)
    except (binascii.Error, ValueError):
        raise SchemeError("boot_code: base64 of at most 446 bytes") from None


def _size(value: Mapping[str, Any]) -> int:
    found = value.get("size")
    if not isinstance(found, str):
        raise SchemeError('size: text, "fill", or how much, as in "20G" or "512M"')
    return parse_size(found)


def format_size(size: int) -> str:
    """As `parse_size` reads it."""
    if size == FILL:
        return "fill"
    return f"{size // UNITS['G']}G" if size % UNITS["G"] == 0 else f"{size // UNITS['M']}M"


def parse_size(text: str) -> int:
    """Bytes of "20G", "512M", "1.5T", "3500" (MiB, as in KA's desc), in whole MiB, or `FILL`. `SchemeError`."""
    if text == "fill":
        return FILL
    found = _SIZE.match(text.strip())
    if found is None:
        raise SchemeError(f"size {text[:40]!r}: say `fill`, or how much, as in `20G`, `1.5T` or `512M`")
    unit = UNITS[found[3] or ""]
    fraction = found[2] or ""
    size = int(found[1]) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
    if size == 0:
        raise SchemeError("a size of 0: say `fill` for what the others leave")
    return -(-size // UNITS["M"]) * UNITS["M"]


def _text(value: Mapping[str, Any], key: str, default: str = "") -> str:
    found = value.get(key, default)
    if not isinstance(found, str) or len(found) > 4096:
        raise SchemeError(f"{key}: text")
    return found


def _texts(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = value.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise SchemeError(f"{key}: a list of texts")
    return tuple(found)


def _flag(value: Mapping[str, Any], key: str) -> bool:
    found = value.get(key, False)
    if not isinstance(found, bool):
        raise SchemeError(f"{key}: true or false")
    return found
