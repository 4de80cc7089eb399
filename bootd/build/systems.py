"""Systems for `bootd stage import` and `bootd ramboot`: any folder or image becomes a squashfs that stage1 can mount.

A folder goes through tar, so that owners, device nodes, hard links, extended attributes and capabilities stay what
they are; the same folder gives the same bytes. Modules of bootd's own kernel are added, for that is what runs it.
"""

import hashlib
import os
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from bootd.build.debian import run
from bootd.errors import Exit, OperatorError

INITS = ("/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/bin/init", "/init")
KERNEL_CAN = {1: "gzip", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}  # what Debian's squashfs module decompresses
COMPRESSION = ("-comp", "zstd", "-b", "128K")
MAX_LINKS = 40  # as the kernel's own bound (ELOOP)
_TAR = (
    *("tar", "--create", "--file=-", "--format=posix", "--sort=name", "--one-file-system", "--numeric-owner"),
    *("--xattrs", "--xattrs-include=*"),
    # The same folder must give the same stream: no times of access, no names with a process id in them.
    "--pax-option=delete=atime,delete=ctime,exthdr.name=%d/PaxHeaders/%f",
)
_UNSQUASH = ("unsquashfs", "-quiet", "-no-progress", "-dest")
_SUPERBLOCK = struct.Struct("<5I6H2Q")  # squashfs 4.0, Documentation/filesystems/squashfs.rst of the kernel
_ARCHIVES = (
    *(b"070701", b"070702", b"070707"),  # cpio
    *(b"\x1f\x8b", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"BZh", b"\x04\x22\x4d\x18"),  # gzip, xz, zstd, bzip2, lz4
)

Progress = Callable[[str], None]


class Entry(NamedTuple):
    """A file as `find_init` sees it: ``target`` of a symbolic link, else ""."""

    is_directory: bool
    target: str = ""


Look = Callable[[str], Entry | None]  # path from the root of the system, without the leading slash


# --- first program ---------------------------------------------------------------------------------------


def find_init(look: Look, wanted: str = "") -> str:
    """The path of the first program: ``wanted``, or the first of `INITS`. `OperatorError` when there is none."""
    for path in (wanted,) if wanted else INITS:
        found = resolve(look, path)
        if found is not None and not found.is_directory:
            return path
    if wanted:
        raise OperatorError(f"it has no {wanted}", "name its first program with --init", Exit.INPUT)
    hint = "name its first program with --init"
    raise OperatorError(f"it has none of {', '.join(INITS)}: nothing would run", hint, Exit.INPUT)


def resolve(look: Look, path: str) -> Entry | None:
    """What ``path`` is inside the system when every symbolic link on the way is followed there; None: nothing."""
    left = [part for part in path.split("/") if part not in ("", ".")]
    here: list[str] = []
    entry: Entry | None = Entry(is_directory=True)
    links = 0
    while left:
        part = left.pop(0)
        if part == "..":
            here = here[:-1]
            continue
        entry = look("/".join([*here, part]))
        if entry is None:
            return None
        if entry.target:
            links += 1
            if links > MAX_LINKS:
                return None
            if entry.target.startswith("/"):
                here = []
            left = [piece for piece in entry.target.split("/") if piece not in ("", ".")] + left
            continue
        here.append(part)
        if left and not entry.is_directory:
            return None
    return entry


def in_folder(root: Path) -> Look:
    """`Look` into a folder."""

    def look(path: str) -> Entry | None:
        place = root / path
        try:
            if place.is_symlink():
                return Entry(is_directory=False, target=str(place.readlink()))
            return Entry(is_directory=place.is_dir()) if place.exists() else None
        except OSError:
            return None

    return look


# --- a folder becomes a system ---------------------------------------------------------------------------


class Folder(NamedTuple):
    """What is packed: ``root``, and with it ``extra`` (a path below ``extra_root``, "" = nothing)."""

    root: Path
    extra_root: Path = Path()
    extra: str = ""


def check_folder(root: Path) -> Path:
    """The folder, absolute. `OperatorError` when it is none, or the root of this very machine."""
    real = root.resolve()
    if not real.is_dir():
        raise OperatorError(f"{root} is not a folder", "name the folder that is to be booted", Exit.INPUT)
    if real == Path("/"):
        raise OperatorError("/ is this machine itself", "copy it, or use debootstrap, and name that", Exit.INPUT)
    return real


