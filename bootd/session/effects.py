"""What the coordinator wants done: values that the daemon carries out in order. Nothing here does anything.

Times are monotonic seconds, given by the caller; wall-clock time is added by the journal when it writes.
"""

from dataclasses import dataclass

from bootd.errors import Exit
from bootd.session.machine import Machine
from bootd.wire.control import Disk, Join, Lock, Message, PartTarget


@dataclass(frozen=True)
class Binding:
    """The disk that a session has planned for a node. Sizes in bytes."""

    name: str
    serial: str
    wwn: str
    size: int
    sector: int
    begun: bool  # bytes may have been written
    further: tuple["Binding", ...] = ()  # of the other disks of a layout, in its order


@dataclass(frozen=True)
class Verdict:
    """How a session ended, or stands, for one node. ``ok`` only when it verified every byte and finished."""

    node: str  # MAC
    name: str
    ok: bool
    standing: str  # value of `states.Standing`
    reason: str  # one sentence, never empty
    binding: Binding | None = None  # None: no disk was ever planned


@dataclass(frozen=True)
class Outcome:
    """End of a session: a verdict per node and the exit code for scripts."""

    session: str
    state: str  # value of `states.SessionState`
    reason: str
    code: Exit
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class PartOrder:
    """One partition that a session writes: its number on the chosen disk, and what goes onto it."""

    number: int
    source: str  # as the head opens it
    size: int  # bytes
    image: str = ""  # what an operator calls it
    start: int = 0  # bytes; 0 = where the disk's own table has it; else a layout puts it there
    room: int = 0  # bytes that the layout gives it


@dataclass(frozen=True)
class LayoutOrder:
    """A partition table that a disk gets first."""

    source: str  # path: a disk image, or what sfdisk --json has printed
    digest: str  # of the encoded layout (`bootd.wire.layout`), hex
    sector: int  # bytes
    least: int  # bytes that the disk must have
    erase: str  # serial (WWN, name) of the disk that may be erased though it is not empty; "" = none, "*" = any


@dataclass(frozen=True)
class FilesOrder:
    """A tree of files that a disk gets with a table and file systems of its own."""

    document: str  # what nodes fetch (`bootd.wire.tree.TreeOrder`, encoded), as text
    digest: str  # of it, hex
    layout: str  # path of the scheme, or "@source", for people
    erase: tuple[str, ...] = ()  # serials (WWNs, names) of disks that may be erased though not empty; "*" = any
    protect: tuple[str, ...] = ()  # serials, WWNs or names of disks that are not written, whatever is chosen


# --- records for the journal -------------------------------------------------------------------------------


@dataclass(frozen=True)
class NodeRecord:
    """All of a node that survives a restart."""

    mac: str
    name: str  # given by an operator at run time; "" when from the configuration or made from the MAC
    token: str  # boot token, hex
    label: str  # set by an operator; "" = none
    once: str  # for the next boot only; "" = none
    automatic: str  # set by a session that ended for the node; "" = none
    parked: str  # reason; "" = not parked
    attempts: int  # failed attempts in its last session
    join: Join | None  # the last inventory
    approved: bool = False
    number: int | None = None  # host id, by an operator
    switch: str = ""  # by an operator
    machine: Machine | None = None  # as it was accepted
    changed: str = ""  # how another machine differs that answers under this MAC


@dataclass(frozen=True)
class ForgottenNode:
    mac: str


@dataclass(frozen=True)
class GroupRecord:
    """A group that operators made, or their label for one of the configuration (then without ``macs``)."""

    name: str
    label: str  # "" = none
    macs: frozenset[str]


@dataclass(frozen=True)
class RemovedGroup:
    name: str


@dataclass(frozen=True)
class HostFileLine:
    """What CloneSys knew of one partition of a node (`bootd.session.host_file`)."""

    partition: str  # "sda5"; "sda" is the disk
    path: str
    image: str
    cloned: str  # a day, as it was written
    user: str
    locked_by: str  # "" = not locked
    reason: str
    place: str = ""  # `locks.place` of the lock that it became; "" = none


@dataclass(frozen=True)
class HostFileRecord:
    """What a node's CloneSys file said when it was imported."""

    mac: str
    lines: tuple[HostFileLine, ...]


@dataclass(frozen=True)
class DefaultLabel:
    label: str


@dataclass(frozen=True)
class SessionRecord:
    """All of a session that survives a restart, but its members, which have records of their own while it is open.

    The defaults are those of records that an older bootd has written.
    """

    id: str
    name: str
    source: str
    source_size: int
    nodes: tuple[str, ...]  # MACs; () = any
    selector: str
    expect: int
    label: str
    after: str
    state: str  # value of `states.SessionState`
    reason: str
    verdicts: tuple[Verdict, ...]  # () until it has ended
    start_now: bool = False
    join_token: str = ""
    head_token: str = ""
    image_root: str = ""  # "" until the head has digested the source
    chunk_size: int = 0
    phases: int = 1
    phase: int = 0
    epoch: int = 0
    fan_out: int = 1
    order: str = "ip"
    compare: bool = False
    zeros: str = "write"
    keep_open: float = 0.0
    flip_default: bool = True
    is_closing: bool = False
    source_sector: int = 0
    parts: tuple[PartOrder, ...] = ()
    grow: bool = False
    who: str = ""
    layout: LayoutOrder | None = None
    delay: float = 0.0
    start_at: float = 0.0
    wake: bool = False
    parent: str = ""
    parent_root: str = ""  # the image that the source must hold; "" = any
    bindings: tuple[tuple[str, Binding], ...] = ()  # by MAC
    without: tuple[str, ...] = ()  # MACs that ``any`` leaves out
    files: FilesOrder | None = None
    further: tuple[str, ...] = ()  # selectors of the layout's other disks


