"""What goes over each socket, in its order, byte by byte: dolly 0.5x as its source has it, for both roles.

The peers here are plain sockets that send and expect what is written down; `bootd dolly` is the real program.
"""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.dolly.client import ClientSession, Failed, Forward, Parameters, Up, Whole, Write
from bootd.dolly.client import Down as ClientDown
from bootd.dolly.grammar import parse
from bootd.dolly.head import Down, HeadSession, Left, Over, Shut, Start
from bootd.dolly.head import Forward as HeadForward
from bootd.drivers.dolly.link import Tuning
from bootd.drivers.dolly.link import dial as dial_dolly
from bootd.errors import Exit
from tests.unit.dolly_room import SECONDS, Programs, fresh_base

DATA, CONTROL = 9998, 9997


def numbered(blocks: int, tail: bytes = b"") -> bytes:
    """Each block carries its number, so one that is repeated or at the wrong place shows."""
    return b"".join(number.to_bytes(8, "big") + bytes(4088) for number in range(1, blocks + 1)) + tail


def text_for(*clients: str, infile: str = "/i", outfile: str = "/o", more: str = "") -> bytes:
    names = "".join(f"{name}\n" for name in clients)
    ends = f"firstclient {clients[0]}\nlastclient {clients[-1]}\nclients {len(clients)}\n{names}"
    return f"infile {infile}\noutfile {outfile}\n{more}server s\n{ends}endconfig\n".encode()


# --- sans-IO ---------------------------------------------------------------------------------------------


def test_transcript_of_a_client_in_the_middle() -> None:
    """getparams, buildring, transmit of its source, in their order."""
    text = text_for("a", "b")
    client = ClientSession()
    client.expect(1)
    assert client.control(text[:7]) == []
    assert client.control(text[7:]) == [Parameters(text.decode())]
    assert client.linked("a") == [Up(b"Host got parameters 'a'.\n")]
    assert client.ready() == [ClientDown(text), Up(b"Host ready 'a'.\n")]
    assert client.backflow(0, b"Host got parameters 'b'.\nHost rea") == [Up(b"Host got parameters 'b'.\nHost rea")]
    assert client.backflow(0, b"dy 'b'.\n") == [Up(b"dy 'b'.\n")]
    body = numbered(1, b"tail")
    first = memoryview(body[:4096])
    assert client.data(first) == [Write(first), Forward(first)]
    tail = memoryview(body[4096:])
    assert client.data(tail) == [Write(tail)]  # less than a block waits for the total
    total = (4100).to_bytes(8, "little")
    assert client.control(total) == [ClientDown(total), Forward(tail), Whole(4100)]
    assert client.settled() == []
    assert client.backflow(0, total[:3]) == []
    assert client.backflow(0, total[3:]) == [Up(total)]
    assert client.is_confirmed


def test_a_copy_that_is_not_whole_is_never_confirmed() -> None:
    """The answer is then no number of bytes that any head has sent."""
    text, total = text_for("a"), (10).to_bytes(8, "little")

    def begun() -> ClientSession:
        client = ClientSession()
        client.control(text)
        client.linked("a")
        client.ready()
        return client

    short = begun()
    short.data(memoryview(b"123456789"))
    assert short.control(total) == [ClientDown(total), Forward(memoryview(b"123456789"))]
    assert short.data_end() == [Failed("the data ends early, after 9 of 10 bytes")]
    failed = begun()
    failed.data(memoryview(b"1234567890"))
    assert Whole(10) in failed.control(total)
    assert failed.settled("no space left on device") == [Up(b"\xff" * 8)]
    gone = begun()
    gone.data(memoryview(b"12"))
    assert gone.control_end() == [Failed("the head or a host before this one is gone, after 2 bytes")]
    long = begun()
    long.data(memoryview(b"12345678901"))
    assert long.control(total) == [Failed("the head says 10 bytes in all, 11 have come")]
    more = begun()
    more.control(total)
    assert more.data(memoryview(b"12345678901")) == [Failed("more data than the 10 bytes that the head has named")]


