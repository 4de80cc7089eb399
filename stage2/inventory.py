"""The disks of this node: what they are, and which of them nobody may touch.

`disks_of` is pure: it judges what ``lsblk --json`` and sysfs said. `take` asks them. Identity (serial, WWN) is read
from sysfs, and what lies on disks from blkid: lsblk knows both only with a udev data base, which stage2 has not.

The table digest is SHA-256 over the disk's size and its first and last MiB: the protective MBR, both copies of a
GPT (header and 128 entries at 512 or 4096 bytes a sector) and what lies in the gap behind them. It takes no parser
that could be wrong, covers disks without a table as well, and changes with any table or boot loader.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bootd.wire import saved
from bootd.wire.control import Disk, Partition
from bootd.wire.targets import CONTENT
from stage2 import signatures

COLUMNS = "NAME,KNAME,TYPE,SIZE,RO,RM,MOUNTPOINTS,FSTYPE,TRAN,MODEL,LOG-SEC,LABEL,PARTUUID,START,PARTTYPE"
MAX_PARTITIONS = 256  # of one disk: a minor number is a byte
# Members of pools and of other systems' storage: part of something that this machine does not see as a whole.
FOREIGN = frozenset({"zfs_member", "vmfs_volume_member", "vmfs", "ceph_bluestore", "bcache", "drbd", "apfs"})
NETWORK_TRANSPORTS = frozenset({"iscsi", "fc", "fcoe", "nbd", "rbd", "tcp", "rdma"})
VIRTUAL_NAMES = {"zram": "zram", "ram": "RAM disk", "loop": "loop device", "fd": "floppy", "nbd": "network"}
LSBLK_TIMEOUT = 60.0  # seconds: a dying disk may hold lsblk up


class InventoryError(Exception):
    """The disks cannot be listed; the text says why."""


@dataclass(frozen=True)
class Facts:
    """What sysfs and the medium say about one disk."""

    serial: str = ""
    wwn: str = ""
    transport: str = ""
    model: str = ""
    table_digest: str = ""  # "" when the disk could not be read
    trouble: str = ""  # why it could not


def disks_of(lsblk: Mapping[str, Any], facts: Mapping[str, Facts]) -> tuple[Disk, ...]:
    """Every whole disk in the order of lsblk, with the reason why it is excluded, if there is one."""
    disks = []
    for device in lsblk.get("blockdevices", ()):
        if device.get("type") in ("disk", "loop", "rom"):
            disks.append(_disk(device, facts.get(device["kname"], Facts())))
    return tuple(_without_twins(disks))


def _disk(device: Mapping[str, Any], facts: Facts) -> Disk:
    transport = facts.transport or device.get("tran") or ""
    return Disk(
        name=device["kname"],
        size=int(device.get("size") or 0),
        sector=int(device.get("log-sec") or 512),
        serial=facts.serial,
        wwn=facts.wwn,
        model=facts.model or (device.get("model") or "").strip(),
        transport=transport,
        removable=bool(device.get("rm")),
        excluded=exclusion(device, transport, facts),
        table_digest=facts.table_digest,
        partitions=tuple(partitions_of(device))[:MAX_PARTITIONS],
        filesystem=device.get("fstype") or "",
    )


def partitions_of(device: Mapping[str, Any]) -> Iterator[Partition]:
    """The partitions that lsblk shows below a disk, by their number: the digits that end the kernel's name."""
    for part in device.get("children") or ():
        number = part["kname"].removeprefix(device["kname"]).removeprefix("p")
        if part.get("type") == "part" and number.isascii() and number.isdigit():
            yield Partition(
                number=int(number),
                size=int(part.get("size") or 0),
                partuuid=(part.get("partuuid") or "").lower()[:64],
                filesystem=part.get("fstype") or "",
                label=_printable((part.get("label") or "").encode("ascii", "replace"))[:64],
                start=int(part.get("start") or 0) * 512,  # sysfs counts so, whatever the sectors of the disk
                type=(part.get("parttype") or "").lower()[:64],
                used=in_use([reason for own in _family(part) if (reason := _use(own))]),
            )


def exclusion(device: Mapping[str, Any], transport: str, facts: Facts) -> str:
    """Why this disk is no target, "" when it may be one."""
    name = device["kname"]
    for prefix, reason in VIRTUAL_NAMES.items():
        if name.startswith(prefix) and name[len(prefix) :].isdigit():
            return reason
    if device.get("type") != "disk":
        return "optical drive" if device.get("type") == "rom" else f"of type {device.get('type')}"
    if transport == "usb":
        return "usb"
    if transport in NETWORK_TRANSPORTS:
        return "network"
    if device.get("rm"):
        return "removable"
    if device.get("ro"):
        return "read-only"
    if not int(device.get("size") or 0):
        return "no medium"
    reason = in_use([reason for part in _family(device) if (reason := _use(part))])
    if reason:
        return reason
    if not facts.table_digest:
        return facts.trouble or "unreadable"
    return ""


def in_use(reasons: Sequence[str]) -> str:
    """The one of several that counts, "" for none: use outweighs what may be overruled by naming the disk."""
    return next((reason for reason in reasons if not reason.startswith(CONTENT)), reasons[0] if reasons else "")


def _use(part: Mapping[str, Any]) -> str:
    """How a disk, a partition or what is stacked on it is in use."""
    mounts = [mount for mount in part.get("mountpoints") or () if mount]
    if "[SWAP]" in mounts:
        return "used as swap"
    if mounts:
        return f"mounted at {mounts[0]}"
    filesystem = (part.get("fstype") or "").lower()
    kind = part.get("type") or ""
    if filesystem in ("linux_raid_member", "isw_raid_member", "ddf_raid_member") or kind.startswith("raid"):
        return "raid member"
    if filesystem == "mpath_member" or kind == "mpath":
        return "multipath"
    if kind == "lvm":
        return "LVM in use"
    if kind in ("crypt", "dm", "md"):
        return f"in use by {part.get('kname') or kind}"
    if filesystem == "bitlocker":
        return "BitLocker"
    if filesystem == signatures.SEVERAL or filesystem in FOREIGN:
        return f"foreign filesystem: {filesystem}"
    return ""


