"""All that is known of one machine, as plain values: for ``bootd node show``, exports, the API. Sizes in bytes."""

from dataclasses import asdict
from typing import Any

from bootd.session.cards import view_disk, view_lock
from bootd.session.coordinator import Coordinator
from bootd.session.nodes import Node
from bootd.session.view import view_node


def view_machine(coordinator: Coordinator, node: Node, now: float) -> dict[str, Any]:
    """The node in short, and ``hardware``: what its stage2 told last, null when it was never there.

    Its ``disks`` are told with their partitions, and locks of other nodes that hold for it too. ``group_label`` is
    what its groups say, beside ``why`` of what it boots.
    """
    group = coordinator.nodes.groups.choose_label(node.mac)
    value = view_node(coordinator, node, now)
    value["group_label"] = {"label": group.label, "why": group.why} if group is not None else None
    value["inherited_locks"] = [
        {"node": mac, "name": coordinator.nodes.name(mac), "lock": view_lock(held)}
        for mac, held in coordinator.admission.inherited_locks(node.mac, now)
    ]
    value["changed"] = node.changed or None
    value["hardware"] = asdict(node.join.hardware) if node.join is not None else None
    value["disks"] = [view_disk(disk) for disk in (node.join.disks if node.join is not None else ())]
    return value


def view_groups(coordinator: Coordinator) -> list[dict[str, Any]]:
    """All groups, in their order: their machines by name, names that nobody has yet, label."""
    return [view_group(coordinator, name) for name in coordinator.nodes.groups.names()]


def view_group(coordinator: Coordinator, name: str) -> dict[str, Any]:
    """One group; `OperatorError` when there is none."""
    groups = coordinator.nodes.groups
    macs, missing = groups.known_members(name)
    return {
        "name": name,
        "label": groups.label(name) or None,
        "configured": groups.is_configured(name),
        "nodes": [
            {"mac": mac, "name": coordinator.nodes.name(mac), "label": _label(coordinator, mac)}
            for mac in sorted(macs, key=coordinator.nodes.name)
        ],
        "missing": list(missing),
    }


def _label(coordinator: Coordinator, mac: str) -> str:
    return coordinator.choice(mac).label


def view_strangers(coordinator: Coordinator, now: float) -> list[dict[str, Any]]:
    """The machines that are not known here: those that wait for approval, then those that were ignored."""
    waiting = [node for node in coordinator.nodes if not coordinator.admission.is_known(node)]
    ignored = [
        Node(mac, coordinator.nodes.name(mac), "", seen=seen)
        for mac, seen in coordinator.admission.strangers.items()
        if coordinator.nodes.get(mac) is None
    ]
    return [view_node(coordinator, node, now) for node in [*waiting, *ignored]]
