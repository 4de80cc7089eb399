"""GRUB on the disks that were made: boot sectors for BIOS, the EFI system partition for UEFI, and its menu.

The tree's own grub-install is used when it has the files for this node's firmware. When it has not (a BIOS system
cloned to a UEFI machine), stage2's own GRUB does it from outside; its modules and its core are of one version then,
and the menu is the tree's in any case.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping

from stage2 import bootable
from stage2.customise import boot_text
from stage2.customise.facts import CustomiseError
from stage2.customise.running import PATH, run
from stage2.customise.tree import TreeError
from stage2.customise.work import Work

SECONDS = 300.0  # for every program
TARGETS = {"bios": "i386-pc", "uefi": "x86_64-efi"}
PACKAGES = {"bios": "grub-pc-bin", "uefi": "grub-efi-amd64-bin"}
# The core finds its disk by UUID when the table is of another kind than that of the disk that it was built on.
_MODULES = "--modules=part_msdos part_gpt"
# All that grub-install asks of udev is `udevadm info --query path --name DEVICE`, and stage2 has no udev.
_UDEVADM = """\
#!/bin/sh
for device; do :; done
number=$((0x$(stat -L -c %t "$device"))):$((0x$(stat -L -c %T "$device")))
path=$(readlink -f "/sys/dev/block/$number") && echo "${path#/sys}"
"""
_REMOVABLE = "EFI/BOOT/BOOTX64.EFI"  # UEFI specification 2.10, section 3.5.1.1


def install(work: Work) -> str:
    """GRUB's files, its core, its menu."""
    firmware = work.facts.firmware
    if work.facts.bootloader == "none":
        return "left as it came, as was asked for"
    if firmware not in TARGETS:
        raise CustomiseError(f"no boot loader is known for the firmware {firmware!r}")
    menu_maker = work.program("grub-mkconfig", "grub2-mkconfig")
    if not menu_maker:
        raise CustomiseError(_without_grub(work))
    folder = "/boot/grub2" if os.path.basename(menu_maker) == "grub2-mkconfig" else "/boot/grub"
    work.rewrite(
        "/etc/default/grub", lambda text: boot_text.rewrite_default_grub(text, work.root, work.swap, work.replaced)
    )
    work.remove(f"{folder}/device.map")
    for path in work.tree.names("/boot/loader/entries", "*.conf"):
        work.rewrite(path, lambda text: boot_text.rewrite_entry(text, work.root, work.swap, work.replaced))
    work.rewrite(
        "/etc/kernel/cmdline",
        lambda text: boot_text.rewrite_command_line(text.strip(), work.root, work.swap, work.replaced) + "\n",
    )
    said = _install_uefi(work, folder) if firmware == "uefi" else _install_bios(work, folder)
    menu = f"{folder}/grub.cfg"
    work.chroot.run([menu_maker, "-o", menu], SECONDS)
    _check_menu(work, menu)
    return said


def _install_bios(work: Work, folder: str) -> str:
    if not work.made.disks:
        raise CustomiseError("no disk was named that gets the boot loader")
    for disk in work.made.disks:
        _grub_install(work, folder, "i386-pc", [_MODULES], disk=disk)
        if work.made.table == "dos":
            _activate(work, disk)
    return f"i386-pc on {', '.join(work.made.disks)}"


def _install_uefi(work: Work, folder: str) -> str:
    """On the EFI system partition, under the system's own name and as what firmware starts without any entry."""
    esp = next((one for one in work.made.filesystems if one.device == work.made.esp), None)
    if not work.made.esp or esp is None or not esp.mount:
        raise CustomiseError(
            "this node starts by UEFI, and the layout mounts no EFI system partition: "
            "add one with the mount point /boot/efi"
        )
    if _is_vendors(work, esp.mount):
        said = _keep_vendors(work, esp.mount)
    else:
        # No entry in the firmware's memory by grub-install: ours keeps the network first, so that bootd decides.
        options = ["--no-nvram", _MODULES]
        named = [*options, f"--bootloader-id={_identity(work)}"]
        _grub_install(work, folder, "x86_64-efi", named, efi=esp.mount)
        _grub_install(work, folder, "x86_64-efi", [*options, "--removable"], efi=esp.mount)
        said = f"x86_64-efi on {esp.device}"
    if not work.tree.is_file(f"{esp.mount}/{_REMOVABLE}"):
        raise CustomiseError(f"{esp.mount}/{_REMOVABLE} was not written")
    _stubs(work, esp.mount)
    return f"{said}; {_boot_entry(work, esp.mount)}"


