"""The system that runs here, as it was at one moment: snapshots of its file systems, mounted for nobody else.

The thread that reads has a mount namespace of its own: whatever becomes of the program, its mounts end with it.
Snapshots do not; they are removed when the system has been read, and looked for whenever the agent starts.
How each file system is read is decided in `stage2.views`.
"""

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from bootd.member import archive
from bootd.wire.control import Cancel, CaptureRunning
from bootd.wire.mounts import Entry, parse_fstab
from bootd.wire.tree import SWAP, Mount, Tree
from stage2 import snapshots
from stage2.capture import FilesJob, FilesSource
from stage2.mounting import MOUNT_SECONDS, UNMOUNT_SECONDS, mounted_here
from stage2.node import Node, firmware
from stage2.programs import ProgramError, run
from stage2.used_blocks import RefusedError
from stage2.views import NAMES, STAGE2, View, choose

FOLDER = "/run/bootd-agent"
STILL_BYTES = 4 << 30  # of files: so much is read without a snapshot, where nobody writes
LEFT_SECONDS = 60.0
CLOSE_SECONDS = 60.0  # less than systemd gives a service that is to stop
_CLONE_NEWNS = 0x20000  # linux/sched.h
_MS_REC, _MS_SLAVE = 0x4000, 1 << 19  # linux/mount.h
_WRITTEN = 6  # word of /sys/block/*/stat: sectors written, Documentation/block/stat.rst


class RunningJob(FilesJob):
    """The files of the system that runs here."""

    def __init__(self, order: CaptureRunning, node: Node, *, say: Callable[[str], None]) -> None:
        super().__init__(order.task, node, say)
        self._order = order

    def _open(self) -> contextlib.AbstractContextManager[FilesSource]:
        return live_tree(self._order, self._say)


class Backups:
    """Carries out what the server asks for, one after the other."""

    def __init__(self, node: Node, say: Callable[[str], None]) -> None:
        self._node, self._say = node, say
        self._job: RunningJob | None = None
        self._next: CaptureRunning | None = None

    def begin(self) -> None:
        """Look for what an agent that was killed has left."""
        cleaner = threading.Thread(target=remove_left, args=(self._say,), name="bootd-left", daemon=True)
        cleaner.start()
        cleaner.join(LEFT_SECONDS)

    def take(self, message: CaptureRunning | Cancel) -> None:
        """The same order comes again after each connect."""
        if isinstance(message, Cancel):
            if self._next is not None and self._next.task == message.session:
                self._next = None
            if self._job is not None and self._job.task == message.session:
                self._job.stop()
        elif self._job is None or self._job.task != message.task:
            self._next = message
            self.look()

    def look(self) -> None:
        """To be called about twice a second."""
        if self._job is not None and not self._job.is_alive():
            self._say(f"backup {self._job.task} ended: {self._job.ended}")
            self._job = None
        if self._job is None and self._next is not None:
            self._job, self._next = RunningJob(self._next, self._node, say=self._say), None
            self._say(f"backup {self._job.task} of this system begins")
            self._job.start()

    def close(self) -> None:
        """End what is at work; its snapshots are removed."""
        if self._job is not None:
            self._job.stop()
            self._job.join(CLOSE_SECONDS)


@contextlib.contextmanager
def live_tree(order: CaptureRunning, say: Callable[[str], None]) -> Iterator[FilesSource]:
    """The running system at one moment, until this is left. For a thread of its own, which is of no other use
    afterwards. `RefusedError`, OSError."""
    try:
        with _private_folder():
            yield from _read(order, say)
    except ProgramError as error:
        raise RefusedError(str(error)) from None


def remove_left(say: Callable[[str], None]) -> None:
    """Snapshots that an agent which was killed has left are removed; in a thread of its own. Never raises."""
    try:
        with _private_folder():
            _remove_left(say)
    except (ProgramError, OSError, RefusedError) as error:
        say(f"snapshots of before cannot be looked for: {error}")


