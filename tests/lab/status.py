"""What ``bootd state --json`` and ``bootd label list --json`` say, as far as the lab needs it."""

from dataclasses import dataclass
from typing import Any

from tests.lab.errors import LabError
from tests.lab.server import Server


@dataclass(frozen=True)
class NodeStatus:
    """One node of the session. Counters in bytes, rate in bytes per second."""

    state: str
    reason: str
    total: int
    written: int
    durable: int
    verified: int
    rate: int


@dataclass(frozen=True)
class SessionStatus:
    session: str
    state: str
    reason: str
    nodes: dict[str, NodeStatus]  # by MAC address


@dataclass(frozen=True)
class Labels:
    """What boots next."""

    default: str
    nodes: dict[str, str]  # MAC address -> label, for every node that bootd knows


def session_status(server: Server, name: str) -> SessionStatus:
    """The session called ``name``; `LabError` when the daemon has none."""
    state = server.query("state")
    for session in _list(state, "sessions"):
        if name in (session.get("name"), session.get("id")):
            nodes = {str(node["node"]): _node(node) for node in _list(session, "nodes")}
            return SessionStatus(str(session["id"]), str(session["state"]), str(session.get("reason", "")), nodes)
    raise LabError("server", "bootd state", f"no session {name!r} in {str(state)[:300]}", server.console.log)


def labels(server: Server) -> Labels:
    answer = server.query("label", "list")
    nodes = {str(node["mac"]): str(node.get("next", "")) for node in _list(server.query("state"), "nodes")}
    return Labels(str(answer["default"]), nodes)


def _node(node: dict[str, Any]) -> NodeStatus:
    numbers = {key: int(node.get(key, 0)) for key in ("total", "written", "durable", "verified", "rate")}
    return NodeStatus(str(node.get("state", "")), str(node.get("reason", "")), **numbers)


def _list(value: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = value.get(key, [])
    return list(found.values()) if isinstance(found, dict) else list(found)
