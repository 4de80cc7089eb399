"""Writing an initramfs: the cpio format ``newc``, compressed as the kernel reads it.

The kernel accepts several archives one after the other (Documentation/driver-api/early-userspace/buffer-format),
so the agent is a second, small archive behind the base and a change of it is built in no time.
"""

import stat
from pathlib import Path

import zstandard

_TRAILER = "TRAILER!!!"
_LEVEL = 15


class Archive:
    """One cpio archive in memory. Owner is root, times are zero: equal content gives equal bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0
        self._folders: set[str] = set()

    def add_folder(self, name: str, mode: int = 0o755) -> None:
        """A folder, with the folders above it; nothing happens when it is there already."""
        name = name.strip("/")
        if not name or name in self._folders:
            return
        if "/" in name:
            self.add_folder(name.rpartition("/")[0])
        self._folders.add(name)
        self._entry(name, stat.S_IFDIR | mode, b"")

    def add_file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self.add_folder(name.strip("/").rpartition("/")[0])
        self._entry(name.strip("/"), stat.S_IFREG | mode, data)

    def add_link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self.add_folder(name.strip("/").rpartition("/")[0])
        self._entry(name.strip("/"), stat.S_IFLNK | 0o777, target.encode())

    def add_tree(self, folder: Path) -> None:
        """Everything below ``folder``, with permissions and symbolic links; devices and sockets are passed over."""
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                self.add_link(name, str(path.readlink()))
            elif stat.S_ISDIR(mode):
                self.add_folder(name, stat.S_IMODE(mode))
            elif stat.S_ISREG(mode):
                self.add_file(name, path.read_bytes(), stat.S_IMODE(mode))

    def _entry(self, name: str, mode: int, data: bytes) -> None:
        self._inode += 1
        links = 2 if stat.S_ISDIR(mode) else 1
        encoded = name.encode() + b"\0"
        # magic, inode, mode, uid, gid, links, mtime, size, device and rdevice major and minor, name size, check
        numbers = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + "".join(f"{number:08X}" for number in numbers).encode()
        self._parts += [_padded(header + encoded), _padded(data)]

    def finish(self) -> bytes:
        """The archive with its trailer, padded to 512 bytes."""
        self._inode = -1
        self._entry(_TRAILER, 0, b"")
        raw = b"".join(self._parts)
        return raw + bytes(-len(raw) % 512)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def compress(data: bytes) -> bytes:
    """One zstd frame (the kernel is built with RD_ZSTD), with the length in its header."""
    return zstandard.ZstdCompressor(level=_LEVEL, threads=-1).compress(data)
