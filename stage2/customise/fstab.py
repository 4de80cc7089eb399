"""fstab(5) and crypttab(5) of a tree for the file systems that were made for it: text in, text out.

A line says where it belongs by its mount point, so the old name of the device need not be understood: whatever is
mounted at ``/home`` gets the UUID of the file system that was made for ``/home``. Comments, and what is no file
system of a disk (tmpfs, NFS, binds, swap files), stay as they are, to the byte. A disk's file system that was not
made is commented out with the reason: systemd stops a boot for a device that does not come.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bootd.wire.mounts import escape, normal, unescape
from stage2.made import SWAP, Filesystem

_TAG = re.compile(r"(UUID|LABEL|PARTUUID|PARTLABEL|ID)=", re.IGNORECASE)
_REMOVABLE = re.compile(r"/dev/(cdrom|cdrw|dvd|dvdrw|sr\d|scd\d|fd\d|floppy|hdc\b)")
_NO_DISK = re.compile(r"/dev/(shm|pts|mqueue|hugepages|nfs|root\Z|zram\d)")
# Meant for any file system, so they stay when another kind takes the place (mount(8), "filesystem-independent").
_ANY_KIND = frozenset(
    {
        *(
            "defaults",
            "auto",
            "noauto",
            "user",
            "nouser",
            "users",
            "owner",
            "group",
            "exec",
            "noexec",
            "suid",
            "nosuid",
        ),
        *("dev", "nodev", "ro", "rw", "sync", "async", "dirsync", "atime", "noatime", "diratime", "nodiratime"),
        *("relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime", "nofail", "_netdev"),
    }
)
_BTRFS_PLACE = ("subvol=", "subvolid=")
_CHECKED = frozenset({"ext2", "ext3", "ext4", "vfat", "jfs", "f2fs"})  # those whose fsck does something at boot
MARK = "# bootd: "


@dataclass(frozen=True)
class Rewritten:
    """``replaced``: what the tree called a device before, and what it is now; for the kernel's command line."""

    text: str
    notes: tuple[str, ...]
    replaced: tuple[tuple[str, str], ...] = ()


def rewrite_fstab(text: str, made: Sequence[Filesystem]) -> Rewritten:
    """fstab for ``made``. Once rewritten, doing it again gives the same text."""
    waiting = {one.mount: one for one in made if one.mount}
    swaps = [one for one in made if one.kind == SWAP]
    placed: set[str] = set()
    lines: list[str] = []
    notes: list[str] = []
    replaced: list[tuple[str, str]] = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 3 or line.lstrip().startswith("#") or not _is_of_disk(fields):
            if len(fields) in (1, 2) and not line.lstrip().startswith("#"):
                lines.append(f"{MARK}not a line of fstab: {line}")
                notes.append(f"not a line of fstab: {line.strip()}")
            else:
                lines.append(line)
            continue
        mount = normal(unescape(fields[1]))
        if fields[2] == SWAP:
            target = swaps.pop(0) if swaps else None
            missing = "this node has no such swap space"
        else:
            target = waiting.get(mount)
            missing = "it is not a file system of its own on this node"
            if mount in placed:
                target, missing = None, "there are two lines for one mount point"
        if target is None:
            lines.append(f"{MARK}{missing}: {line.strip()}")
            notes.append(f"{mount if fields[2] != SWAP else 'swap'} ({fields[0]}): {missing}")
            continue
        placed.add(mount if fields[2] != SWAP else "")
        fresh = _entry(fields, target)
        if unquote(fields[0]) != fresh[0]:
            replaced.append((unquote(fields[0]), fresh[0]))
        lines.append(_replace_fields(line, fresh))
    left = [one for one in made if one.mount and normal(one.mount) not in placed] + swaps
    for one in sorted(left, key=lambda one: (one.kind == SWAP, one.mount)):
        lines.append("\t".join(_new_entry(one)))
        notes.append(f"{one.mount or 'swap'} is new")
    return Rewritten("".join(f"{line}\n" for line in lines), tuple(notes), tuple(replaced))


