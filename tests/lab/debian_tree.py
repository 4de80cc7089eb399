"""A real Debian system as a folder: systemd, kernel, initramfs-tools, an SSH server, GRUB for both firmwares.

Made by mmdebstrap with every maintainer script run, so it is what a golden node is; kept in the cache like the
trees of the stages. Nobody changes the cached folder: `copy` it.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

from bootd.build.cache import Cache, digest_of
from bootd.build.debian import resolve, run
from tests.lab import golden_root

SUITE = "bookworm"
HOST = "golden"
USER = golden_root.USER
PASSWORD = golden_root.PASSWORD
PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "kmod", "login", "passwd", "util-linux", "mount", "e2fsprogs", "dosfstools"),
    *("linux-image-amd64", "initramfs-tools", "zstd", "openssh-server", "iproute2", "ifupdown", "netbase"),
    *("grub2-common", "grub-pc-bin", "grub-efi-amd64-bin", "efibootmgr", "libcap2-bin", "acl", "attr"),
)
# As Debian's installer leaves them on a machine of its own.
FILES = {
    "etc/hostname": f"{HOST}\n",
    "etc/hosts": f"127.0.0.1\tlocalhost\n127.0.1.1\t{HOST}.example.org\t{HOST}\n\n::1\tlocalhost ip6-localhost\n",
    "etc/default/grub": (
        "GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_DISTRIBUTOR=Debian\n"
        'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"\n'
        'GRUB_TERMINAL="console serial"\nGRUB_SERIAL_COMMAND="serial --speed=115200"\n'
    ),
    "etc/network/interfaces": "auto lo\niface lo inet loopback\n",
}


def build(cache: Path, progress: Callable[[str], None] = lambda _: None, *, also: tuple[str, ...] = ()) -> Path:
    """The folder in the cache; `OperatorError` says what is missing. Needs root. ``also``: more packages."""
    store = Cache(cache)
    packages = (*PACKAGES, *also)
    versions = [package.sha256 for package in resolve(packages, store)]
    key = digest_of(SUITE, *versions, Path(__file__))

    def make(path: Path) -> None:
        progress("mmdebstrap of a Debian with systemd")
        include = f"--include={','.join(packages)}"
        slim = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "locale", "doc", "info")]
        # Its owner is root whoever looks: mmdebstrap leaves the top folder closed to others.
        run(["mmdebstrap", "--quiet", "--variant=minbase", include, *slim, SUITE, str(path)], package="mmdebstrap")
        path.chmod(0o755)
        for name, text in FILES.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
        run(["chroot", str(path), "chpasswd"], package="coreutils", data=f"{USER}:{PASSWORD}\n".encode())

    return store.get("-".join(("golden-debian", *also)), key, make, keep=2)


def copy(tree: Path, target: Path) -> None:
    """All of the tree into the folder ``target``, which may have file systems mounted below it."""
    command = ["cp", "--archive", "--one-file-system", f"{tree}/.", str(target)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