def test_a_lost_successor_is_said_upward() -> None:
    text, total = text_for("a", "b"), (2).to_bytes(8, "little")
    for answer in (b"\xff" * 8, (1).to_bytes(8, "little"), None):
        client = ClientSession()
        client.expect(1)
        client.control(text)
        client.linked("a")
        client.ready()
        client.data(memoryview(b"12"))
        assert Whole(2) in client.control(total)
        assert client.settled() == []
        found = client.lose(0, "it is gone") if answer is None else client.backflow(0, answer)
        assert found == [Up(b"\xff" * 8)], answer
        assert client.lost
        assert not client.is_confirmed


def test_any_split_of_what_comes_gives_the_same() -> None:
    text, total = text_for("a"), (4100).to_bytes(8, "little")
    body = numbered(1, b"tail")
    for size in (1, 3, 17, 1448, 5000):
        client = ClientSession()
        for at in range(0, len(text), size):
            client.control(text[at : at + size])
        client.linked("a")
        client.ready()
        written, forwarded = b"", b""
        for at in range(0, len(body), size):
            for action in client.data(memoryview(body[at : at + size])):
                written += bytes(action.data) if isinstance(action, Write) else b""
                forwarded += bytes(action.data) if isinstance(action, Forward) else b""
        assert (written, forwarded) == (body, body[:4096])
        last = [action for at in range(0, 8, size) for action in client.control(total[at : at + size])]
        assert last == [ClientDown(total), Forward(memoryview(b"tail")), Whole(4100)], size


def test_transcript_of_a_head_with_two_branches() -> None:
    config = parse(text_for("a", "b", "c", more="fanout 2\n").decode())
    head = HeadSession(config, b"text")
    assert head.connected() == [Down((0, 1), b"text")]
    assert head.backflow(0, b"Host got parameters 'a'.\nHost ready 'a'.\n") == [
        Left("a", False, 3),
        Left("a", True, 2),
    ]
    assert head.backflow(1, b"Host ready 'b'.\n") == [Left("b", True, 1)]
    assert head.backflow(0, b"Host ready 'c'.\n") == [Left("c", True, 0), Start()]
    body = memoryview(numbered(2, b"end"))
    assert head.data(body) == [HeadForward((0, 1), body[:8192])]
    total = (8195).to_bytes(8, "little")
    assert head.finish() == [Down((0, 1), total), HeadForward((0, 1), memoryview(b"end")), Shut((0, 1))]
    assert head.backflow(1, total) == []
    assert head.backflow(0, b"\xff" * 8) == [Over()]
    assert [(verdict.hosts, verdict.is_confirmed) for verdict in head.verdicts()] == [
        (("a", "c"), False),
        (("b",), True),
    ]


def test_a_head_does_not_begin_without_everybody() -> None:
    """A name with «ready» in it is no host that is ready, as it was for dolly."""
    config = parse(text_for("ready1", "b").decode())
    head = HeadSession(config, b"text")
    head.connected()
    assert head.backflow(0, b"Host got parameters 'ready1'.\n") == [Left("ready1", False, 2)]
    assert head.lose(0, "it has closed the connection") == [Over()]
    assert [verdict.is_confirmed for verdict in head.verdicts()] == [False]


def test_a_refusal_comes_through_clients_of_dolly() -> None:
    config = parse(text_for("a", "b").decode())
    client = ClientSession()
    client.control(text_for("a", "b"))
    said, failed = client.refuse("b", "/dev/sda is there already\n")
    assert said == Up(b"Host failed 'b': /dev/sda is there alr_eady?.\n")
    assert isinstance(failed, Failed)
    head = HeadSession(config, b"text")
    head.connected()
    head.backflow(0, b"Host got parameters 'a'.\nHost ready 'a'.\n")
    assert isinstance(said, Up)
    assert head.backflow(0, said.data) == [Over()]
    assert head.verdicts()[0].reason == "b: /dev/sda is there alr_eady?"


# --- real sockets ----------------------------------------------------------------------------------------


@pytest.fixture
def base() -> str:
    return fresh_base()


@pytest.fixture
def programs() -> Iterator[Programs]:
    made = Programs()
    yield made
    made.end()


