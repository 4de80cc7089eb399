"""What the operators' interface answers, as types: for the description of the interface and for its tests.

The values come from `bootd/session/view.py` and the stores; sizes in bytes, rates in bytes per second,
durations in seconds, times of day in seconds since the epoch, null where something has not happened yet. Keys are
only ever added.
"""

from msgspec import UNSET, Struct, UnsetType

from bootd.drivers.http.routes import Scope


class Problem(Struct):
    """``code`` is the exit code of the command line."""

    message: str
    hint: str
    code: int


class Failure(Struct):
    error: Problem


class Head(Struct):
    node: str
    state: str | None
    digested: int
    sent: int


class Hop(Struct, rename={"from_": "from"}):
    """Where bytes queue up: ``waiting`` bytes, growing by ``growth`` a second."""

    from_: str
    to: str
    waiting: float
    rate: float
    growth: float


class FurtherDisk(Struct):
    name: str
    serial: str


class Member(Struct):
    """A node in a session; ``written``, ``durable`` and ``verified`` bytes of ``total``; ``further``: disks that
    are written beside ``disk``."""

    node: str
    name: str
    state: str
    reason: str
    trouble: str
    disk: str | None
    serial: str | None
    further: list[FurtherDisk]
    total: int | None
    written: int
    durable: int
    verified: int
    kept: int
    digested: int
    rate: int
    rate_out: int
    rate_disk: int
    sent: int
    lag: int
    catch_up_seconds: float | None
    attempts: int
    predecessor: str | None
    aside: bool
    release_seconds: float | None
    silent_seconds: float | None
    seconds: dict[str, float | None]


class Verdict(Struct):
    node: str
    name: str
    ok: bool
    state: str
    reason: str


class Outcome(Struct):
    """``code``: 0 all cloned, 3 some, 4 all refused, 1 none; null until the end."""

    code: int | None
    nodes: list[Verdict]


class Session(Struct):
    """A session; of one that an earlier run of the daemon held only what has no default is kept."""

    id: str
    name: str
    state: str
    ended: bool
    reason: str
    source: str
    source_size: int
    nodes: list[str] | str
    selector: str
    label: str
    after: str
    expect: int
    members: list[Member]
    outcome: Outcome
    image_root: str | UnsetType | None = UNSET
    chunk_size: int | UnsetType | None = UNSET
    start_now: bool | UnsetType = UNSET
    fan_out: int | UnsetType = UNSET
    order: str | UnsetType = UNSET
    compare: bool | UnsetType = UNSET
    zeros: str | UnsetType = UNSET
    keep_open: float | UnsetType = UNSET
    delay: float | UnsetType = UNSET
    start_at: float | UnsetType | None = UNSET
    parent: str | UnsetType | None = UNSET
    phase: int | UnsetType = UNSET
    phases: int | UnsetType | None = UNSET
    joined: int | UnsetType = UNSET
    ready: int | UnsetType = UNSET
    epoch: int | UnsetType = UNSET
    head: Head | UnsetType = UNSET
    seconds: dict[str, float | None] | UnsetType = UNSET
    slowest_hop: Hop | UnsetType | None = UNSET


class Notice(Struct):
    """Somebody who is told of a session's end. ``state``: waiting, sending, sent, failed; ``text``: why."""

    target: str
    state: str
    text: str


class LogLine(Struct):
    """``up``: milliseconds since the machine's kernel started; ``time``: when it came; ``boot``: which run."""

    number: int
    time: float
    boot: str
    stage: str
    up: int
    session: str
    text: str


class CommandTask(Struct):
    """A command on one machine. ``state``: sent, running, ended, lost, refused; ``code``: exit status."""

    node: str
    name: str
    state: str
    code: int | None
    reason: str
    dropped: int


class Printed(Struct):
    """``stream``: out or err."""

    number: int
    node: str
    stream: str
    text: str


class Command(Struct):
    """``code``: 0 on all machines, 3 on some, 4 nobody was asked, 1 on none; null until the end."""

    id: str
    who: str
    command: list[str]
    seconds: int
    ended: bool
    code: int | None
    nodes: list[CommandTask]
    output: list[Printed]
    last: int
    forgotten: int


class Disk(Struct):
    name: str
    size: int
    serial: str
    wwn: str
    model: str
    transport: str
    excluded: str | None


class NodeLayout(Struct):
    """``toml``: a layout file. ``notes``: what it could not say."""

    disk: str
    serial: str
    toml: str
    notes: list[str]


class Lock(Struct):
    """``place`` names it; ``expires`` in seconds since the epoch, null for good."""

    place: str
    what: str
    disk: str
    partition: int
    partuuid: str
    owner: str
    reason: str
    expires: float | None


