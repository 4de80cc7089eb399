"""The daemon's writers killed with SIGKILL at random points, a few hundred times: what was acknowledged is there.

Real processes, real files: a nursery process has everything imported and forks a writer for each round; it is
killed after so many acknowledgements and a random part of a millisecond. ``BOOTD_CRASH_SEED`` replays a run.
"""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bootd.drivers.dhcp.store import LeaseStore
from bootd.drivers.journal import Journal
from bootd.drivers.tokens import TokenStore
from bootd.netboot.addresses.table import State
from tests.unit.session_room import mac

ROUNDS = 300
FRESH = 10  # each so many rounds a new file: the first start is killed, too

# Forks a writer for each order on standard input, kills it at the point that the order says, tells what it had
# acknowledged. A writer acknowledges record N by writing N to a pipe once the call that writes it has returned.
_NURSERY = """
import os, random, select, signal, struct, sys, time
from pathlib import Path
from bootd.drivers.dhcp.store import LeaseStore
from bootd.drivers.http.routes import Scope
from bootd.drivers.journal import Journal
from bootd.drivers.tokens import TokenStore
from bootd.netboot.addresses.table import Binding, State
from bootd.session.effects import AuditRecord, DefaultLabel, NodeRecord, SessionRecord
from tests.unit.session_room import mac

def journal(path, number, told):
    book = Journal(path)
    book.load()
    book.keep_copy()
    tokens = TokenStore(book)
    while True:
        number += 1
        session = SessionRecord("%08x" % number, "", "/img", 1, (), "only", 1, "local", "reboot", "running", "", ())
        node = NodeRecord(mac(1), "lab1", "aa" * 16, f"label{number}", "", "", "", number, None)
        if number % 7 == 0 and f"t{number}" not in {token["name"] for token in tokens.listing()}:
            tokens.create(f"t{number}", Scope.READ, None, "root")
        book.batch([DefaultLabel(f"label{number}"), node, session, AuditRecord("root", "n", str(number))])
        os.write(told, struct.pack("!I", number))

def leases(path, number, told):
    store = LeaseStore(path)
    store.load()
    while True:
        number += 1
        one = Binding(0x0A000000 + number % 500, f"id:{number}", State.BOUND, float(number), "")
        other = Binding(0x0B000000, "last", State.BOUND, float(number), "")
        store.write([one, other])
        os.write(told, struct.pack("!I", number))

for line in sys.stdin:
    kind, path, number, acknowledged, delay = line.split()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            {"journal": journal, "leases": leases}[kind](Path(path), int(number), writer)
        except BaseException as error:
            print("failed", type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
    os.close(writer)
    last = int(number)
    for _ in range(int(acknowledged)):
        data = os.read(reader, 4)
        if not data:
            break
        (last,) = struct.unpack("!I", data)
    until = time.perf_counter() + float(delay)
    while time.perf_counter() < until:
        pass
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    while data := os.read(reader, 4):
        (last,) = struct.unpack("!I", data)
    os.close(reader)
    print(last, os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1, flush=True)
"""


@pytest.fixture(scope="module")
def seed() -> int:
    value = int(os.environ.get("BOOTD_CRASH_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"BOOTD_CRASH_SEED={value}")
    return value


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: a killed process loses nothing of what the kernel has, so the disk's own
    time would only make these hundreds of rounds slow."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="bootd-crash-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("kind", ["journal", "leases"])
def test_nothing_acknowledged_is_lost(folder: Path, seed: int, kind: str) -> None:
    dice = random.Random(f"{seed} {kind}")
    nursery = subprocess.Popen(
        [sys.executable, "-c", _NURSERY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    path, number, during_start = folder / "0.db", 0, 0
    try:
        for turn in range(ROUNDS):
            if turn % FRESH == 0:
                path, number = folder / f"{turn}.db", 0
            acknowledged = dice.choice((0, 0, 1, 2, 5, 20))
            delay = dice.uniform(0, 0.02 if acknowledged == 0 else 0.003)
            nursery.stdin.write(f"{kind} {path} {number} {acknowledged} {delay}\n")
            nursery.stdin.flush()
            words = nursery.stdout.readline().split()
            assert words, f"seed {seed}, round {turn}: the nursery has died"
            last, signal = map(int, words)
            assert signal == 9, f"seed {seed}, round {turn}: the writer failed by itself"
            during_start += last == number
            kept = _kept(kind, path)
            assert last <= kept <= last + 1, f"seed {seed}, round {turn}: {last} acknowledged, {kept} kept"
            number = kept
    finally:
        nursery.stdin.close()
        nursery.stdout.close()
        nursery.wait(10)
    assert 10 < during_start < ROUNDS - 100, f"seed {seed}: the points of the kills say little"


def _kept(kind: str, path: Path) -> int:
    """The number of the last record in the file, which must be whole, and consistent in itself."""
    number = _journal(path) if kind == "journal" else _leases(path)
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return number


def _journal(path: Path) -> int:
    book = Journal(path)
    try:
        saved = book.load(ended_sessions=1)
        tokens = {token["name"] for token in TokenStore(book).listing()}
        audit = [line for line in book.audit(1 << 20) if line.what == "n"]
    finally:
        book.close()
    number = int(saved.default_label.removeprefix("label") or 0)
    assert [int(line.detail) for line in audit] == list(range(1, number + 1)), "no gap, nothing half"
    assert len(saved.sessions) == number
    assert [(node.mac, node.attempts) for node in saved.nodes] == ([(mac(1), number)] if number else [])
    wanted = {f"t{made}" for made in range(7, number + 1, 7)}
    assert wanted <= tokens <= wanted | {f"t{number + 1}"}, "each was made before its record"
    return number


def _leases(path: Path) -> int:
    store = LeaseStore(path)
    try:
        bindings = store.load()
    finally:
        store.close()
    number = int(max((one.expires for one in bindings), default=0))
    rows = {one.address: one for one in bindings}
    for made in range(max(1, number - 400), number + 1):
        one = rows[0x0A000000 + made % 500]
        assert (one.client, one.expires, one.state) == (f"id:{made}", float(made), State.BOUND)
    if number:
        assert rows[0x0B000000].expires == number, "both of a write, or none"
    return number
