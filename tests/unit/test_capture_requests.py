"""The capture requests of the node interface over real sockets: what a node may send, and what it may not."""

import errno
import http.client
import json
import os
import random
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bootd.config import Settings
from bootd.drivers.captures import CaptureStore
from bootd.drivers.http.node import NodeInterface
from bootd.drivers.images.removal import remove
from bootd.drivers.images.store import ImageStore
from bootd.drivers.sync.keeper import Folders, SyncKeeper
from bootd.drivers.sync.store import SyncStore
from bootd.drivers.tree import VirtualTree
from bootd.errors import Exit
from bootd.wire import captured, marks
from bootd.wire.captured import CHUNK, Description, Volume
from bootd.wire.control import RUNNING, CaptureReport, CaptureState, encode
from bootd.wire.digest import Compressor, digest
from bootd.wire.marks import MARK_SIZE, NONE, Clock, Question
from bootd.wire.stored import pack
from bootd.wire.tree import Mount, Tree, encode_tree
from tests.unit.operators import Operators
from tests.unit.session_room import disk, mac

SIZE = 4 * CHUNK + 4096
DATA = [random.Random(number).randbytes(CHUNK // 2) + bytes(CHUNK // 2) for number in range(3)]
CHUNKS = [DATA[0], DATA[1], bytes(CHUNK), DATA[0], DATA[2][:4096]]
NAMES = [digest(chunk) if any(chunk) else captured.ZEROS for chunk in CHUNKS]
ABOUT = Description("disk", SIZE, 512, None, (Volume(0, SIZE, "ext4", "", ""),), ((0, SIZE),))


class Server(Operators):
    """With the node interface on loopback; lab1 and lab2 are there."""

    def __init__(self, folder: Path, images: Path | None = None) -> None:
        super().__init__(folder)
        self.images = images or folder / "images"
        self.store = self.engine.captures = CaptureStore(self.images)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        server = {"state_dir": str(folder), "run_dir": str(folder), "http_port": self.port}
        settings = msgspec.convert({"server": server}, Settings)
        tree = VirtualTree(folder, lambda _: None, "127.0.0.1", self.port)
        self.nodes = NodeInterface(self.engine, tree, settings, "127.0.0.1")
        self.call(self.nodes.bind())
        self.call(self.nodes.serve())
        self.join(1, disk(size=SIZE))
        self.join(2, disk(size=SIZE))

    def order(self, node: str = "lab1", **more: Any) -> str:
        body = {"node": node, "image": "golden", "comment": "a test", "after": "stay", **more}
        status, value = self.request("POST", "/backups", body)
        assert status == 201, value
        return str(value["id"])

    def show(self, id_: str) -> dict[str, Any]:
        value: dict[str, Any] = self.request("GET", f"/backups/{id_}")[1]
        return value

    def send(  # noqa: PLR0917
        self,
        method: str,
        task: str,
        what: str,
        body: bytes = b"",
        query: str = "",
        number: int = 1,
        token: str = "",
    ) -> tuple[int, bytes]:
        """As node ``number`` does."""
        node = self.engine.coordinator.nodes.add(mac(number))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"Authorization": f"Bearer {token or node.token}"}
        try:
            path = f"/node/v1/capture/{task}/{what}?node={node.mac}{query}"
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def describe(self, task: str, about: Description = ABOUT) -> int:
        return self.send("PUT", task, "source", captured.encode(about))[0]

    def ask(self, task: str, first: int, names: list[bytes]) -> tuple[int, list[int]]:
        status, text = self.send("POST", task, "chunks", b"".join(names), f"&first={first}")
        return status, json.loads(text)["missing"] if status == 200 else []

    def put(self, task: str, chunk: bytes, name: bytes | None = None) -> int:
        stored = bytes(pack(chunk, Compressor()))
        return self.send("PUT", task, f"chunk/{(name or digest(chunk)).hex()}", stored)[0]

    def commit(self, task: str, count: int = 5) -> tuple[int, str]:
        status, text = self.send("POST", task, "commit", b"", f"&count={count}")
        return status, text.decode().strip()

    def close(self) -> None:
        self.call(self.nodes.close())
        self.store.close()
        super().close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.close()


def test_an_image_chunk_by_chunk(server: Server) -> None:
    task = server.order(user="eva", tags=["exam"])
    assert server.describe(task) == 204
    assert server.ask(task, 0, NAMES[:4]) == (200, [0, 1]), "no zeros, and nothing twice"
    assert server.ask(task, 4, NAMES[4:]) == (200, [0])
    for chunk in (CHUNKS[0], CHUNKS[1], CHUNKS[4]):
        assert server.put(task, chunk) == 204
    status, image = server.commit(task)
    assert status == 200
    assert server.commit(task) == (200, image), "an answer that was lost"
    shown = server.show(task)
    assert (shown["state"], shown["image_id"], shown["user"]) == ("done", image, "eva")
    store = ImageStore(server.images)
    manifest = store.open("golden:exam")
    assert b"".join(store.read_chunk(manifest, index) for index in range(5)) == b"".join(CHUNKS)
    assert (manifest.user, manifest.comment, manifest.extents) == ("eva", "a test", ((0, SIZE),))
    assert manifest.origin.startswith("lab1 (52:54:00:00:00:01), vda of disk S1")
    again = server.order()
    assert server.describe(again) == 204
    assert server.ask(again, 0, NAMES) == (200, []), "all of it is there"
    assert server.commit(again)[0] == 200


def test_only_what_belongs_to_the_task_of_the_node(server: Server) -> None:
    task, other = server.order(), server.order("lab2")
    assert server.describe(task) == 204
    body = captured.encode(ABOUT)
    assert server.send("PUT", task, "source", body, number=2)[0] == 404, "the task of another node"
    token = server.engine.coordinator.nodes.add(mac(2)).token
    assert server.send("PUT", task, "source", body, token=token)[0] == 401
    assert server.send("PUT", "nothing", "source", body)[0] == 404
    assert server.send("PUT", other, "source", body)[0] == 404
    assert server.ask(task, 0, NAMES[:2])[0] == 200
    assert server.put(task, DATA[2]) == 400, "not asked for"
    assert server.put(task, CHUNKS[0], digest(CHUNKS[1])) == 507, "not what its digest says"
    assert server.send("PUT", task, "chunk/zz", b"x")[0] == 400
    assert server.put(task, CHUNKS[0]) == 204
    assert server.put(task, CHUNKS[0]) == 204, "the same again: an answer that was lost"
    big = server.send("PUT", task, f"chunk/{NAMES[1].hex()}", bytes(CHUNK + 1))[0]
    assert big == 413
    report = encode(CaptureReport(mac(2), task, CaptureState.FAILED, reason="not mine"))
    assert server.send("POST", task, "report", report)[0] == 400
    assert server.show(task)["state"] != "failed"
    assert not ImageStore(server.images).images()


def test_digests_come_in_order_and_all_of_them(server: Server) -> None:
    task = server.order()
    assert server.ask(task, 0, NAMES)[0] == 409, "nothing is known of the source"
    assert server.commit(task)[0] == 409
    assert server.describe(task, replace(ABOUT, kind="partition")) == 400, "the whole disk was asked for"
    assert server.describe(task) == 204
    assert server.ask(task, 1, NAMES[1:])[0] == 400
    assert server.ask(task, 0, NAMES[:2]) == (200, [0, 1])
    assert server.ask(task, 0, NAMES[:2]) == (200, [0, 1]), "the same again"
    assert server.ask(task, 0, [NAMES[1], NAMES[0]])[0] == 400, "another thing again"
    assert server.ask(task, 2, NAMES)[0] == 400, "more than there are"
    assert server.send("POST", task, "chunks", NAMES[2][:31], "&first=2")[0] == 400
    assert server.send("POST", task, "chunks", NAMES[2], "&first=x")[0] == 400
    assert server.send("POST", task, "chunks", NAMES[2])[0] == 400
    assert server.commit(task)[0] == 400, "not all are told"
    assert server.ask(task, 2, NAMES[2:]) == (200, [1, 2]), "the first has not come yet"
    assert server.commit(task)[0] == 400, "not all are here"
    for chunk in (CHUNKS[0], CHUNKS[1], CHUNKS[4]):
        assert server.put(task, chunk) == 204
    assert server.commit(task, 4)[0] == 400
    assert server.commit(task)[0] == 200


def test_a_cancelled_task_takes_nothing_more(server: Server) -> None:
    task = server.order()
    server.describe(task)
    server.ask(task, 0, NAMES)
    assert server.request("DELETE", f"/backups/{task}")[1]["state"] == "cancelled"
    assert server.put(task, CHUNKS[0]) == 410
    assert server.commit(task)[0] == 410


def test_a_daemon_that_has_restarted_is_told_again(server: Server) -> None:
    """What it has kept is not asked for a second time."""
    task = server.order()
    server.describe(task)
    server.ask(task, 0, NAMES)
    server.put(task, CHUNKS[0])
    server.store.close()
    server.store = server.engine.captures = CaptureStore(server.images)
    assert server.put(task, CHUNKS[1]) == 409
    assert server.describe(task) == 204
    assert server.ask(task, 0, NAMES) == (200, [1, 4])


def test_chunks_that_are_removed_meanwhile_are_asked_for_again(server: Server) -> None:
    task = server.order()
    server.describe(task)
    server.ask(task, 0, NAMES)
    for chunk in (CHUNKS[0], CHUNKS[1], CHUNKS[4]):
        server.put(task, chunk)
    server.store.flush()
    store = ImageStore(server.images)
    store.chunk_path(NAMES[1].hex()).unlink()
    assert server.commit(task)[0] == 409
    assert server.describe(task) == 204
    assert server.ask(task, 0, NAMES) == (200, [1])


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1600k", "none", str(small)], check=False)
    if done.returncode != 0:
        pytest.skip("no tmpfs can be mounted")
    try:
        server = Server(tmp_path, small / "images")
        try:
            task = server.order()
            server.describe(task)
            server.ask(task, 0, NAMES)
            answers = {server.put(task, chunk) for chunk in (CHUNKS[0], CHUNKS[1])}
            noise = [random.Random(number).randbytes(CHUNK) for number in (8, 9)]
            other = server.order("lab2")
            text = b""
            about = captured.encode(replace(ABOUT, size=2 * CHUNK, volumes=(), ranges=((0, CHUNK),)))
            assert server.send("PUT", other, "source", about, number=2)[0] == 204
            names = b"".join(digest(item) for item in noise)
            assert server.send("POST", other, "chunks", names, "&first=0", number=2)[0] == 200
            for item in noise:
                status, text = server.send("PUT", other, f"chunk/{digest(item).hex()}", item, number=2)
            assert answers == {204}
            assert status == 507
            assert os.strerror(errno.ENOSPC).encode() in text
            assert b"image" in text, "what to do is said as well"
        finally:
            server.close()
    finally:
        subprocess.run(["umount", str(small)], check=True)


MARKS = [bytes([number]) * MARK_SIZE for number in range(1, 6)]


def tell(
    server: Server,
    task: str,
    told: list[bytes],
    first: int = 0,
    *,
    source: str = "S1",
    clock: Clock = Clock(100, 200),  # noqa: B008 - a constant
) -> tuple[int, list[bytes | None]]:
    body = marks.encode(Question(first, source, {"ab": clock}, tuple(told)))
    status, answer = server.send("POST", task, "marks", body)
    return status, marks.decode_answer(answer, len(told)) if status == 200 else []


def backed_up(server: Server, *, quick: bool = False, told: list[bytes] | None = None, source: str = "S1") -> str:
    """One backup, all of it; its image."""
    task = server.order(quick=quick)
    assert server.describe(task) == 204
    if told:
        assert tell(server, task, told, source=source)[0] == 200
    for index in server.ask(task, 0, NAMES)[1]:
        assert server.put(task, CHUNKS[index]) == 204
    status, image = server.commit(task)
    assert status == 200, image
    return image


def looked_up(server: Server, told: list[bytes], **more: Any) -> list[bytes | None]:
    """What the next quick backup, which is given up then, hears."""
    task = server.order(quick=True)
    assert server.describe(task) == 204
    status, known = tell(server, task, told, **more)
    assert status == 200
    server.request("DELETE", f"/backups/{task}")
    return known


def test_marks_of_the_last_backup_are_known(server: Server) -> None:
    assert looked_up(server, MARKS) == [None] * 5, "there was none"
    backed_up(server, told=MARKS)
    assert looked_up(server, MARKS) == NAMES, "zeros, too"
    other = [MARKS[0], NONE, MARKS[1], MARKS[3], b"x" * MARK_SIZE]
    assert looked_up(server, other) == [NAMES[0], None, None, NAMES[3], None], "each in its own place"
    assert looked_up(server, MARKS, source="S2") == [None] * 5, "another disk"
    task = server.order()
    assert server.describe(task) == 204
    assert tell(server, task, MARKS) == (200, [None] * 5), "one that is not quick reads everything"


def test_chunks_that_are_gone_are_not_known(server: Server) -> None:
    backed_up(server, told=MARKS)
    server.store.flush()
    ImageStore(server.images).chunk_path(NAMES[1].hex()).unlink()
    assert looked_up(server, MARKS) == [NAMES[0], None, *NAMES[2:]]


def test_a_clock_that_has_gone_back_is_not_trusted(server: Server) -> None:
    backed_up(server, told=MARKS)
    assert looked_up(server, MARKS, clock=Clock(100, 200)) == NAMES, "not mounted since"
    assert looked_up(server, MARKS, clock=Clock(200, 300)) == NAMES
    assert looked_up(server, MARKS, clock=Clock(150, 300)) == [None] * 5


def test_a_backup_without_marks_ends_those_of_the_one_before(server: Server) -> None:
    """An older stage2 tells none: what it has read may be another thing."""
    backed_up(server, told=MARKS)
    backed_up(server)
    assert looked_up(server, MARKS) == [None] * 5
    backed_up(server, told=MARKS)
    backed_up(server, told=MARKS[:4])
    assert looked_up(server, MARKS) == [None] * 5, "not all were told"


def test_marks_go_with_their_image(server: Server) -> None:
    image = backed_up(server, told=MARKS)
    folder = server.images / "marks"
    assert len(list(folder.iterdir())) == 1
    with ImageStore(server.images) as store:
        remove(store, image)
    assert not list(folder.iterdir())
    assert looked_up(server, MARKS) == [None] * 5


@pytest.mark.parametrize("place", range(0, 400, 13))
def test_damaged_marks_are_none(server: Server, place: int) -> None:
    backed_up(server, told=MARKS)
    (path,) = (server.images / "marks").iterdir()
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 0x15
    path.write_bytes(data)
    assert looked_up(server, MARKS) == [None] * 5
    path.write_bytes(data[:place])
    assert looked_up(server, MARKS) == [None] * 5


def test_marks_that_make_no_sense(server: Server) -> None:
    task = server.order(quick=True)
    assert tell(server, task, MARKS)[0] == 409, "nothing is known of the source"
    assert server.describe(task) == 204
    assert tell(server, task, MARKS, 1)[0] == 400, "not from the first on"
    assert tell(server, task, MARKS[:2]) == (200, [None] * 2)
    assert tell(server, task, MARKS[:2]) == (200, [None] * 2), "the same again"
    assert tell(server, task, [MARKS[1], MARKS[0]])[0] == 400, "another thing again"
    assert tell(server, task, MARKS, 2)[0] == 400, "more than there are"
    assert tell(server, task, MARKS[2:], 2, source="S2")[0] == 400
    for body in (
        b"",
        b"{}\n",
        b'{"version":1,"first":0,"source":"S1","clocks":{}}\n',
        b'{"version":1}\n' + bytes(16),
    ):
        assert server.send("POST", task, "marks", body)[0] == 400


def document(text: str) -> dict[str, Any]:
    """The JSON in what was printed; the daemon in this process logs to the same place."""
    value: dict[str, Any] = json.loads(text[text.index("{\n") :])
    return value


def test_the_command(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = server.run(capsys, "backup", "lab1", "golden", "-m", "why", "--no-wait", "--json")
    assert code == Exit.OK
    task = document(out)["id"]
    assert document(out)["user"]
    code, out, _ = server.run(capsys, "backups", "list")
    assert "golden" in out
    assert task in out
    assert server.run(capsys, "backups", "cancel", task)[0] == Exit.OK
    assert document(server.run(capsys, "backups", "show", task, "--json")[1])["state"] == "cancelled"
    assert "golden" in server.run(capsys, "state")[1]
    for words, code, said in (
        (("backup", "lab1", "golden"), Exit.USAGE, "comment"),
        (("backup", "lab1", "golden", "-m", "  "), Exit.USAGE, "why"),
        (("backup", "lab1", "../golden", "-m", "x"), Exit.USAGE, "names no image"),
        (("backup", "lab1", "golden:tag", "-m", "x"), Exit.USAGE, "--tag"),
        (("backup", "lab9", "golden", "-m", "x"), Exit.USAGE, "lab9"),
        (("backup", "lab1", "golden", "-m", "x", "--part", "../sda"), Exit.USAGE, "sda5"),
        (("backup", "lab1", "golden", "-m", "x", "--disk", "nonsense"), Exit.USAGE, "serial"),
        (("backups", "show", "nothing"), Exit.USAGE, "backups list"),
    ):
        found, _, error = server.run(capsys, *words)
        assert (found, said in error) == (code, True), (words, found, error)
    out = server.run(capsys, "backup", "lab1", "golden", "-m", "x", "--part", "sdb1", "--no-wait", "--json")[1]
    server.join(1, disk(size=SIZE))
    assert "no disk has a partition sdb1" in server.show(document(out)["id"])["reason"]
    found, _, error = server.run(capsys, "backup", "lab1", "golden", "-m", "x", "--timeout", "0.1")
    assert (found, "has not ended yet" in error) == (Exit.ERROR, True)


def test_only_root_names_another_user(server: Server) -> None:
    """Who comes with a token is who it is; on the socket it is root already."""
    status, value = server.request(
        "POST", "/backups", {"node": "lab1", "image": "a", "comment": "b", "user": "eva"}
    )
    assert status == 201
    assert value["user"] == "eva"


def test_of_a_running_system_only_with_the_key_of_its_agent(server: Server, tmp_path: Path) -> None:
    """Neither the boot token nor another agent's key; and an agent's key is of no use for what stage2 reads."""
    store = SyncStore(tmp_path / "sync.db")
    keeper = SyncKeeper(server.engine, {}, Folders(tmp_path, tmp_path), store, server="")
    server.engine.sync = keeper
    body = {"node": "lab1", "image": "golden", "comment": "a test", "files": True, "running": True}

    def refused() -> str:
        status, value = server.request("POST", "/backups", body)
        assert status == 409, value
        return str(value["error"]["message"])

    assert "there is no agent" in refused()
    key, other = store.enrol(mac(1), 1.0, "eva"), store.enrol(mac(2), 1.0, "eva")
    assert "is not there" in refused()
    keeper.streams.attach(mac(1), [])
    keeper.abilities[mac(1)] = frozenset(("",))
    assert "older bootd" in refused()
    keeper.abilities[mac(1)] = frozenset((RUNNING,))
    status, value = server.request("POST", "/backups", body)
    assert status == 201, value
    task, about = value["id"], captured.encode(ABOUT)
    assert server.send("PUT", task, "source", about)[0] == 404, "the boot token"
    assert server.send("PUT", task, "source", about, token=other)[0] == 401
    assert server.send("PUT", task, "source", about, number=2, token=other)[0] == 404
    tree = Tree((Mount("/", "ext4", 0, 0, 0),))
    files = captured.encode(Description("files", 0, 512, None, (), (), encode_tree(tree)))
    assert server.send("PUT", task, "source", files, token=key)[0] == 204
    said = encode(CaptureReport(mac(1), task, CaptureState.READING, done=7))
    assert server.send("POST", task, "report", said)[0] == 404
    assert server.show(task)["state"] == "waiting"
    assert server.send("POST", task, "report", said, token=key)[0] == 204
    assert (server.show(task)["state"], server.show(task)["done"]) == ("reading", 7)
    stage2 = server.order()
    assert server.send("PUT", stage2, "source", about, token=key)[0] == 404
    assert server.describe(stage2) == 204
    store.revoke(mac(1))
    assert server.send("POST", task, "report", said, token=key)[0] == 401
    store.close()
