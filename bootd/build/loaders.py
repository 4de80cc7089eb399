"""Boot loaders: Debian's own, byte for byte, and ``local.efi``, which starts a node's own disk.

``local.efi`` exists because leaving a network loader with ``exit`` makes UEFI firmware try every other boot entry
first: minutes on some machines. It is GRUB with one embedded script that looks at local disks only.
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from bootd.build.cache import Cache, digest_of, file_digest, install, write
from bootd.build.debian import run
from bootd.errors import Exit, OperatorError

Progress = Callable[[str], None]

# file in the boot folder -> where Debian has it, and the package
DEBIAN_LOADERS: dict[str, tuple[str, str]] = {
    "lpxelinux.0": ("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"),
    "ldlinux.c32": ("/usr/lib/syslinux/modules/bios/ldlinux.c32", "syslinux-common"),
    "ipxe.efi": ("/usr/lib/ipxe/ipxe.efi", "ipxe"),
    "snponly.efi": ("/usr/lib/ipxe/snponly.efi", "ipxe"),
}
# Vendors' own loaders before the fallback path: the fallback of a shim installation resets the machine to add a
# boot entry, and Windows' fallback may be stale.
LOCAL_LOADERS = (
    "/EFI/debian/shimx64.efi",
    "/EFI/debian/grubx64.efi",
    "/EFI/ubuntu/shimx64.efi",
    "/EFI/ubuntu/grubx64.efi",
    "/EFI/fedora/shimx64.efi",
    "/EFI/redhat/shimx64.efi",
    "/EFI/centos/shimx64.efi",
    "/EFI/rocky/shimx64.efi",
    "/EFI/almalinux/shimx64.efi",
    "/EFI/opensuse/shim.efi",
    "/EFI/opensuse/grubx64.efi",
    "/EFI/arch/grubx64.efi",
    "/EFI/systemd/systemd-bootx64.efi",
    "/EFI/Microsoft/Boot/bootmgfw.efi",
    "/EFI/BOOT/BOOTX64.EFI",
)
_MODULES = (
    *("normal", "memdisk", "tar", "minicmd", "test", "echo", "sleep", "regexp"),
    *("part_gpt", "part_msdos", "fat", "chain"),
)


def local_script() -> str:
    """The script of ``local.efi``: every partition of every hard disk, each known loader in turn.

    ``(hd*,*)`` matches what firmware calls hard disks, USB disks among them; network and optical drives are not.
    """
    return f"""# Written by bootd. Start the operating system of a local disk; never the network.
set pager=0
for path in {" ".join(LOCAL_LOADERS)}; do
  for device in (hd*,*); do
    if [ -e "${{device}}${{path}}" ]; then
      echo "bootd: starting ${{device}}${{path}}"
      # GRUB 2.06 takes the device of what it starts from this variable, not from the path.
      root="${{device}}"
      chainloader "${{device}}${{path}}"
      boot
    fi
  done
done
echo "bootd: no boot loader on any local disk"
sleep 3
exit
"""


def build(out: Path, cache: Path, progress: Progress) -> None:
    """Fill ``out`` with the boot loaders and ``loaders.json``, the SHA-256 and origin of each.

    `OperatorError` names the Debian package of a loader that is missing.
    """
    origin = {}
    for name, (path, package) in DEBIAN_LOADERS.items():
        if not Path(path).is_file():
            raise OperatorError(f"boot loader {path} is missing", f"apt-get install {package}", Exit.INPUT)
        install(Path(path).resolve(), out / name)
        origin[name] = {"package": f"{package} {package_version(package)}", "file": path}
    local, package = build_local(Cache(cache), progress)
    install(local, out / "local.efi")
    origin["local.efi"] = {"package": package, "file": "made by grub-mkimage"}
    record = {name: {"sha256": file_digest(out / name), **entry} for name, entry in sorted(origin.items())}
    write(out / "loaders.json", json.dumps(record, indent=2).encode() + b"\n")
    progress(f"boot loaders: {', '.join(sorted(origin))}")


def package_version(package: str) -> str:
    """The installed version of a Debian package."""
    return run(["dpkg-query", "-W", "-f", "${Version}", package], package="dpkg").decode()


def build_local(cache: Cache, progress: Progress) -> tuple[Path, str]:
    """``local.efi`` and the package whose modules are in it."""
    modules = Path("/usr/lib/grub/x86_64-efi")
    if not (modules / "chain.mod").is_file():
        raise OperatorError(f"{modules} is missing", "apt-get install grub-efi-amd64-bin", Exit.INPUT)
    package = f"grub-efi-amd64-bin {package_version('grub-efi-amd64-bin')}"
    script = local_script()

    def make(path: Path) -> None:
        progress("boot loaders: local.efi with grub-mkimage")
        with tempfile.TemporaryDirectory() as work:
            # `normal` runs $prefix/grub.cfg. A script given with -c meets the rescue parser: no `for`, no `if`.
            disk = Path(work) / "memdisk.tar"
            with tarfile.open(disk, "w") as archive:
                entry = tarfile.TarInfo("bootd/grub.cfg")
                entry.size = len(script)
                archive.addfile(entry, io.BytesIO(script.encode()))
            run(
                [
                    "grub-mkimage",
                    *("-O", "x86_64-efi", "-d", str(modules), "-m", str(disk), "-p", "(memdisk)/bootd"),
                    *("-o", str(path), *_MODULES),
                ],
                package="grub-common",
            )

    return cache.get("local-efi", digest_of(package, script, *_MODULES), make), package
