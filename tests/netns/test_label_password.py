"""A label with a password, as iPXE asks for it: the entry is rendered only for who knows it. The client is curl."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.room import Room
from tests.unit.test_label_password import CRYPT_HASH, GRUB_HASH

MAC = "52:54:00:00:00:01"
SETTINGS = f"""
[boot]
prompt_seconds = 10
[[label]]
name = "exam"
kind = "kernel"
kernel = "exam/vmlinuz"
password = ["{GRUB_HASH}", "{CRYPT_HASH}"]
"""

pytestmark = pytest.mark.netns


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    try:
        with Room("server", "n1", "n2") as room:
            for name, address in (("server", ADDRESS), ("n1", "10.9.0.11"), ("n2", "10.9.0.12")):
                room.address(name, f"{address}/24")
            yield Daemon(room, folder, SETTINGS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ask(daemon: Daemon, password: str, who: str = "n1", label: str = "exam", mac: str = MAC) -> str:
    form = [word for pair in (("mac", mac), ("label", label), ("password", password))
            for word in ("--data-urlencode", "=".join(pair))]  # fmt: skip
    url = f"http://{ADDRESS}:{HTTP_PORT}/boot/unlock.ipxe"
    return daemon.room.run(who, ["curl", "-sS", "-m", "20", "-w", "\n%{http_code}", *form, url], 30)


def test_only_who_knows_it_gets_the_entry(daemon: Daemon) -> None:
    process = daemon.start()
    menu = daemon.room.run("n1", ["curl", "-sSf", f"http://{ADDRESS}:{HTTP_PORT}/boot/boot.ipxe?mac={MAC}"])
    assert "item exam" in menu
    assert "exam/vmlinuz" not in menu
    wrong = ask(daemon, "let me out")
    assert wrong.startswith("#!ipxe")
    assert "wrong password" in wrong
    assert f"boot.ipxe?mac={MAC}" in wrong
    assert wrong.endswith("200"), "another status would end in the firmware"
    right = ask(daemon, "let me in")
    assert f"kernel http://{ADDRESS}:7468/exam/vmlinuz" in right
    assert "choose" not in right
    # without a menu module PXELINUX cannot ask
    (daemon.boot / "menu.c32").unlink(missing_ok=True)
    tftp = f"tftp://{ADDRESS}/pxelinux.cfg/01-{MAC.replace(':', '-')}"
    assert "exam" not in daemon.room.run("n1", ["curl", "-sS", tftp])
    for name in ("menu.c32", "libutil.c32"):
        (daemon.boot / name).write_bytes(b"x")
    assert f"MENU PASSWD {CRYPT_HASH}" in daemon.room.run("n1", ["curl", "-sS", tftp])
    grub = daemon.room.run("n1", ["curl", "-sS", f"tftp://{ADDRESS}/grub/node-{MAC}.cfg"])
    assert f"password_pbkdf2 exam {GRUB_HASH}" in grub
    for word in ("let me in", "let me out"):
        assert word not in process.output
        assert word not in daemon.command("node", "timeline", MAC)
    assert "label exam: wrong password" in daemon.command("node", "timeline", MAC)
    assert "(protected)" in daemon.command("label", "list")
    assert GRUB_HASH not in daemon.command("label", "list", "--json")


def test_guessing_is_slow_and_nonsense_harmless(daemon: Daemon) -> None:
    daemon.start()
    answers = [ask(daemon, f"guess {number}") for number in range(8)]
    assert [("wrong password" in text, "too many tries" in text) for text in answers] == [
        *[(True, False)] * 6,
        *[(False, True)] * 2,
    ]
    assert "too many tries" in ask(daemon, "let me in"), "also with the right one"
    assert "exam/vmlinuz" in ask(daemon, "let me in", who="n2"), "others are not kept out"
    for label, mac in (("local", MAC), ("none", MAC), ("exam", "x")):
        text = ask(daemon, "let me in", who="n2", label=label, mac=mac)
        assert "vmlinuz" not in text
    raw = [f"http://{ADDRESS}:{HTTP_PORT}/boot/unlock.ipxe", "-d", "@-"]
    for body in ("x" * 5000, "%%%=%ff&&&", "a=1&" * 100, "\\x00\\xff"):
        command = f"printf '{body}' | curl -s -m 10 -o /dev/null -w '%{{http_code}}' {' '.join(raw)}"
        assert daemon.room.run("n2", ["sh", "-c", command.replace("%%%=%ff", "%%%%%%=%%ff")])[:1] == "4"
    assert daemon.command("health", expect=1)
