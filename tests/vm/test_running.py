"""A running system on LVM is read at one moment: what the kernel of a test machine may lack, in a virtual one.

The machine boots Debian's kernel and stage2's squashfs, makes a system on LVM (`running_guest.py`) and runs the
agent in it; daemon and commands are the real ones, in a namespace.
"""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bootd.build import modules
from bootd.build.cache import DEFAULT, Cache
from bootd.build.initramfs import Archive, compress
from bootd.errors import Exit
from stage2 import recipe
from tests.netns.conftest import folder, room
from tests.netns.daemon import Daemon
from tests.netns.room import Room, until
from tests.vm.test_layouts import INIT

__all__ = ["folder", "room"]  # fixtures

ROOT = Path(__file__).parents[2]
SECONDS = 300.0  # of each act; the whole takes some 100 on a quiet machine
MAC = "52:54:00:00:00:01"
MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "squashfs",
    "overlay",
    "dm_mod",
    "dm_snapshot",
    "dm_thin_pool",
    "ext4",
    "xfs",
    "vfat",
)
NAMES = ("nls_cp437", "nls_ascii", "nls_iso8859-1", "crc32c_generic")
RUN = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
python3 /guest/running_guest.py /guest/agent.tar.gz
poweroff -f
"""


def initramfs(tree: Path, folder: Path, package: Path) -> bytes:
    archive = Archive()
    archive.add_file("init", INIT.replace("virtio_pci", " ".join((*NAMES, *MODULES))).encode(), 0o755)
    archive.add_file("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
    archive.add_file("guest/run", RUN.encode(), 0o755)
    archive.add_file("guest/running_guest.py", Path(__file__).with_name("running_guest.py").read_bytes())
    archive.add_file("guest/agent.tar.gz", package.read_bytes())
    modules.copy(tree, [*MODULES, *NAMES], folder / "modules")
    archive.add_tree(folder / "modules")
    return compress(archive.finish())


def command(tree: Path, image: Path, folder: Path) -> list[str]:
    words = [
        "qemu-system-x86_64",
        "-machine",
        "q35,accel=tcg",
        "-m",
        "1024",
        "-smp",
        "2",
        "-nographic",
        "-no-reboot",
    ]
    words += ["-kernel", str(modules.kernel_image(tree)), "-initrd", str(folder / "initrd")]
    words += ["-append", "console=ttyS0 panic=-1 quiet net.ifnames=0", "-monitor", "none", "-serial", "stdio"]
    words += ["-nic", "user,model=virtio-net-pci"]
    for name, path, read_only in (("stage2", image, "on"), ("disk", folder / "disk", "off")):
        words += ["-drive", f"if=none,id={name},format=raw,cache=unsafe,readonly={read_only},file={path}"]
        words += ["-device", f"virtio-blk-pci,drive={name}"]
    return words


def backup(daemon: Daemon, name: str, expect: int = 0) -> dict[str, Any]:
    words = ["backup", MAC, name, "-m", "a test", "--files", "--running", "--json"]
    text = daemon.command(*words, expect=expect, seconds=SECONDS)
    value: dict[str, Any] = json.JSONDecoder().raw_decode(text[text.index("{") :])[0]
    return value


@pytest.mark.vm
@pytest.mark.long
def test_a_running_system_on_lvm(room: Room, folder: Path) -> None:
    """Killed in the middle, it leaves nothing and reads a moment of each file system; more was written than the
    snapshot can keep, and there is no image; no room for one, and nothing is begun."""
    store = Cache(ROOT / DEFAULT)
    tree = modules.kernel_tree(store)
    image = recipe.finished_image(store, recipe.base_image(store, print), print)
    daemon = Daemon(room, folder)
    daemon.start()
    daemon.command("sync", "agent", MAC, "--out", str(folder / "agent.tar.gz"))
    (folder / "initrd").write_bytes(initramfs(tree, folder, folder / "agent.tar.gz"))
    with (folder / "disk").open("wb") as stream:
        stream.truncate(1536 << 20)
    words = command(tree, image, folder)
    print(shlex.join(words))
    machine = room.start("n1", words)
    results: dict[str, dict[str, Any]] = {}

    def act(name: str) -> None:
        found = machine.wait_for(rf"ACT {name}\r?\n|END\r?\n", SECONDS)
        assert "ACT" in found[0], machine.output

    def result(name: str) -> dict[str, Any]:
        found = machine.wait_for(r'RESULT (\{"name": "' + name + r'".*\})\r?\n|END\r?\n', SECONDS)
        assert found[1], machine.output
        value: dict[str, Any] = json.loads(found[1])
        results[name] = value
        return value

    try:
        act("killed")
        until(lambda: '"up": true' in daemon.command("sync", "agents", "--json"), SECONDS, "the agent is there")
        done = backup(daemon, "golden")
        assert done["state"] == "done", done
        told = result("killed")
        assert sorted(told["left"].values()) == ["home", "root", "srv"], (
            "what a killed agent leaves, its next start removes"
        )
        assert not told["seen"], "its mounts are nobody else's"
        assert done["attempts"] == 1
        notes = " ".join(done["notes"])
        assert re.search(r"/: ext4 on /dev/mapper/lab-root: a snapshot of LVM, 0\.\d GB may be written", notes), (
            notes
        )
        assert "/srv: ext4 on /dev/mapper/lab-srv: a snapshot of LVM" in done["notes"], "thin, so it has no bound"
        assert "/boot/efi: vfat on /dev/vdb1: as it is" in notes
        check(daemon, folder, told["written"])

        act("overflown")
        words = ["backup", MAC, "overflown", "-m", "a test", "--files", "--running", "--json", "--no-wait"]
        task = json.loads(daemon.command(*words))["id"]
        until(lambda: '"ended": true' in daemon.command("backups", "show", task, "--json"), SECONDS, "it has ended")
        failed = json.loads(daemon.command("backups", "show", task, "--json"))
        assert failed["state"] in ("failed", "refused"), failed  # as far as it had come
        assert "than its snapshot can keep" in failed["reason"], failed
        result("overflown")

        act("refused")
        refused = backup(daemon, "refused", Exit.REFUSED)
        assert "volume group lab has" in refused["reason"]
        machine.send("\n")
        assert result("refused")["unchanged"]
        assert result("ended")["status"] == 0
        assert [one["name"] for one in json.loads(daemon.command("image", "list", "--json"))] == ["golden"]
        machine.wait_for("END", SECONDS)
    finally:
        print(machine.output[-12000:])


def check(daemon: Daemon, folder: Path, written: list[int]) -> None:
    """The image by GNU tar: every file system is there, and of the pairs a beginning."""
    archive = folder / "golden.tar"
    daemon.command("image", "export", "golden", str(archive), seconds=60)
    names = subprocess.run(
        ["tar", "-tf", str(archive)], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in (
        "./etc/fstab",
        "./boot/vmlinuz",
        "./boot/efi/loader",
        "./home/letter",
        "./srv/thin",
        "./var/large",
    ):
        assert name in names
    assert "./etc/bootd-agent/agent.json" not in names
    for place, total in zip(("./var/pairs/", "./home/pairs/"), written, strict=True):
        firsts, seconds = (
            {int(name.rpartition("-")[2]) for name in names if name.startswith(f"{place}{word}-")}
            for word in ("first", "second")
        )
        assert seconds <= firsts == set(range(1, max(firsts) + 1))
        assert len(firsts - seconds) <= 1
        assert 0 < max(firsts) < total, "it went on writing while it was read"
    shown = json.loads(daemon.command("image", "show", "golden", "--json"))
    mounts = [(one["path"], one["kind"]) for one in shown["tree"]["mounts"]]
    assert mounts == [
        ("/", "ext4"),
        ("/boot", "ext4"),
        ("/boot/efi", "vfat"),
        ("/home", "xfs"),
        ("/srv", "ext4"),
        ("", "swap"),
    ]
    assert (shown["tree"]["disk"], shown["tree"]["table"]) == (1536 << 20, "gpt")
