"""The proof that a tree on disk is what its archive says: every member is compared, its content by every byte.

GNU tar compares neither extended attributes nor ACLs nor capabilities, so this does it itself, with another reader
of archives than the one that has unpacked them (Python's `tarfile`).
"""

import os
import posixpath
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from typing import BinaryIO

from bootd.member.archive import is_below

PIECE = 1 << 20  # bytes that are compared at once
_XATTR, _ACL = "SCHILY.xattr.", "SCHILY.acl."
_TYPES = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
}


class DifferenceError(Exception):
    """The tree is not what the archive says; the text names the first path and what is different."""


def compare(
    archive: BinaryIO,
    root: str,
    *,
    exclude: Sequence[str] = (),
    simple: Sequence[str] = (),
    tick: Callable[[int], None] = lambda _: None,
) -> int:
    """How many members of ``archive`` are in the tree at ``root``, each as it should be; `DifferenceError`.

    ``exclude``: folders whose content was not unpacked; ``simple``: folders on file systems that know of neither
    owners nor modes (FAT). ``tick`` is told the bytes that are done. What is on the disk is read, not the cache.
    """
    count = 0
    try:
        with tarfile.open(fileobj=archive, mode="r:", encoding="utf-8", errors="surrogateescape") as members:
            for member in members_of(members):
                path = posixpath.normpath(f"/{member.name}")
                if is_below(path, exclude):
                    continue
                try:
                    _compare(member, members, root, path, is_simple=path in simple or is_below(path, simple))
                except OSError as error:
                    raise DifferenceError(f"{path}: {error.strerror or error}") from None
                count += 1
                tick(member.offset_data + member.size)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DifferenceError(f"the archive cannot be read: {error}") from None
    if not count:
        raise DifferenceError("there is nothing in the archive")
    return count


def members_of(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All of them, in order, none remembered: a tree may have millions of files."""
    for member in archive:
        vars(archive)["members"].clear()
        yield member


def _compare(member: tarfile.TarInfo, members: tarfile.TarFile, root: str, path: str, *, is_simple: bool) -> None:
    there = f"{root}{path}"
    found = os.lstat(there)
    if member.islnk():
        other = os.lstat(f"{root}{posixpath.normpath('/' + member.linkname)}")
        if (found.st_dev, found.st_ino) != (other.st_dev, other.st_ino):
            raise DifferenceError(f"{path} is no hard link to {member.linkname}")
        return
    wanted = _TYPES.get(member.type, stat.S_IFREG if member.isreg() else 0)
    if stat.S_IFMT(found.st_mode) != wanted:
        raise DifferenceError(f"{path} is of another kind of file")
    if member.isreg():
        _compare_content(member, members, there, path, found.st_size)
    if is_simple:
        return
    if (found.st_uid, found.st_gid) != (member.uid, member.gid):
        raise DifferenceError(f"{path} belongs to {found.st_uid}:{found.st_gid}, not {member.uid}:{member.gid}")
    if member.issym():
        if os.fsencode(os.readlink(there)) != os.fsencode(member.linkname):
            raise DifferenceError(f"{path} is a link to something else")
    elif stat.S_IMODE(found.st_mode) != member.mode & 0o7777:
        raise DifferenceError(f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, not {member.mode & 0o7777:04o}")
    device = os.makedev(member.devmajor, member.devminor) if member.ischr() or member.isblk() else 0
    if device and found.st_rdev != device:
        raise DifferenceError(f"{path} is another device")
    if member.isreg() and found.st_mtime_ns // 10**9 != _seconds(member):
        raise DifferenceError(f"{path} has another time of change")
    _compare_attributes(member, there, path)


def _seconds(member: tarfile.TarInfo) -> int:
    """Time of change, whole seconds: all that every file system keeps."""
    text = member.pax_headers.get("mtime", "")
    try:
        return int(Decimal(text).to_integral_value("ROUND_FLOOR")) if text else int(member.mtime)
    except InvalidOperation:
        raise DifferenceError(f"{member.name}: the archive has no time of change but {text[:40]!r}") from None


def _compare_content(member: tarfile.TarInfo, members: tarfile.TarFile, there: str, path: str, size: int) -> None:
    if size != member.size:
        raise DifferenceError(f"{path} has {size} bytes, not {member.size}")
    content = members.extractfile(member)
    if content is None:
        raise DifferenceError(f"{path}: the archive has no content")
    descriptor = os.open(there, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOATIME)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # the medium, not what is cached of it
        position = 0
        while wanted := content.read(PIECE):
            if _read(descriptor, len(wanted), position) != wanted:
                raise DifferenceError(f"{path} has another content from byte {position} on")
            position += len(wanted)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    if position != size:
        raise DifferenceError(f"{path}: the archive ends at byte {position} of it")


def _read(descriptor: int, length: int, position: int) -> bytes:
    parts = []
    while length and (part := os.pread(descriptor, length, position)):
        parts.append(part)
        position, length = position + len(part), length - len(part)
    return b"".join(parts)


def _compare_attributes(member: tarfile.TarInfo, there: str, path: str) -> None:
    """Capabilities and ACLs are among them."""
    if any(key.startswith(_ACL) for key in member.pax_headers):
        raise DifferenceError(f"{path}: the archive has an access control list with names in it")
    wanted = {
        key.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
        for key, value in member.pax_headers.items()
        if key.startswith(_XATTR)
    }
    found = {
        name: os.getxattr(there, name, follow_symlinks=False) for name in os.listxattr(there, follow_symlinks=False)
    }
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            how = "lost" if name not in found else "got" if name not in wanted else "another value of"
            raise DifferenceError(f"{path} has {how} the extended attribute {name}")
