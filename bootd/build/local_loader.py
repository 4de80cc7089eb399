"""Starting a node's own disk on UEFI: ``local.efi`` and ``local.cfg``, one search in two forms.

Leaving a network loader with ``exit`` makes UEFI firmware try every other boot entry first: minutes on some
machines. ``local.efi`` is GRUB with the search inside, for iPXE to start. Under Secure Boot it would be refused
(nobody signed it), but there a signed GRUB is running already: it reads the same search from ``local.cfg``.
"""

import io
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from bootd.build.cache import Cache, digest_of
from bootd.build.debian import resolve, run, unpack

PACKAGE = "grub-efi-amd64-bin"
# Vendors' own loaders before the fallback path: the fallback of a shim installation resets the machine to add a
# boot entry, and Windows' fallback may be stale.
LOCAL_LOADERS = (
    "/EFI/debian/shim${arch}.efi",
    "/EFI/debian/grub${arch}.efi",
    "/EFI/ubuntu/shim${arch}.efi",
    "/EFI/ubuntu/grub${arch}.efi",
    "/EFI/fedora/shim${arch}.efi",
    "/EFI/redhat/shim${arch}.efi",
    "/EFI/centos/shim${arch}.efi",
    "/EFI/rocky/shim${arch}.efi",
    "/EFI/almalinux/shim${arch}.efi",
    "/EFI/opensuse/shim.efi",
    "/EFI/opensuse/grub${arch}.efi",
    "/EFI/arch/grub${arch}.efi",
    "/EFI/systemd/systemd-boot${arch}.efi",
    "/EFI/Microsoft/Boot/bootmgfw.efi",
    "/EFI/BOOT/boot${arch}.efi",  # FAT knows no case
)
MODULES = (
    *("normal", "memdisk", "tar", "minicmd", "test", "echo", "sleep", "regexp"),
    *("part_gpt", "part_msdos", "fat", "chain"),
)


def script() -> str:
    """Every partition of every hard disk, each known loader in turn.

    ``(hd*,*)`` matches what firmware calls hard disks, USB disks among them; network and optical drives are not.
    """
    return f"""# Written by bootd. Start the operating system of a local disk; never the network.
set pager=0
arch=x64
if [ "$grub_cpu" = arm64 ]; then arch=aa64; fi
if [ "$grub_cpu" = i386 ]; then arch=ia32; fi
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


def build(cache: Cache, progress: Callable[[str], None]) -> tuple[Path, str]:
    """``local.efi``, and name and version of the package whose modules are in it."""
    (package,) = resolve([PACKAGE], cache)
    modules = unpack([PACKAGE], cache) / "usr/lib/grub/x86_64-efi"
    text = script()

    def make(path: Path) -> None:
        progress("boot loaders: local.efi with grub-mkimage")
        with tempfile.TemporaryDirectory() as work:
            # `normal` runs $prefix/grub.cfg. A script given with -c meets the rescue parser: no `for`, no `if`.
            disk = Path(work) / "memdisk.tar"
            with tarfile.open(disk, "w") as archive:
                entry = tarfile.TarInfo("bootd/grub.cfg")
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
            run(
                [
                    "grub-mkimage",
                    *("-O", "x86_64-efi", "-d", str(modules), "-m", str(disk), "-p", "(memdisk)/bootd"),
                    *("-o", str(path), *MODULES),
                ],
                package="grub-common",
            )

    return cache.get("local-efi", digest_of(package.sha256, text, *MODULES), make), f"{PACKAGE} {package.version}"