def rewrite_crypttab(text: str) -> Rewritten:
    """crypttab without the devices of the source: nothing that was made is encrypted. Files as containers stay."""
    lines: list[str] = []
    notes: list[str] = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith("#") or not _is_device(fields[1]):
            lines.append(line)
            continue
        lines.append(f"{MARK}its device is not on this node: {line.strip()}")
        notes.append(f"{fields[0]} ({fields[1]}): its device is not on this node")
    return Rewritten("".join(f"{line}\n" for line in lines), tuple(notes))


def unquote(spec: str) -> str:
    """``UUID="x"`` is ``UUID=x`` (libblkid takes both)."""
    return re.sub(r'=(["\'])(.*)\1\Z', r"=\2", unescape(spec))


def _is_of_disk(fields: Sequence[str]) -> bool:
    options = fields[3].split(",") if len(fields) > 3 else []
    return _is_device(fields[0]) and "bind" not in options and "rbind" not in options


def _is_device(spec: str) -> bool:
    if _TAG.match(spec):
        return True
    return spec.startswith("/dev/") and not _REMOVABLE.match(spec) and not _NO_DISK.match(spec)


def _entry(fields: Sequence[str], target: Filesystem) -> tuple[str, ...]:
    """The six fields for ``target`` in the place of an old line; the mount point is written as it was."""
    kind = fields[2] if fields[2] in (target.kind, "auto") else target.kind
    options = _options(fields, target)
    check = fields[5] if len(fields) > 5 else "0"
    if target.kind not in _CHECKED:
        check = "0"
    elif fields[2] not in (target.kind, "auto"):
        check = _pass(target)
    return (f"UUID={target.uuid}", fields[1], kind, options, fields[4] if len(fields) > 4 else "0", check)


def _options(fields: Sequence[str], target: Filesystem) -> str:
    if target.options:
        return _at_the_top(target.options)
    old = fields[3].split(",") if len(fields) > 3 else ["defaults"]
    if fields[2] not in (target.kind, "auto"):
        kept = [word for word in old if word in _ANY_KIND or word.startswith(("x-", "X-", "comment="))]
    else:
        kept = old
    return _at_the_top(",".join(kept))


def _at_the_top(options: str) -> str:
    """Without the source's subvolumes: the tree lies at the top of its file system."""
    return ",".join(word for word in options.split(",") if not word.startswith(_BTRFS_PLACE)) or "defaults"


def _new_entry(one: Filesystem) -> tuple[str, ...]:
    if one.kind == SWAP:
        return (f"UUID={one.uuid}", "none", SWAP, one.options or "sw", "0", "0")
    options = _at_the_top(one.options or ("umask=0077" if one.kind == "vfat" else "defaults"))
    return (f"UUID={one.uuid}", escape(one.mount), one.kind, options, "0", _pass(one))


def _pass(one: Filesystem) -> str:
    if one.kind not in _CHECKED:
        return "0"
    return "1" if one.mount == "/" else "2"


def _replace_fields(line: str, fresh: Sequence[str]) -> str:
    """The line with other fields and its own blanks between them; a comment behind them stays."""
    parts = re.split(r"(\s+)", line.strip())
    words, blanks = parts[::2], parts[1::2]
    indent = line[: len(line) - len(line.lstrip())]
    count = min(len(words), 6)
    # A field that was left out, and is what it means anyway, stays left out.
    while count < 6 and any(word not in ("0", "defaults") for word in fresh[count:]):
        count += 1
    text = fresh[0]
    for number in range(1, count):
        text += (blanks[number - 1] if number - 1 < len(blanks) else " ") + fresh[number]
    if len(words) > 6:
        text += "".join(blank + word for blank, word in zip(blanks[5:], words[6:], strict=True))
    return indent + text
