"""Trees of files as sources: which disk one goes to, whether it fits there, what its layout is made of. Pure."""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bootd.session.effects import FilesOrder
from bootd.session.locks import choose_unlocked, unlocked
from bootd.session.selector import Refusal, Selector, choose_all
from bootd.wire import tree as trees
from bootd.wire.control import Disk, Join, Lock
from bootd.wire.errors import PeerProtocolError
from bootd.wire.scheme import desc, encoding
from bootd.wire.scheme.fitting import Fitted, Misfit, fit, sizes
from bootd.wire.scheme.model import FILESYSTEMS, FILL, LINUX, MIB, SWAP, Content, Partition, Scheme, SchemeError
from bootd.wire.targets import content
from bootd.wire.tree import Tree, TreeOrder

ANY_DISK = "*"  # of `FilesOrder.erase`: only for a look at what would be erased
SPARE = 5  # one in so many bytes of a derived file system is left free
DEFAULT = "ext4"  # where the source does not tell
_BOOT_FIRMWARE = ("/boot/efi", "/efi")  # of the machine, not of the system: the layout brings its own
_NUMBER = re.compile(r"/dev/(?:[a-z]*[a-z]|[a-z][a-z0-9]*\d+p)(\d{1,3})\Z")


class TreeError(Exception):
    """The tree cannot be put onto this layout; the text says why and what to do."""


def identity(disk: Disk) -> str:
    """How an operator names a disk that may be erased."""
    return disk.serial or disk.wwn or disk.name


def protection(files: FilesOrder, disks: Sequence[Disk]) -> tuple[Lock, ...]:
    """Locks for the disks of a node that the operator has excluded; one that bears no identity locks all."""
    found = []
    for disk in disks:
        if {disk.serial, disk.wwn, disk.name} & set(files.protect) - {""}:
            found.append(Lock(disk.serial or disk.wwn, 0, "", "this session", "--protect-disk"))
    return tuple(found)


def choose_disks(
    join: Join,
    selectors: Sequence[Selector],
    files: FilesOrder,
    locks: Sequence[Lock],
    *,
    size: int,
    written: Sequence[Disk] = (),
) -> tuple[Disk, ...] | Refusal:
    """The disks that get the tree, in the order of the layout. There is no second choice: all of them or none.

    ``selectors``: one for each disk, or one for all (`Selector.all_of`). ``size``: bytes of the archive;
    ``written``: disks that this session has begun to write already.
    """
    locks = (*locks, *protection(files, join.disks))
    try:
        scheme = scheme_in(files)
    except PeerProtocolError as error:
        return Refusal(str(error))
    disks = _choose_each(join.disks, selectors, scheme, locks)
    if isinstance(disks, Refusal):
        return disks
    why_not = _confused(disks) or ("" if sum(disk.size for disk in disks) >= size else _too_small(disks, size))
    if why_not:
        return Refusal(why_not)
    for disk in disks:
        is_written = any((identity(one), one.size) == (identity(disk), disk.size) for one in written)
        what = content(disk)
        if what and not is_written and not {ANY_DISK, identity(disk)} & set(files.erase):
            return Refusal(f"{disk.name} is not empty: {what}; it is erased only when that is confirmed in words")
    found = fitted(files, disks, join.firmware)
    return found if isinstance(found, Refusal) else disks


def _choose_each(
    disks: Sequence[Disk], selectors: Sequence[Selector], scheme: Scheme, locks: Sequence[Lock]
) -> tuple[Disk, ...] | Refusal:
    if selectors[0].all_of:
        found = choose_all(disks, selectors[0], scheme.disks)
        choices: list[Disk | Refusal] = [found] if isinstance(found, Refusal) else [*found]
        choices = [unlocked(one, disks, locks) for one in choices]
    else:
        choices = [choose_unlocked(disks, selector, 0, locks) for selector in selectors]
    refused = next((one for one in choices if isinstance(one, Refusal)), None)
    return refused or tuple(one for one in choices if isinstance(one, Disk))


def _confused(disks: Sequence[Disk]) -> str:
    """Why several disks cannot be told from one another for sure; "" when they can, or there is one."""
    if len(disks) < 2:
        return ""
    for disk in disks:
        if not disk.serial and not disk.wwn:
            return f"{disk.name} has no serial and no WWN: it cannot be one of several disks of a layout"
    names = [identity(disk) for disk in disks]
    twice = next((disk for disk in disks if names.count(identity(disk)) > 1), None)
    if twice is None:
        return ""
    same = [disk.name for disk in disks if identity(disk) == identity(twice)]
    if len(set(same)) == 1:
        return f"{twice.name} is chosen twice: each disk of a layout is another one"
    return f"{' and '.join(same)} have one serial, {identity(twice)}: they cannot be told from one another"


def _too_small(disks: Sequence[Disk], size: int) -> str:
    names = ", ".join(disk.name for disk in disks)
    return f"{names}: {sum(disk.size for disk in disks)} bytes, smaller than the image of {size}"


def scheme_in(files: FilesOrder) -> Scheme:
    """The layout of an order. `PeerProtocolError`."""
    return encoding.decode(trees.decode(files.document.encode()).scheme)


def treats_alike(scheme: Scheme) -> bool:
    """Whether its disks may be put in any order: each has the same partitions."""
    return all(set(one.disks) == set(range(scheme.disks)) for one in scheme.partitions)


