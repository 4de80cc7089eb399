"""Who dies and when: first, middle, last, two adjacent, all but one; at 0, 50, 99.9 % and before verification.

Real daemon, real members, links shaped with tbf. Each of the 20 cases is a session of its own with four nodes, and
the five of one moment run side by side. The member dies at an exact place inside its process (`ring_matrix`).
"""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.errors import Exit
from tests.netns.daemon import ADDRESS
from tests.netns.ring_lab import CHUNKS, Ring
from tests.netns.room import Room

MEMBERS = 4
MOMENTS = {
    "at 0 %": "kill:0",
    "at 50 %": f"kill:{CHUNKS // 2}",
    "at 99.9 %": f"kill:{CHUNKS - 1}",
    "before verification": "silence",  # all is durable, nothing is read back
}
# Places in the chain, from 0.
DYING = {
    "first": (0,),
    "middle": (1,),
    "last": (3,),
    "two adjacent": (1, 2),
    "all but one": (0, 1, 3),
}
NODES = tuple(f"n{number}" for number in range(1, MEMBERS * len(DYING) + 1))


class Deaths(Ring):
    """One daemon for all cases; those of one moment are begun together, when the first of them is asked for."""

    def __init__(self, room: Room, folder: Path) -> None:
        super().__init__(room, folder, NODES)
        self._moment = ""

    def names(self, who: str) -> tuple[str, ...]:
        """The nodes of a case, in the order of their addresses, which is that of the chain."""
        begin = list(DYING).index(who) * MEMBERS
        return NODES[begin : begin + MEMBERS]

    def begin(self, moment: str) -> None:
        if self._moment == moment:
            return
        for node in self.nodes.values():
            node.stop()
        self._moment, self.generation = moment, list(MOMENTS).index(moment)
        self.nodes.clear()
        for who in DYING:
            self.deploy(MEMBERS, *self.names(who), name=self.session_name(who))
        for who, places in DYING.items():
            for place, name in enumerate(self.names(who)):
                self.start(name, MOMENTS[moment] if place in places else "none")

    def session_name(self, who: str) -> str:
        return f"{who.replace(' ', '-')}-{self.generation}"


@pytest.fixture(scope="module")
def deaths() -> Iterator[Deaths]:
    path = Path(tempfile.mkdtemp(prefix="bootd-", dir="/dev/shm"))
    try:
        with Room("server", *NODES) as room:
            room.address("server", f"{ADDRESS}/24")
            for name in NODES:
                room.address(name, f"10.9.0.{10 + int(name[1:])}/24")
            yield Deaths(room, path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("who", DYING)
@pytest.mark.parametrize("moment", MOMENTS)
def test_deaths(deaths: Deaths, moment: str, who: str) -> None:
    """The dead are lost, with a reason; all others are done, and their disks are the image."""
    deaths.begin(moment)
    names, session = deaths.names(who), deaths.session_name(who)
    deaths.wait(Exit.PARTLY, session)
    dead = {names[place] for place in DYING[who]}
    verdicts = deaths.expect({name: "lost" if name in dead else "done" for name in names}, session)
    head = deaths.session(session)["head"]["node"]
    for name, predecessor in zip(names, (head, *map(deaths.mac, names)), strict=False):
        assert f"node: epoch 1 behind {predecessor}\n" in deaths.nodes[name].output, (
            "it stood where it was meant to"
        )
    for name in dead:
        assert deaths.nodes[name].wait(1) == -signal.SIGKILL
        assert "silent" in verdicts[name]["reason"]
