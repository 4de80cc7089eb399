"""What the daemon knows of its nodes' names and addresses now, for the DNS zone."""

from collections.abc import Callable, Iterator
from typing import Any

from bootd.config import Settings
from bootd.netboot.names.zone import Host
from bootd.session.coordinator import Coordinator


class NodeNames:
    """Callable: every node that is known, those of the settings first.

    Its address is that of its lease, else the one it joined with since the daemon started, else the one of the
    settings, else the one it joined with long ago.
    """

    def __init__(
        self, coordinator: Coordinator, settings: Settings, leases: Callable[[], list[dict[str, Any]]]
    ) -> None:
        self._coordinator, self._leases = coordinator, leases
        self._configured = {node.mac.lower(): node for node in settings.node}

    def __call__(self) -> Iterator[Host]:
        leased = {lease["client"]: lease["address"] for lease in self._leases() if _in_use(lease)}
        known = {node.mac: node for node in self._coordinator.nodes}
        for mac in [*self._configured, *(mac for mac in known if mac not in self._configured)]:
            node, configured = known.get(mac), self._configured.get(mac)
            joined = node.join.address if node is not None and node.join is not None else ""
            fresh = joined if node is not None and node.heard is not None else ""
            own = configured.address if configured is not None else ""
            yield Host(
                self._coordinator.nodes.name(mac),
                leased.get(mac) or fresh or own or joined,
                self._coordinator.nodes.own_number(mac),
            )


def _in_use(lease: dict[str, Any]) -> bool:
    return bool(lease["holds"]) and lease["state"] == "bound"
