"""The side towards the predecessor: whom to dial and when, and what the link brings."""

from dataclasses import dataclass

from bootd.wire import frames, link
from bootd.wire.control import Address, Arrange, MemberState
from bootd.wire.errors import PeerProtocolError
from bootd.wire.frames import Chunk, ChunkHeader, Frame
from bootd.wire.manifest import Manifest
from bootd.wire.ring.ledger import Ledger
from bootd.wire.ring.standing import Standing

MAX_BAD_COPIES = 3  # of one chunk over one link, before the link is given up and dialled anew
FIRST_PAUSE = 0.1  # seconds before the same predecessor is dialled again
LONGEST_PAUSE = 2.0
FOLLOWERS_PAUSE = 0.25  # seconds that a beginner waits for those who follow it


@dataclass(frozen=True)
class Place:
    """Where a member stands in the ring."""

    epoch: int
    predecessor: Address | None
    predecessor_node: str
    followers: int = 0

    def is_behind(self, other: "Place") -> bool:
        """Whether both follow the same predecessor, at the same address."""
        return (self.predecessor, self.predecessor_node) == (other.predecessor, other.predecessor_node)


@dataclass(frozen=True)
class Dial:
    """Connect to ``address``, then `Upstream.connect`."""

    place: Place
    address: Address


@dataclass(frozen=True)
class Rest:
    """Nothing to do until ``until`` (the time of the caller; None: until something changes)."""

    until: float | None = None


@dataclass(frozen=True)
class Send:
    """Send ``data``, then go on reading."""

    data: bytes


@dataclass(frozen=True)
class Take:
    """A chunk that was wanted and is not checked: `RingMember.accept` or `RingMember.reject_copy` it."""

    chunk: Chunk


@dataclass(frozen=True)
class Done:
    """Nothing is lacking: the link can be closed."""


class Upstream:
    """One link at a time, dialled while a chunk is lacking."""

    def __init__(
        self, *, node: str, session: str, token: str, manifest: Manifest, ledger: Ledger, standing: Standing
    ) -> None:
        self.place = Place(0, None, "")
        self._node, self._session, self._token = node, session, token
        self._manifest, self._ledger, self._standing = manifest, ledger, standing
        self._link: link.DialLink | None = None
        self._linked: Place | None = None
        self._received = 0
        self._pause = FIRST_PAUSE
        self._not_before = 0.0
        self._bad_copies: dict[int, int] = {}
        self._waits_until: float | None = None  # for followers

    def arrange(self, message: Arrange) -> bool:
        """Take a place of a higher epoch; False for one that is over or known."""
        if message.epoch <= self.place.epoch:
            return False
        place = Place(message.epoch, message.predecessor, message.predecessor_node, message.followers)
        if not place.is_behind(self.place):
            self._pause, self._not_before = FIRST_PAUSE, 0.0
        self.place = place
        return True

    def next(self, now: float, followers: int) -> Dial | Rest:
        """What to do while there is no link. ``followers``: how many have proven themselves.

        At the beginning those who follow dial first: once data comes, it fills the queue of this member's port, and
        what they say to be let in waits behind it, or is dropped there.
        """
        if self.place.predecessor is None or not self._ledger.is_lacking:
            return Rest()
        if self._standing.state is MemberState.PREPARING:
            return Rest()  # what is lacking is not known yet
        if now < self._not_before:
            return Rest(self._not_before)
        if self._standing.state is MemberState.READY and followers < self.place.followers:
            if self._waits_until is None:
                self._waits_until = now + FOLLOWERS_PAUSE
            if now < self._waits_until:
                return Rest(self._waits_until)
        return Dial(self.place, self.place.predecessor)

    def is_wanted(self, place: Place) -> bool:
        """Whether the link of ``place`` is still the right one; a later epoch may keep the predecessor."""
        return place.is_behind(self.place)

    def connect(self, place: Place, nonce: bytes) -> None:
        """The predecessor of ``place`` has taken the call. ``nonce``: 32 fresh random bytes."""
        self._link = link.DialLink(
            session=self._session,
            epoch=place.epoch,
            member=self._node,
            token=self._token,
            nonce=nonce,
            manifest=self._manifest,
        )
        self._linked = place
        self._received = self._ledger.received
        self._bad_copies.clear()

    def check_chunk(self, header: ChunkHeader) -> None:
        """`PeerProtocolError` unless this chunk is due; to be asked before memory is given for its payload."""
        if self._link is None:
            raise PeerProtocolError("CHUNK before a link")
        self._link.check_chunk(header)

    def receive(self, frame: Frame) -> Send | Take | Done | None:
        """What a frame of the predecessor asks for; `PeerProtocolError` ends the link."""
        if self._link is None:
            raise PeerProtocolError("frame before a link")
        match self._link.receive(frame):
            case link.Send(data):
                return Send(data)
            case link.Refused(reason):
                raise PeerProtocolError(f"refuses: {reason}")
            case link.Arrived(chunk):
                return Take(chunk)
            case link.Established() | link.Served():
                if self._standing.state is MemberState.READY:
                    self._standing.enter(MemberState.RECEIVING)
                lacking = self._ledger.lacking(frames.MAX_RANGES)
                return Send(self._link.want(lacking)) if lacking else Done()
            case _:
                return None

    def reject_copy(self, index: int, words: str) -> None:
        """A chunk that is not the one of the image: wanted again; `PeerProtocolError` when that is too often."""
        copies = self._bad_copies[index] = self._bad_copies.get(index, 0) + 1
        self.complain(f"chunk {index} {words}")
        if copies >= MAX_BAD_COPIES:
            raise PeerProtocolError(f"chunk {index} {words}, {copies} times")

    def break_off(self, place: Place, words: str, now: float) -> None:
        """The link of ``place`` is over, or could not be made, for the reason in ``words``.

        The same predecessor is dialled again after a pause, which grows while nothing comes.
        """
        self._link = None
        if not self.is_wanted(place):
            return
        self.complain(words)
        has_brought = self._linked is place and self._ledger.received > self._received
        self._pause = FIRST_PAUSE if has_brought else min(self._pause * 2, LONGEST_PAUSE)
        self._not_before = now + self._pause

    def complain(self, words: str) -> None:
        """Say what is wrong with the predecessor of the link in hand, or of the place."""
        place = self._linked if self._link is not None and self._linked is not None else self.place
        self._standing.complain(f"predecessor {place.predecessor_node}: {words}")

    def hang_up(self) -> None:
        """The link is over and nobody is to blame."""
        self._link = None