def _read(order: CaptureRunning, say: Callable[[str], None]) -> Iterator[FilesSource]:
    _remove_left(say)
    mounts = mounted_here()
    lines = parse_fstab(_text("/etc/fstab"))
    views, notes = choose(mounts, lines, snapshots.volumes())
    notes = [*(view.told() for view in views), *notes]
    root = f"{FOLDER}/root"
    os.mkdir(root)
    exclude = order.exclude
    inner = _inner(views, exclude)
    with contextlib.ExitStack() as stack:
        mounter = _Mounter(order.task, root, stack, say)
        mounter.take(views)
        try:
            for view in views:
                mounter.mount(view)
            for place in inner:
                mounter.bind(place, place)
            amounts = archive.measure(root, [view.mounted.point for view in views], exclude)
        except (ProgramError, OSError, RefusedError):
            why = mounter.changed()  # a snapshot that is full cannot even be mounted
            if why:
                raise RefusedError(why) from None
            raise
        for view in views:
            if view.is_still and amounts[view.mounted.point].used > STILL_BYTES:
                raise RefusedError(
                    f"{view.mounted.point} ({view.mounted.kind} on {view.mounted.device}) has no snapshot, and "
                    f"is too large to be read as it is: unmount it, put it on LVM or btrfs, or {STAGE2}"
                )
        found = [_described(view, amounts[view.mounted.point]) for view in views]
        found += [_swap(line) for line in lines if line.kind == SWAP and line.device.startswith(NAMES)]
        disk, table = _disk_below(views[0].mounted.device)
        for note in notes:
            say(note)
        yield FilesSource(root, Tree(tuple(found), firmware(), table, disk, exclude), tuple(notes), mounter.changed)


class _Mounter:
    """Makes snapshots and mounts them below ``root``; ``stack`` undoes it."""

    def __init__(self, task: str, root: str, stack: contextlib.ExitStack, say: Callable[[str], None]) -> None:
        self._task, self._root, self._stack, self._say = task, root, stack, say
        self._sources: dict[str, str] = {}  # device or folder, by point
        self._names: list[str] = []  # of snapshots of volumes
        self._written: list[tuple[str, str, int]] = []  # point, number, sectors written, of what is read as it is

    def take(self, views: Sequence[View]) -> None:
        """All snapshots, one right after the other; what has none is brought to its disk."""
        tops = {}
        for number, device in enumerate(dict.fromkeys(view.mounted.device for view in views if view.is_btrfs)):
            tops[device] = f"{FOLDER}/top-{number}"
            os.mkdir(tops[device])
            snapshots.mount_top(device, tops[device])
            self._stack.callback(self._undo, ["umount", tops[device]])
        for number, view in enumerate(views):
            point, name = view.mounted.point, f"{snapshots.PREFIX}{self._task}-{number}"
            if view.volume is not None:
                path = f"{view.volume.group}/{name}"
                self._stack.callback(self._remove_volume, path)
                self._sources[point] = snapshots.snapshot_volume(view.volume, name, view.extents)
                self._names.append(name)
            elif view.is_btrfs:
                folder = f"{tops[view.mounted.device]}/{name}"
                self._stack.callback(self._remove_subvolume, folder)
                self._sources[point] = snapshots.snapshot_subvolume(point, tops[view.mounted.device], name)
            else:
                self._sources[point] = point
                _sync(point)
                self._written.append((point, view.mounted.number, _sectors_written(view.mounted.number)))

    def mount(self, view: View) -> None:
        """Where the system has it, for reading only."""
        point, source = view.mounted.point, self._sources[view.mounted.point]
        if view.volume is None:
            self.bind(source, point)
            return
        place = self._place(point)
        # The journal is replayed into the snapshot, so there is nothing that it does not know.
        options = "ro,nouuid" if view.mounted.kind == "xfs" else "ro"
        run(["mount", "-t", view.mounted.kind, "-o", options, source, place], seconds=MOUNT_SECONDS)
        self._stack.callback(self._undo, ["umount", place])

    def bind(self, source: str, point: str) -> None:
        """The folder ``source`` there, for reading only."""
        place = self._place(point)
        run(["mount", "--bind", source, place])
        self._stack.callback(self._undo, ["umount", place])
        run(["mount", "-o", "remount,bind,ro,noatime", place])

    def _place(self, point: str) -> str:
        place = os.path.normpath(f"{self._root}/{point}")
        if os.path.realpath(place) != place or not os.path.isdir(place):
            raise RefusedError(f"{point} is no folder of its own in the file system above it")
        return place

    def changed(self) -> str:
        for point, number, before in self._written:
            _sync(point)
            if _sectors_written(number) != before:
                return f"{point} was written to while it was read: wait for what does it, and begin again"
        return snapshots.trouble(self._names) if self._names else ""

    def _remove_volume(self, path: str) -> None:
        try:
            if any(one.path == path for one in snapshots.volumes()):  # else it was not made
                snapshots.remove_volume(path)
        except ProgramError as error:
            self._say(f"snapshot {path} may be there still, and will be removed by the next backup: {error}")

    def _remove_subvolume(self, folder: str) -> None:
        try:
            if os.path.exists(folder):
                snapshots.remove_subvolume(folder)
        except ProgramError as error:
            self._say(f"snapshot {folder} is still there, and will be removed by the next backup: {error}")

    def _undo(self, words: list[str]) -> None:
        try:
            run(words, seconds=UNMOUNT_SECONDS)
        except ProgramError as error:
            self._say(f"{error}: it goes with this thread")


