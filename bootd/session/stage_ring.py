"""Who gets stage2 from whom: nodes that boot together hand it on to each other. Sans-IO; time is an argument.

See docs/decisions/0010-stage2-from-node-to-node.md. The server feeds one node, each node up to `FAN_OUT` others,
which may begin while it still receives. Who complains of its predecessor is fed by the server; digests, not this
arrangement, keep wrong bytes out.
"""

from dataclasses import dataclass

FAN_OUT = 2  # successors of one node; as with ka, a tree: a slow node holds up only those below it
KEEP_SECONDS = 60.0  # a node hands on for longer than this after it has asked (stage1.hand_on)
FIRST_PATIENCE = 4.0  # seconds without progress before the successor of a node that the server feeds complains
STEP_PATIENCE = 2.0  # each further down waits so much longer: who is nearest to the trouble complains first
MAX_PATIENCE = 30.0
MAX_MEMBERS = 4096


@dataclass(frozen=True)
class Feed:
    """Where a node gets stage2. ``url`` "": from the server; ``peer`` is its MAC, "" then.

    ``patience`` in seconds: how long that peer may go without progress.
    """

    url: str = ""
    peer: str = ""
    patience: float = 0.0


@dataclass
class _Member:
    node: str
    url: str  # where it hands on; "" = nowhere
    sha256: str
    depth: int  # 1: fed by the server
    predecessor: str = ""
    successors: int = 0
    trusted: bool = True
    until: float = 0.0


class StageRing:
    """The nodes that are in stage1 now, or were a minute ago."""

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}

    def arrange(self, node: str, url: str, sha256: str, failed: str, now: float) -> Feed:
        """The place of ``node``, which hands on at ``url`` what has the digest ``sha256``.

        ``failed`` is the URL of a predecessor that it complains of, or "".
        """
        self._forget(now)
        before = self._members.get(node)
        complains = False
        if failed and before is not None:
            feeder = self._members.get(before.predecessor)
            complains = True
            if feeder is not None and failed.startswith(feeder.url):
                feeder.trusted = False
        chosen = None if complains else self._choose(node, sha256)
        if before is None and len(self._members) >= MAX_MEMBERS:
            return Feed()
        member = _Member(node, url, sha256, 1 + (chosen.depth if chosen else 0), until=now + KEEP_SECONDS)
        if before is not None and before.url == url:
            member.successors = before.successors
        self._members[node] = member
        if chosen is None:
            return Feed()
        chosen.successors += 1
        chosen.until = now + KEEP_SECONDS
        member.predecessor = chosen.node
        patience = FIRST_PATIENCE + STEP_PATIENCE * (chosen.depth - 1)
        return Feed(chosen.url, chosen.node, min(patience, MAX_PATIENCE))

    def _choose(self, node: str, sha256: str) -> _Member | None:
        """The place nearest to the server that is free, and of those the first that came."""
        places = [
            member
            for member in self._members.values()
            if member.url
            and member.trusted
            and member.sha256 == sha256
            and member.successors < FAN_OUT
            and not self._is_fed_by(member, node)
        ]
        return min(places, key=lambda member: member.depth, default=None)

    def _is_fed_by(self, member: _Member, node: str) -> bool:
        """Whether the bytes of ``member`` come by way of ``node``, or it is ``node``."""
        seen = set()
        current: _Member | None = member
        while current is not None and current.node not in seen:
            if current.node == node:
                return True
            seen.add(current.node)
            current = self._members.get(current.predecessor)
        return False

    def _forget(self, now: float) -> None:
        for node in [node for node, member in self._members.items() if member.until <= now]:
            del self._members[node]