@dataclass(frozen=True)
class MemberRecord:
    """How an open session stands for one node."""

    session: str
    mac: str
    standing: str  # value of `states.Standing`
    reason: str
    attempts: int
    refusals: int
    begun: bool  # bytes may have been written
    disk: Disk | None
    compares: bool = False  # its plan says to digest the target first
    locks: tuple[Lock, ...] = ()  # that its plan carries
    parts: tuple[PartTarget, ...] = ()
    is_released: bool = True  # was told to finish, in a session that finishes; an older bootd told all at once
    is_saved: bool = True  # the old table of ``disk`` is kept; of an older bootd: its agents saw to it
    further: tuple[Disk, ...] = ()  # that are written beside ``disk``
    saved: tuple[int, ...] = ()  # of all of these, from 0: the tables that are kept, when not all are


@dataclass(frozen=True)
class ManifestRecord:
    """The manifest of an open session, as its head sent it: nodes ask for it also while another head digests."""

    session: str
    encoded: bytes


@dataclass(frozen=True)
class LockRecord:
    """A lock that survives a restart. ``expires``: seconds since the epoch, 0 = for good."""

    mac: str
    place: str  # `locks.place`
    lock: Lock
    expires: float


@dataclass(frozen=True)
class RemovedLock:
    mac: str
    place: str


@dataclass(frozen=True)
class ContentRecord:
    """What a disk or partition of a node should hold, holds in part, or holds proven. The journal adds the time.

    ``state``: "wanted" (a plan was made), "writing" (from here on it may hold anything), "installed" (verified).
    """

    mac: str
    disk: str  # serial, WWN, or the kernel's name where it has neither
    partition: int  # 0 = the whole disk
    partuuid: str
    image: str  # as the operator named it
    root: str  # identity of the image, hex
    size: int  # bytes
    state: str
    who: str
    session: str


@dataclass(frozen=True)
class KioskRecord:
    """A machine that is reset: see `bootd.session.kiosk`."""

    mac: str
    image: str  # as `deploy` takes it
    disk: str  # selector; "" = as ``parts`` says
    parts: tuple[str, ...]  # as --part says it
    at: str  # time of day, "03:00"; "" = at every boot
    label: str
    who: str
    is_due: bool


@dataclass(frozen=True)
class RemovedKiosk:
    mac: str


@dataclass(frozen=True)
class CaptureRecord:
    """All of a capture that survives a restart."""

    id: str
    mac: str
    image_name: str
    comment: str
    user: str
    disk: str  # selector
    part: str
    dirty: bool
    raw: bool
    after: str
    tags: tuple[str, ...]
    state: str  # value of `captures.TaskState`
    reason: str
    image: str  # id; "" = none yet
    source: str
    attempts: int
    files: bool = False
    exclude: tuple[str, ...] = ()
    running: bool = False
    quick: bool = False


@dataclass(frozen=True)
class AuditRecord:
    """Who did what. Only ever added."""

    who: str
    what: str  # verb: "deploy", "cancel", "set-label", ...
    detail: str


Record = (
    NodeRecord
    | ForgottenNode
    | GroupRecord
    | RemovedGroup
    | HostFileRecord
    | DefaultLabel
    | SessionRecord
    | MemberRecord
    | ManifestRecord
    | LockRecord
    | RemovedLock
    | ContentRecord
    | KioskRecord
    | RemovedKiosk
    | CaptureRecord
    | AuditRecord
)


# --- effects -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Send:
    """Put ``message`` on the event stream of ``node`` (a MAC, or ``head-SESSION``), if it listens.

    A node that does not listen now gets what is then in force when it connects: `Coordinator.commands_for`.
    ``agent``: to the agent of its running system, not to stage2.
    """

    node: str
    message: Message
    agent: bool = False


@dataclass(frozen=True)
class StartHead:
    """Start the worker that sends ``sources``, each in its turn."""

    session: str
    node: str  # "head-SESSION"
    source: str  # path; what an operator named
    join_token: str  # hex
    node_token: str  # hex, for its requests
    sources: tuple[str, ...] = ()  # parts, each as `bootd.member.sources.open_source` takes it; () = source


@dataclass(frozen=True)
class StopHead:
    """End the worker of ``session``, if it runs."""

    session: str


@dataclass(frozen=True)
class SwitchOn:
    """Switch these nodes on: the time of ``session`` has come."""

    session: str
    nodes: tuple[str, ...]  # MACs


@dataclass(frozen=True)
class PolicyChanged:
    """A boot policy changed. ``node`` is a MAC, or "" for the default label; ``label`` "" = back to default."""

    node: str
    label: str
    why: str


@dataclass(frozen=True)
class Persist:
    """Write ``record`` to the journal before anything that follows it in the list is carried out."""

    record: Record


@dataclass(frozen=True)
class Event:
    """One line of a log or a timeline. ``node`` and ``session`` may be ""."""

    kind: str
    node: str
    session: str
    text: str


Effect = Send | StartHead | StopHead | SwitchOn | PolicyChanged | Persist | Event
