"""A tree with everything that a file system can hold, and how two trees are compared by somebody else (rsync)."""

import os
import struct
import subprocess
from pathlib import Path

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep, linux/capability.h, v2
NOBODY = 0xFFFFFFFF


def acl(*entries: tuple[int, int, int]) -> bytes:
    """linux/posix_acl_xattr.h: version 2, then tag, permissions, id."""
    return b"\x02\0\0\0" + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ACCESS = acl((1, 6, NOBODY), (2, 7, 1234), (4, 5, NOBODY), (8, 4, 4), (16, 7, NOBODY), (32, 4, NOBODY))
DEFAULT = acl((1, 7, NOBODY), (2, 5, 77), (4, 5, NOBODY), (16, 5, NOBODY), (32, 0, NOBODY))


def make(root: Path) -> None:
    """Owners, modes, ACLs, attributes, capabilities, links, sparse files, devices, names that are no UTF-8."""
    for folder in ("bin", "etc", "home/eva", "proc/1", "tmp", "var/lib", "var/log"):
        (root / folder).mkdir(parents=True)
    (root / "etc/fstab").write_text("UUID=aaaa / ext4 defaults 0 1\n")
    (root / "etc/hostname").write_text("golden\n")
    (root / "proc/1/status").write_text("not of the tree\n")
    (root / "tmp/rubbish").write_bytes(b"r" * 5000)
    (root / "bin/ping").write_bytes(os.urandom(70_000))
    os.setxattr(root / "bin/ping", "security.capability", CAPABILITY)
    (root / "bin/su").write_bytes(b"\x7fELF" + bytes(9000))
    (root / "bin/su").chmod(0o4755)
    (root / "home/eva/letter").write_text("Dear all\n")
    os.chown(root / "home/eva/letter", 1000, 1001)
    os.chown(root / "home/eva", 1000, 1001)
    (root / "home/eva").chmod(0o2750)
    os.link(root / "home/eva/letter", root / "home/eva/copy")
    (root / "home/eva/absolute").symlink_to("/etc/shadow")
    (root / "home/eva/dangling").symlink_to("nowhere")
    os.lchown(root / "home/eva/dangling", 1000, 1001)
    os.setxattr(root / "home/eva/letter", "user.note", bytes(range(256)))
    os.setxattr(root / "home/eva/letter", "system.posix_acl_access", ACCESS)
    os.setxattr(root / "home/eva", "system.posix_acl_default", DEFAULT)
    os.setxattr(root / "home/eva/dangling", "trusted.mark", b"1", follow_symlinks=False)
    with (root / "var/sparse").open("wb") as stream:
        for offset in (0, 7_000_000, 31_999_999):
            stream.seek(offset)
            stream.write(b"x")
    os.mkfifo(root / "var/pipe", 0o620)
    os.mknod(root / "var/null", 0o20666, os.makedev(1, 3))
    os.mknod(root / "var/disk", 0o60600, os.makedev(8, 17))
    name = os.fsencode(root / "var") + b"/\xff\n=odd " + "ü".encode()
    with open(name, "wb") as stream:  # noqa: PTH123 - a name of bytes
        stream.write(b"odd")
    os.utime(name, ns=(1, 1_234_567_890_123_456_789))
    (root / ("var/" + "long" * 60)).mkdir()
    (root / ("var/" + "long" * 60) / ("name" * 60)).write_text("deep")
    os.utime(root / "var", (1_000_000_000, 1_000_000_000))


def differences(one: Path, other: Path, *exclude: str) -> list[str]:
    """What rsync would change in ``other``, by content, owners, modes, times, ACLs, attributes and links."""
    words = ["rsync", "-aHAXnc", "--delete", "--numeric-ids", "--itemize-changes", "--devices", "--specials"]
    words += [*(f"--exclude={name}" for name in ("/lost+found", *exclude)), f"{one}/", f"{other}/"]
    done = subprocess.run(words, check=True, capture_output=True)
    return [line for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
