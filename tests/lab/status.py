"""What ``bootd state --json`` says, as far as the lab needs it."""

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
            nodes = {str(node["node"]): _node(node) for node in _list(session, "members")}
            return SessionStatus(str(session["id"]), str(session["state"]), str(session["reason"]), nodes)
    raise LabError("server", "bootd state", f"no session {name!r} in {str(state)[:300]}", server.console.log)


def labels(server: Server) -> Labels:
    state = server.query("state")
    return Labels(
        str(state["default_label"]), {str(node["mac"]): str(node["next_label"]) for node in _list(state, "nodes")}
    )


def _node(node: dict[str, Any]) -> NodeStatus:
    numbers = {key: int(node[key] or 0) for key in ("total", "written", "durable", "verified", "rate")}
    return NodeStatus(str(node["state"]), str(node["reason"]), **numbers)


def _list(value: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return list(value[key])
