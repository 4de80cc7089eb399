"""The golden system: a small initrd that finds the root by UUID, and a BusyBox root with a login prompt.

The root is mounted read-only and never written (``noload``: not even its journal is replayed), with tmpfs where
programs write, so that a cloned disk can be compared with the golden image byte for byte after it has booted.
"""

import hashlib
import os
import random
import shutil
import stat
import struct
import subprocess
from pathlib import Path

from bootd.build.initramfs import Archive, compress
from tests.lab.errors import LabError

HOST = "golden"
USER = "root"
PASSWORD = "golden"
BLOCK = 4096

# In this order: a disk that needs none of the second row never loads it.
FIRST_MODULES = ("ext4", "crc32c_generic", "virtio_pci", "virtio_blk")
MORE_MODULES = ("ahci", "sd_mod", "ata_piix", "ata_generic", "nvme", "virtio_scsi")

_INIT = """\
#!/bin/sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
uuid=
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in root=UUID=*) uuid=${word#root=UUID=} ;; esac
done
load() {
    while read -r module; do /bin/busybox insmod "/modules/$module" 2>/dev/null; done <"$1"
}
find_root() {
    tries=0
    while [ $tries -lt "$1" ]; do
        device=$(/bin/busybox findfs "UUID=$uuid" 2>/dev/null)
        [ -n "$device" ] && return 0
        tries=$((tries + 1))
        /bin/busybox sleep 0.1
    done
    return 1
}
load /modules/first
find_root 5 || { load /modules/more; find_root 100; } || echo "golden: no disk with UUID $uuid"
/bin/busybox mount -t ext4 -o ro,noload "$device" /root || exec /bin/busybox sh
/bin/busybox mount -o move /dev /root/dev
/bin/busybox umount /proc /sys
exec /bin/busybox switch_root /root /sbin/init
"""

_INITTAB = """\
::sysinit:/etc/rc
ttyS0::respawn:/sbin/getty -L ttyS0 115200 vt100
::ctrlaltdel:/sbin/reboot
"""

_RC = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs tmpfs /tmp
hostname -F /etc/hostname
"""

_FOLDERS = ("bin", "sbin", "usr/bin", "usr/sbin", "etc", "boot", "dev", "proc", "sys", "run", "tmp", "root", "srv")
_APPLETS = (
    "bin/sh bin/login bin/mount bin/umount bin/hostname bin/cat bin/ls bin/dd bin/echo bin/ps bin/sync "
    "bin/dmesg bin/uname bin/grep sbin/init sbin/getty sbin/reboot sbin/poweroff usr/bin/sha256sum usr/bin/cmp"
)


def busybox() -> Path:
    """The static BusyBox of this machine; a dynamic one would not run in the golden system."""
    path = shutil.which("busybox")
    if path is None:
        raise LabError("golden disk", "BusyBox", "not found: install busybox-static")
    if _has_interpreter(Path(path).read_bytes()):
        raise LabError("golden disk", "BusyBox", f"{path} is not static: install busybox-static")
    return Path(path)


def _has_interpreter(data: bytes) -> bool:
    """Whether a 64-bit ELF file names a dynamic loader (a program header of type PT_INTERP, 3)."""
    (offset,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    return any(struct.unpack_from("<I", data, offset + size * number) == (3,) for number in range(count))


def make_initrd(kernel: Path, version: str) -> bytes:
    """``kernel`` is an unpacked kernel package with modules.dep; ``version`` its release."""
    archive = Archive()
    for folder in ("dev", "proc", "sys", "root"):
        archive.add_folder(folder)
    archive.add_file("bin/busybox", busybox().read_bytes(), 0o755)
    archive.add_link("bin/sh", "busybox")
    archive.add_file("init", _INIT.encode(), 0o755)
    loaded: set[str] = set()
    for row, names in (("first", FIRST_MODULES), ("more", MORE_MODULES)):
        wanted = [path for name in names for path in _with_dependencies(kernel, version, name)]
        fresh = [path for path in dict.fromkeys(wanted) if path.name not in loaded]
        for path in fresh:
            archive.add_file(f"modules/{path.name}", path.read_bytes())
        loaded.update(path.name for path in fresh)
        archive.add_file(f"modules/{row}", "".join(f"{path.name}\n" for path in fresh).encode())
    return compress(archive.finish())


def make_root(tree: Path, kernel: Path, version: str, initrd: bytes, payload: int) -> None:
    """The root file system below ``tree``; ``payload`` bytes of /srv/payload make the clone carry real data."""
    for folder in _FOLDERS:
        (tree / folder).mkdir(parents=True)
    shutil.copyfile(busybox(), tree / "bin/busybox")
    (tree / "bin/busybox").chmod(0o755)
    for applet in _APPLETS.split():
        link = tree / applet
        link.symlink_to(os.path.relpath(tree / "bin/busybox", link.parent))
    shutil.copyfile(kernel / f"boot/vmlinuz-{version}", tree / "boot/vmlinuz")
    (tree / "boot/initrd.img").write_bytes(initrd)
    files = {
        "etc/inittab": _INITTAB,
        "etc/rc": _RC,
        "etc/hostname": f"{HOST}\n",
        "etc/passwd": f"{USER}:x:0:0:{USER}:/root:/bin/sh\n",
        "etc/group": f"{USER}:x:0:\n",
        "etc/shadow": f"{USER}:{_password_hash()}:20000:0:99999:7:::\n",
        "etc/issue": "bootd golden system\n",
    }
    for name, text in files.items():
        (tree / name).write_text(text)
    (tree / "etc/rc").chmod(0o755)
    (tree / "etc/shadow").chmod(stat.S_IRUSR | stat.S_IWUSR)
    data = payload_bytes(payload)
    (tree / "srv/payload").write_bytes(data)
    (tree / "srv/payload.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  /srv/payload\n")


def payload_bytes(size: int) -> bytes:
    """Blocks of 4 KiB that begin with their number, so that a swapped or repeated block shows."""
    source = random.Random(size)
    blocks = (struct.pack("<Q", number) + source.randbytes(BLOCK - 8) for number in range(-(-size // BLOCK)))
    return b"".join(blocks)[:size]


def _password_hash() -> str:
    command = [str(busybox()), "mkpasswd", "-m", "sha512", "-S", "bootdgolden", PASSWORD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise LabError("golden disk", "mkpasswd", done.stderr.strip())
    return done.stdout.strip()


def _with_dependencies(kernel: Path, version: str, name: str) -> list[Path]:
    command = ["modprobe", "-d", str(kernel), "-S", version, "--show-depends", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise LabError("golden disk", f"module {name}", done.stderr.strip())
    lines = [line.split() for line in done.stdout.splitlines()]
    return [Path(words[1]) for words in lines if words and words[0] == "insmod"]