def digest(folder: Folder) -> str:
    """SHA-256 of all that would be packed, hex."""
    value = hashlib.sha256()
    with _streaming(folder) as stream:
        while piece := stream.read(1 << 20):
            value.update(piece)
    return value.hexdigest()


def pack(folder: Folder, image: Path) -> None:
    """Write ``image``. `OperatorError` says what failed; then there is no image."""
    status = folder.root.stat()
    own = [("-root-mode", f"{status.st_mode & 0o7777:o}"), ("-root-uid", str(status.st_uid))]
    own += [("-root-gid", str(status.st_gid))]
    options = [word for pair in own for word in pair]
    command = ["sqfstar", "-quiet", "-no-progress", "-force", *options, *COMPRESSION, str(image)]
    try:
        latest = newest(folder)
    except OSError as error:
        hint = "nothing may change in the folder meanwhile"
        raise OperatorError(f"{error.filename}: {error.strerror}", hint) from None
    # No time in the image is later than this. sqfstar 4.5 gives its root the present otherwise, whatever it is told.
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(latest)}
    try:
        with _streaming(folder) as stream, tempfile.TemporaryFile() as said:
            try:
                done = subprocess.run(
                    command, stdin=stream, stdout=said, stderr=said, check=False, env=environment
                )
            except OSError as error:
                hint = "apt-get install squashfs-tools"
                raise OperatorError(f"sqfstar: {error.strerror}", hint, Exit.INPUT) from None
            if done.returncode != 0:
                raise OperatorError(f"sqfstar: {_last(said)}", "see its free space and permissions")
    except OperatorError:
        image.unlink(missing_ok=True)
        raise


def newest(folder: Folder) -> int:
    """The latest time of change of anything in it, seconds since the epoch, as squashfs can keep it. OSError."""
    latest = 0
    for top in (folder.root, *([folder.extra_root / folder.extra] if folder.extra else [])):
        device = top.lstat().st_dev
        latest = max(latest, int(top.lstat().st_mtime))
        for place, folders, files in os.walk(top):
            found = [os.lstat(f"{place}/{name}") for name in (*folders, *files)]
            latest = max([latest, *(int(status.st_mtime) for status in found)])
            folders[:] = [name for name, status in zip(folders, found, strict=False) if status.st_dev == device]
    return min(latest, 0xFFFFFFFF)


@contextmanager
def _streaming(folder: Folder) -> Iterator[IO[bytes]]:
    """The folder as a tar stream; `OperatorError` when tar fails, after the reader is done."""
    command = [*_TAR, f"--directory={folder.root}", "."]
    if folder.extra:
        command += [f"--directory={folder.extra_root}", folder.extra]
    with tempfile.TemporaryFile() as said:
        try:
            tar = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
        except OSError as error:
            raise OperatorError(f"tar: {error.strerror}", "apt-get install tar") from None
        with tar:
            stream = cast("IO[bytes]", tar.stdout)
            try:
                yield stream
            finally:
                stream.close()
        # 1: a file changed or vanished while it was read, so what came out is no state that ever was.
        if tar.returncode != 0:
            raise OperatorError(f"tar: {_last(said)}", "nothing may change in the folder meanwhile")


