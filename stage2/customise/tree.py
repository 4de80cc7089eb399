"""The tree as input of a stranger: every name in it is looked up as if its top were the root of the system.

The kernel does that (openat2(2), RESOLVE_IN_ROOT, since Linux 5.6): a link to ``/etc/shadow`` or ``../../..`` leads
to the tree's own file. Files are never written in place, so that neither a hard link nor a device node that
somebody left under a name of ours is written through.
"""

import ctypes
import errno
import fnmatch
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_TEXT = 4 << 20  # bytes of a configuration file
MAX_LINKS = 40
_SYS_OPENAT2 = 437  # on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02  # linux/openat2.h
_RESOLVE_IN_ROOT = 0x10


class TreeError(Exception):
    """Something in the tree is not what it must be; the text names it."""


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_LIBC = ctypes.CDLL(None, use_errno=True)


class Tree:
    """Paths are absolute in the tree ("/etc/fstab"). `close` it."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self._top = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._top)

    def __enter__(self) -> "Tree":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading ---------------------------------------------------------------------------------------------

    def read(self, path: str) -> str | None:
        """The text of a file, links followed inside the tree; None when there is none. `TreeError` for others.

        Bytes that are no UTF-8 survive a round trip through `write`.
        """
        try:
            place = self._open(path, os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise TreeError(f"{path}: {error.strerror}") from None
        try:
            state = os.fstat(place)
            # Before it is opened: a watchdog's device node would reset the machine.
            if not stat.S_ISREG(state.st_mode):
                raise TreeError(f"{path} is not a file")
            if state.st_size > MAX_TEXT:
                raise TreeError(f"{path} has {state.st_size} bytes: too many for a file of settings")
            with open(f"/proc/self/fd/{place}", "rb") as stream:
                return stream.read(MAX_TEXT).decode(errors="surrogateescape")
        finally:
            os.close(place)

    def is_file(self, path: str) -> bool:
        return self._kind(path, stat.S_ISREG)

    def is_folder(self, path: str) -> bool:
        return self._kind(path, stat.S_ISDIR)

    def is_program(self, path: str) -> bool:
        state = self._state(path)
        return state is not None and stat.S_ISREG(state.st_mode) and bool(state.st_mode & 0o111)

    def exists(self, path: str) -> bool:
        """Whether there is an entry of that name: a link that leads nowhere counts."""
        try:
            with self._parent(path) as (folder, name):
                os.lstat(name, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def link(self, path: str) -> str | None:
        """What a symbolic link says; None for anything else."""
        try:
            with self._parent(path) as (folder, name):
                return os.readlink(name, dir_fd=folder)
        except OSError:
            return None

    def names(self, folder: str, pattern: str = "*") -> list[str]:
        """Full paths in one folder, sorted; [] when there is no such folder."""
        try:
            descriptor = self._open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return []
        try:
            found = sorted(fnmatch.filter(os.listdir(descriptor), pattern))
        finally:
            os.close(descriptor)
        return [f"{folder.rstrip('/')}/{name}" for name in found]

    def find_link(self, folder: str) -> str:
        """The first part of this path, or the first entry at any depth below it, that is a link; "" when none is.

        For programs that are to write there from outside of the tree.
        """
        path = ""
        for part in folder.strip("/").split("/"):
            path = f"{path}/{part}"
            if self.link(path) is not None:
                return path
        for name in self.names(folder):
            if self.link(name) is not None:
                return name
            if self.is_folder(name):
                below = self.find_link(name)
                if below:
                    return below
        return ""

    # --- writing ---------------------------------------------------------------------------------------------

    def write(self, path: str, text: str, mode: int = 0o644) -> bool:
        """Replace a file by a new one with this text; whether it was another. Owner, mode, attributes are kept.

        A link is followed inside the tree. ``mode`` is for a file that was not there; folders are made.
        """
        data = text.encode(errors="surrogateescape")
        path = self._target(path)
        if self.exists(path) and not self.is_file(path):
            raise TreeError(f"{path} is not a file")
        if self.read(path) == text:
            return False
        self.make_folder(os.path.dirname(path))
        with self._parent(path) as (folder, name):
            self._replace(folder, name, data, mode)
        return True

    def remove(self, path: str) -> bool:
        """Remove a file or a link (itself, not what it leads to); whether there was one. Folders stay."""
        try:
            with self._parent(path) as (folder, name):
                if stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                    return False
                os.unlink(name, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def make_link(self, path: str, target: str) -> bool:
        """Have ``path`` be a link that says ``target``; whether it was not."""
        if self.link(path) == target:
            return False
        self.remove(path)
        with self._parent(path) as (folder, name):
            os.symlink(target, name, dir_fd=folder)
        return True

    def make_folder(self, path: str) -> None:
        """With all folders above it, for root, mode 0755."""
        built = ""
        for part in path.strip("/").split("/"):
            if not part:
                continue
            built = f"{built}/{part}"
            if self.is_folder(built):
                continue
            try:
                with self._parent(built) as (folder, name):
                    os.mkdir(name, 0o755, dir_fd=folder)
            except OSError as error:
                raise TreeError(f"{built} cannot be a folder: {error.strerror}") from None

    def outside(self, path: str) -> str:
        """The path of a folder of the tree as programs outside see it. `TreeError` where a link is on the way."""
        parts = path.strip("/").split("/") if path.strip("/") else []
        for count in range(1, len(parts) + 1):
            part = "/" + "/".join(parts[:count])
            if self.link(part) is not None:
                raise TreeError(f"{part} is a link")
        if not self.is_folder(path or "/"):
            raise TreeError(f"{path} is not a folder")
        return "/".join([self.root.rstrip("/"), *parts]) or "/"

    # --- the kernel's look-up ----------------------------------------------------------------------------------

    def _open(self, path: str, flags: int) -> int:
        how = _How(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        name = os.fsencode(path)
        if b"\0" in name:
            raise TreeError(f"{path!r} is not a name")
        descriptor = _LIBC.syscall(_SYS_OPENAT2, self._top, name, ctypes.byref(how), ctypes.sizeof(how))
        if descriptor < 0:
            number = ctypes.get_errno()
            if number == errno.ENOSYS:
                raise TreeError("this kernel is older than 5.6: it cannot look names up inside a tree")
            raise OSError(number, os.strerror(number), path)
        return int(descriptor)

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """A descriptor of the folder that ``path`` is in, and its last part; links on the way stay inside."""
        folder, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise TreeError(f"{path!r} names no entry of a folder")
        descriptor = self._open(folder or "/", os.O_PATH | os.O_DIRECTORY)
        try:
            yield descriptor, name
        finally:
            os.close(descriptor)

    def _target(self, path: str) -> str:
        """Where ``path`` leads to when its last part is a link, or a link to a link."""
        for _ in range(MAX_LINKS):
            link = self.link(path)
            if link is None:
                return path
            path = link if link.startswith("/") else f"{os.path.dirname(path)}/{link}"
        raise TreeError(f"{path}: too many links")

    def _state(self, path: str) -> os.stat_result | None:
        try:
            descriptor = self._open(path, os.O_PATH)
        except OSError:
            return None
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def _kind(self, path: str, test: Callable[[int], bool]) -> bool:
        state = self._state(path)
        return state is not None and test(state.st_mode)

    @staticmethod
    def _replace(folder: int, name: str, data: bytes, mode: int) -> None:
        """A new file under another name, then its rename, all in one folder."""
        fresh = f".bootd-{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(fresh, flags, 0o600, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                _take_over(folder, name, descriptor, mode)
                os.fsync(descriptor)
            os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(fresh, dir_fd=folder)
            raise


def _take_over(folder: int, name: str, descriptor: int, mode: int) -> None:
    """Owner, mode and extended attributes (ACLs, SELinux' label among them) of the file that is replaced."""
    try:
        old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        os.fchmod(descriptor, mode)
        return
    try:
        state = os.fstat(old)
        os.fchown(descriptor, state.st_uid, state.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(state.st_mode))
        for attribute in os.listxattr(old):
            os.setxattr(descriptor, attribute, os.getxattr(old, attribute))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):  # a file system without them (FAT): nothing to keep
            raise
    finally:
        os.close(old)