def _grub_install(
    work: Work, folder: str, target: str, options: list[str], *, disk: str = "", efi: str = ""
) -> None:
    program = work.program("grub-install", "grub2-install")
    own = [f"--target={target}", "--recheck", *options]
    places = ("/usr/lib/grub", "/usr/share/grub2")
    if program and any(work.tree.is_file(f"{place}/{target}/modinfo.sh") for place in places):
        work.tell(f"customise: the tree's own {os.path.basename(program)} for {target}")
        words = [*own, *([f"--efi-directory={efi}"] if efi else []), *([disk] if disk else [])]
        work.chroot.run([program, *words], SECONDS)
        return
    lacks = f"the tree has no GRUB for {target}"
    advice = f"install {PACKAGES[work.facts.firmware]} on the golden node and take the image again"
    outside = shutil.which("grub-install")
    if outside is None or not os.path.isfile(f"/usr/lib/grub/{target}/modinfo.sh"):
        raise CustomiseError(f"{lacks}, nor has this stage2: {advice}")
    if folder != "/boot/grub":
        raise CustomiseError(f"{lacks}, and its menu is in {folder}, where stage2's GRUB does not look: {advice}")
    # This program is not in the tree: a link there would have it write on what runs here.
    work.tree.make_folder(folder)
    for place in (folder, efi) if efi else (folder,):
        link = work.tree.find_link(place)
        if link:
            raise CustomiseError(f"{lacks}, and {link} is a link, which may lead anywhere: {advice}")
    work.tell(f"customise: {lacks}: stage2's own does it")
    words = [*own, f"--boot-directory={_outside(work, '/boot')}"]
    words += [f"--efi-directory={_outside(work, efi)}"] if efi else []
    with tempfile.TemporaryDirectory(prefix="bootd-grub-") as programs:
        path = os.path.join(programs, "udevadm")
        with open(path, "w") as stream:
            stream.write(_UDEVADM)
        os.chmod(path, 0o700)
        environment = {"PATH": f"{programs}:{PATH}"}
        run([outside, *words, *([disk] if disk else [])], SECONDS, work.tell, environment=environment)


def _outside(work: Work, path: str) -> str:
    try:
        return work.tree.outside(path)
    except TreeError as error:
        raise CustomiseError(str(error)) from None


def _activate(work: Work, disk: str) -> None:
    """The boot flag of a DOS table, which some firmwares want to see before they start a disk."""
    try:
        table = json.loads("".join(run(["sfdisk", "--json", disk], SECONDS, lambda _: None)))["partitiontable"]
        partitions = table["partitions"]
        if any(partition.get("bootable") for partition in partitions):
            return
        homes = [one.device for mount in ("/boot", "/") if (one := work.filesystem(mount)) is not None]
        nodes = [partition["node"] for partition in partitions]
    except (ValueError, KeyError, TypeError) as error:
        raise CustomiseError(f"the table of {disk} cannot be read: {error}") from None
    # A logical partition cannot have it; the first partition does as well, since GRUB is in the boot sector.
    primary = [node for node in nodes if 1 <= int(node.removeprefix(disk).lstrip("p") or 0) <= 4]
    if not primary:
        return
    wanted = next((home for home in homes if home in primary), primary[0])
    place = wanted.removeprefix(disk).lstrip("p")
    run(["sfdisk", "--no-reread", "--no-tell-kernel", "--activate", disk, place], SECONDS, work.tell)
    work.tell(f"customise: partition {place} of {disk} has the boot flag")


def _is_vendors(work: Work, esp: str) -> bool:
    """Whether the tree brings a signed loader on its EFI partition and says that grub-install must not be used.

    Fedora and its relatives: the files belong to packages, and their grub2-install refuses UEFI.
    """
    return bool(_vendor(work, esp)) and not work.tree.is_file("/usr/lib/grub/x86_64-efi/modinfo.sh")


