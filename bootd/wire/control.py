"""Control messages between nodes and the coordinator: JSON objects tagged with ``type``.

Nodes send them up as the body of ``POST /node/v1/...``; the coordinator sends them down as the data of
server-sent events. Frozen dataclasses; sizes in bytes, rates in bytes per second, times in seconds.
``decode`` accepts unknown fields (a newer peer may send more) and refuses everything else that does not fit
with `PeerProtocolError`.
"""

import json
import types
import typing
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, TypeVar, Union

from bootd.wire.commands import Execute, Output, StopCommand
from bootd.wire.errors import PeerProtocolError
from bootd.wire.logs import Log

MAX_MESSAGE = 1 << 20
MAX_STRING = 8192
MAX_ITEMS = 4096
MAX_INTEGER = (1 << 63) - 1
# An agent that does not know a field of a plan passes over it, so it must say what it knows before it gets one:
# partitions as targets, tables that are written first, growth to a larger disk, trees of files, several disks.
PARTITIONS, LAYOUT, GROW, FILES, DISKS = "partitions", "layout", "grow", "files", "disks"
SYNC = "sync"  # and files that are kept alike with rsync
RUNNING = "running"  # of an agent of a running system: it can read its files as they are at one moment
QUICK = "quick"  # and backups that do not read what has not changed
ABILITIES = (PARTITIONS, LAYOUT, GROW, FILES, DISKS, SYNC, QUICK)


class MemberState(Enum):
    """Where a member of a session stands, as it says itself."""

    WAITING = "waiting"  # joined, no plan yet
    PREPARING = "preparing"  # plan received: checking the target, or (head) digesting the source
    READY = "ready"  # target open, listening for a successor
    RECEIVING = "receiving"
    VERIFYING = "verifying"  # all durable, reading back
    VERIFIED = "verified"  # read back and matched
    FINISHING = "finishing"  # making the disk bootable, about to reboot
    REBOOTING = "rebooting"  # last report before the reboot
    REFUSED = "refused"  # the gate said no: nothing was written
    FAILED = "failed"  # reason says why
    PARKED = "parked"  # gave up after bounded retries; nothing more happens without an operator


class CaptureState(Enum):
    """Where the reading of a disk stands, as the node says itself."""

    EXAMINING = "examining"  # opens the source, finds out what is in use
    READING = "reading"
    REFUSED = "refused"  # reason says why, and what to do
    FAILED = "failed"  # reason says why


class SyncState(Enum):
    """Where the files of a node stand against their source, as the node says itself."""

    RUNNING = "running"
    DONE = "done"  # as the source, but for what is kept
    PARTIAL = "partial"  # reason says what could not be had
    REFUSED = "refused"  # a safety rule said no: nothing was changed
    FAILED = "failed"  # reason says why
    STOPPED = "stopped"


@dataclass(frozen=True)
class Partition:
    """One partition as the node sees it. Empty strings: not known, or none."""

    number: int  # from 1, as the kernel counts
    size: int
    partuuid: str  # lower case: a GUID of a GPT, or DISK-NN of an MBR
    filesystem: str  # as blkid calls it: "ext4", "ntfs", "BitLocker", ...
    label: str  # of the filesystem
    start: int = 0  # bytes from the beginning of the disk
    type: str = ""  # lower case: "0x83" of an MBR, the GUID of a GPT
    used: str = ""  # how it is in use, or what of another system lies on it: "mounted at /", "raid member", ...


@dataclass(frozen=True)
class Disk:
    """One disk as the node sees it. ``table_digest`` covers the present partition table (hex)."""

    name: str  # kernel name, "vda"
    size: int
    sector: int  # logical sector, bytes
    serial: str
    wwn: str
    model: str
    transport: str  # "virtio", "sata", "nvme", "usb", "iscsi", ""
    removable: bool
    excluded: str  # "" when eligible, else why not: "mounted", "raid member", "multipath", "usb", ...
    table_digest: str
    partitions: tuple[Partition, ...] = ()
    filesystem: str = ""  # on the whole disk, without a partition table


@dataclass(frozen=True)
class Lock:
    """What of a node nobody may overwrite. What it holds: `bootd.wire.locks.holding`.

    Expiry is judged by the server alone: a plan carries the locks that are in force.
    """

    disk: str  # serial or WWN; "" = not known, or every disk of the node
    partition: int  # number; 0 = none, or known by its PARTUUID only
    partuuid: str  # lower case; "" = none
    owner: str
    reason: str


