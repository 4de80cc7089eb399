"""`bootd dolly` end to end on loopback: what dolly's and dolly+'s files can say, judged by the real tools."""

import gzip
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from bootd.errors import Exit
from tests.unit.dolly_room import BOOTD, Program, Programs, fresh_base

PACKERS = {
    "gz": ["gzip", "-c"],
    "Z": ["compress", "-c"],
    "xz": ["xz", "-c", "-0"],
    "zst": ["zstd", "-q", "-c"],
    "bz2": ["bzip2", "-c"],
}


@pytest.fixture
def base() -> str:
    return fresh_base()


@pytest.fixture
def programs() -> Iterator[Programs]:
    made = Programs()
    yield made
    made.end()


def make_body(path: Path, size: int) -> bytes:
    """Blocks with their number, and something that compresses, so that every packer packs."""
    body = b"".join(number.to_bytes(8, "big") + os.urandom(24) * 20 for number in range(size // 488 + 1))[:size]
    path.write_bytes(body)
    return body


def config(folder: Path, base: str, count: int, files: str, more: str = "") -> str:
    """A dolly.cfg for ``count`` clients; its path."""
    names = [f"{base}{number + 1}" for number in range(count)]
    text = f"{files}\n{more}server s\nfirstclient {names[0]}\nlastclient {names[-1]}\nclients {count}\n"
    path = folder / "dolly.cfg"
    path.write_text(text + "".join(f"{name}\n" for name in names) + "endconfig\n")
    return str(path)


def pack(source: Path, suffix: str) -> Path:
    """``source`` packed by the tool whose suffix it is."""
    packed = source.with_name(f"{source.name}.{suffix}")
    with packed.open("wb") as file:
        subprocess.run([*PACKERS[suffix], str(source)], stdout=file, check=True, timeout=30)
    return packed


def make_tree(folder: Path) -> dict[str, object]:
    """Modes, owners' numbers, links, a name that no shell likes."""
    (folder / "etc").mkdir(parents=True)
    make_body(folder / "etc" / "a file", 50_000)
    (folder / "etc" / "a file").chmod(0o751)
    os.link(folder / "etc" / "a file", folder / "etc" / "second name")
    (folder / "link").symlink_to("etc/a file")
    os.utime(folder / "etc" / "a file", (1_000_000_000, 1_000_000_000))
    return tree_of(folder)


def tree_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        target = str(path.readlink()) if path.is_symlink() else ""
        links = 0 if path.is_dir() else status.st_nlink
        time_of = int(status.st_mtime) if path.is_file() and not path.is_symlink() else 0
        found[str(path.relative_to(folder))] = (status.st_mode, links, time_of, content, target)
    return found


def make_archive(tree: Path, archive: Path) -> Path:
    if archive.suffix == ".tar":
        subprocess.run(["tar", "-C", str(tree), "-cf", str(archive), "."], check=True, timeout=30)
        return archive
    listing = subprocess.run(["find", ".", "-mindepth", "1"], cwd=tree, check=True, capture_output=True, timeout=30)
    with archive.open("wb") as file:
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"], cwd=tree, input=listing.stdout, stdout=file, check=True
        )
    return archive


def test_every_kind_of_dolly_plus_in_one_session(base: str, tmp_path: Path, programs: Programs) -> None:
    """Raw, and cooked with every suffix there is, to two clients: 18 files, one after the other."""
    body = make_body(tmp_path / "plain", 300_001)
    tree = make_tree(tmp_path / "tree")
    sources: list[tuple[str, str]] = [(str(tmp_path / "plain"), ">")]
    wanted: list[object] = [body]
    for suffix in PACKERS:
        sources.append((str(pack(tmp_path / "plain", suffix)), ">>"))
        wanted.append(body)
    for kind in ("tar", "cpio"):
        plain = make_archive(tmp_path / "tree", tmp_path / f"boot.{kind}")
        sources += [(str(item), ">>") for item in (plain, *(pack(plain, suffix) for suffix in PACKERS))]
        wanted += [tree] * (1 + len(PACKERS))
    lines = [f"{source} {arrow} /target/{number}" for number, (source, arrow) in enumerate(sources)]
    path = config(tmp_path, base, 2, f"iofiles {len(lines)}\n" + "\n".join(lines))
    clients: list[Program] = []
    for client in ("one", "two"):
        words = []
        for number, item in enumerate(wanted):
            target = tmp_path / client / str(number)
            (target if isinstance(item, dict) else target.parent).mkdir(parents=True, exist_ok=True)
            words += ["--outfile", str(target)]
        clients.append(programs.client(f"{base}{len(clients) + 1}", *words))
    head = programs.start("-S", "-v", "--json", "-f", path)
    assert head.wait() == Exit.OK, head.told
    for program, name in zip(clients, ("one", "two"), strict=True):
        assert program.wait() == Exit.OK, program.told
        for number, item in enumerate(wanted):
            target = tmp_path / name / str(number)
            assert (tree_of(target) if isinstance(item, dict) else target.read_bytes()) == item, sources[number]
    told = head.told.decode()
    for line in ("Items = 3", "fileno=0 '", "fileno=17 closed", "Transfer Bytes=", "TotalTime=", "Clients done."):
        assert line in told, line
    report = head.report()
    assert [item["blake3"] for item in report["files"]] == [
        blake3(Path(source).read_bytes()).hexdigest() for source, _ in sources
    ]
    assert [item["blake3"] for item in clients[1].report()["files"]] == [item["blake3"] for item in report["files"]]


@pytest.mark.parametrize("suffix", ["gz", "Z", "xz", "zst", "bz2", "tar.gz", "cpio.Z"])
def test_a_damaged_archive_is_not_whole(base: str, tmp_path: Path, programs: Programs, suffix: str) -> None:
    """All its bytes have come, and what they unpack to has not: the client says so, and the head hears it."""
    make_body(tmp_path / "plain", 200_000)
    if "." in suffix:
        kind, packing = suffix.split(".")
        make_tree(tmp_path / "tree")
        whole = pack(make_archive(tmp_path / "tree", tmp_path / f"x.{kind}"), packing)
    else:
        whole = pack(tmp_path / "plain", suffix)
    data = whole.read_bytes()
    # compress has no checksum and no end: only what is no code of it can be told.
    whole.write_bytes(data[: len(data) // 2] if suffix != "Z" else b"\x1f\x9c" + data[2:])
    path = config(tmp_path, base, 1, f"iofiles 1\n{whole} >> /t")
    target = tmp_path / "target"
    if "." in suffix:
        target.mkdir()
    client = programs.client(f"{base}1", "--outfile", str(target))
    head = programs.start("-S", "--json", "-f", path)
    assert head.wait() == Exit.ERROR, head.told
    assert b"not confirmed" in head.told
    assert b"Clients done." not in head.told
    assert client.wait() == Exit.ERROR
    assert b"NOT WHOLE" in client.told
    assert target.is_dir() or not target.exists()


def test_split_and_compressed(base: str, tmp_path: Path, programs: Programs) -> None:
    """Numbered parts are read as one stream; clients write pieces of what comes compressed; gzip reads it again."""
    body = make_body(tmp_path / "all", 300_000)
    for number in range(3):
        (tmp_path / f"sda_{number}").write_bytes(body[number * 100_000 : (number + 1) * 100_000])
    (tmp_path / "sda_x").write_bytes(b"no part")
    path = config(tmp_path, base, 1, f"infile {tmp_path}/sda split\ncompressed outfile {tmp_path}/out.gz split 4k")
    client = programs.client(f"{base}1", "--allow", f"{tmp_path}/out.gz")
    head = programs.start("-S", "--json", "-f", path)
    assert head.wait() == Exit.OK, head.told
    assert client.wait() == Exit.OK, client.told
    count = len(list(tmp_path.glob("out.gz_*")))
    pieces = [(tmp_path / f"out.gz_{number}").read_bytes() for number in range(count)]
    assert {len(piece) for piece in pieces[:-1]} == {4096}
    assert gzip.decompress(b"".join(pieces)) == body
    # And back: the numbered parts of a compressed image, unpacked on arrival.
    path = config(tmp_path, base, 1, f"compressed infile {tmp_path}/out.gz split\noutfile {tmp_path}/back")
    client = programs.client(f"{base}1", "--allow", f"{tmp_path}/back")
    head = programs.start("-S", "--json", "-c", "300000", "-f", path)
    assert (head.wait(), client.wait()) == (Exit.OK, Exit.OK), head.told + client.told
    assert (tmp_path / "back").read_bytes() == body
    assert b"Bytes written on each node: 300000" in head.told
    # A hole in the numbers would be a hole in the disk.
    (tmp_path / "sda_1").unlink()
    path = config(tmp_path, base, 1, f"infile {tmp_path}/sda split\noutfile /o")
    head = programs.start("-S", "-f", path)
    assert head.wait() == Exit.INPUT
    assert b"sda_1 is missing" in head.told


def test_a_tree_with_fanout_2_and_segments_of_536(base: str, tmp_path: Path, programs: Programs) -> None:
    body = make_body(tmp_path / "in", 5_000_003)
    path = config(tmp_path, base, 6, f"infile {tmp_path}/in\noutfile /o", "segsize 536\nfanout 2\n")
    clients = [
        programs.client(f"{base}{number}", "--outfile", str(tmp_path / f"out{number}")) for number in range(1, 7)
    ]
    head = programs.start("-S", "-v", "--json", "-o", str(tmp_path / "log"), "-f", path)
    assert head.wait() == Exit.OK, head.told
    assert [client.wait() for client in clients] == [Exit.OK] * 6
    assert all((tmp_path / f"out{number}").read_bytes() == body for number in range(1, 7))
    assert [branch["hosts"] for branch in head.report()["files"][0]["branches"]] == [
        [f"{base}1", f"{base}3", f"{base}4"],
        [f"{base}2", f"{base}5", f"{base}6"],
    ]
    megabytes, segment, hosts = (tmp_path / "log").read_text().split()[:3]
    assert (megabytes, segment, hosts) == ("4", "536", "6")


def test_a_client_killed_in_the_middle(base: str, tmp_path: Path, programs: Programs) -> None:
    """Dolly's wire has no way around it: who is before it has all, who is behind it knows that it has not; the head
    confirms nobody of the branch. The input is a pipe that is held open, so nobody can have finished before."""
    os.mkfifo(tmp_path / "pipe")
    path = config(tmp_path, base, 3, "infile /dev/stdin\noutfile /o")
    clients = [
        programs.client(f"{base}{number}", "--outfile", str(tmp_path / f"out{number}")) for number in (1, 2, 3)
    ]
    head = programs.piped("-S", "-v", "--json", "-f", path)
    head.wait_for("Server: Sending data...")
    body = os.urandom(1 << 25)
    head.feed(body[: 1 << 24])
    clients[2].wait_for("Transfered MB: ")  # it has some of it
    clients[1].popen.send_signal(signal.SIGKILL)
    assert clients[2].wait() == Exit.ERROR
    assert b"is gone, after" in clients[2].told
    head.feed(body[1 << 24 :])
    head.feed(None)
    assert head.wait() == Exit.ERROR, head.told
    assert b"0 of 3 clients have confirmed" in head.told
    assert clients[0].wait() == Exit.PARTLY, clients[0].told
    report = clients[0].report()["files"][0]
    assert report["whole"]
    assert report["lost"][0].startswith(f"{base}2")
    assert (tmp_path / "out1").read_bytes() == body
    assert not (tmp_path / "out2").exists()
    assert not (tmp_path / "out3").exists()


def test_a_client_that_stops_is_given_up_after_the_time_out(base: str, tmp_path: Path, programs: Programs) -> None:
    path = config(tmp_path, base, 1, "infile /dev/stdin\noutfile /o")
    client = programs.client(f"{base}1", "--outfile", str(tmp_path / "out"))
    head = programs.piped("-S", "-a", "2", "--json", "-f", path)
    head.wait_for("Server: Sending data...")
    head.feed(bytes(1 << 24))
    client.wait_for("Transfered MB: ")
    client.popen.send_signal(signal.SIGSTOP)
    with pytest.raises(BrokenPipeError):  # the head has ended before it had read so much
        head.feed(bytes(256 << 20))
    assert head.wait() == Exit.ERROR, head.told
    assert b"it took nothing for 2 s" in head.told
    client.popen.send_signal(signal.SIGCONT)
    assert client.wait() == Exit.ERROR, client.told
    assert not (tmp_path / "out").exists()


def test_what_is_there_needs_its_name_again(base: str, tmp_path: Path, programs: Programs) -> None:
    body = make_body(tmp_path / "in", 10_000)
    (tmp_path / "out").write_bytes(b"old")
    path = config(tmp_path, base, 1, f"infile {tmp_path}/in\noutfile {tmp_path}/out")
    client = programs.client(f"{base}1", "--yes-overwrite", f"{tmp_path}/out")
    head = programs.start("-S", "--json", "-f", path)
    assert (head.wait(), client.wait()) == (Exit.OK, Exit.OK)
    assert (tmp_path / "out").read_bytes() == body


def test_the_size_is_checked_before_a_byte_comes(base: str, tmp_path: Path, programs: Programs) -> None:
    """A bootd head says it behind endconfig."""
    with (tmp_path / "in").open("wb") as file:
        file.truncate(1 << 43)
    path = config(tmp_path, base, 1, f"infile {tmp_path}/in\noutfile {tmp_path}/out")
    client = programs.client(f"{base}1", "--allow", f"{tmp_path}/out")
    head = programs.start("-S", "--json", "-f", path)
    assert head.wait() == Exit.ERROR
    assert client.wait() == Exit.REFUSED
    assert b"has room for" in client.told
    assert not (tmp_path / "out").exists()


def test_a_pipe_at_both_ends(base: str, tmp_path: Path, programs: Programs) -> None:
    """tar | dolly, dolly | tar, as 0.58 brought it."""
    wanted = make_tree(tmp_path / "tree")
    path = config(tmp_path, base, 1, "infile /dev/stdin\noutfile /dev/stdout")
    client = subprocess.Popen(
        [*BOOTD, "--listen", f"{base}1", "--outfile", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    (tmp_path / "back").mkdir()
    unpack = subprocess.Popen(["tar", "-C", str(tmp_path / "back"), "-xpf", "-"], stdin=client.stdout)
    tar = subprocess.Popen(["tar", "-C", str(tmp_path / "tree"), "-cf", "-", "."], stdout=subprocess.PIPE)
    head = subprocess.run([*BOOTD, "-S", "-f", path], stdin=tar.stdout, capture_output=True, timeout=30, text=True)
    _, told = (
        client.communicate(timeout=30) if client.stdout is None else (None, client.stderr and client.stderr.read())
    )
    assert head.returncode == Exit.OK, (head.stderr, told)
    assert (client.wait(20), tar.wait(20), unpack.wait(20)) == (0, 0, 0)
    assert tree_of(tmp_path / "back") == wanted
    for pipe in (client.stdout, client.stderr, tar.stdout):
        if pipe is not None:
            pipe.close()


def test_dummy_for_a_time(base: str, tmp_path: Path, programs: Programs) -> None:
    path = config(tmp_path, base, 1, "dummy")
    client = programs.client(f"{base}1", "-d")
    head = programs.start("-S", "-d", "-t", "1", "--json", "-f", path)
    assert head.wait() == Exit.OK, head.told
    assert head.report()["files"][0]["seconds"] >= 1.0
    quiet = programs.start("-S", "-d", "-f", config(tmp_path, base, 1, "dummy 0"))
    assert (quiet.wait(), client.wait()) == (Exit.OK, Exit.OK), client.told
    assert not list(tmp_path.glob("out*"))


def test_command_line_that_cannot_be(base: str, tmp_path: Path, programs: Programs) -> None:
    good = config(tmp_path, base, 1, f"infile {tmp_path}/nothing\noutfile /o")
    (tmp_path / "bad.cfg").write_text("infile a\noutfil b\n")
    for words, code, says in (
        (["-s"], Exit.USAGE, "no configuration"),
        (["-S", "-f", str(tmp_path / "bad.cfg")], Exit.CONFIG, "bad.cfg:2: 'outfil' is no entry"),
        (["-S", "-f", str(tmp_path / "none.cfg")], Exit.INPUT, "No such file"),
        (["-s", "-f", good], Exit.CONFIG, "the server is s, this host is"),
        (["-S", "-f", good], Exit.INPUT, "nothing: No such file"),
        (["-S", "-d", "-f", good], Exit.USAGE, "dolly.cfg has files"),
        (["-H", "a,b"], Exit.USAGE, "-H goes with -I"),
        (["--ring", "--outfile", "/x"], Exit.USAGE, "no secret"),
    ):
        program = programs.start(*words)
        assert program.wait() == code, program.told
        assert says in program.told.decode(), words
    shown = programs.start("-V")
    assert shown.wait() == Exit.OK


def test_without_a_configuration_file(base: str, tmp_path: Path, programs: Programs) -> None:
    body = make_body(tmp_path / "in", 123_456)
    client = programs.client(f"{base}1", "--outfile", f"{tmp_path}/out")
    head = programs.start("-I", f"{tmp_path}/in", "-O", "/o", "-H", f"{base}1", "-n", "-q")
    assert (head.wait(), client.wait()) == (Exit.OK, Exit.OK), head.told
    assert b"-n is not used" in head.told
    assert (tmp_path / "out").read_bytes() == body


def test_a_broken_host_is_bypassed_by_the_ring(base: str, tmp_path: Path, programs: Programs) -> None:
    """The second of three has gone: the others are whole and verified, and it is named."""
    body = make_body(tmp_path / "in", 3_000_001)
    (tmp_path / "token").write_text("0123456789abcdef-test\n")
    path = config(tmp_path, base, 3, f"infile {tmp_path}/in\noutfile {tmp_path}/o")
    ring = ["--ring", "--token-file", str(tmp_path / "token"), "-f", path]
    clients = []
    for number in (1, 2, 3):
        words = ["--listen", f"{base}{number}", "--outfile", str(tmp_path / f"out{number}")]
        clients.append(programs.start(*ring, *words))
        clients[-1].wait_for("waiting on")
    clients[1].popen.kill()
    clients[1].wait()
    head = programs.start("-S", "-a", "1", "--json", *ring)
    assert head.wait() == Exit.PARTLY, head.told
    assert [row["ok"] for row in head.report()["outcome"]["nodes"]] == [True, False, True]
    assert (clients[0].wait(), clients[2].wait()) == (Exit.OK, Exit.OK)
    assert (tmp_path / "out1").read_bytes() == body
    assert (tmp_path / "out3").read_bytes() == body


def test_the_same_file_over_the_ring(base: str, tmp_path: Path, programs: Programs) -> None:
    """--ring: digests at every hop, repair, a secret; the same dolly.cfg on all hosts."""
    body = make_body(tmp_path / "in", 3_000_001)
    tree = make_tree(tmp_path / "tree")
    packed = pack(make_archive(tmp_path / "tree", tmp_path / "boot.cpio"), "Z")
    (tmp_path / "token").write_text("0123456789abcdef-test\n")
    files = f"iofiles 3\n{tmp_path}/in > {tmp_path}/o\n{pack(tmp_path / 'in', 'gz')} >> {tmp_path}/g\n"
    path = config(tmp_path, base, 2, f"{files}{packed} >> {tmp_path}/d")
    ring = ["--ring", "--token-file", str(tmp_path / "token"), "-f", path]
    clients: list[Program] = []
    for number in (1, 2):
        folder = tmp_path / f"client{number}"
        (folder / "d").mkdir(parents=True)
        words = [word for name in ("o", "g", "d") for word in ("--outfile", str(folder / name))]
        clients.append(programs.start(*ring, "--listen", f"{base}{number}", *words))
        clients[-1].wait_for("waiting on")
    head = programs.start("-S", "--json", *ring)
    assert head.wait() == Exit.OK, head.told
    for number, client in enumerate(clients, start=1):
        assert client.wait() == Exit.OK, client.told
        folder = tmp_path / f"client{number}"
        assert (folder / "o").read_bytes() == body
        assert (folder / "g").read_bytes() == body
        assert tree_of(folder / "d") == tree
    assert [row["ok"] for row in head.report()["outcome"]["nodes"]] == [True, True]
