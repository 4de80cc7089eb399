"""What an operator asks of a new session, checked against the nodes and the sessions there are."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from bootd.errors import Exit, OperatorError
from bootd.session import selector
from bootd.session.arrangement import MAX_FAN_OUT, ORDERS
from bootd.session.effects import Binding, FilesOrder, LayoutOrder, PartOrder
from bootd.session.hosts import plain_name
from bootd.session.nodes import Registry
from bootd.session.parts import ANY_DISK
from bootd.session.plan import SessionPlan
from bootd.session.session import Session

MAX_OPEN_SESSIONS = 64
MAX_KEEP_OPEN = 86400.0  # seconds
MAX_DELAY = 600.0  # seconds


@dataclass(frozen=True)
class SessionRequest:
    """What ``bootd deploy`` asks for. The source has been opened and measured by the daemon."""

    source: str  # path
    source_size: int  # bytes
    nodes: str  # host set: "any", "lab[3-5],lab9", MACs
    disk: str  # selector
    expect: int = 0  # 0 = as many as are named
    start_now: bool = False  # start with whoever is ready first
    label: str = "kamethod"
    name: str = ""
    after: str = "reboot"  # or "stay"
    fan_out: int = 1  # 1 is a chain, 2 to 4 a tree
    order: str = "ip"  # or "given", "switch"
    compare: bool = False
    zeros: str = "write"  # or "discard"
    keep_open: float = 0.0  # seconds
    source_sector: int = 0  # bytes of a sector that the source was made for; 0 = not known
    flip_default: bool = True  # a default label that is the session's label becomes "local" when it has cloned
    parts: tuple[PartOrder, ...] = ()  # only these partitions of the disk
    grow: bool = False
    layout: LayoutOrder | None = None
    files: FilesOrder | None = None
    further: tuple[str, ...] = ()  # selectors of the other disks of a layout for files
    delay: float = 0.0  # seconds between two nodes that are told to finish
    start_at: float = 0.0  # seconds since the epoch; 0 = at once
    wake: bool = False  # its nodes are switched on at that time
    parent: str = ""  # a session whose plan is carried out again: its id, image and disks
    image_root: str = ""
    bindings: Mapping[str, Binding] = field(default_factory=dict)


def checked(
    request: SessionRequest,
    registry: Registry,
    sessions: Iterable[Session],
    id_: str,
    draw: Callable[[int], str],
    *,
    who: str = "",
) -> tuple[SessionPlan, int]:
    """The plan and the number of nodes to expect; `OperatorError` says what is wrong and what to do.

    A node is in one open session at most, so two sessions never write one disk.
    """
    open_sessions = [session for session in sessions if not session.ended]
    if len(open_sessions) >= MAX_OPEN_SESSIONS:
        raise OperatorError(f"{MAX_OPEN_SESSIONS} sessions are open", "wait for one, or cancel it", Exit.BUSY)
    if request.after not in ("reboot", "stay"):
        raise OperatorError(f"after: {request.after!r}", "say reboot or stay", Exit.USAGE)
    if not 1 <= request.fan_out <= MAX_FAN_OUT:
        text = f"fan-out {request.fan_out}"
        raise OperatorError(text, f"say 1 (a chain) to {MAX_FAN_OUT} (a tree)", Exit.USAGE)
    if request.order not in ORDERS:
        raise OperatorError(f"order {request.order!r}", f"say one of {', '.join(ORDERS)}", Exit.USAGE)
    if request.zeros not in ("write", "discard"):
        raise OperatorError(f"zeros: {request.zeros!r}", "say write or discard", Exit.USAGE)
    if not 0 <= request.keep_open <= MAX_KEEP_OPEN:
        raise OperatorError(f"keep open for {request.keep_open:g} s", "say at most a day", Exit.USAGE)
    if not 0 <= request.delay <= MAX_DELAY:
        raise OperatorError(f"delay of {request.delay:g} s", f"say at most {MAX_DELAY:g} s", Exit.USAGE)
    if request.source_size < 1:
        raise OperatorError(f"{request.source} is empty", "name an image with content", Exit.INPUT)
    if request.name and not plain_name(request.name):
        raise OperatorError(f"{request.name!r} is not a session name", "use letters, digits, '-'", Exit.USAGE)
    if request.parts and sum(part.size for part in request.parts) != request.source_size:
        raise OperatorError(f"{request.source}: its parts have another size", "try again", Exit.INPUT)
    if request.layout is not None and request.layout.erase == ANY_DISK:
        raise OperatorError("erase names no disk", "say the serial of the disk", Exit.USAGE)
    if request.files is not None:
        if request.parts or request.layout or request.grow or request.compare:
            text = "files go onto a disk with a layout of their own: no --part, --grow or --delta"
            raise OperatorError(text, "leave them out", Exit.USAGE)
        if ANY_DISK in request.files.erase:
            raise OperatorError("erase names no disk", "say the serial of each disk", Exit.USAGE)
    if request.parts and request.grow and request.layout is None:
        text = "a partition cannot grow: others may lie behind it"
        raise OperatorError(text, "leave out --grow, or restore the whole disk", Exit.USAGE)
    chosen = selector.parse(request.disk, several=request.files is not None)
    further = tuple(selector.parse(text) for text in request.further)
    if further and request.files is None:
        raise OperatorError("several disks are for images of files", "say one --disk", Exit.USAGE)
    hosts = registry.host_set(request.nodes)
    wanted = hosts.macs
    if request.wake and (wanted is None or not request.start_at):
        what = "any" if wanted is None else "a session that begins at once"
        raise OperatorError(f"{what} cannot wake nodes later", "name the nodes and a time", Exit.USAGE)
    for session in open_sessions:
        if request.name and request.name in (session.plan.name, session.id):
            raise OperatorError(f"a session {request.name} is open", "choose another name", Exit.BUSY)
        for mac in sorted((wanted or frozenset()) & (session.plan.nodes or frozenset())):
            text = f"{registry.name(mac)} is in the open session {session.title}"
            raise OperatorError(text, "wait for it, or cancel it", Exit.BUSY)
    if request.expect < 0 or (wanted is not None and request.expect > len(wanted)):
        known = "any number" if wanted is None else str(len(wanted))
        text = f"cannot expect {request.expect} nodes of {known}"
        raise OperatorError(text, "say a number from 1 to the number of nodes", Exit.USAGE)
    if wanted is None and not request.expect and not request.start_now:
        hint = "add --expect N, or --start-now to begin with the first that is ready"
        raise OperatorError("'any' does not say how many nodes to wait for", hint, Exit.USAGE)
    plan = SessionPlan(
        id=id_,
        name=request.name,
        source=request.source,
        source_size=request.source_size,
        nodes=wanted,
        without=hosts.without if wanted is None else frozenset(),
        selector=chosen,
        label=request.label,
        after=request.after,
        join_token=draw(32),
        head_token=draw(16),
        fan_out=request.fan_out,
        order=request.order,
        compare=request.compare,
        zeros=request.zeros,
        keep_open=request.keep_open,
        source_sector=request.source_sector,
        flip_default=request.flip_default,
        parts=request.parts,
        grow=request.grow,
        who=who,
        order_of_layout=request.layout,
        delay=request.delay,
        start_at=request.start_at,
        wake=request.wake,
        parent=request.parent,
        image_root=request.image_root,
        bindings=request.bindings,
        files=request.files,
        further=further,
    )
    return plan, request.expect or len(wanted or ()) or 1
