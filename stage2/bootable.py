"""After the clone: let the kernel see the new partitions, and on UEFI send the firmware to them once.

Everything here is done as well as it can be: the disk is verified already, so a failure is told, not fatal.
BIOS needs nothing: the image brought its boot sector along.
"""

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Sequence
from typing import Any

EFI_VARIABLES = "/sys/firmware/efi/efivars"
ENTRY_LABEL = "bootd local disk"
MOUNT_POINT = "/run/bootd/esp"
_BLKRRPART = 0x125F  # linux/fs.h
_ESP_TYPES = frozenset({"c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef"})
_TIMEOUT = 60.0  # seconds, for every program
# Vendors' loaders first: the fallback of a shim installation resets the machine to add a boot entry of its own.
LOADERS = (
    *("EFI/debian/shimx64.efi", "EFI/debian/grubx64.efi", "EFI/ubuntu/shimx64.efi", "EFI/ubuntu/grubx64.efi"),
    *("EFI/fedora/shimx64.efi", "EFI/redhat/shimx64.efi", "EFI/centos/shimx64.efi", "EFI/rocky/shimx64.efi"),
    *("EFI/almalinux/shimx64.efi", "EFI/opensuse/shim.efi", "EFI/opensuse/grubx64.efi", "EFI/arch/grubx64.efi"),
    *("EFI/systemd/systemd-bootx64.efi", "EFI/Microsoft/Boot/bootmgfw.efi", "EFI/BOOT/BOOTX64.EFI"),
)


class BootableError(Exception):
    """One step did not work; the text says which and why."""


def make_bootable(disk: str) -> str:
    """Do what can be done for ``disk`` (kernel name); one sentence for the report, "" when all is as it was."""
    try:
        reread_partitions(disk)
    except OSError as error:
        return f"the kernel does not read the partitions of {disk}: {error.strerror or error}"
    if not os.path.isdir(EFI_VARIABLES) or not os.listdir(EFI_VARIABLES):
        return ""
    try:
        number = esp_number(json.loads(_run(["sfdisk", "--json", f"/dev/{disk}"])))
        if number is None:
            return f"{disk} has no EFI system partition: the boot order of the firmware was left alone"
        loader = find_loader(partition_path(disk, number))
        entry = set_boot_next(disk, number, loader)
    except (BootableError, ValueError, OSError) as error:
        return f"the boot order of the firmware was left alone: {error}"
    return f"next boot: {entry} ({loader})"


def reread_partitions(disk: str) -> None:
    """BLKRRPART. OSError, for example while a partition is in use."""
    descriptor = os.open(f"/dev/{disk}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _BLKRRPART)
    except OSError as error:
        if error.errno != 22:  # EINVAL: a kernel, or a kind of disk, without partitions
            raise
    finally:
        os.close(descriptor)


def partition_path(disk: str, number: int) -> str:
    """``/dev/sda1``, but ``/dev/nvme0n1p1``: a name that ends in a digit gets a ``p``."""
    return f"/dev/{disk}{'p' if disk[-1].isdigit() else ''}{number}"


def esp_number(table: dict[str, Any]) -> int | None:
    """Number of the first EFI system partition in what ``sfdisk --json`` says, None when there is none."""
    for partition in table.get("partitiontable", {}).get("partitions", ()):
        if str(partition.get("type", "")).lower() in _ESP_TYPES:
            match = re.search(r"(\d+)\Z", str(partition.get("node", "")))
            if match:
                return int(match[1])
    return None


def find_loader(partition: str) -> str:
    """The first known loader on the partition, as firmware writes paths; it is mounted read-only for a moment."""
    os.makedirs(MOUNT_POINT, exist_ok=True)
    _run(["mount", "-t", "vfat", "-o", "ro,shortname=mixed", partition, MOUNT_POINT])
    try:
        for loader in LOADERS:
            if os.path.isfile(f"{MOUNT_POINT}/{loader}"):
                return "\\" + loader.replace("/", "\\")
    finally:
        _run(["umount", MOUNT_POINT])
    raise BootableError(f"no known boot loader on {partition}")


def set_boot_next(disk: str, number: int, loader: str) -> str:
    """One boot entry for this loader: the next boot uses it, later ones after the network.

    The network entry that this node has booted from stays first, so that the daemon decides; the disk comes right
    behind it, so that a firmware that is sent on reaches it without trying every other network entry for minutes.
    """
    before = _run(["efibootmgr"])
    for entry in entries_named(before, ENTRY_LABEL):
        _run(["efibootmgr", "--bootnum", entry, "--delete-bootnum"])
    place = ["--disk", f"/dev/{disk}", "--part", str(number)]
    output = _run(["efibootmgr", "--create-only", *place, "--label", ENTRY_LABEL, "--loader", loader])
    entries = entries_named(output, ENTRY_LABEL)
    if len(entries) != 1:
        raise BootableError("efibootmgr made no boot entry")
    order = order_with(output, entries[0])
    if order:
        _run(["efibootmgr", "--bootorder", ",".join(order)])
    _run(["efibootmgr", "--bootnext", entries[0]])
    return f"Boot{entries[0]}"


def order_with(output: str, entry: str) -> list[str]:
    """The boot order that efibootmgr shows with ``entry`` behind the current one; empty to leave it alone.

    Alone it is left when the firmware does not say what it has booted from: then nobody knows which entry must
    stay first.
    """
    current = re.search(r"^BootCurrent: ([0-9A-Fa-f]{4})$", output, re.MULTILINE)
    listed = re.search(r"^BootOrder: ([0-9A-Fa-f]{4}(?:,[0-9A-Fa-f]{4})*)$", output, re.MULTILINE)
    order = [number for number in listed[1].split(",") if number != entry] if listed else []
    if current is None or current[1] not in order:
        return []
    place = order.index(current[1]) + 1
    return [*order[:place], entry, *order[place:]]


def entries_named(output: str, label: str) -> list[str]:
    """Numbers (four hexadecimal digits) of the boot entries with this label in the output of efibootmgr."""
    return re.findall(rf"^Boot([0-9A-Fa-f]{{4}})[* ] {re.escape(label)}(?:\t.*)?$", output, re.MULTILINE)


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BootableError(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise BootableError(f"{command[0]} failed: {' '.join(tail) or done.returncode}")
    return done.stdout.decode(errors="replace")