class Node(Struct):
    """A machine. ``known``: sessions may take it; ``warnings``: about who it is; ``number``: its host id, by
    its name unless it has its ``own_number``; ``reserved``: its address in bootd.toml."""

    mac: str
    name: str
    next_label: str
    why: str
    label: str | None
    once: str | None
    automatic: str | None
    parked: str | None
    attempts: int
    present: bool
    known: bool
    number: int | None
    own_number: int | None
    reserved: str | None
    switch: str | None
    groups: list[str]
    warnings: list[str]
    locks: list[Lock]
    seen_seconds: float | None
    waiting: str | None
    session: str | None
    uuid: str | None
    address: str | None
    firmware: str | None
    arch: str | None
    memory: int | None
    disks: list[Disk]


class Backup(Struct):
    """A disk or a partition that is read into an image: ``done`` of ``total`` bytes in use, of which the store had
    not ``sent`` bytes; these went over the network as ``wire`` bytes. ``skipped``: taken over from the last backup
    without being read, of one that is ``quick``. ``image_id`` null until there is an image."""

    id: str
    node: str
    name: str
    image: str
    comment: str
    user: str
    source: str
    state: str
    ended: bool
    reason: str
    image_id: str | None
    total: int
    done: int
    sent: int
    wire: int
    quick: bool
    skipped: int
    rate: int
    remaining_seconds: float | None
    seconds: float | None
    notes: list[str]
    attempts: int


class Partition(Struct):
    """``start`` in bytes, null = not known; ``used``: how it is in use, or what of another system it holds."""

    number: int
    start: int | None
    size: int
    type: str
    partuuid: str
    filesystem: str
    label: str
    used: str | None


class PlannedDisk(Struct):
    """A disk, and what is on it now. Sizes in bytes."""

    name: str
    size: int
    sector: int
    serial: str
    wwn: str
    model: str
    transport: str
    excluded: str | None
    filesystem: str
    partitions: list[Partition]


class Nic(Struct):
    """``speed`` in Mbit/s, 0 = not known."""

    name: str
    mac: str
    driver: str
    bus: str
    speed: int
    link: bool


class Hardware(Struct):
    """What a machine tells of itself; "" and 0 = nothing."""

    vendor: str
    product: str
    product_serial: str
    board_vendor: str
    board: str
    board_serial: str
    chassis_serial: str
    asset_tag: str
    bios_vendor: str
    bios_version: str
    bios_date: str
    cpu: str
    sockets: int
    cores: int
    threads: int
    nics: list[Nic]


class GroupLabel(Struct):
    label: str
    why: str


class InheritedLock(Struct):
    """A lock of another node that holds here too: it is the same machine, or had this very disk."""

    node: str
    name: str
    lock: Lock


class Machine(Node):
    """``hardware`` null: it was never in stage2. ``changed``: how it differs from who answers now."""

    disks: list[PlannedDisk]  # type: ignore[assignment]
    hardware: Hardware | None
    group_label: GroupLabel | None
    inherited_locks: list[InheritedLock]
    changed: str | None


class Host(Struct):
    mac: str
    name: str
    number: int | None


class GroupMember(Struct):
    """``label``: what it boots next, for whatever reason."""

    mac: str
    name: str
    label: str


class Group(Struct):
    """``configured``: it is in bootd.toml; ``missing``: names in it that nobody has."""

    name: str
    label: str | None
    configured: bool
    nodes: list[GroupMember]
    missing: list[str]


class HostFile(Struct):
    """``text`` is partition:path:image:cloned:user:lockedby:reason: for each partition."""

    text: str


class HostFileTaken(Struct):
    locks: int


class State(Struct):
    """Everything. ``journal`` is "ok", or why state cannot be written."""

    default_label: str
    sessions: list[Session]
    nodes: list[Node]
    backups: list[Backup]
    journal: str


class Line(Struct):
    """One line of the timeline; ``node`` is a MAC or "", ``session`` an id or ""."""

    time: float
    kind: str
    node: str
    session: str
    text: str


class Step(Struct):
    """``after`` seconds since the boot began, ``took`` since the step before."""

    step: str
    text: str
    after: float
    took: float


class Boot(Struct):
    begun: float
    state: str
    label: str | None
    offered: str | None
    steps: list[Step]
    stalled_after: str | None
    waiting_seconds: float | None
    reason: str | None
    trouble: list[str]


class Boots(Struct):
    node: str
    name: str
    boots: list[Boot]


class AuditLine(Struct):
    """``time`` in seconds since the epoch."""

    time: float
    who: str
    what: str
    detail: str


class Lease(Struct):
    """``ends`` null for never; ``holds``: nobody else can have the address now."""

    address: str
    client: str
    node: str
    name: str
    state: str
    holds: bool
    reserved: bool
    ends: float | None


class Label(Struct):
    name: str
    kind: str
    title: str
    append: str
    kernel: str
    initrd: str
    protected: bool
    hidden: bool


