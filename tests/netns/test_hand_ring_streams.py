"""The ring by hand with streams, parts and TLS: real processes, commands and archives in namespaces."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootd.errors import Exit
from tests.netns.room import Process, Room
from tests.unit.test_member_tls import make_authority, make_certificate

BOOTD = [sys.executable, "-c", "from bootd.cli.main import main; main()", "ring"]
BLOCK = 4096
NAMES = ("s0", "r1", "r2", "r3")
ADDRESSES = {name: f"10.88.0.{number}" for number, name in enumerate(NAMES, start=1)}


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    (tmp_path / "token").write_text("0123456789abcdef-test\n")
    with Room(*NAMES) as made:
        for name, address in ADDRESSES.items():
            made.address(name, f"{address}/24")
        yield made


def numbered(path: Path, blocks: int) -> bytes:
    """Each block carries its number, so one that is repeated or at the wrong place shows; ends inside a block."""
    body = b"".join(number.to_bytes(8, "big") + os.urandom(BLOCK - 8) for number in range(blocks)) + b"end"
    path.write_bytes(body)
    return body


class Hand:
    """Commands of one test, all with its token and its spool."""

    def __init__(self, room: Room, folder: Path) -> None:
        self._room = room
        self._options = ["--token-file", str(folder / "token"), "--spool", str(folder)]

    def receive(self, name: str, *words: str, after: str = "") -> Process:
        """``after``: what the shell does with the receiver's standard output."""
        line = shlex.join([*BOOTD, "receive", *self._options, *words])
        process = self._room.start(name, ["sh", "-c", f"exec {line} {after}"])
        process.wait_for("waiting on", 20)
        return process

    def send(self, *words: str, before: str = "") -> Process:
        """``before``: where the sender's standard input comes from."""
        line = shlex.join([*BOOTD, "send", *self._options, "--json", "--fresh", *words])
        return self._room.start("s0", ["sh", "-c", f"{before} {line}"])


def view_of(sender: Process) -> dict[str, Any]:
    text = sender.output
    view: dict[str, Any] = json.loads(text[text.index("\n{\n") :])
    return view


def verdicts(sender: Process) -> dict[str, dict[str, Any]]:
    """By the names of the namespaces."""
    names = {address: name for name, address in ADDRESSES.items()}
    return {names[row["name"]]: row for row in view_of(sender)["outcome"]["nodes"]}


def hosts(*names: str) -> list[str]:
    return [ADDRESSES[name] for name in names]


def test_standard_input_to_a_file_to_standard_output_and_to_a_command_that_fails(
    room: Room, tmp_path: Path
) -> None:
    """The one in the middle fails with its command; the one behind it has every byte all the same."""
    body = numbered(tmp_path / "source", 4000)
    hand = Hand(room, tmp_path)
    first = hand.receive("r1", str(tmp_path / "out1"))
    middle = hand.receive("r2", "--command", "cat > /dev/null; echo no such volume group >&2; exit 5")
    last = hand.receive("r3", "-", after=f"> {tmp_path / 'out3'}")
    sender = hand.send("-", *hosts("r1", "r2", "r3"), before=f"cat {tmp_path / 'source'} |")
    assert sender.wait(60) == Exit.PARTLY, sender.output
    found = verdicts(sender)
    assert {name: row["ok"] for name, row in found.items()} == {"r1": True, "r2": False, "r3": True}
    assert "ended with status 5: no such volume group" in found["r2"]["reason"]
    assert (first.wait(20), last.wait(20)) == (Exit.OK, Exit.OK)
    assert middle.wait(20) == Exit.ERROR
    assert (tmp_path / "out1").read_bytes() == body
    assert (tmp_path / "out3").read_bytes() == body


def make_tree(folder: Path) -> None:
    """Owners, modes, links, an extended attribute, a hole, and names that no shell likes."""
    (folder / "etc").mkdir(parents=True)
    numbered(folder / "etc" / "a file", 50)
    os.chown(folder / "etc" / "a file", 12345, 54321)
    (folder / "etc" / "a file").chmod(0o4751)
    os.setxattr(folder / "etc" / "a file", "user.origin", b"golden node")
    os.setxattr(folder / "etc", "trusted.mark", b"\x00\x01")
    (folder / "link").symlink_to("etc/a file")
    os.link(folder / "etc" / "a file", folder / "etc" / "second name")
    with (folder / "hole").open("wb") as file:
        file.truncate(1 << 20)
    os.mkfifo(folder / "pipe\nname")