def fitted(files: FilesOrder, disks: Sequence[Disk], firmware: str) -> Fitted | Refusal:
    """The scheme on these disks, with room for the tree."""
    try:
        order = trees.decode(files.document.encode())
        scheme = encoding.decode(order.scheme)
    except PeerProtocolError as error:
        return Refusal(str(error))
    found = fit(scheme, disks, firmware)
    names = ", ".join(disk.name for disk in disks)
    if isinstance(found, Misfit):
        return Refusal(f"{names}: {found.reason}")
    places = {one.mount: size for _, size, one in sizes(found) if one.mount}
    need = dict.fromkeys(places, 0)
    for mount in order.tree.mounts:
        if mount.path:
            need[place_of(mount.path, list(places))] += mount.used
    for place, size in places.items():
        if need[place] > size:
            return Refusal(f"{names}: {place} would have {size} bytes, what goes there takes {need[place]}")
    return found


def view(found: Fitted) -> list[dict[str, Any]]:
    """What would be made, for cards: bytes."""
    return [
        {
            "what": what,
            "size": size,
            "filesystem": one.filesystem,
            "mount": one.mount,
            "label": one.label,
        }
        for what, size, one in sizes(found)
    ]


def place_of(path: str, mounts: Sequence[str]) -> str:
    """The one of ``mounts`` that ``path`` lies in; there is always "/"."""
    inside = [mount for mount in mounts if mount in ("/", path) or path.startswith(f"{mount}/")]
    return max(inside, key=len)


def scheme_of(tree: Tree) -> Scheme:
    """A layout like that of the source, for a disk of any size: the file system with most in it takes what is left,
    the others stay as large as they were. `TreeError`."""
    partitions = []
    mounts = [one for one in tree.mounts if one.path and one.path not in _BOOT_FIRMWARE]
    largest = max(mounts, key=lambda one: (one.size, one.used)).path
    for mount in sorted(mounts, key=lambda one: (one.path == largest, one.path)):
        least = mount.used + mount.used // SPARE + 64 * MIB
        size = FILL if mount.path == largest else -(-max(mount.size, least) // MIB) * MIB
        kind = mount.kind if mount.kind in FILESYSTEMS and mount.kind != SWAP else DEFAULT
        partitions.append(Partition(LINUX, size, Content(kind, _label(kind, mount.label), mount.path)))
    for mount in tree.mounts:
        if not mount.path and mount.size >= MIB:
            swap = Partition(SWAP, mount.size // MIB * MIB, Content(SWAP, _label(SWAP, mount.label)))
            partitions.insert(len(partitions) - 1, swap)
    try:
        return Scheme(tuple(partitions))
    except SchemeError as error:
        raise TreeError(f"no layout can be derived from the source: {error}; write one") from None


def _label(kind: str, label: str) -> str:
    return label if len(label) <= FILESYSTEMS[kind][0] and label.isascii() and label.isprintable() else ""


def with_mounts(scheme: Scheme, tree: Tree) -> Scheme:
    """``scheme`` with a place and a file system for each partition. A desc file of KA says neither: there they are
    those of the source's partition of the same number. `TreeError`."""
    if any(one.mount == "/" for one in scheme.contents):
        return scheme
    if any(one.mount and one.filesystem != "vfat" for one in scheme.contents):
        raise TreeError('the layout mounts nothing at /: say mount = "/" of one of its file systems')
    known = {
        number: Content(one.kind if one.kind in FILESYSTEMS else DEFAULT, "", one.path)
        for one in tree.mounts
        if one.path and one.kind != SWAP and (number := _number(one.device))
    }
    made = desc.completed(scheme, known)
    linux = [index for index, one in enumerate(made.partitions) if one.kind == LINUX]
    partitions = list(made.partitions)
    if not any(one.content.mount == "/" for one in partitions):
        if len(linux) != 1:
            raise TreeError("which partition of the layout / is cannot be told from the source: say it with TOML")
        content = partitions[linux[0]].content
        root = replace(content, filesystem=content.filesystem or DEFAULT, mount="/")
        partitions[linux[0]] = replace(partitions[linux[0]], content=root)
    for index in linux:
        if not partitions[index].content.filesystem:
            partitions[index] = replace(partitions[index], content=Content(DEFAULT))
    return replace(scheme, partitions=tuple(partitions))


def _number(device: str) -> int:
    """Of the partition that the source named so; 0 = none."""
    match = _NUMBER.match(device)
    return int(match[1]) if match else 0


def make_order(
    tree: Tree,
    scheme: Scheme,
    layout: str,
    *,
    exclude: Sequence[str] = (),
    loader: str = "grub",
    modules: Sequence[str] = (),
    skip: Sequence[str] = (),
    erase: Sequence[str] = (),
    protect: Sequence[str] = (),
    hooks: Sequence[tuple[str, ...]] = (),
) -> FilesOrder:
    """All that a session needs beside its source. `TreeError` when something of it makes no sense."""
    order = TreeOrder(
        tree=tree,
        exclude=tuple(posixpath.normpath(path) for path in exclude),
        loader=loader,
        modules=tuple(modules),
        skip=tuple(skip),
        hooks=tuple(hooks),
        scheme=encoding.encode(with_mounts(scheme, tree)),
    )
    data = trees.encode(order)
    try:
        trees.decode(data)
    except PeerProtocolError as error:
        raise TreeError(str(error)) from None
    return FilesOrder(data.decode(), trees.digest(data), layout, tuple(erase), tuple(protect))
