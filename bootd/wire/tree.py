"""A tree of files as an image: what is known beside its archive, and what a node has to do with it.

The archive is one tar stream (POSIX.1-2001 pax with GNU's and SCHILY's keywords: sparse files, ACLs, extended
attributes) of members below ``./``. `Tree` is in the manifest of the image. `TreeOrder` is what a session says of
the disk that the tree goes to; it is fetched by each node, and the plan is bound to its digest.

Encoded: one line of JSON, then the scheme (`bootd.wire.scheme`) as bytes.
"""

import hashlib
import json
import posixpath
from dataclasses import dataclass, replace
from typing import Any

from bootd.wire import headed
from bootd.wire.control import build, plain
from bootd.wire.errors import PeerProtocolError

MAX_ORDER = 1 << 20  # bytes, encoded
MAX_MOUNTS = 256
MAX_PATH = 4096
LOADERS = ("grub", "none")
SWAP = "swap"
_VERSION = 1


@dataclass(frozen=True)
class Mount:
    """A file system of the source, or swap. ``used`` and ``files``: of what is in the archive."""

    path: str  # "/", "/home"; "" = swap
    kind: str  # as blkid calls it
    size: int  # bytes of the file system; 0 = not known
    used: int  # bytes of blocks
    files: int  # inodes
    uuid: str = ""
    label: str = ""
    options: str = ""  # as fstab has them
    partuuid: str = ""
    device: str = ""  # as the source named it


@dataclass(frozen=True)
class Tree:
    """What is known of a tree beside its files."""

    mounts: tuple[Mount, ...]  # by path; swaps last
    firmware: str = ""  # "bios", "uefi", "" = not known
    table: str = ""  # "dos", "gpt", "" = not known
    disk: int = 0  # bytes of the disk that it was on
    exclude: tuple[str, ...] = ()  # folders whose content was left out


@dataclass(frozen=True)
class TreeOrder:
    """What becomes of a disk that gets ``tree``. ``scheme``: encoded (`bootd.wire.scheme`)."""

    tree: Tree
    exclude: tuple[str, ...] = ()  # absolute folders that stay empty
    loader: str = "grub"  # or "none"
    skip: tuple[str, ...] = ()  # steps of customise that are left out
    modules: tuple[str, ...] = ()  # that the initramfs gets beside what is found
    hooks: tuple[tuple[str, ...], ...] = ()  # name and content of scripts to run in the new system
    scheme: bytes = b""


def encode_tree(tree: Tree) -> dict[str, Any]:
    """``tree`` as JSON has it."""
    value: dict[str, Any] = plain(tree)
    return value


def decode_tree(value: Any) -> Tree:
    """The opposite; `PeerProtocolError`."""
    if not isinstance(value, dict):
        raise PeerProtocolError("tree: not an object")
    tree = build(Tree, value, "tree")
    if len(tree.mounts) > MAX_MOUNTS:
        raise PeerProtocolError(f"tree: {len(tree.mounts)} file systems, at most {MAX_MOUNTS}")
    places = [mount.path for mount in tree.mounts if mount.path]
    if "/" not in places or len(set(places)) != len(places):
        raise PeerProtocolError("tree: it has no root, or a place twice")
    for mount in tree.mounts:
        if not mount.path and mount.kind != SWAP:
            raise PeerProtocolError(f"tree: a file system {mount.kind[:40]!r} in no place")
    for path in (*places, *tree.exclude):
        check_folder(path)
    if tree.firmware not in ("", "bios", "uefi") or tree.table not in ("", "dos", "gpt"):
        raise PeerProtocolError("tree: firmware or table of an unknown kind")
    return tree


def check_folder(path: str) -> str:
    """``path`` itself if it is an absolute one without detours; `PeerProtocolError`."""
    plain_text = path.isprintable() and "\0" not in path and len(path) <= MAX_PATH
    if not path.startswith("/") or not plain_text or posixpath.normpath(path) != path or path.startswith("//"):
        raise PeerProtocolError(f"{path[:80]!r} is no absolute folder such as /var/tmp")
    return path


def encode(order: TreeOrder) -> bytes:
    """``order`` as nodes fetch it; the same input gives the same bytes."""
    value = plain(order)
    del value["scheme"]
    header = {"version": _VERSION, "order": value}
    return json.dumps(header, separators=(",", ":"), sort_keys=True).encode() + b"\n" + order.scheme


def digest(data: bytes) -> str:
    """What a plan is bound to, hex."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes) -> TreeOrder:
    """The order in ``data``, with its scheme not looked at; `PeerProtocolError` says what does not fit."""
    value, scheme = headed.split(data, "order for a tree", version=_VERSION, limit=MAX_ORDER)
    inner = value.get("order")
    if not isinstance(inner, dict) or "scheme" in inner:
        raise PeerProtocolError("order for a tree: it has none")
    order = replace(build(TreeOrder, inner, "order"), scheme=scheme)
    decode_tree(inner.get("tree"))
    for path in order.exclude:
        check_folder(path)
    if order.loader not in LOADERS:
        raise PeerProtocolError(f"order for a tree: boot loader {order.loader[:40]!r}")
    if any(len(hook) != 2 for hook in order.hooks):
        raise PeerProtocolError("order for a tree: a script without name and content")
    return order
