"""What ``bootd ring`` refuses before anything is sent or written."""

import os
import socket
import threading
from pathlib import Path

import pytest

from bootd.cli.main import main
from bootd.drivers.ring.channel import Channel, ChannelError, Kind, accept_channel, link_token, open_channel
from bootd.drivers.ring.host import resolve
from bootd.drivers.ring.target import TargetSet, claim, claim_command, claim_folder
from bootd.errors import Exit, OperatorError
from bootd.member.store import StoreError
from bootd.wire import manifest
from bootd.wire.control import Disk, Plan, Prepare
from bootd.wire.manifest import Manifest, Part

TOKEN = "0123456789abcdef"


def image_of(size: int, chunk_size: int = 4096) -> Manifest:
    return manifest.build(size, chunk_size, [bytes(32)] * -(-size // chunk_size))


def order(*, compare: bool = False) -> Prepare:
    disk = Disk("", 0, 512, "", "", "", "", False, "", "")
    return Prepare(Plan("s", "n", "", 0, 0, disk, 1), "", compare)


def exit_code(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["ring", *words])
    return int(str(ended.value.code))


def test_a_file_that_is_there_is_named_twice_or_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "disk"
    target.write_text("precious")
    assert exit_code("receive", str(target), "--token", TOKEN) == Exit.REFUSED
    with pytest.raises(OperatorError, match="is there already"):
        claim(str(target), [str(tmp_path / "other")])
    assert target.read_text() == "precious"
    claimed = TargetSet([claim(str(target), [str(target)])])
    store = claimed.open(image_of(4096), order())
    store.write(0, memoryview(b"x" * 4096))
    assert target.read_text() == "precious"  # until the image is verified
    claimed.commit()
    claimed.close()
    assert target.read_bytes() == b"x" * 4096


def test_delta_begins_with_the_old_file_and_gives_its_name_back_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "disk"
    target.write_bytes(b"old" * 3000)
    claimed = TargetSet([claim(str(target), [str(target)])])
    store = claimed.open(image_of(4096), order(compare=True))
    found = memoryview(bytearray(4096))
    store.read(0, found)
    assert bytes(found) == (b"old" * 3000)[:4096]
    assert not target.exists()
    claimed.commit()
    claimed.close()
    assert target.stat().st_size == 4096


def test_an_image_larger_than_the_file_system(tmp_path: Path) -> None:
    claimed = TargetSet([claim(str(tmp_path / "disk"), [])])
    with pytest.raises(StoreError, match="has room for"):
        claimed.open(image_of(1 << 40, 4 << 20), order())
    assert not list(tmp_path.iterdir())


def test_parts_share_the_room_of_one_file_system(tmp_path: Path) -> None:
    """Each alone would fit, both do not: nothing is made."""
    room = os.statvfs(tmp_path)
    size = room.f_bavail * room.f_frsize * 2 // 3
    digests = [bytes(32)] * (2 * -(-size // (4 << 20)))
    image = manifest.build_parts([Part("a", size), Part("b", size)], 4 << 20, digests)
    claimed = TargetSet([claim(str(tmp_path / "a"), []), claim_command("cat", str(tmp_path))])
    with pytest.raises(StoreError, match="are needed there"):
        claimed.open(image, order())
    assert not list(tmp_path.iterdir())


def test_as_many_targets_as_parts(tmp_path: Path) -> None:
    image = manifest.build_parts([Part("root", 5), Part("home", 5)], 4096, [bytes(32)] * 2)
    claimed = TargetSet([claim(str(tmp_path / "a"), [])])
    with pytest.raises(StoreError, match=r"2 parts \(root, home\), here are 1 targets"):
        claimed.open(image, order())
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_named_twice(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    spool = str(tmp_path)
    with pytest.raises(OperatorError, match="is not empty"):
        claim_folder(str(tmp_path), spool, [])
    assert claim_folder(str(tmp_path), spool, [str(tmp_path)]).label == str(tmp_path)
    with pytest.raises(OperatorError, match="No such file"):
        claim_folder(str(tmp_path / "none"), spool, [])


def test_command_lines_that_do_not_say_enough(tmp_path: Path) -> None:
    here, token = str(tmp_path / "a"), ["--token", TOKEN]
    assert exit_code("send", here, *token) == Exit.USAGE  # no host
    assert exit_code("send", "--to", "127.0.0.1", *token) == Exit.USAGE  # no source
    assert exit_code("send", "--command", "true", *token) == Exit.USAGE
    assert exit_code("receive", *token) == Exit.USAGE
    assert exit_code("receive", here, here, *token) == Exit.USAGE
    assert exit_code("receive", here, "--tls-ca", here, *token) == Exit.USAGE
    assert exit_code("receive", here, "--tls-ca", here, "--tls-cert", here, "--tls-key", here, *token) == Exit.INPUT
    assert exit_code("receive", "--command", "cat", "--spool", here, *token) == Exit.INPUT
    assert not list(tmp_path.iterdir())


def test_a_command_that_fails_is_told_before_any_host_is_dialled(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--command", "echo no such table >&2; exit 3", "127.0.0.1", "--token", TOKEN, "--spool", str(tmp_path)]
    assert exit_code("send", *words) == Exit.INPUT
    assert "status 3: no such table" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOOTD_RING_TOKEN", raising=False)
    target = str(tmp_path / "disk")
    assert exit_code("receive", target) == Exit.USAGE
    assert exit_code("receive", target, "--token", "short") == Exit.USAGE
    assert exit_code("receive", target, "--token", TOKEN, "--token-file", str(tmp_path / "t")) == Exit.USAGE
    assert exit_code("send", str(tmp_path / "none"), "127.0.0.1", "--token-file", str(tmp_path / "t")) == Exit.INPUT
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "t").read_text().strip()) == 32


def test_hosts() -> None:
    names = resolve(["127.0.0.1", "127.0.0.1:7000"], 7469)
    assert [(name.address, name.port) for name in names] == [("127.0.0.1", 7469), ("127.0.0.1", 7000)]
    assert len({name.mac for name in names}) == 2
    for wrong in (["127.0.0.1", "127.0.0.1:7469"], ["127.0.0.1:0"], ["127.0.0.1:x"], []):
        with pytest.raises(OperatorError):
            resolve(wrong, 7469)


def connected(accepting: str, dialling: str) -> tuple[Channel | ChannelError, Channel | ChannelError]:
    """Both ends of a handshake over a real socket, each a channel or its error."""
    ends: list[Channel | ChannelError] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            try:
                ends.append(accept_channel(listener.accept()[0], accepting))
            except ChannelError as error:
                ends.append(error)

        thread = threading.Thread(target=accept)
        thread.start()
        mine: Channel | ChannelError
        try:
            mine = open_channel("127.0.0.1", listener.getsockname()[1], dialling, lambda: True)
        except ChannelError as error:
            mine = error
        thread.join(10)
    return ends[0], mine


def test_messages_pass_both_ways_and_a_changed_one_does_not() -> None:
    there, here = connected(TOKEN, TOKEN)
    assert isinstance(there, Channel)
    assert isinstance(here, Channel)
    try:
        here.send(Kind.MESSAGE, b"one")
        there.send(Kind.MANIFEST, b"two")
        assert there.receive(5) == (Kind.MESSAGE, b"one")
        assert here.receive(5) == (Kind.MANIFEST, b"two")
        here._sent += 1  # as if one had been taken out on the way
        here.send(Kind.PING)
        with pytest.raises(ChannelError, match="did not make"):
            there.receive(5)
    finally:
        here.close()
        there.close()


def test_a_wrong_token_is_refused_for_good() -> None:
    there, here = connected(TOKEN, TOKEN + "x")
    assert isinstance(there, ChannelError)
    assert isinstance(here, ChannelError)
    assert here.is_final
    assert "wrong join token" in str(here)
    assert link_token(TOKEN, "a") != link_token(TOKEN, "b") != link_token(TOKEN + "x", "b")