@dataclass(frozen=True)
class Address:
    host: str
    port: int


@dataclass(frozen=True)
class PartTarget:
    """One partition that is written: as the node has described it, and the bytes that go onto it."""

    partition: Partition
    size: int


@dataclass(frozen=True)
class Plan:
    """What a deploy will do to which disk. The agent re-checks all of it right before the first write."""

    session: str
    node: str
    image_root: str  # BLAKE3-256 over the manifest, hex: the image's identity
    image_size: int
    chunk_size: int
    disk: Disk
    eligible: int  # how many disks of the node were eligible then; one more or one less voids the plan
    locks: tuple[Lock, ...] = ()  # of this node, in force when the plan was made
    image_sector: int = 0  # bytes of a sector that the image was made for; 0 = not known
    parts: tuple[PartTarget, ...] = ()  # only these are written, one for each part of the image; () = the disk
    layout: str = ""  # SHA-256 of the layout that is written before them, hex; "" = the table stays as it is
    least: int = 0  # bytes that the disk must have for that layout
    empty: bool = False  # only a disk without partitions and file system may be written
    files: str = ""  # SHA-256 of the order for a tree of files (`bootd.wire.tree`), hex; "" = the image is bytes
    name: str = ""  # of the node, for a tree of files that is to become it
    further: tuple[Disk, ...] = ()  # disks that are written beside ``disk``: a scheme's second, third, ...


@dataclass(frozen=True)
class Nic:
    """One network card of a node."""

    name: str  # of the kernel, "eno1"
    mac: str  # lower case, colons
    driver: str  # "" = not known
    bus: str  # "pci", "usb", "virtio", ...; "" = not known
    speed: int  # Mbit/s that the link runs at; 0 = not known
    link: bool  # the cable has a carrier


@dataclass(frozen=True)
class Hardware:
    """What a machine tells of itself: SMBIOS, processor, network cards. Empty strings and 0: not told.

    Strings are as the firmware has them, printable ASCII, cut at 128 characters.
    """

    vendor: str = ""
    product: str = ""
    product_serial: str = ""
    board_vendor: str = ""
    board: str = ""
    board_serial: str = ""
    chassis_serial: str = ""
    asset_tag: str = ""
    bios_vendor: str = ""
    bios_version: str = ""
    bios_date: str = ""
    cpu: str = ""  # model
    sockets: int = 0
    cores: int = 0  # of all sockets
    threads: int = 0  # that the kernel runs on
    nics: tuple[Nic, ...] = ()


# --- up: node to coordinator -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Join:
    """A node in stage2 asks for work."""

    node: str  # boot MAC, lower case, colons
    uuid: str
    arch: str  # "x86_64"
    firmware: str  # "bios" or "uefi"
    address: str  # own IPv4 address, for neighbours to dial
    session: str  # kaopt=, or ""
    method: str  # "ka", "dolly", "dollyC": the method word of the boot label
    memory: int
    disks: tuple[Disk, ...]
    hardware: Hardware = Hardware()  # without it: a stage2 older than this message
    abilities: tuple[str, ...] = ()  # what this stage2 knows of plans, beside whole disks: see `ABILITIES`


@dataclass(frozen=True)
class Report:
    """State of a member, at least once a second: it is the heartbeat too."""

    node: str
    session: str
    state: MemberState
    epoch: int = 0
    port: int = 0  # where this member listens for its successor; 0 before READY
    total: int = 0  # bytes of the source
    written: int = 0  # accepted by the kernel
    durable: int = 0  # after fdatasync
    verified: int = 0  # read back and matched
    rate: int = 0  # bytes received per second, over the last second
    sent: int = 0  # bytes sent to successors
    rate_out: int = 0  # bytes sent to successors per second, over the last second
    rate_disk: int = 0  # bytes made durable or read back per second, over the last second
    digested: int = 0  # bytes of the target looked at before READY, when Prepare asked for that
    blocked: int = 0  # milliseconds of the last second in which receiving waited for the own disk
    kept: int = 0  # bytes that were on the target already and matched: they count as verified
    phases: int = 0  # phases of the manifest that are complete here: every byte of theirs is verified
    reason: str = ""  # for REFUSED, FAILED, PARKED: one sentence
    trouble: str = ""  # about a neighbour: "predecessor 52:54:..: connection refused"


