"""What ``bootd ring`` refuses before anything is sent or written."""

import socket
import threading
from pathlib import Path

import pytest

from bootd.cli.main import main
from bootd.drivers.ring_channel import Channel, ChannelError, Kind, accept_channel, link_token, open_channel
from bootd.drivers.ring_host import resolve
from bootd.drivers.ring_target import claim
from bootd.errors import Exit, OperatorError
from bootd.member.store import StoreError

TOKEN = "0123456789abcdef"


def exit_code(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["ring", *words])
    return int(str(ended.value.code))


def test_a_file_that_is_there_is_named_twice_or_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "disk"
    target.write_text("precious")
    assert exit_code("receive", str(target), "--token", TOKEN) == Exit.REFUSED
    with pytest.raises(OperatorError, match="is there already"):
        claim(str(target), str(tmp_path / "other"))
    assert target.read_text() == "precious"
    claimed = claim(str(target), str(target))
    store = claimed.open(4096)
    store.write(0, memoryview(b"x" * 4096))
    assert target.read_text() == "precious"  # until the image is verified
    claimed.commit()
    claimed.close()
    assert target.read_bytes() == b"x" * 4096


def test_an_image_larger_than_the_file_system(tmp_path: Path) -> None:
    claimed = claim(str(tmp_path / "disk"), "")
    with pytest.raises(StoreError, match="has room for"):
        claimed.open(1 << 60)
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