def tree_of(folder: Path) -> dict[str, tuple[object, ...]]:
    """What is to be the same, by path."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in _attributes(path)}
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        target = str(path.readlink()) if path.is_symlink() else None
        mode = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink)
        found[str(path.relative_to(folder))] = (mode, int(status.st_mtime), attributes, content, target)
    return found


def _attributes(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def test_a_directory_is_unpacked_with_owners_and_attributes(room: Room, tmp_path: Path) -> None:
    """A command packs it, zstd on the way; one receiver unpacks, one hands the same bytes to a command."""
    make_tree(tmp_path / "golden")
    (tmp_path / "unpacked").mkdir()
    hand = Hand(room, tmp_path)
    one = hand.receive("r1", "--unpack", str(tmp_path / "unpacked"))
    two = hand.receive("r2", "--command", f"zstd -dc | tar -t | sort > {tmp_path / 'list'}")
    pack = f"tar --xattrs --xattrs-include='*' -C {tmp_path / 'golden'} -c . | zstd -q"
    sender = hand.send("--command", pack, *hosts("r1", "r2"))
    assert sender.wait(60) == Exit.OK, sender.output
    assert (one.wait(20), two.wait(20)) == (Exit.OK, Exit.OK)
    assert tree_of(tmp_path / "unpacked") == tree_of(tmp_path / "golden")
    assert "./etc/second name" in (tmp_path / "list").read_text().splitlines()


def test_two_sources_with_a_barrier_down_a_tree(room: Room, tmp_path: Path) -> None:
    """Each has a target of its own at each receiver; one that has too few targets refuses."""
    root, home = numbered(tmp_path / "root.img", 3000), numbered(tmp_path / "home.img", 1500)
    hand = Hand(room, tmp_path)
    receivers = [hand.receive(name, *(str(tmp_path / f"{name}.{part}") for part in "ab")) for name in ("r1", "r2")]
    poor = hand.receive("r3", str(tmp_path / "r3.a"))
    words = [str(tmp_path / "root.img"), str(tmp_path / "home.img"), "--barrier", "--fan-out", "2"]
    sender = hand.send("--to", ",".join(hosts("r1", "r2", "r3")), *words)
    assert sender.wait(60) == Exit.PARTLY, sender.output
    view, found = view_of(sender), verdicts(sender)
    assert (view["phases"], view["phase"], view["fan_out"]) == (2, 1, 2)
    assert {name: row["ok"] for name, row in found.items()} == {"r1": True, "r2": True, "r3": False}
    assert "2 parts (root.img, home.img), here are 1 targets" in found["r3"]["reason"]
    assert poor.wait(20) == Exit.REFUSED
    for name, process in zip(("r1", "r2"), receivers, strict=True):
        assert process.wait(20) == Exit.OK
        assert (tmp_path / f"{name}.a").read_bytes() == root
        assert (tmp_path / f"{name}.b").read_bytes() == home
    assert not list(tmp_path.glob("r3*"))


def test_delta_sends_what_differs_and_late_ones_are_served_after_the_end(room: Room, tmp_path: Path) -> None:
    """A file that differs in one chunk, a command (its spool begins as zeros: those match, and it gets them all the
    same), and one that comes when both have finished."""
    body = numbered(tmp_path / "source", 8 * 256) + bytes(2 << 20)
    (tmp_path / "source").write_bytes(body)
    old = bytearray(body)
    old[5 << 20] ^= 1
    (tmp_path / "out1").write_bytes(old)
    hand = Hand(room, tmp_path)
    target = str(tmp_path / "out1")
    first = hand.receive("r1", target, "--yes-overwrite", target)
    fed = hand.receive("r2", "--command", f"cat > {tmp_path / 'out2'}")
    words = ["--delta", "--wait", "1", "--keep-open", "60"]
    sender = hand.send(str(tmp_path / "source"), *hosts("r1", "r2", "r3"), *words)
    sender.wait_for(f"{ADDRESSES['r2']}: verified", 30)
    late = hand.receive("r3", str(tmp_path / "out3"))
    assert sender.wait(60) == Exit.OK, sender.output
    assert (first.wait(20), fed.wait(20), late.wait(20)) == (Exit.OK, Exit.OK, Exit.OK)
    assert all((tmp_path / f"out{number}").read_bytes() == body for number in (1, 2, 3))
    kept = {row["name"]: row["kept"] for row in view_of(sender)["members"]}
    zeros = (1 << 20) + 3  # one whole chunk, and the end of the last one
    assert kept[ADDRESSES["r1"]] == len(body) - (1 << 20)
    assert kept[ADDRESSES["r2"]] == kept[ADDRESSES["r3"]] == zeros


def test_tls_ring_and_who_does_not_belong_to_it(room: Room, tmp_path: Path) -> None:
    """A receiver of another authority, and one without TLS: both are named at once, the ring goes on. (A false
    certificate with the right authority in hand: `test_member_tls.py`.)"""
    body = numbered(tmp_path / "source", 4000)
    for authority in ("room", "elsewhere"):
        make_authority(tmp_path, authority)
    for authority, name in (("room", "s0"), ("room", "r1"), ("elsewhere", "r2")):
        make_certificate(tmp_path, authority, name)

    def tls(name: str, authority: str = "room") -> list[str]:
        names = {"--tls-cert": f"{name}.pem", "--tls-key": f"{name}.key", "--tls-ca": f"{authority}.pem"}
        return [word for option, file in names.items() for word in (option, str(tmp_path / file))]

    hand = Hand(room, tmp_path)
    good = hand.receive("r1", str(tmp_path / "out1"), *tls("r1"))
    foreign = hand.receive("r2", str(tmp_path / "out2"), *tls("r2", "elsewhere"))
    plain = hand.receive("r3", str(tmp_path / "out3"))
    sender = hand.send(str(tmp_path / "source"), *hosts("r1", "r2", "r3"), *tls("s0"))
    assert sender.wait(60) == Exit.PARTLY, sender.output
    found = verdicts(sender)
    assert {name: row["ok"] for name, row in found.items()} == {"r1": True, "r2": False, "r3": False}
    assert "it trusts another authority" in found["r2"]["reason"]
    assert "this sender has TLS and it has not" in found["r3"]["reason"]
    assert good.wait(20) == Exit.OK
    assert (foreign.wait(20), plain.wait(20)) == (Exit.ERROR, Exit.ERROR)
    assert (tmp_path / "out1").read_bytes() == body
    assert not list(tmp_path.glob("out[23]*"))


def test_a_stream_does_not_fill_the_disk_of_the_sender_silently(room: Room, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(small)], check=True)
    try:
        words = ["--command", "head -c 9000000 /dev/urandom", *hosts("r1")]
        sender = Hand(room, tmp_path).send(*words, "--spool", str(small))
        assert sender.wait(30) == Exit.INPUT
        assert "is full after 4194304 bytes: No space left on device" in sender.output
        assert "--spool DIR" in sender.output
    finally:
        room.close()
        subprocess.run(["umount", str(small)], check=True)
