"""The `files` method on one node: disks made anew, a tree unpacked onto them, proven, and made this node's own.

Before READY the disks get their table and file systems (kainstall1 of KA); the files come when the session starts
(kainstall2). `end` takes everything down again, however far it came.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence

from bootd.member.store import Store
from bootd.wire import tree as trees
from bootd.wire.control import Plan
from bootd.wire.errors import PeerProtocolError
from bootd.wire.manifest import Manifest
from bootd.wire.scheme import encoding
from bootd.wire.scheme.fitting import Fitted, Misfit, fit
from bootd.wire.tree import Mount, TreeOrder
from stage2 import customise, stacking
from stage2.customise.hardware import drivers_in_use
from stage2.formatting import FormattingError, make
from stage2.gate import RefusedError, Target
from stage2.made import Filesystem, Made
from stage2.mounting import MountError, mount, unmount
from stage2.unpacking import TreeStore

FOLDER = "/run/bootd"
IDLE_SECONDS = 1800.0  # a step that was begun is not left in the middle
Customise = Callable[[str, Made, customise.Facts, Callable[[str], None]], customise.Result]


class FilesError(Exception):
    """The node cannot go on; the text says why."""


def read_order(data: bytes, plan: Plan, firmware: str) -> tuple[TreeOrder, Fitted]:
    """What the plan is bound to, and how it fits the plan's disks. `RefusedError` before anything is touched."""
    if trees.digest(data) != plan.files:
        raise RefusedError("the order for the files is not that of the plan")
    try:
        order = trees.decode(data)
        scheme = encoding.decode(order.scheme)
    except PeerProtocolError as error:
        raise RefusedError(str(error)) from None
    fitted = fit(scheme, (plan.disk, *plan.further), firmware)
    if isinstance(fitted, Misfit):
        raise RefusedError(f"the layout does not fit: {fitted.reason}")
    return order, fitted


class FilesWork:
    """One tree on its way to the disks of this node. ``say`` gets a line for each step."""

    def __init__(
        self,
        plan: Plan,
        order: TreeOrder,
        fitted: Fitted,
        *,
        firmware: str,
        server: str,
        say: Callable[[str], None],
        dev_root: str = "/dev",
        do_customise: Customise = customise.customise,
    ) -> None:
        self._plan, self._order, self._fitted = plan, order, fitted
        self._firmware, self._server = firmware, server
        self._say, self._dev, self._customise = say, dev_root, do_customise
        self._made: Made | None = None
        self._root = ""
        self._store: TreeStore | None = None

    def make(self, targets: Sequence[Target]) -> None:
        """Tables, arrays, volumes, file systems, mounted. ``targets`` are closed then. `FilesError`."""
        disks = [disk.name for disk in (self._plan.disk, *self._plan.further)]
        self._say(f"kainstall1: {len(self._fitted.partitions)} partitions of {' and '.join(disks)}")
        try:
            self._made = make(self._fitted, targets, self._say, self._dev)
            os.makedirs(FOLDER, exist_ok=True)
            self._root = tempfile.mkdtemp(prefix="disk-", dir=FOLDER)
            mount(self._made, self._root, self._say)
        except (FormattingError, MountError, OSError) as error:
            trouble = self.end()
            raise FilesError("; ".join(text for text in (str(error), trouble) if text)) from None

    def store(self, manifest: Manifest) -> Store:
        """Where the archive goes. `StoreError` when there is no room."""
        if self._made is None:
            raise FilesError("nothing is made yet")
        self._say("WAITING node: partitions and file systems are there, the files may come")
        self._store = TreeStore(manifest, self._order, self._made, self._root, finish=self._finish, say=self._say)
        return self._store

    def _finish(self) -> str:
        """The proven tree becomes this node's own; "" or why not."""
        if self._made is None:
            return "nothing is made"
        facts = customise.Facts(
            name=self._plan.name,
            mac=self._plan.node,
            firmware=self._firmware,
            drivers=drivers_in_use(),
            modules=self._order.modules,
            bootloader=self._order.loader,
            source=tuple(_filesystem(one) for one in self._order.tree.mounts),
            skip=frozenset(self._order.skip),
            hooks=self._write_hooks(),
            session=self._plan.session,
            image=self._plan.image_root,
            server=self._server,
        )
        try:
            result = self._customise(self._root, self._made, facts, self._say)
        finally:
            if facts.hooks:
                shutil.rmtree(facts.hooks, ignore_errors=True)
        for warning in result.warnings:
            self._say(f"customise: warning: {warning}")
        return "" if result.is_done else f"customise: {result.failure}"

    def _write_hooks(self) -> str:
        if not self._order.hooks:
            return ""
        folder = tempfile.mkdtemp(prefix="hooks-", dir=FOLDER)
        for name, content in self._order.hooks:
            path = os.path.join(folder, os.path.basename(name))
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(content)
            os.chmod(path, 0o700)
        return folder

    def end(self) -> str:
        """Unmount all and let go of arrays and volumes; "" or what stays. May be called twice."""
        troubles: list[str] = []
        if self._store is not None and not self._store.idle.wait(IDLE_SECONDS):
            return "a step of the work on the tree does not come to its end"
        if self._made is not None and self._root:
            try:
                unmount(self._made, self._root)
            except (MountError, OSError) as error:
                troubles.append(str(error))
        if self._root and not troubles:
            with contextlib.suppress(OSError):
                os.rmdir(self._root)
        if self._made is not None and not troubles:
            troubles += stacking.release(self._made.arrays, self._made.groups)
        if not troubles:
            self._made, self._root = None, ""
        return "; ".join(troubles)


def _filesystem(one: Mount) -> Filesystem:
    return Filesystem(one.device, one.kind, one.uuid, one.label, one.path, one.options, one.partuuid)
