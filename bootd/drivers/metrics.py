"""What the daemon counts, for Prometheus. Counters belong to the process: a reload goes on counting.

Labels have few values: a reason is told without the addresses in it, and of more than `MAX_REASONS` different ones
the rest is "other", so that nobody on the network can fill the memory of whoever collects this.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Info, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_REASONS = 64
MAX_REASON = 80  # characters
_NUMBERS = re.compile(r"\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b|\b\d[\d./:]*")

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
Info("bootd", "The daemon.", registry=REGISTRY).info({"version": version("bootd")})


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"bootd_{name}", text, labels, registry=REGISTRY)


DHCP_ANSWERS = _counter("dhcp_answers", "DHCP messages sent, by type.", "type")
DHCP_IGNORED = _counter("dhcp_ignored", "DHCP requests that got no answer or no boot file, by reason.", "reason")
TFTP_TRANSFERS = _counter("tftp_transfers", "TFTP transfers that ended, by result.", "result")
TFTP_BYTES = _counter("tftp_bytes", "Bytes of files sent over TFTP.")
TFTP_RESENT = _counter("tftp_resent_windows", "Windows that were sent again.")
TFTP_REFUSED = _counter("tftp_refused", "TFTP requests refused, by error code.", "code")
HTTP_REQUESTS = _counter("http_requests", "HTTP requests answered, by interface and status.", "interface", "status")
HTTP_FILE_BYTES = _counter("http_file_bytes", "Bytes of files sent by the file port.")
HTTP_FILES = _counter("http_files", "Files, or parts of files, sent by the file port.")
DNS_ANSWERS = _counter("dns_answers", "DNS questions, by what became of them.", "result")
MALFORMED = _counter("malformed", "Datagrams that were no messages of the protocol.", "protocol")
EVENTS = _counter("events", "Lines of the timeline, by kind.", "kind")
SESSIONS_ENDED = _counter("sessions_ended", "Sessions that ended, by state.", "state")
RING_BYTES = _counter("ring_bytes", "Bytes of all members: written, durable, verified, sent to neighbours.", "kind")
POWER = _counter("power_actions", "Power actions, by action and result.", "action", "result")
LOG_LINES = _counter("log_messages", "Lines logged, by level.", "level")
WORKERS_LOST = _counter("workers_lost", "Worker processes that died and were started again.", "worker")

for _protocol in ("dhcp", "tftp", "dns"):
    MALFORMED.labels(_protocol)
for _level in ("warning", "error"):
    LOG_LINES.labels(_level)


class Reasons:
    """Reasons as values of a label."""

    def __init__(self, most: int = MAX_REASONS) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, text: str) -> str:
        """``text`` without numbers and addresses; "other" when too many different ones were seen."""
        plain = _NUMBERS.sub("*", text)[:MAX_REASON] or "none"
        if plain not in self._known:
            if len(self._known) >= self._most:
                return "other"
            self._known.add(plain)
        return plain


_ignored = Reasons()
_kinds = Reasons(32)


def count_ignored(reason: str) -> None:
    """A DHCP request that is not answered as its sender wants."""
    DHCP_IGNORED.labels(_ignored.label(reason)).inc()


def count_event(kind: str) -> None:
    EVENTS.labels(_kinds.label(kind)).inc()


class RingTally:
    """Turns the members' counters, which begin anew with each session and attempt, into ones that only grow."""

    KINDS = ("written", "durable", "verified", "sent")

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[int, ...]] = {}

    def update(self, members: Iterable[tuple[str, str, tuple[int, ...]]]) -> None:
        """``members`` of open sessions: session, MAC, and a value for each of `KINDS`."""
        seen = {}
        for session, mac, values in members:
            before = self._last.get((session, mac), (0,) * len(self.KINDS))
            for kind, value, old in zip(self.KINDS, values, before, strict=True):
                if value > old:
                    RING_BYTES.labels(kind).inc(value - old)
            seen[session, mac] = values
        self._last = seen


class _Room(Collector):
    """The state of the moment, as `bootd state` tells it."""

    def __init__(self, state: Mapping[str, Any], leases: int, trouble: list[str]) -> None:
        self._state, self._leases, self._trouble = state, leases, trouble

    def collect(self) -> Iterator[Metric]:
        nodes, sessions = self._state["nodes"], self._state["sessions"]
        yield _gauge("healthy", "1 when nothing is wrong, as `bootd health` tells.", [((), int(not self._trouble))])
        groups = {
            "known": len(nodes),
            "present": sum(node["present"] for node in nodes),
            "in_session": sum(node["session"] is not None for node in nodes),
            "waiting": sum(node["waiting"] is not None and node["present"] for node in nodes),
            "parked": sum(node["parked"] is not None for node in nodes),
        }
        yield _gauge(
            "nodes", "Nodes; one may be in several states.", [((k,), v) for k, v in groups.items()], "state"
        )
        opened = [session for session in sessions if not session["ended"]]
        yield _gauge("sessions", "Open sessions, by state.", _tallied(item["state"] for item in opened), "state")
        standings = _tallied(member["state"] for item in opened for member in item["members"])
        yield _gauge("members", "Members of open sessions, by state.", standings, "state")
        amounts: list[tuple[tuple[str, ...], int]] = []
        for item in opened:
            name = item["name"] or item["id"]
            for kind in RingTally.KINDS[:3]:
                least = min((member[kind] for member in item["members"]), default=0)
                amounts.append(((item["id"], name, kind), least))
            amounts.append(((item["id"], name, "size"), item["source_size"]))
        yield _gauge(
            "session_bytes",
            "What every member of an open session has, and its size.",
            amounts,
            "session",
            "name",
            "kind",
        )
        yield _gauge("dhcp_leases", "Addresses that bootd has given.", [((), self._leases)])


def exposition(state: Mapping[str, Any], leases: int, trouble: list[str]) -> bytes:
    """Everything, in Prometheus' text format 0.0.4. ``state`` as `bootd.session.view.view` makes it."""
    moment = CollectorRegistry()
    moment.register(_Room(state, leases, trouble))
    return generate_latest(REGISTRY) + generate_latest(moment)


def _tallied(words: Iterable[str]) -> list[tuple[tuple[str, ...], int]]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return [((word,), count) for word, count in sorted(counts.items())]


def _gauge(name: str, text: str, values: list[tuple[tuple[str, ...], int]], *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"bootd_{name}", text, labels=labels)
    for own, value in values:
        family.add_metric(list(own), value)
    return family