class System(Struct):
    """One system of `bootd stage import` or `bootd ramboot`. ``problem`` "": it can be booted by its label."""

    name: str
    size: int
    sha256: str
    init: str
    method: str
    title: str
    origin: str
    problem: str


class Labels(Struct):
    default: str
    labels: list[Label]


class PlannedPart(Partition):
    """One partition that would be written, with ``write`` bytes of ``image``."""

    name: str
    image: str
    write: int


class WantedContent(Struct):
    """What was ordered last. ``root``: identity of the image; ``time`` in seconds since the epoch."""

    image: str
    root: str
    size: int
    partuuid: str
    who: str
    session: str
    time: float


class ActualContent(WantedContent):
    """``state``: installed (verified), writing (incomplete), changed (a partition of it was written since)."""

    state: str


class KioskPolicy(Struct):
    """A machine that is reset to ``image``. ``at``: time of day, null = at every boot."""

    node: str
    name: str
    image: str
    disk: str
    parts: list[str]
    at: str | None
    label: str
    who: str
    due: bool
    failures: int


class Place(Struct):
    """A disk (partition 0) or a partition. ``seen``: as the machine has shown it last, null = not any more."""

    disk: str
    device: str | None
    partition: int
    partuuid: str
    wanted: WantedContent | None
    actual: ActualContent | None
    seen: Partition | None
    locked: str | None


class Making(Struct):
    """Something that a layout for files makes. ``size``: bytes, of an array or a volume at least."""

    what: str
    size: int
    filesystem: str
    mount: str
    label: str


class PlannedNode(Struct):
    """``disk`` is what would be overwritten with ``write`` bytes; ``refusal`` is "" or why nothing would be;
    ``makes``: partitions and file systems of a layout for files; ``further``: its other disks, overwritten too."""

    node: str
    name: str
    disk: PlannedDisk | None
    further: list[PlannedDisk]
    parts: list[PlannedPart]
    layout: str | None
    makes: list[Making]
    write: int
    refusal: str
    note: str
    locks: list[Lock]
    disks: list[PlannedDisk]


class Table(Struct):
    """A partition table as it was before a disk was overwritten. ``trouble`` is "" unless it is damaged."""

    disk: str
    time: str
    trouble: str
    session: str
    name: str
    serial: str
    wwn: str
    size: int
    sector: int
    dump: str
    digest: str


class WholeTable(Table):
    """``content``: the first and the last bytes of the disk, in base64."""

    content: str


class Preview(Struct):
    """``any``: also every other node that boots into the session."""

    source: str
    size: int
    sector: int
    disk: str
    any: bool
    nodes: list[PlannedNode]


class Health(Struct):
    """``trouble``: a sentence for each thing that is wrong; none when all is well."""

    ok: bool
    trouble: list[str]


class Switched(Struct):
    """What became of switching a node. ``state`` "on" or "off", null when it is not known."""

    node: str
    name: str
    ok: bool
    state: str | None
    text: str


class TokenLine(Struct):
    """A token, without what would let anybody use it. ``used`` null: not since the daemon's start."""

    name: str
    scope: Scope
    created: float
    creator: str
    expires: float | None
    expired: bool
    used: float | None


class NewToken(Struct):
    """``token`` is shown this once."""

    name: str
    scope: Scope
    token: str


class SyncSetView(Struct):
    """A sync set. ``files``: whether the source is there, and has enough; "" or what is wrong."""

    name: str
    source: str
    target: str
    include: list[str]
    exclude: list[str]
    unique: list[str]
    update: bool
    max_delete: int
    trouble: str


class SyncChange(Struct):
    """``kind``: created, changed, attributes, deleted."""

    kind: str
    path: str


class SyncNode(Struct):
    """``state``: waiting, sent, running; then done, partial, refused, failed, stopped, lost. ``status``: rsync's.
    Counts are of files, ``wire`` of bytes. ``changes``: the first of them, where they are asked for."""

    node: str
    name: str
    state: str
    reason: str
    status: int
    files: int
    created: int
    changed: int
    attributes: int
    deleted: int
    wire: int
    seconds: float
    changes: list[SyncChange]


class SyncRun(Struct):
    """``code``: exit code of the command line, null while it runs."""

    id: str
    set: str
    who: str
    collect: bool
    dry_run: bool
    freeze: bool
    staged: bool
    cap: int
    ended: bool
    code: int | None
    nodes: list[SyncNode]


class SyncScheduleView(Struct):
    """``at``: "03:00", "boot" or "logon". ``due``: machines that are synced as soon as they are up."""

    id: str
    set: str
    nodes: str
    at: str
    freeze: bool
    staged: bool
    reboot: bool
    cap: int
    who: str
    due: list[str]


class SyncAgent(Struct):
    """A machine that may run an agent. ``up``: it does."""

    node: str
    name: str
    created: float
    who: str
    up: bool


class NewSyncAgent(Struct):
    """``key`` is shown this once."""

    node: str
    name: str
    server: str
    key: str