@dataclass(frozen=True)
class CaptureReport:
    """How far a node is with a `Capture`. Bytes of the source."""

    node: str
    task: str
    state: CaptureState
    total: int = 0  # in use
    done: int = 0  # of these: read, and on the server
    sent: int = 0  # of these: that the server did not have
    wire: int = 0  # bytes that went over the network for them
    reason: str = ""  # for REFUSED, FAILED: one sentence
    notes: tuple[str, ...] = ()  # what an operator should know: "sda3: ntfs, all of it"
    skipped: int = 0  # of the bytes in use: taken over from the last backup without being read


@dataclass(frozen=True)
class SyncReport:
    """How far a node is with a `Sync`; `SyncState.RUNNING` at least every few seconds. Counts are of files."""

    node: str
    task: str
    state: SyncState
    files: int = 0  # of the source
    created: int = 0
    changed: int = 0  # content
    attributes: int = 0  # only mode, owner, times, ACLs, extended attributes
    deleted: int = 0
    wire: int = 0  # bytes over the network, both ways
    milliseconds: int = 0
    code: int = 0  # rsync's exit status
    reason: str = ""
    changes: tuple[str, ...] = ()  # with the end: "KIND PATH", the first `bootd.wire.sync.MAX_CHANGES`


# --- down: coordinator to node -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Wait:
    """No session wants this node yet."""

    reason: str


@dataclass(frozen=True)
class Prepare:
    """Open the target that the plan names, listen, report READY."""

    plan: Plan
    token: str  # join token of the session, hex; proves membership on every link
    compare: bool = False  # digest what is on the target first and want only what differs (delta, resume)
    zeros: str = "write"  # or "discard": how chunks of zeros reach the target. They are never skipped
    grow: bool = False  # the last partition and its filesystem fill a larger disk when everything is verified


@dataclass(frozen=True)
class Arrange:
    """Place in the chain from this epoch on. The head has no predecessor."""

    session: str
    epoch: int
    predecessor: Address | None
    predecessor_node: str
    phase: int = 0  # the highest phase of the manifest that may be received
    followers: int = 0  # how many members follow this one


@dataclass(frozen=True)
class Finish:
    """The session is over for this member. action: "reboot", "stay" (remain in stage2), "exit" (head)."""

    session: str
    action: str


@dataclass(frozen=True)
class Cancel:
    """Stop writing, close the target, stay in stage2 with the reason shown."""

    session: str
    reason: str


@dataclass(frozen=True)
class Capture:
    """Read a disk, or one partition of it, into the image store of the server. Nothing is written on the node."""

    task: str  # id; `Cancel` names it as its session
    disk: Disk  # as the node described it
    partition: int  # number; 0 = the whole disk
    dirty: bool  # also when a file system was not left cleanly
    raw: bool  # also what is encrypted, as it is
    after: str  # "reboot" or "stay" (remain in stage2)
    files: bool = False  # not the disk, but the files of the system on it, as one archive
    exclude: tuple[str, ...] = ()  # of these: folders that stay empty
    marks: bool = False  # the server keeps marks of chunks for the next backup: `bootd.wire.marks`
    quick: bool = False  # chunks whose marks are those of the last backup are not read


@dataclass(frozen=True)
class CaptureRunning:
    """Read the files of the system that runs there, as they are at one moment, into the image store of the server.
    For the agent of a running system."""

    task: str  # id; `Cancel` names it as its session
    exclude: tuple[str, ...] = ()  # folders that stay empty


