"""What rsync is told and what it says: argument lists, change lines, statistics, exit codes. Sans-IO.

`bootd.wire.control.Sync` is the order. The node runs rsync as client; the daemon gives it a server that sees
nothing but the folder of that one task (docs/decisions/0012-rsync.md).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from bootd.wire.control import Sync

MAX_CHANGES = 500  # lines of one report
MAX_LINE = 700  # characters of one of them
SOURCE, OVERLAY, COLLECT = "source", "overlay", "collect"  # modules of a task
IDLE_SECONDS = 600  # rsync gives up a connection on which nothing moves
SLACK = 10  # files
UPGRADE = "bootd-rsync"  # the protocol that a connection of the node interface changes to

# rsync(1), EXIT VALUES; what an operator can do about it.
_CODES = {
    1: "rsync does not know an option: its version is too old",
    2: "the versions of rsync do not understand each other",
    3: "files cannot be selected: is the folder there?",
    5: "the server refuses: see its log",
    10: "the connection broke",
    11: "a file cannot be written: is the disk full?",
    12: "the connection broke: the other side ended, or its disk is full",
    13: "rsync cannot write its messages",
    14: "rsync cannot start its processes",
    20: "ended by a signal",
    22: "out of memory",
    23: "some files could not be had or written",
    24: "some files vanished from the source meanwhile",
    25: "more files were to be deleted than allowed",
    30: f"nothing came for {IDLE_SECONDS} s",
    35: "the server does not answer",
    127: "rsync is not installed: apt install rsync",
}
PARTIAL = (23, 24)
_STATISTICS = re.compile(r"(Number of files|Total bytes sent|Total bytes received): ([\d,.]+)")
_ITEM = re.compile(r"([<>ch.*])([fdLDS])(.{9})\Z")
_DIRECTORY_TIME = re.compile(r"\.d\.\.t\.{6}\Z")


def reason_of(code: int) -> str:
    """An exit status in words; "" for 0."""
    return "" if not code else _CODES.get(code, f"rsync ended with status {code}")


def arguments(
    order: Sync,
    rules: str,
    module: str,
    place: str,
    link_to: Iterable[str] = (),
    *,
    most_deleted: int | None = None,
) -> list[str]:
    """The command that carries ``order`` out between ``module`` of the server and the folder ``place``.

    ``rules``: path of a file with filter rules, "" = none; of `OVERLAY` of one with the names of its files, each
    ended by a NUL: folders on the way to them keep their owners and modes. ``link_to``: trees whose equal files
    become hard links. ``most_deleted``: rsync ends with status 25 when more would have to be; None = no bound.
    """
    words = ["rsync", "--archive", "--hard-links", "--acls", "--xattrs", "--sparse", "--numeric-ids"]
    words += ["--stats", "--no-human-readable", "--out-format=%i %n%L", f"--timeout={IDLE_SECONDS}"]
    if module == OVERLAY:
        words += [f"--files-from={rules}", "--from0", "--no-implied-dirs"]
    elif rules:
        words.append(f"--filter=merge {rules}")
    switches = {
        "--dry-run": order.dry,
        "--update": order.update,
        "--ignore-times": order.full,
        "--checksum": order.checksum,
        "--compress": order.compress,
    }
    words += [switch for switch, is_on in switches.items() if is_on]
    if order.freeze and module != OVERLAY:
        words += ["--delete", "--force"]
        if most_deleted is not None:
            words.append(f"--max-delete={most_deleted}")
    words += [f"--link-dest={folder}" for folder in link_to]
    remote, local = f"bootd::{module}/", f"{place.rstrip('/')}/"
    return [*words, "--", local, remote] if order.collect else [*words, "--", remote, local]


@dataclass
class Tally:
    """What rsync has said so far, line by line."""

    files: int = 0
    created: int = 0
    changed: int = 0
    attributes: int = 0
    deleted: int = 0
    wire: int = 0
    changes: list[str] = field(default_factory=list)

    def take(self, line: str) -> None:
        """One line of standard output."""
        number = _STATISTICS.match(line)
        if number is not None:
            value = int(re.sub(r"[,.]", "", number.group(2)))
            if number.group(1) == "Number of files":
                self.files += value
            else:
                self.wire += value
            return
        kind = kind_of(line[:11])
        if not kind or not line[11:12].isspace():
            return
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.changes) < MAX_CHANGES:
            self.changes.append(f"{kind} {line[12:].strip()}"[:MAX_LINE])

    @property
    def present(self) -> int:
        """Files that were there before, as far as they are looked at."""
        return max(0, self.files - self.created) + self.deleted


def kind_of(item: str) -> str:
    """What one ``%i`` of rsync(1), --itemize-changes, means: created, changed, attributes, deleted, "" = nothing.

    A folder whose time alone differs changes with everything that is done in it, and is not told.
    """
    if item.startswith("*deleting"):
        return "deleted"
    match = _ITEM.match(item)
    if match is None or _DIRECTORY_TIME.match(item):
        return ""
    update, _, flags = match.groups()
    if flags.startswith("+++"):
        return "created"
    if update in "<>c":
        return "changed"
    return "attributes" if update in ".h" and flags.strip(". ") else ""


def bound_of(tally: Tally, most: int) -> int | None:
    """How many files may be deleted after this dry run: what it has found, and a little for what happens meanwhile.
    A source that goes away in between empties no node. None = no bound, as for ``most`` 100."""
    if most >= 100:
        return None
    return min(most * tally.present // 100, tally.deleted + max(SLACK, tally.present // 100))


def deleted_beyond(tally: Tally, most: int) -> str:
    """Why a dry run's deletions are too many, "" when they are not. ``most``: per cent of what is there."""
    if tally.deleted * 100 <= most * tally.present:
        return ""
    return (
        f"{tally.deleted} of {tally.present} files would be deleted, more than {most} %: "
        "is this the right source? If so: --max-delete 100"
    )
