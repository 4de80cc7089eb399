"""Recipe of stage2: a squashfs with Debian's tools, drivers for disks and file systems, Python and the agent.

Three layers of cache: the Debian tree (mmdebstrap, made anew when the packages change), its squashfs with kernel
modules and configuration, and the finished image, to which only the agent is appended: a change of the agent costs
a second.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from bootd.build import modules
from bootd.build.bundle import build_bundle, check_version, compile_module, site_files, source_root
from bootd.build.cache import Cache, digest_of, file_digest, install, write
from bootd.build.debian import resolve, run
from bootd.build.described import describe

Progress = Callable[[str], None]

SUITE = "bookworm"
PACKAGES = (
    *("grub2-common", "grub-pc-bin", "grub-efi-amd64-bin"),  # for a tree without a GRUB for this firmware
    *("busybox-static", "kmod", "python3-minimal", "python3", "util-linux", "fdisk", "mount", "iproute2"),
    *("efibootmgr", "dosfstools", "e2fsprogs", "dmidecode", "partclone", "ntfs-3g"),
    *("xfsprogs", "btrfs-progs"),  # growth, with resize2fs and ntfsresize
    *("mdadm", "lvm2"),  # layouts
    "tar",
    "rsync",  # bootd sync
)
MODULES = (
    *("kernel/drivers/ata/*", "kernel/drivers/nvme/host/*", "vmd"),
    *("sd_mod", "sr_mod", "virtio_blk", "virtio_scsi", "vmw_pvscsi", "hv_storvsc", "xen-blkfront"),
    *("megaraid_sas", "megaraid_mbox", "mpt3sas", "mptsas", "mptspi", "hpsa", "smartpqi", "aacraid"),
    *("3w-9xxx", "3w-sas", "arcmsr", "isci", "mvsas", "pm80xx", "aic79xx", "aic7xxx", "sym53c8xx", "BusLogic"),
    *("usb-storage", "uas", "ehci_pci", "ohci_pci", "uhci_hcd", "xhci_pci", "usbhid", "hid-generic"),
    *("mmc_block", "sdhci_pci", "sdhci_acpi", "rtsx_pci_sdmmc", "rtsx_usb_sdmmc"),
    *("raid0", "raid1", "raid10", "raid456", "linear", "dm_mod", "dm_crypt", "dm_multipath"),
    *("crc32c_generic", "crc32c-intel"),  # ext4, XFS and btrfs ask for crc32c by its alias: without it no mount
    *("ext4", "xfs", "btrfs", "vfat", "f2fs", "isofs", "squashfs", "overlay", "loop"),
    *("nls_cp437", "nls_iso8859-1", "nls_ascii", "nls_utf8", "efivarfs"),
    *modules.NETWORK,
)
# Not needed to clone a disk; two thirds of the tree.
UNWANTED = (
    *("usr/lib/grub/x86_64-efi/monolithic", "usr/share/grub", "usr/share/gettext", "etc/grub.d", "etc/default"),
    *(
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "usr/share/info",
        "usr/share/lintian",
        "usr/share/perl",
    ),
    *("usr/share/bash-completion", "usr/share/python3", "usr/share/applications", "usr/share/lintian"),
    *("usr/share/perl5", "usr/share/zoneinfo", "usr/share/i18n", "usr/lib/x86_64-linux-gnu/gconv", "var/cache"),
    *("var/lib/apt", "var/lib/dpkg/info", "usr/lib/python3", "usr/lib/apt"),
    *("usr/lib/python3.11/pydoc_data", "usr/lib/python3.11/lib2to3", "usr/lib/python3.11/idlelib"),
    *("usr/lib/python3.11/test", "usr/lib/python3.11/unittest", "usr/lib/python3.11/distutils"),
    *("lib/udev", "usr/lib/udev", "lib/systemd", "usr/lib/systemd"),  # there is no udev: mdadm and LVM depend on it
    *("usr/lib/x86_64-linux-gnu/perl", "usr/lib/x86_64-linux-gnu/perl-base"),
    *("usr/lib/python3.11/ensurepip", "usr/lib/python3.11/turtledemo", "usr/lib/python3.11/tkinter"),
)
# Came with what is needed, and nothing that is needed opens them: what only ntfsdecrypt links to, and the programs
# of partclone for file systems that nobody asks it about.
_LIBRARIES = "usr/lib/x86_64-linux-gnu/lib"
UNWANTED_FILES = (
    *(f"usr/bin/grub-{name}*" for name in ("e", "f", "g", "k", "l", "m", "r", "s")),  # all but ntldr-img and such
    *(f"usr/sbin/{name}" for name in ("grub-[!i]*", "update-grub*")),  # grub-install stays
    *(f"{_LIBRARIES}{name}*" for name in ("freetype", "png16", "brotli", "fuse3", "gettext", "asprintf")),
    *(f"{_LIBRARIES}{name}*" for name in ("gnutls", "unistring", "p11-kit", "hogweed", "nettle", "idn2", "tasn1")),
    *(f"{_LIBRARIES}gmp.so*", "usr/bin/ntfsdecrypt"),
    *("bin/udevadm", "bin/systemd-hwdb", "sbin/lvmpolld", "sbin/dmeventd", "lib/*/liblvm2cmd.so*"),
    *("usr/bin/perl*", f"{_LIBRARIES}perl.so*"),  # for adduser, which udev depends on
    *(f"usr/sbin/partclone.{name}" for name in ("reiser4", "apfs", "minix", "hfs*", "nilfs2", "ufs", "jfs")),
)
FOLDERS = ("proc", "sys", "dev", "run", "tmp", "root", "mnt", "etc", "lib64", "var/log")
# Small blocks and no shared tail blocks: the kernel keeps three of those, and Python's many small files would have
# each of them unpacked again and again.
COMPRESSION = ("-comp", "zstd", "-Xcompression-level", "15", "-b", "64K", "-no-fragments")


def build(out: Path, cache: Path, progress: Progress) -> None:
    """Write ``out/stage2/stage2.squashfs`` and ``stage2.json``. `OperatorError` says what is missing."""
    check_version()
    store = Cache(cache)
    image = finished_image(store, base_image(store, progress), progress)
    described = describe(image)
    size, sha256 = described["size"], described["sha256"]
    record = json.dumps(described).encode() + b"\n"
    description = out / "stage2/stage2.json"
    target = out / "stage2/stage2.squashfs"
    if not target.is_file() or not description.is_file() or file_digest(target) != sha256:
        install(image, target)
    write(description, record)
    progress(f"stage2: {size / 1e6:.1f} MB")


def debian_tree(store: Cache, progress: Progress) -> Path:
    """The packages and all that they depend on, unpacked by mmdebstrap; no maintainer script runs."""
    key = digest_of(SUITE, *(package.sha256 for package in resolve(PACKAGES, store)))

    def make(path: Path) -> None:
        progress(f"stage2: mmdebstrap {SUITE}")
        command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join(PACKAGES)}"]
        run([*command, SUITE, str(path)], package="mmdebstrap")

    return store.get("stage2-debian", key, make, keep=2)


def base_image(store: Cache, progress: Progress) -> Path:
    """The squashfs without the agent."""
    tree = modules.kernel_tree(store)
    debian = debian_tree(store, progress)
    overlay = source_root() / "stage2/overlay/etc"
    configuration = [part for path in sorted(overlay.iterdir()) for part in (path.name, path)]
    lists = json.dumps([MODULES, UNWANTED, UNWANTED_FILES, FOLDERS, COMPRESSION])
    key = digest_of(lists, debian.name, tree.name, Path(__file__), *configuration)

    def make(path: Path) -> None:
        progress("stage2: packing the base")
        with tempfile.TemporaryDirectory() as work:
            root = Path(work) / "root"
            # cp keeps owners and device nodes; shutil would read /dev/zero until the disk is full.
            run(["cp", "--archive", "--reflink=auto", str(debian), str(root)], package="coreutils")
            fill(root, tree, overlay)
            squash(root, path)

    return store.get("stage2-base", key, make)


def fill(root: Path, tree: Path, configuration: Path) -> None:
    """Turn the Debian tree at ``root`` into that of stage2."""
    for name in UNWANTED:
        shutil.rmtree(root / name, ignore_errors=True)
    for pattern in UNWANTED_FILES:
        for path in root.glob(pattern):
            path.unlink()
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    link_applets(root)
    compile_tree(root / "usr/lib/python3.11")
    modules.copy(tree, MODULES, root)
    for path in sorted(configuration.iterdir()):
        shutil.copyfile(path, root / "etc" / path.name)
    for name in ("fstab", "mtab", "resolv.conf"):
        (root / "etc" / name).unlink(missing_ok=True)
    (root / "etc/mtab").symlink_to("/proc/mounts")


def link_applets(root: Path) -> None:
    """BusyBox for every command that no Debian package brings, init among them."""
    folders = ("bin", "sbin", "usr/bin", "usr/sbin")
    for applet in run([str(root / "bin/busybox"), "--list"], package="busybox-static").decode().split():
        if not any(os.path.lexists(root / folder / applet) for folder in folders):
            (root / "bin" / applet).symlink_to("/bin/busybox")
    init = root / "sbin/init"
    init.unlink(missing_ok=True)
    (root / "bin/init").unlink(missing_ok=True)
    init.symlink_to("/bin/busybox")


def compile_tree(folder: Path) -> None:
    """Put byte code in the place of every source, so that nothing is compiled on a node, boot after boot."""
    for path in sorted(folder.rglob("*.py")):
        if path.is_symlink():  # to another name of the same module, or to a file of the running system
            target = path.readlink()
            path.unlink()
            if not target.is_absolute():
                path.with_suffix(".pyc").symlink_to(target.with_suffix(".pyc"))
            continue
        name = f"/usr/lib/python3.11/{path.relative_to(folder)}"
        path.with_suffix(".pyc").write_bytes(compile_module(name, path.read_bytes()))
        path.unlink()


def squash(root: Path, image: Path) -> None:
    run(
        [
            *("mksquashfs", str(root), str(image), "-noappend", "-quiet", "-no-progress", "-no-xattrs"),
            *("-all-root", "-mkfs-time", "0", *COMPRESSION),
        ],
        package="squashfs-tools",
    )


def finished_image(store: Cache, base: Path, progress: Progress) -> Path:
    """The base with the folder ``/bootd`` appended: agent, wheels, scripts."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "content/bootd"
        shutil.copytree(source_root() / "stage2/overlay/bootd", folder)
        shutil.copyfile(source_root() / "stage1/drivers.sh", folder / "drivers.sh")
        (folder / "stage2.pyz").write_bytes(build_bundle("stage2", member=True))
        for name, data in site_files():
            (folder / "site" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "site" / name).write_bytes(data)
        for path in sorted(folder.iterdir()):
            if path.is_file():
                path.chmod(0o644 if path.suffix == ".pyz" else 0o755)
        content = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        parts = [part for path in content for part in (str(path.relative_to(folder)), path)]

        def make(path: Path) -> None:
            progress("stage2: adding the agent")
            shutil.copyfile(base, path)
            command = ["mksquashfs", str(folder.parent), str(path), "-quiet", "-no-progress", "-no-xattrs"]
            run([*command, "-all-root", "-mkfs-time", "0", "-no-fragments"], package="squashfs-tools")

        return store.get("stage2", digest_of(base.name, *parts), make)