@dataclass(frozen=True)
class Sync:
    """Make a folder of this node as one of the server is, or (``collect``) the other way round.

    In stage2 ``target`` is a path of the installed system, which is mounted for it; on a running system its own.
    """

    task: str
    name: str  # of the set
    target: str  # absolute
    collect: bool = False  # the node sends, the server keeps
    dry: bool = False  # only say what would change
    freeze: bool = False  # what the source does not have is deleted
    update: bool = False  # files that are newer here stay
    full: bool = False  # look into every file, also where size and time are equal
    checksum: bool = False  # compare by digest
    compress: bool = False
    staged: bool = False  # make the whole new tree beside the present one, then swap
    own: tuple[str, ...] = ()  # paths from the target on: of these the server has files for this node alone
    whole: bool = False  # the target may be / of a running system
    reboot: bool = False  # afterwards, if it went well
    most_deleted: int = 100  # per cent of the files there
    rules: tuple[str, ...] = ()  # of rsync: "- PATTERN", "+ PATTERN", from the target on
    disk: str = ""  # stage2: serial, WWN or name of the disk with the installed system
    partition: int = 0  # stage2: of its root; 0 = the one that has an /etc/fstab
    locks: tuple[Lock, ...] = ()  # of this node, in force


@dataclass(frozen=True)
class StopSync:
    """End a `Sync`."""

    task: str


_Up = Join | Report | CaptureReport | Log | Output | SyncReport
_Down = (
    Wait | Prepare | Arrange | Finish | Cancel | Capture | CaptureRunning | Execute | StopCommand | Sync | StopSync
)
Message = _Up | _Down
_TYPES: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in typing.get_args(Message)}
MessageT = TypeVar("MessageT")
_hints: dict[type[Any], dict[str, Any]] = {}  # of message classes, as they are first met


def encode(message: Message) -> bytes:
    """One line of JSON, UTF-8, without a newline."""
    value = _plain(message)
    return json.dumps({"type": type(message).__name__.lower(), **value}, separators=(",", ":")).encode()


def decode(data: bytes) -> Message:
    """The message in ``data``; `PeerProtocolError` names the field that does not fit."""
    if len(data) > MAX_MESSAGE:
        raise PeerProtocolError(f"control message of {len(data)} bytes, at most {MAX_MESSAGE} allowed")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PeerProtocolError(f"control message is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise PeerProtocolError("control message is not a JSON object")
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise PeerProtocolError(f"control message of unknown type {str(kind)[:40]!r}")
    message: Message = _build(_TYPES[kind], value, kind)
    return message


def decode_as(wanted: type[MessageT], data: bytes) -> MessageT:
    """Like `decode`, and refuses every other type of message."""
    message = decode(data)
    if not isinstance(message, wanted):
        raise PeerProtocolError(f"expected {wanted.__name__.lower()}, got {type(message).__name__.lower()}")
    return message


def build(kind: type[MessageT], value: dict[str, Any], path: str) -> MessageT:
    """A frozen dataclass of the kinds that messages hold, from JSON; `PeerProtocolError` names the field."""
    made: MessageT = _build(kind, value, path)
    return made


def plain(value: Any) -> Any:
    """The opposite: ``value`` as JSON has it."""
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def _build(kind: type[Any], value: dict[str, Any], path: str) -> Any:
    if kind not in _hints:
        _hints[kind] = typing.get_type_hints(kind)  # takes longer than everything else here
    hints = _hints[kind]
    arguments = {}
    for field in fields(kind):
        if field.name in value:
            arguments[field.name] = _convert(hints[field.name], value[field.name], f"{path}.{field.name}")
    try:
        return kind(**arguments)
    except TypeError:
        missing = [field.name for field in fields(kind) if field.name not in value]
        raise PeerProtocolError(f"{path}: missing {', '.join(missing)}") from None


def _is_text(value: str) -> bool:
    """False for lone surrogates (RFC 8259 section 8.2): JSON can say them, no journal or log can take them."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _convert(inner[0], value, path)
    if origin is tuple:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise PeerProtocolError(f"{path}: expected a list of at most {MAX_ITEMS}")
        return tuple(_convert(typing.get_args(hint)[0], item, f"{path}[]") for item in value)
    if hint is bool:
        if isinstance(value, bool):
            return value
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INTEGER:
            return value
    elif hint is str:
        if isinstance(value, str) and len(value) <= MAX_STRING:
            if not _is_text(value):
                raise PeerProtocolError(f"{path}: half a surrogate pair is no text")
            return value
    elif isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            raise PeerProtocolError(f"{path}: unknown value {str(value)[:40]!r}") from None
    elif isinstance(value, dict):
        return _build(hint, value, path)
    raise PeerProtocolError(f"{path}: expected {getattr(hint, '__name__', hint)}")