def _vendor(work: Work, esp: str) -> str:
    """The folder of a shim with its GRUB; "" for none."""
    for folder in work.tree.names(f"{esp}/EFI"):
        if work.tree.is_file(f"{folder}/shimx64.efi") and work.tree.is_file(f"{folder}/grubx64.efi"):
            return folder
    return ""


def _keep_vendors(work: Work, esp: str) -> str:
    folder = _vendor(work, esp)
    if not work.tree.is_file(f"{esp}/{_REMOVABLE}"):
        raise CustomiseError(f"{folder} has a signed loader, but {esp}/{_REMOVABLE} is missing: reinstall shim")
    return f"the signed loader of {folder} is kept"


def _stubs(work: Work, esp: str) -> None:
    """The small grub.cfg beside a loader finds the root by the UUID that it had on the source."""
    uuids = _uuids(work.replaced)
    for path in (name for folder in work.tree.names(f"{esp}/EFI") for name in work.tree.names(folder, "grub.cfg")):
        work.rewrite(path, lambda text: re.sub(r"[0-9A-Fa-f-]{9,36}", lambda m: uuids.get(m[0], m[0]), text))


def _uuids(replaced: Mapping[str, str]) -> dict[str, str]:
    pairs = ((old.partition("="), new.partition("=")) for old, new in replaced.items())
    return {old[2]: new[2] for old, new in pairs if old[0] == new[0] == "UUID"}


def _boot_entry(work: Work, esp: str) -> str:
    """As well as it can be, like `bootable.make_bootable`: without an entry, firmware starts EFI/BOOT."""
    if not os.path.isdir(bootable.EFI_VARIABLES) or not os.listdir(bootable.EFI_VARIABLES):
        return "no boot entry, for the firmware's variables are not here"
    partition = re.search(r"(?P<disk>.*?)p?(?P<number>\d+)\Z", os.path.basename(os.path.realpath(work.made.esp)))
    loader = next((name for name in bootable.LOADERS if work.tree.is_file(f"{esp}/{name}")), "")
    if partition is None or not loader:
        return "no boot entry, for no loader is known"
    place = "/sys/class/block/" + partition[0]
    try:
        with open(f"{place}/partition") as stream:
            number = int(stream.read())
        disk = os.path.basename(os.path.dirname(os.path.realpath(place)))
        entry = bootable.set_boot_next(disk, number, "\\" + loader.replace("/", "\\"))
    except (bootable.BootableError, OSError, ValueError) as error:
        work.warn(f"the boot order of the firmware was left alone: {error}")
        return "no boot entry"
    return f"{entry} starts {loader}"


def _identity(work: Work) -> str:
    """The folder on the EFI partition: what the distribution calls itself."""
    match = re.search(r'(?m)^ID="?([a-z0-9._-]+)"?$', work.tree.read("/etc/os-release") or "")
    return match[1] if match else "bootd"


def _check_menu(work: Work, menu: str) -> None:
    """A menu that does not boot this root is worse than none: nobody would see it before the machine is gone."""
    text = work.tree.read(menu) or ""
    root = work.filesystem("/")
    if not re.search(r"(?m)^\s*linux(16|efi)?\s", text) and "blscfg" not in text:
        raise CustomiseError(f"{menu} starts no kernel: is one installed in the tree?")
    if root is not None and re.search(r"(?m)^\s*linux(16|efi)?\s.*\sroot=UUID=", text):
        stale = set(re.findall(r"\sroot=UUID=(\S+)", text)) - {root.uuid}
        if stale:
            raise CustomiseError(f"{menu} names the root {', '.join(sorted(stale))}, and not {root.uuid}")


def _without_grub(work: Work) -> str:
    others = {"/etc/lilo.conf": "LILO", "/boot/extlinux": "extlinux", "/boot/syslinux": "syslinux"}
    found = [name for path, name in others.items() if work.tree.exists(path)]
    if work.tree.exists("/boot/loader/loader.conf") or work.tree.exists("/boot/efi/loader/loader.conf"):
        found.append("systemd-boot")
    named = f"it boots with {' and '.join(found)}, which is not supported; " if found else ""
    package = PACKAGES.get(work.facts.firmware, "GRUB")
    return (
        f"the tree has no GRUB (grub-mkconfig): {named}install grub2-common and {package} on the golden node and "
        "take the image again, or ask for no boot loader (`-r none`)"
    )
