"""What is for and against a node before any disk of its is looked at: whether it belongs here, which machine is
behind its MAC, which locks hold for it, what its groups say. Sans-IO."""

from collections.abc import Iterable
from enum import Enum

from bootd.session.effects import Effect, Event, Persist
from bootd.session.groups import LOCAL
from bootd.session.hosts import normal_mac
from bootd.session.locks import Held, Locks
from bootd.session.machine import another_machine, difference, machine_of, merged
from bootd.session.nodes import Node, Registry
from bootd.wire.control import Join, Lock

MAX_NAMED = 5  # nodes in one warning
MAX_STRANGERS = 1000  # that are remembered, while they are ignored


class Unknown(Enum):
    """What becomes of a machine that nobody has named (``[nodes] unknown``)."""

    ACCEPT = "accept"  # as any other
    APPROVE = "approve"  # boots the default, shows its hardware, waits; no session takes it
    IGNORE = "ignore"  # gets no answer


class Admission:
    """Known is who is in the configuration, in a group, has a name or a label by an operator, or was approved."""

    def __init__(self, nodes: Registry, locks: Locks, unknown: Unknown) -> None:
        self.unknown = unknown
        self.strangers: dict[str, float] = {}  # MACs that were ignored, and when: monotonic seconds
        self._nodes, self._locks = nodes, locks

    def is_known(self, node: Node) -> bool:
        """Whether sessions may take the node."""
        return self.unknown is Unknown.ACCEPT or self.is_named(node)

    def is_named(self, node: Node) -> bool:
        """The same, whatever the policy is."""
        return bool(
            node.approved
            or node.given_name
            or node.label
            or self._nodes.is_configured(node.mac)
            or self._nodes.groups.of(node.mac)
        )

    def may_boot(self, mac: str, now: float) -> bool:
        """Whether ``mac`` gets an answer. One that does not is remembered for ``bootd node list --unknown``."""
        if self.unknown is not Unknown.IGNORE:
            return True
        normal = normal_mac(mac)
        node = self._nodes.get(normal)
        known = self.is_named(node) if node is not None else bool(self._nodes.groups.of(normal))
        if not known and normal:
            self.strangers.pop(normal, None)
            self.strangers[normal] = now  # the latest last
            if len(self.strangers) > MAX_STRANGERS:
                del self.strangers[next(iter(self.strangers))]
        return known

    def locks_for(self, mac: str, now: float) -> tuple[Lock, ...]:
        """The locks that hold for a node now: its own; those of a node that is the same machine under another MAC;
        and those that name a disk of its by WWN, wherever that disk was when it was locked."""
        own = self._locks.in_force(mac, now)
        return own + tuple(held.lock for _, held in self.inherited_locks(mac, now) if held.lock not in own)

    def inherited_locks(self, mac: str, now: float) -> tuple[tuple[str, Held], ...]:
        """Of these, the ones of other nodes, with the MAC of each."""
        node = self._nodes.get(mac)
        same = set(self._nodes.twins.same(mac))
        wwns = {disk.wwn for disk in node.join.disks if disk.wwn} if node is not None and node.join else set()
        return self._locks.of_others(mac, same, wwns, now)

    def group_label(self, mac: str) -> tuple[str, str] | None:
        """What its groups let a machine boot, and why; None = nothing."""
        group = self._nodes.groups.choose_label(mac)
        return (group.label, group.why) if group is not None else None

    def group_protects(self, mac: str) -> bool:
        """Whether its group boots ``local``: then only a session that names the node may take it."""
        group = self._nodes.groups.choose_label(mac)
        return group is not None and group.label == LOCAL

    def veto(self, mac: str, *, is_any: bool) -> str:
        """Why no session would take the node, whatever its disks are; "" when nothing is against it. ``is_any``: it
        would not be named."""
        node = self._nodes.get(mac)
        if node is not None and node.changed:
            return another_machine(node.name, node.changed)
        if is_any and node is not None and not self.is_known(node):
            return f"not approved: bootd node approve {node.name}"
        group = self._nodes.groups.choose_label(mac)
        return f"not named, and boots local: {group.why}" if is_any and group and group.label == LOCAL else ""

    def approve(self, macs: Iterable[str]) -> list[Effect]:
        """From now on they belong here. Records of those that are new to it."""
        effects: list[Effect] = []
        for mac in macs:
            node = self._nodes.add(mac)
            self.strangers.pop(mac, None)
            if not node.approved:
                node.approved = True
                effects.append(Persist(node.record()))
        return effects

    def recognise(self, node: Node, join: Join) -> list[Effect]:
        """Compare the machine that joins with the one that this MAC stood for. The caller writes the record.

        Another machine is not taken over: ``node.changed`` says how it differs, until an operator accepts it or the
        one that is known is back.
        """
        seen = machine_of(join)
        if self.unknown is Unknown.ACCEPT:
            node.approved = True  # a stricter policy, later, does not lock out who was welcome
        before = node.changed
        shared = bool(self._nodes.twins.sharing_uuid(node.mac))
        how = difference(node.machine, seen, shared_uuid=shared) if node.machine is not None else ""
        if how:
            alike = [self._nodes.name(mac) for mac in self._nodes.twins.like(seen, but=node.mac)]
            node.changed = how + (f"; it looks like {', '.join(alike)}" if alike else "")
        else:
            self._nodes.accept_machine(node, merged(node.machine, seen) if node.machine is not None else seen)
        effects: list[Effect] = []
        if before and not node.changed:
            effects.append(Event("machine", node.mac, "", "the machine that is known answers again"))
        warnings = self.warnings(node)
        effects += [Event("warning", node.mac, "", text) for text in warnings if text not in node.warned]
        node.warned = warnings
        return effects

    def _are_together(self, one: str, other: str) -> bool:
        """Whether a machine has shown network cards with both MACs at a time."""
        nodes = (self._nodes.get(one), self._nodes.get(other))
        joins = [node.join for node in nodes if node is not None and node.join is not None]
        return any({one, other} <= {nic.mac for nic in join.hardware.nics} for join in joins)

    def warnings(self, node: Node) -> tuple[str, ...]:
        """What an operator should know of a node's identity."""
        texts = [f"another machine answers under this MAC: {node.changed}"] if node.changed else []
        for mac in self._nodes.twins.same(node.mac):
            how = (
                "by another of its network cards"
                if self._are_together(node.mac, mac)
                else "a changed network card?"
            )
            texts.append(f"same machine as {self._nodes.name(mac)} (serial, disks): {how}")
        others = [self._nodes.name(mac) for mac in self._nodes.twins.sharing_uuid(node.mac)]
        if others:
            who = ", ".join(sorted(others)) if len(others) <= MAX_NAMED else f"{len(others)} or more others"
            texts.append(f"same UUID as {who}, other machines")
        return tuple(texts)