def _family(device: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield device
    for child in device.get("children") or ():
        yield from _family(child)


def _without_twins(disks: list[Disk]) -> Iterator[Disk]:
    """Two disks of one WWN are two paths to the same medium, whether multipath runs or not."""
    for disk in disks:
        twins = [other.name for other in disks if other is not disk and disk.wwn and other.wwn == disk.wwn]
        if twins and not disk.excluded:
            yield replace(disk, excluded=f"multipath: same WWN as {', '.join(twins)}")
        else:
            yield disk


def table_digest(descriptor: int, size: int) -> str:
    """The digest that a plan is bound to, hex; read past the page cache where the kernel lets us. OSError."""
    return saved.table_digest(size, read_ends(descriptor, size))


def read_ends(descriptor: int, size: int) -> Iterator[bytes]:
    """The bytes of `saved.table_regions`, in pieces. OSError."""
    for offset, length in saved.table_regions(size):
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)
        done = 0
        while done < length:
            data = os.pread(descriptor, length - done, offset + done)
            if not data:
                raise OSError(f"ends at byte {offset + done}")
            yield data
            done += len(data)


# --- asking the system ----------------------------------------------------------------------------------------


def take(sys_root: str = "/sys", dev_root: str = "/dev") -> tuple[Disk, ...]:
    """The disks as they are now. `InventoryError` when lsblk does not answer."""
    lsblk = run_lsblk()
    facts = {}
    for device in lsblk.get("blockdevices", ()):
        if device.get("type") == "disk":
            signatures.complete(device, dev_root)
            facts[device["kname"]] = read_facts(device["kname"], int(device.get("size") or 0), sys_root, dev_root)
    return disks_of(lsblk, facts)


def run_lsblk() -> dict[str, Any]:
    command = ["lsblk", "--json", "--bytes", "--output", COLUMNS]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=LSBLK_TIMEOUT)
        if done.returncode != 0 and not done.stdout:
            raise InventoryError(f"lsblk: {done.stderr.decode(errors='replace').strip() or done.returncode}")
        value = json.loads(done.stdout or b'{"blockdevices":[]}')
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise InventoryError(f"lsblk: {error}") from None
    return dict(value)


def read_facts(name: str, size: int, sys_root: str = "/sys", dev_root: str = "/dev") -> Facts:
    """Identity and table digest of one disk; what cannot be read is said in ``trouble``."""
    folder = f"{sys_root}/block/{name}"
    digest, trouble = "", ""
    if size:
        try:
            descriptor = os.open(f"{dev_root}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                digest = table_digest(descriptor, size)
            finally:
                os.close(descriptor)
        except OSError as error:
            trouble = f"unreadable: {error.strerror or error}"
    return Facts(
        serial=_serial(folder),
        wwn=_wwn(folder),
        transport=_transport(folder, name),
        model=" ".join(_text(f"{folder}/device/model").split()),
        table_digest=digest,
        trouble=trouble,
    )


def _text(path: str) -> str:
    """Content of a small sysfs file, "" when there is none."""
    try:
        with open(path, "rb") as stream:
            return _printable(stream.read(4096))
    except OSError:
        return ""


def _printable(data: bytes) -> str:
    """The printable ASCII characters of what a drive's firmware wrote."""
    return "".join(chr(byte) for byte in data if 0x20 <= byte < 0x7F).strip()


def _serial(folder: str) -> str:
    """virtio and MMC have a file, NVMe has it at the controller, SCSI and ATA on vital product data page 80h."""
    for name in ("serial", "device/serial"):
        text = _text(f"{folder}/{name}")
        if text:
            return text
    try:
        with open(f"{folder}/device/vpd_pg80", "rb") as stream:
            page = stream.read(260)
    except OSError:
        return ""
    return parse_serial_page(page)


def parse_serial_page(page: bytes) -> str:
    """Unit serial number (SPC-4, 7.8.16): page code 80h, length in bytes 2 and 3, then ASCII."""
    if len(page) < 4 or page[1] != 0x80:
        return ""
    return _printable(page[4 : 4 + int.from_bytes(page[2:4], "big")])


def _wwn(folder: str) -> str:
    return normal_wwn(_text(f"{folder}/wwid") or _text(f"{folder}/device/wwid"))


def normal_wwn(text: str) -> str:
    """A worldwide name as udev writes it: ``naa.5000…`` is ``0x5000…``.

    ``t10.`` names are vendor and serial once more, and NVMe's ``nvme.`` names are made from the serial: neither is
    worldwide, so they count as none.
    """
    if text.startswith("naa."):
        return "0x" + text[4:]
    if text.startswith(("eui.", "uuid.")):
        return text
    return ""


def _transport(folder: str, name: str) -> str:
    """From the path of the device in sysfs, for what lsblk leaves open."""
    path = os.path.realpath(folder)
    if "/usb" in path:
        return "usb"
    if name.startswith("nvme"):
        return _text(f"{folder}/device/transport").replace("pcie", "nvme") or "nvme"
    if name.startswith("mmcblk"):
        return "mmc"
    if "/session" in path:
        return "iscsi"
    if "/rport-" in path:
        return "fc"
    if "/virtio" in path and name.startswith("vd"):
        return "virtio"
    return ""