def _inner(views: Sequence[View], exclude: Sequence[str]) -> list[str]:
    """Subvolumes in those that are read: empty, or to be left empty. Else `RefusedError`, since a snapshot has
    nothing of them: folders of their name, with the time at which one looks."""
    found = []
    points = {view.mounted.point for view in views}
    for view in views:
        for path in snapshots.inner_subvolumes(view.mounted.point, view.mounted.inner) if view.is_btrfs else ():
            place = f"{view.mounted.point.rstrip('/')}{path}"
            if place in points:
                continue
            if place in exclude or archive.is_below(place, exclude) or not os.listdir(place):
                found.append(place)
                continue
            raise RefusedError(
                f"{place} is a subvolume of its own, which fstab does not mount: say -x {place} to leave out "
                f"what is in it, or {STAGE2}"
            )
    return found


# --- small questions to the system ----------------------------------------------------------------------


@contextlib.contextmanager
def _private_folder() -> Iterator[None]:
    """This thread sees mounts that nobody else sees, and has an empty folder for them. It sees what others mount
    and unmount, so it holds nothing of theirs. OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "no mounts of its own: the agent must run as root")
    if library.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None) != 0:
        raise OSError(ctypes.get_errno(), "its mounts would be seen by others")
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    run(["mount", "-t", "tmpfs", "-o", "mode=0700,size=1m", "bootd-agent", FOLDER])
    try:
        yield
    finally:
        with contextlib.suppress(ProgramError):
            run(["umount", "--lazy", FOLDER])


def _remove_left(say: Callable[[str], None]) -> None:
    place = f"{FOLDER}/left"
    os.mkdir(place)
    devices = dict.fromkeys(
        one.device for one in mounted_here() if one.kind == "btrfs" and one.device.startswith("/dev/")
    )
    snapshots.remove_left([(device, place) for device in devices], say)


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read()


def _sync(point: str) -> None:
    """What was written to the file system is on its disk. OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if library.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), f"{point} cannot be brought to its disk")
    finally:
        os.close(descriptor)


def _sectors_written(number: str) -> int:
    return int(_text(f"/sys/dev/block/{number}/stat").split()[_WRITTEN])


def _described(view: View, amount: archive.Amount) -> Mount:
    mounted, facts = view.mounted, _probe(view.mounted.device)
    return Mount(
        mounted.point,
        mounted.kind,
        _size(mounted.device),
        amount.used,
        amount.files,
        facts.get("UUID", ""),
        facts.get("LABEL", ""),
        view.options,
        facts.get("PART_ENTRY_UUID", ""),
        mounted.device,
    )


def _swap(line: Entry) -> Mount:
    found = (
        run(["blkid", "-t", line.device, "-o", "device"], ok=(0, 2)).split()
        if "=" in line.device
        else [line.device]
    )
    if not found or not os.path.exists(found[0]):
        return Mount("", SWAP, 0, 0, 0, options=line.options, device=line.device)
    facts = _probe(found[0])
    uuid, label, part = (facts.get(key, "") for key in ("UUID", "LABEL", "PART_ENTRY_UUID"))
    return Mount("", SWAP, _size(found[0]), 0, 0, uuid, label, line.options, part, found[0])


def _probe(device: str) -> dict[str, str]:
    text = run(["blkid", "--probe", "--output", "export", device], ok=(0, 2))
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _size(device: str) -> int:
    try:
        number = os.stat(device).st_rdev
        return int(_text(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/size")) * 512
    except (OSError, ValueError):
        return 0


def _disk_below(device: str) -> tuple[int, str]:
    """Bytes and kind of table of the disk that ``device`` is on; (0, "") for none or several."""
    words = ["lsblk", "--bytes", "--inverse", "--noheadings", "--raw", "--output", "TYPE,SIZE,PATH", device]
    rows = {tuple(line.split(" ")) for line in run(words).splitlines() if line.startswith("disk ")}
    if len(rows) != 1:
        return 0, ""
    _, size, path = rows.pop()
    kind = _probe(path).get("PTTYPE", "")  # lsblk knows it only where udev has written it down
    return int(size), kind if kind in ("dos", "gpt") else ""