def dial(address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), SECONDS)


def exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = link.recv(count - len(data))
        if not piece:
            break
        data += piece
    return data


def serve(address: str, port: int) -> socket.socket:
    server = socket.create_server((address, port))
    server.settimeout(SECONDS)
    return server


def taken(server: socket.socket) -> socket.socket:
    link, _ = server.accept()
    link.settimeout(SECONDS)
    return link


def test_as_client_between_a_head_and_a_client_of_dolly(base: str, tmp_path: Path, programs: Programs) -> None:
    """A head as the source has it: data, then control, the text, lines, data, the total, shutdown."""
    ours, last = f"{base}1", f"{base}2"
    text = text_for(ours, last, outfile=str(tmp_path / "out"))
    body = numbered(40, b"an end within a block")
    with serve(last, DATA) as data_port, serve(last, CONTROL) as control_port:
        program = programs.client(ours, "--allow", str(tmp_path / "out"))
        with dial(ours, DATA) as data, dial(ours, CONTROL) as control:
            control.sendall(text)
            said = f"Host got parameters '{ours}'.\n".encode()
            assert exactly(control, len(said)) == said
            with taken(data_port) as behind, taken(control_port) as below:
                assert exactly(below, len(text)) == text
                said = f"Host ready '{ours}'.\n".encode()
                assert exactly(control, len(said)) == said
                line = f"Host got parameters '{last}'.\nHost ready '{last}'.\n".encode()
                below.sendall(line)
                assert exactly(control, len(line)) == line
                data.sendall(body)
                total = len(body).to_bytes(8, "little")
                assert exactly(behind, 40 * 4096) == body[: 40 * 4096]
                control.sendall(total)
                data.shutdown(socket.SHUT_RDWR)
                assert exactly(below, 8) == total
                assert exactly(behind, len(body)) == body[40 * 4096 :]  # and its end
                below.sendall(total)
                assert exactly(control, 9) == total  # and the end
    assert program.wait() == Exit.OK, program.told
    assert (tmp_path / "out").read_bytes() == body
    assert program.report()["files"][0]["whole"]


def test_as_head_of_a_client_of_dolly(base: str, tmp_path: Path, programs: Programs) -> None:
    """The client reads as the source does: control first, the text in one read, data in blocks of 4096."""
    peer = f"{base}1"
    body = numbered(300, b"x" * 100)
    (tmp_path / "in").write_bytes(body)
    text = text_for(peer, infile=str(tmp_path / "in"), outfile="/dev/ram3")
    (tmp_path / "dolly.cfg").write_bytes(text)
    with serve(peer, DATA) as data_port, serve(peer, CONTROL) as control_port:
        program = programs.start("-S", "-v", "--json", "-f", str(tmp_path / "dolly.cfg"))
        with taken(data_port) as data, taken(control_port) as control:
            got = control.recv(4096)
            assert got == text[:-1] + f" bootd 1 of 1\n{len(body)} raw /dev/ram3\n".encode()
            control.sendall(f"Host got parameters '{peer}'.\n".encode())
            control.sendall(f"Host ready '{peer}'.\n".encode())
            found = b""
            while len(found) < 300 * 4096:
                found += exactly(data, 4096)
            # Dolly's client reads whole blocks until it knows the total: that has to be there before the last one.
            assert control.recv(128) == len(body).to_bytes(8, "little")
            found += exactly(data, 4096)
            assert found == body
            control.sendall(len(body).to_bytes(8, "little"))
    assert program.wait() == Exit.OK, program.told
    for line in ("Waiting for ring to build...", "Machines left to wait for: 0", "Sent MB: 1", "Clients done."):
        assert line.encode() in program.told
    assert [host["confirmed"] for host in program.report()["hosts"]] == [True]


