"""What operators order of nodes and groups beside sessions, labels and locks. Sans-IO; every order returns effects.

`OperatorError` says what is wrong, before anything has changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bootd.errors import Exit, OperatorError
from bootd.session import host_file
from bootd.session.coordinator import Coordinator
from bootd.session.effects import (
    AuditRecord,
    Effect,
    Event,
    ForgottenNode,
    HostFileLine,
    HostFileRecord,
    Persist,
    PolicyChanged,
    RemovedGroup,
)
from bootd.session.hosts import normal_mac, plain_name
from bootd.session.locks import place
from bootd.session.machine import machine_of
from bootd.session.nodes import MAX_NUMBER, Node, default_name

MAX_SWITCH = 63  # characters
MAX_IMPORTED = 4096  # rows of one import


@dataclass(frozen=True)
class NodeRow:
    """One machine of an import. "" or None or () = nothing is said, and what is known stays."""

    mac: str
    name: str = ""
    number: int | None = None
    switch: str = ""
    label: str = ""
    groups: tuple[str, ...] = ()


class NodeOrders:
    """Orders of operators to ``coordinator``."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._nodes = coordinator.nodes
        self.host_files: dict[str, HostFileRecord] = {}

    # --- nodes -------------------------------------------------------------------------------------------

    def approve(self, hosts: str, who: str, now: float) -> tuple[list[str], list[Effect]]:
        """These machines belong here. Their MACs, and effects; ``any`` means all that are waiting for it."""
        macs = self._unknown() if hosts.strip().lower() == "any" else self._nodes.select(hosts)
        effects = self._coordinator.admission.approve(macs)
        effects += [Persist(AuditRecord(who, "approve", mac)) for mac in macs]
        for mac in macs:
            effects += self._coordinator.judge_again(self._node(mac), now)
        return macs, effects

    def forget(self, node: str, who: str) -> list[Effect]:
        """Nothing is known of the machine any more: it is new when it boots again. Its locks must go first."""
        known = self._existing(node)
        title = f"{known.name} ({known.mac})" if known.name != known.mac else known.mac
        if self._nodes.is_configured(known.mac):
            raise OperatorError(f"{title} is in bootd.toml", "remove its [[node]] there", Exit.USAGE)
        if self._coordinator.locks.of(known.mac):
            raise OperatorError(
                f"{title} has locks", f"see bootd lock list {known.name}, and remove them first", Exit.REFUSED
            )
        if self._coordinator.kiosks.get(known.mac) is not None:
            raise OperatorError(f"{title} has a kiosk policy", f"bootd kiosk clear {known.name}", Exit.REFUSED)
        for session in self._coordinator.sessions.values():
            named = known.mac in session.members or known.mac in (session.plan.nodes or ())
            if not session.ended and named:
                raise OperatorError(
                    f"{title} is in session {session.title}", f"bootd session cancel {session.title}", Exit.BUSY
                )
        groups = self._nodes.groups.leave(known.mac)
        self._nodes.forget(known.mac)
        self._coordinator.admission.strangers.pop(known.mac, None)
        self.host_files.pop(known.mac, None)
        return [
            *(Persist(record) for record in groups),
            Persist(ForgottenNode(known.mac)),
            Persist(AuditRecord(who, "forget", title)),
            Event("forgotten", known.mac, "", f"by {who}"),
        ]

    def accept_change(self, node: str, who: str, now: float) -> list[Effect]:
        """The machine that answers under this MAC now is the right one."""
        known = self._existing(node)
        if not known.changed or known.join is None:
            raise OperatorError(f"{known.name} is the machine that it was", "see bootd node show", Exit.USAGE)
        how = known.changed
        known.cloned, known.automatic, known.attempts = None, "", 0  # that was the other one
        self._nodes.accept_machine(known, machine_of(known.join))
        known.warned = self._coordinator.admission.warnings(known)
        return [
            Persist(known.record()),
            Persist(AuditRecord(who, "accept-change", f"{known.mac} {how}")),
            Event("machine", known.mac, "", f"accepted by {who}: {how}"),
            *self._coordinator.judge_again(known, now),
        ]

    def import_rows(self, rows: Sequence[NodeRow], who: str) -> list[Effect]:
        """All rows, or none when one of them is wrong. They count as approved."""
        if len(rows) > MAX_IMPORTED:
            raise OperatorError(f"{len(rows)} rows", f"at most {MAX_IMPORTED} at a time", Exit.USAGE)
        self._check_rows(rows)
        effects: list[Effect] = []
        joining: dict[str, list[str]] = {}
        for row in rows:  # two machines may change names
            known = self._nodes.get(normal_mac(row.mac))
            if known is not None and row.name and known.name != row.name:
                self._nodes.take_name(known.mac)
        for row in rows:
            mac = normal_mac(row.mac)
            node = self._nodes.add(mac)
            node.approved = True
            if row.name and node.name != row.name:
                self._nodes.rename(mac, row.name)
            if row.number is not None and self._nodes.number(mac) != row.number:
                self._nodes.set_number(node, row.number)
            if row.switch and self._coordinator.switch_of(mac) != row.switch:
                node.switch = row.switch
            if row.label:
                node.label = row.label
                effects.append(PolicyChanged(mac, row.label, f"imported by {who}"))
            for group in row.groups:
                if not self._nodes.groups.is_configured(group):
                    joining.setdefault(group, []).append(mac)
            effects.append(Persist(node.record()))
        effects += [Persist(self._nodes.groups.add(group, macs)) for group, macs in joining.items()]
        return [*effects, Persist(AuditRecord(who, "import", f"{len(rows)} nodes"))]

    def _check_rows(self, rows: Sequence[NodeRow]) -> None:
        """Everything that could go wrong in the middle of an import."""
        groups = self._nodes.groups
        members = {
            name: groups.known_members(name)[0]
            for name in {name for row in rows for name in row.groups}
            if name in groups.names()
        }
        seen: set[str] = set()
        names: dict[str, str] = {}
        for index, row in enumerate(rows, 1):
            mac, what = normal_mac(row.mac), f"row {index}"
            if not mac or mac in seen:
                text = f"{row.mac!r} stands twice" if mac else f"{row.mac!r} is not a MAC"
                raise OperatorError(f"{what}: {text}", "one row for each MAC", Exit.INPUT)
            seen.add(mac)
            if row.name and row.name != self._nodes.name(mac):
                if not plain_name(row.name) or normal_mac(row.name) or row.name.lower() == "any":
                    raise OperatorError(
                        f"{what}: {row.name!r} is not a host name", "letters, digits, '-'", Exit.INPUT
                    )
                if self._nodes.is_configured(mac):
                    text = f"{what}: {mac} is called {self._nodes.name(mac)} in bootd.toml, here {row.name}"
                    raise OperatorError(text, "change one of them", Exit.INPUT)
            own = (row.name or self._nodes.name(mac)).lower()
            if own in names:
                raise OperatorError(
                    f"{what}: {own!r} is the name of {names[own]} too", "name each once", Exit.INPUT
                )
            names[own] = mac
            if row.number is not None and not 0 <= row.number <= MAX_NUMBER:
                raise OperatorError(f"{what}: number {row.number}", f"say 0 to {MAX_NUMBER}", Exit.INPUT)
            if row.number is not None and not self._nodes.may_number(mac, row.number):
                raise OperatorError(f"{what}: {mac} has another number in bootd.toml", "change one", Exit.INPUT)
            if len(row.switch) > MAX_SWITCH or not (row.switch or "-").isprintable():
                raise OperatorError(f"{what}: {row.switch[:80]!r} is no switch", "a short name", Exit.INPUT)
            own_switch = self._coordinator.switch_of(mac)
            if row.switch and self._coordinator.is_switch_configured(mac) and row.switch != own_switch:
                raise OperatorError(f"{what}: {mac} has another switch in bootd.toml", "change one", Exit.INPUT)
            if row.label:
                self._coordinator.check_label(row.label)
            for group in row.groups:
                if mac in members.get(group, ()):
                    continue
                if groups.is_configured(group):
                    text = f"{what}: group {group} is in bootd.toml, without {mac}"
                    raise OperatorError(text, "change its [[group]] there", Exit.INPUT)
                if not plain_name(group) or normal_mac(group) or group.lower() == "any":
                    raise OperatorError(
                        f"{what}: {group!r} is not a group name", "letters, digits, '-'", Exit.INPUT
                    )
        for mac, node in ((node.mac, node) for node in self._nodes):
            if mac not in seen and node.name.lower() in names:
                text = f"{node.name!r} is the name of {mac}, and of {names[node.name.lower()]} in this file"
                raise OperatorError(text, "name each once", Exit.INPUT)

    # --- CloneSys ----------------------------------------------------------------------------------------

    def import_host_file(self, node: str, text: str, who: str, now: float) -> tuple[int, list[Effect]]:
        """Take over what CloneSys knew of a node: the number of locks that it means, and effects.

        Locks that are there already stay as they are.
        """
        mac = self._nodes.find(node)
        known = self._nodes.add(mac)
        disks = known.join.disks if known.join is not None else ()
        lines: list[HostFileLine] = []
        effects: list[Effect] = []
        places: set[str] = set()
        held = {one.place for one in self._coordinator.locks.of(mac)}
        for line in host_file.parse(text):
            lock = host_file.lock_of(line, disks)
            if lock is not None and place(lock) not in held | places:
                try:
                    effects += self._coordinator.add_lock(mac, lock, who, now)
                except OperatorError:
                    for added in places - held:
                        self._coordinator.locks.remove(mac, added)
                    raise
            lines.append(replace(line, place=place(lock) if lock is not None else ""))
            places |= {place(lock)} if lock is not None else set()
        record = HostFileRecord(mac, tuple(lines))
        self.host_files[mac] = record
        effects += self._coordinator.admission.approve([mac])
        effects += [Persist(record), Persist(AuditRecord(who, "import", f"{mac} CloneSys, {len(places)} locks"))]
        return len(places), sorted(effects, key=lambda effect: not isinstance(effect, Persist))

    def export_host_file(self, node: str, written: Sequence[host_file.Written] = ()) -> str:
        """The same, with what was ``written`` since, and the locks as they are now."""
        mac = self._nodes.find(node)
        known = self._nodes.get(mac)
        disks = known.join.disks if known is not None and known.join is not None else ()
        kept = self.host_files.get(mac)
        lines = host_file.with_written(kept.lines if kept is not None else (), written)
        return host_file.render(host_file.current(lines, self._coordinator.locks.of(mac), disks))

    # --- groups ------------------------------------------------------------------------------------------

    def add_to_group(self, group: str, hosts: str, who: str) -> list[Effect]:
        """Machines that a host set names now are in the group, which is made if need be. They count as approved."""
        macs = self._named(hosts)
        record = self._nodes.groups.add(group, macs)
        return [
            *self._coordinator.admission.approve(macs),
            Persist(record),
            Persist(AuditRecord(who, "group-add", f"{group} {' '.join(macs)}")),
        ]

    def drop_from_group(self, group: str, hosts: str, who: str) -> list[Effect]:
        macs = self._named(hosts)
        record = self._nodes.groups.drop(group, macs)
        return [Persist(record), Persist(AuditRecord(who, "group-drop", f"{group} {' '.join(macs)}"))]

    def remove_group(self, group: str, who: str) -> list[Effect]:
        """Forget the group; its machines stay."""
        self._nodes.groups.remove(group)
        return [Persist(RemovedGroup(group)), Persist(AuditRecord(who, "group-remove", group))]

    def set_group_label(self, group: str, label: str, who: str) -> list[Effect]:
        """What machines in this group boot by default; "" = back to what bootd.toml says."""
        if label:
            self._coordinator.check_label(label)
        record = self._nodes.groups.set_label(group, label)
        return [
            Persist(record),
            Persist(AuditRecord(who, "group-label", f"{group} {label or '-'}")),
            Event(
                "policy", "", "", f"group {group} boots {label or self._nodes.groups.label(group) or 'the default'}"
            ),
        ]

    # --- inside ------------------------------------------------------------------------------------------

    def _named(self, hosts: str) -> list[str]:
        wanted = self._nodes.host_set(hosts)
        if wanted.macs is None:
            raise OperatorError("'any' is no group; it is everybody", "say which nodes", Exit.USAGE)
        return sorted(wanted.macs)

    def _unknown(self) -> list[str]:
        admission = self._coordinator.admission
        waiting = [node.mac for node in self._nodes if not admission.is_named(node)]
        return sorted({*waiting, *admission.strangers})

    def _existing(self, text: str) -> Node:
        mac = self._nodes.find(text)
        known = self._nodes.get(mac)
        if known is None:
            raise OperatorError(f"nothing is known of {default_name(mac)}", "see bootd node list", Exit.USAGE)
        return known

    def _node(self, mac: str) -> Node:
        return self._nodes.add(mac)