def _last(said: IO[bytes]) -> str:
    said.seek(0)
    lines = [line for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "no reason given"


def with_modules(root: Path, stage2: Path, work: Path) -> Folder:
    """``root`` with the kernel modules of bootd's ``stage2`` image, which are unpacked below ``work``; without, when
    it has them already."""
    target = work / "modules"
    if not stage2.is_file():
        hint = "bootd stage build, or leave the modules out with --no-modules"
        raise OperatorError(f"{stage2} is not there, and kernel modules come from it", hint)
    wanted = ("usr/lib/modules", "lib/modules")
    run([*_UNSQUASH, str(target), str(stage2), *wanted], package="squashfs-tools")
    versions = [path for name in wanted for path in target.glob(f"{name}/*") if path.is_dir()]
    if len(versions) != 1:
        raise OperatorError(f"{stage2} has no kernel modules", "bootd stage build")
    found = versions[0]
    look = in_folder(root)
    merged = look("lib")
    place = PurePosixPath("usr/lib/modules" if merged is not None and merged.target else "lib/modules") / found.name
    if resolve(look, str(place)) is not None:
        return Folder(root)
    tree = work / "tree"
    (tree / place).parent.mkdir(parents=True)
    found.rename(tree / place)
    for parent in (tree / place).relative_to(tree).parents:  # their times are part of the image
        os.utime(tree / parent, (0, 0))
    missing = next(part for part in [*reversed(place.parents), place] if part.name and not (root / part).exists())
    return Folder(root, tree, str(missing))


# --- images of operators ---------------------------------------------------------------------------------


def check_squashfs(image: Path) -> None:
    """`OperatorError` when the kernel of stage1 could not mount it, or it is cut off."""
    with image.open("rb") as stream:
        head = stream.read(_SUPERBLOCK.size)
    if len(head) < _SUPERBLOCK.size or head[:4] != b"hsqs":
        raise OperatorError(f"{image} is no squashfs", "see bootd stage import --help", Exit.INPUT)
    fields = _SUPERBLOCK.unpack(head)
    compressor, major, minor, used = fields[5], fields[9], fields[10], fields[12]
    if (major, minor) != (4, 0):
        hint = "unsquashfs it where it was made, and import that folder with bootd ramboot"
        raise OperatorError(f"{image} is squashfs {major}.{minor}, the kernel reads 4.0", hint, Exit.INPUT)
    if compressor not in KERNEL_CAN:
        known = ", ".join(KERNEL_CAN.values())
        raise OperatorError(f"{image} is compressed with number {compressor}", f"use one of {known}", Exit.INPUT)
    size = image.stat().st_size
    if used > size:
        hint = "it was cut off: copy it again"
        raise OperatorError(f"{image} has {size} bytes, its superblock says {used}", hint, Exit.INPUT)


class Kind(NamedTuple):
    name: str  # for people
    unpack: Callable[[Path, Path], None]  # image, folder to be


def kind_of(image: Path) -> Kind:
    """What an operator's file is. `OperatorError` when it is nothing that can be booted."""
    with image.open("rb") as stream:
        head = stream.read(2048)
        stream.seek(32769)
        iso = stream.read(5)
    if head[:4] == b"hsqs":
        return Kind("squashfs", unpack_squashfs)
    if head[1080:1082] == b"\x53\xef":
        return Kind("ext file system", unpack_ext)
    if iso == b"CD001" or head.startswith(_ARCHIVES) or head[257:262] == b"ustar":
        return Kind("ISO 9660" if iso == b"CD001" else "archive", unpack_archive)
    if b"V2.0 Format" in head[:128]:
        hint = "extract_compressed_fs (cloop-utils) makes an ISO 9660 file of it; import that"
        raise OperatorError(f"{image} is a cloop image (.clp)", hint, Exit.INPUT)
    hint = "a squashfs, a cpio or tar archive, an ISO 9660 file or an ext file system"
    raise OperatorError(f"{image} is nothing that can be imported", hint, Exit.INPUT)


def unpack_squashfs(image: Path, folder: Path) -> None:
    """All of it, so every compressed block is read. `OperatorError`."""
    check_squashfs(image)
    run([*_UNSQUASH, str(folder), str(image)], package="squashfs-tools")


def unpack_archive(image: Path, folder: Path) -> None:
    """cpio, tar, ISO 9660, compressed or not. libarchive keeps what is in it below ``folder``."""
    folder.mkdir()
    command = ["bsdtar", "-x", "-p", "--numeric-owner", "-f", str(image), "-C", str(folder)]
    run(command, package="libarchive-tools")


def unpack_ext(image: Path, folder: Path) -> None:
    """A file system in a file, as the older tools' stage2.img; mounted read-only, its journal left alone."""
    point = folder.with_name(f"{folder.name}-mounted")
    point.mkdir()
    options = "ro,loop,noload,nodev,nosuid"
    run(["mount", "-t", "ext4", "-o", options, str(image), str(point)], package="mount")  # it reads ext2, too
    try:
        run(["cp", "--archive", f"{point}/.", str(folder)], package="coreutils")
    finally:
        run(["umount", str(point)], package="mount")
        point.rmdir()


def copy(image: Path, target: Path) -> None:
    """`OperatorError` when it cannot be copied."""
    run(["cp", "--reflink=auto", str(image), str(target)], package="coreutils")