def test_extra_interfaces_get_a_block_each_in_turn(base: str, tmp_path: Path, programs: Programs) -> None:
    """add 0 would rename the one link; add 1:N makes a second one to another name, which begins with its number."""
    ours = "localhost"
    body = numbered(9, b"rest")
    text = text_for(ours, outfile=str(tmp_path / "out"), more="add 1:-fast\n")
    program = programs.client(f"{base}1", "--name", ours, "--outfile", str(tmp_path / "mine"))
    with dial(f"{base}1", DATA) as first, dial(f"{base}1", CONTROL) as control:
        first.sendall((0).to_bytes(4, "little"))
        with dial(f"{base}1", DATA) as second:
            second.sendall((1).to_bytes(4, "little"))
            control.sendall(text)
            said = f"Host got parameters '{ours}'.\nHost ready '{ours}'.\n".encode()
            assert exactly(control, len(said)) == said
            for number in range(10):
                (first, second)[number % 2].sendall(body[number * 4096 : (number + 1) * 4096])
            control.sendall(len(body).to_bytes(8, "little"))
            assert exactly(control, 9) == len(body).to_bytes(8, "little")
    assert program.wait() == Exit.OK, program.told
    assert (tmp_path / "mine").read_bytes() == body
    assert not (tmp_path / "out").exists()


def test_a_head_deals_to_extra_interfaces(base: str, tmp_path: Path, programs: Programs) -> None:
    """open_outsocks: data, control, then the data links of the other names (the address, and a digit)."""
    peer = f"{base}1"
    body = numbered(7, b"rest")
    (tmp_path / "in").write_bytes(body)
    (tmp_path / "dolly.cfg").write_bytes(text_for(peer, infile=str(tmp_path / "in"), more="add 2:0:1\n"))
    ports = [serve(peer, DATA), serve(f"{peer}0", DATA), serve(f"{peer}1", DATA)]
    with serve(peer, CONTROL) as control_port, ports[0], ports[1], ports[2]:
        program = programs.start("-S", "--json", "-f", str(tmp_path / "dolly.cfg"))
        links = [taken(ports[0])]
        with taken(control_port) as control:
            links += [taken(port) for port in ports[1:]]
            assert [exactly(link, 4) for link in links] == [bytes((number, 0, 0, 0)) for number in range(3)]
            assert control.recv(4096).startswith(b"infile ")
            control.sendall(f"Host got parameters '{peer}'.\nHost ready '{peer}'.\n".encode())
            found = b"".join(exactly(links[number % 3], 4096) for number in range(8))
            assert found == body
            assert [link.recv(1) for link in links] == [b"", b"", b""]  # the end, on each
            assert exactly(control, 8) == len(body).to_bytes(8, "little")
            control.sendall(len(body).to_bytes(8, "little"))
        for link in links:
            link.close()
    assert program.wait() == Exit.OK, program.told


def test_segsize_is_the_largest_segment(base: str) -> None:
    """TCP_MAXSEG is set before the connection is made, so the kernel agrees on no more."""
    largest = {}
    for more in ("", "segsize 536\n"):
        config = parse(text_for(f"{base}1", more=more).decode())
        with serve(f"{base}1", DATA), serve(f"{base}1", CONTROL):
            link = dial_dolly(config, f"{base}1", Tuning(), time.monotonic() + SECONDS, lambda: None)
            largest[more] = link.data[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
            link.close()
    assert largest["segsize 536\n"] <= 536 < largest[""]


@pytest.mark.parametrize("cut", ["data", "head", "early"])
def test_a_truncated_stream_is_never_called_whole(base: str, tmp_path: Path, programs: Programs, cut: str) -> None:
    """data: the total says more than has come. head: it is gone before a total. early: less than a total came."""
    body = numbered(20)
    program = programs.client(f"{base}1", "--outfile", str(tmp_path / "out"))
    with dial(f"{base}1", DATA) as data, dial(f"{base}1", CONTROL) as control:
        control.sendall(text_for(f"{base}1"))
        said = f"Host got parameters '{base}1'.\nHost ready '{base}1'.\n".encode()
        assert exactly(control, len(said)) == said
        data.sendall(body)
        if cut == "data":
            control.sendall((len(body) + 1).to_bytes(8, "little"))
        elif cut == "early":
            control.sendall(b"\0\0\0")
        data.shutdown(socket.SHUT_RDWR)
        if cut != "data":
            control.shutdown(socket.SHUT_WR)
        assert exactly(control, 8) == b""  # no answer
    assert program.wait() == Exit.ERROR, program.told
    assert b"NOT WHOLE" in program.told
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.iterdir())
    assert not program.report()["files"][0]["whole"]


def test_nothing_is_written_that_nobody_has_agreed_to(base: str, tmp_path: Path, programs: Programs) -> None:
    """The head's wish is refused before a byte comes, and the head hears it at once."""
    (tmp_path / "precious").write_bytes(b"precious")
    for outfile, words, says in (
        (tmp_path / "precious", [], "nobody here has agreed"),
        (tmp_path / "precious", ["--allow", str(tmp_path / "other")], "nobody here has agreed"),
        (tmp_path / "precious", ["--allow", str(tmp_path / "precious")], "is there already"),
        (tmp_path / "new", ["--outfile", str(tmp_path / "precious")], "is there already"),
        (tmp_path / "new", ["--outfile", "/a", "--outfile", "/b"], "the head has 1 files"),
    ):
        address = f"{fresh_base()}9"
        program = programs.client(address, *words)
        with dial(address, DATA), dial(address, CONTROL) as control:
            control.sendall(text_for(address, outfile=str(outfile)))
            said = exactly(
                control, 1000
            )  # to the end: one line, which a head of dolly counts for nobody's readiness
            assert said.startswith(f"Host failed '{address}': ".encode())
            assert said.count(b"\n") == 1
            assert b"ready" not in said
        assert program.wait() == Exit.REFUSED, program.told
        assert says.encode() in program.told
    (tmp_path / "link").symlink_to("/var/tmp")
    address = f"{fresh_base()}9"
    # A path that says what is allowed, and by a link leads elsewhere: what is allowed is written.
    program = programs.client(address, "--allow", f"{tmp_path}/new")
    with dial(address, DATA) as data, dial(address, CONTROL) as control:
        control.sendall(text_for(address, outfile=f"{tmp_path}/link/../new"))
        said = f"Host got parameters '{address}'.\nHost ready '{address}'.\n".encode()
        assert exactly(control, len(said)) == said
        data.sendall(b"x")
        control.sendall((1).to_bytes(8, "little"))
        assert exactly(control, 8) == (1).to_bytes(8, "little")
    assert program.wait() == Exit.OK
    assert (tmp_path / "new").read_bytes() == b"x"
    (tmp_path / "new").unlink()
    (tmp_path / "link").unlink()
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_no_file_of_several_is_skipped_and_none_is_of_another_size(
    base: str, tmp_path: Path, programs: Programs
) -> None:
    """The first comes whole, then the head would go on with the third; and one that sends less than it has said."""
    words = [word for name in "abc" for word in ("--outfile", str(tmp_path / name))]
    rows = "".join(f"{size} raw /{name}\n" for size, name in ((1, "a"), (2, "b"), (3, "c")))

    def text(number: int) -> bytes:
        start = text_for(f"{base}1", outfile=f"/{'abc'[number - 1]}")
        return start[:-1] + f" bootd {number} of 3\n{rows}".encode()

    said = f"Host got parameters '{base}1'.\nHost ready '{base}1'.\n".encode()
    for second, code, says in (
        (3, Exit.REFUSED, b"the head is at file 3, 1 are here"),
        (2, Exit.ERROR, b"announced 2"),
    ):
        program = programs.client(f"{base}1", "--yes-overwrite", str(tmp_path / "a"), *words)
        with dial(f"{base}1", DATA) as data, dial(f"{base}1", CONTROL) as control:
            control.sendall(text(1))
            assert exactly(control, len(said)) == said
            data.sendall(b"x")
            control.sendall((1).to_bytes(8, "little"))
            assert exactly(control, 8) == (1).to_bytes(8, "little")
        with dial(f"{base}1", DATA) as data, dial(f"{base}1", CONTROL) as control:
            control.sendall(text(second))
            if second == 2:
                assert exactly(control, len(said)) == said
                data.sendall(b"y")
                control.sendall((1).to_bytes(8, "little"))
                assert exactly(control, 8) == b""
            else:
                assert exactly(control, 1000).startswith(b"Host failed")
        assert program.wait() == code, program.told
        assert says in program.told
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_nothing_is_no_clone(base: str, tmp_path: Path, programs: Programs) -> None:
    """A total of 0, or a dummy run where a clone was meant, would leave the old content and say all is well."""
    program = programs.client(f"{base}1", "--outfile", str(tmp_path / "out"))
    said = f"Host got parameters '{base}1'.\nHost ready '{base}1'.\n".encode()
    with dial(f"{base}1", DATA), dial(f"{base}1", CONTROL) as control:
        control.sendall(text_for(f"{base}1"))
        assert exactly(control, len(said)) == said
        control.sendall(bytes(8))
        assert exactly(control, 8) == b""
    assert program.wait() == Exit.ERROR
    assert b"has sent nothing" in program.told
    program = programs.client(f"{base}1", "--outfile", str(tmp_path / "out"))
    with dial(f"{base}1", DATA), dial(f"{base}1", CONTROL) as control:
        control.sendall(b"dummy 1\n" + text_for(f"{base}1").partition(b"outfile /o\n")[2])
        assert exactly(control, 1000).startswith(b"Host failed")
    assert program.wait() == Exit.REFUSED
    assert b"say -d here" in program.told
    assert not list(tmp_path.iterdir())


def test_a_client_waits_so_often_and_says_it_as_dolly_did(base: str, programs: Programs) -> None:
    program = programs.start("-a", "1", "--tries", "2", "--listen", f"{base}1", "--outfile", "/nowhere/x")
    assert program.wait() == Exit.UNREACHABLE
    assert program.told.count(b"Can't reach a valid Dolly server") == 2


def test_who_knocks_and_goes_harms_nobody(base: str, tmp_path: Path, programs: Programs) -> None:
    """A port scanner, garbage, a head that gives up while the ring is built; then the real one."""
    program = programs.client(f"{base}1", "--outfile", str(tmp_path / "out"))
    dial(f"{base}1", DATA).close()
    dial(f"{base}1", CONTROL).close()
    with dial(f"{base}1", DATA), dial(f"{base}1", CONTROL) as control:
        control.sendall(b"GET / HTTP/1.1\r\n\r\nendconfig\n")
        assert control.recv(100) == b""
    with dial(f"{base}1", CONTROL) as control:
        control.sendall(text_for(f"{base}1")[:50])
    body = numbered(3)
    with dial(f"{base}1", DATA) as data, dial(f"{base}1", CONTROL) as control:
        control.sendall(text_for(f"{base}1"))
        said = f"Host got parameters '{base}1'.\nHost ready '{base}1'.\n".encode()
        assert exactly(control, len(said)) == said
        data.sendall(body)
        control.sendall(len(body).to_bytes(8, "little"))
        assert exactly(control, 8) == len(body).to_bytes(8, "little")
    assert program.wait() == Exit.OK, program.told
    assert (tmp_path / "out").read_bytes() == body


def test_a_dummy_run_writes_nothing_and_dummy_0_ends_it(base: str, programs: Programs) -> None:
    program = programs.client(f"{base}1", "-d")
    names = f"server s\nfirstclient {base}1\nlastclient {base}1\nclients 1\n{base}1\nendconfig\n"
    said = f"Host got parameters '{base}1'.\nHost ready '{base}1'.\n".encode()
    with dial(f"{base}1", DATA) as data, dial(f"{base}1", CONTROL) as control:
        control.sendall(b"dummy 1\n" + names.encode())
        assert exactly(control, len(said)) == said
        data.sendall(bytes(1 << 20))
        control.sendall((1 << 20).to_bytes(8, "little"))
        assert exactly(control, 8) == (1 << 20).to_bytes(8, "little")
    with dial(f"{base}1", DATA), dial(f"{base}1", CONTROL) as control:
        control.sendall(b"dummy 0\n" + names.encode())
        assert exactly(control, len(said)) == said
    assert program.wait() == Exit.OK, program.told
    assert [item["bytes"] for item in program.report()["files"]] == [1 << 20, 0]
