"""Trees of files through the whole of it: command, daemon, head, ring, the agent of stage2 on loop disks."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootd.build.cache import DEFAULT
from bootd.cli.client import Client
from bootd.drivers.images import tree
from bootd.errors import Exit, OperatorError
from tests.lab import debian_tree
from tests.netns import file_trees as trees
from tests.netns import volumes
from tests.netns.daemon import ADDRESS
from tests.netns.disks import MIB, LoopDisk, add_partitions
from tests.netns.files_lab import CHANGED, LAYOUT, MACS, NODES, SIZES, Lab
from tests.netns.room import Room


@pytest.fixture
def lab() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="bootd-"))
    with Room("server", *NODES) as room:
        room.address("server", f"{ADDRESS}/24")
        for number, name in enumerate(NODES, 1):
            room.address(name, f"10.9.0.{10 + number}/24")
            room.mac(name, MACS[name])
        made = Lab(room, folder)
        try:
            yield made
        finally:
            made.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_tree_goes_onto_disks_of_three_sizes(lab: Lab) -> None:
    """Stored, refused without a layout, shown, unpacked, proven, customised; each node is itself afterwards."""
    assert lab.put("golden", "-x", "/tmp")["new_bytes"] > 0
    assert lab.put("golden", "-x", "/tmp")["new_chunks"] == 0, "the same tree is the same image"
    assert "kind      files" in lab.daemon.command("image", "show", "golden")
    text = lab.daemon.command("deploy", "golden", "n1", "--disk", "only", "--yes", expect=Exit.INPUT)
    assert "--layout" in text
    for name in NODES:
        lab.boot(name).wait_for("joined")
    words = ["golden", "n[1-3]", "--disk", "only", "--layout", str(lab.layout), "-r", "none", "--skip", "initramfs"]
    card = lab.daemon.command("plan", *words)
    assert "MAKE    partition 3" in card
    assert "/home" in card
    lab.daemon.command("deploy", *words, "--yes", "--name", "one")
    lab.daemon.command("wait", "one", "--timeout", "120", seconds=150)
    for name in NODES:
        assert lab.nodes[name].wait(30) == 0, lab.output()
        lab.nodes[name].wait_for("rebooted")
        for word in ("kainstall1", "WAITING node", "kainstall2", "files proven", "Formatting"):
            assert word in lab.nodes[name].output
        lab.check(name, exclude=("/tmp/*",))
    sizes = {}
    for name, disk in lab.disks.items():
        done = subprocess.run(["sfdisk", "--json", disk.path], check=True, capture_output=True)
        sizes[name] = json.loads(done.stdout)["partitiontable"]["partitions"][2]["size"]
    assert sizes["n2"] - sizes["n1"] == (SIZES["n2"] - SIZES["n1"]) // 512, "what is left is filled"


def deploy(lab: Lab, *more: str, nodes: str = "n[1-3]", expect: int = 0) -> str:
    words = ["deploy", "golden", nodes, "--disk", "only", "--layout", str(lab.layout), "-r", "none"]
    return lab.daemon.command(*words, "--skip", "initramfs", "--yes", "--name", "one", *more, expect=expect)


# What the console of the node says when it is killed; how many nodes the session waits for.
PHASES = ["Writing partition table", "WAITING node", "kainstall2: unpacking", "files proven", "customise: fstab"]


@pytest.mark.parametrize("phase", PHASES)
def test_a_node_that_dies_in_a_phase_is_left_out(lab: Lab, phase: str) -> None:
    """The others are done; it is named, and does not count as cloned."""
    for number in range(12):  # so that there is a while in which to die
        (lab.source / f"large{number}").write_bytes(os.urandom(4 << 20))
    lab.put("golden", "-x", "/tmp")
    deploy(lab)
    for name in NODES:
        lab.boot(name)
    victim = lab.nodes["n2"]
    victim.wait_for(phase, 60)
    victim.signal(signal.SIGKILL)
    text = lab.daemon.command("wait", "one", "--timeout", "150", expect=Exit.PARTLY, seconds=180)
    assert "2 of 3 nodes cloned" in text
    for name in ("n1", "n3"):
        assert lab.nodes[name].wait(30) == 0, lab.output()
        lab.check(name, exclude=("/tmp/*",))
    verdicts = {one["name"]: one for one in lab.daemon.session("one")["outcome"]["nodes"]}
    assert not verdicts["n2"]["ok"]
    assert verdicts["n2"]["reason"]


def test_a_disk_that_is_not_empty_or_is_protected_stays(lab: Lab) -> None:
    """Without the words, with those of another disk, with --protect-disk, and when the layout does not fit."""
    lab.put("golden", "-x", "/tmp")
    disk = lab.disks["n1"]
    subprocess.run(["sfdisk", "--quiet", disk.path], input=b"label: dos\n1 : size=20M, type=83\n", check=True)
    before = disk.digest()
    lab.boot("n1").wait_for("joined")
    assert "--erase SERIAL" in deploy(lab, nodes="n1", expect=Exit.REFUSED)
    assert "--erase SERIAL" in deploy(lab, "--erase", "SERIAL-n2", nodes="n1", expect=Exit.REFUSED)
    erase = ("--erase", "SERIAL-n1")
    text = deploy(lab, *erase, "--protect-disk", "SERIAL-n1", "--wait", nodes="n1", expect=Exit.REFUSED)
    assert "protect" in text
    lab.layout.write_text(LAYOUT.replace("120M", "900M"))
    words = ["plan", "golden", "n1", "--disk", "only", "--layout", str(lab.layout), *erase]
    assert "REFUSED" in lab.daemon.command(*words, expect=Exit.REFUSED)
    assert disk.digest() == before
    lab.layout.write_text(LAYOUT)
    deploy(lab, *erase, "--wait", "--name", "two", nodes="n1")
    lab.check("n1", exclude=("/tmp/*",))


def test_kas_desc_and_the_layout_of_the_source(lab: Lab) -> None:
    """A desc names neither file systems nor places: one linux partition is /. @source has them from the image."""
    lab.put("golden", "-x", "/tmp")
    lab.layout.write_text("swap 16\nlinux fill\n")
    lab.boot("n1").wait_for("joined")
    deploy(lab, "--wait", nodes="n1")
    assert lab.nodes["n1"].wait(30) == 0
    words = ["deploy", "golden", "n2", "--disk", "only", "--layout", "@source", "-r", "none", "--skip", "initramfs"]
    lab.boot("n2").wait_for("joined")
    lab.daemon.command(*words, "--yes", "--name", "two", "--wait", seconds=90)
    for name, number in (("n1", 2), ("n2", 1)):
        add_partitions(lab.disks[name].device)
        with volumes.mounted("ext4", f"{lab.disks[name].device}p{number}", lab.folder / "mount") as mounted:
            changed = ("/proc/*", "/run/*", "/sys/*", *CHANGED, "/tmp/*")
            lines = trees.differences(lab.source, mounted, *changed)
            assert [line for line in lines if not line.startswith(".d..t......")] == []


def test_a_partition_of_another_system_beside_the_files(lab: Lab) -> None:
    """KA's -D: the layout leaves room for it, it is backed up as bytes and restored after the files."""
    lab.put("golden", "-x", "/tmp")
    lab.layout.write_text("type7 24\nlinux fill\n")
    other = os.urandom(20 * MIB)
    for name in ("n1", "n3"):
        lab.boot(name).wait_for("joined")
    deploy(lab, "--wait", nodes="n1,n3")
    for name in ("n1", "n3"):
        assert lab.nodes[name].wait(30) == 0, lab.output()
        add_partitions(lab.disks[name].device)
    (lab.folder / "golden.partition").write_bytes(other)
    volumes.run("dd", f"if={lab.folder / 'golden.partition'}", f"of={lab.disks['n1'].device}p1", "conv=fsync")
    rest = part(lab.disks["n3"].device, 2)
    lab.boot("n1").wait_for("joined")
    lab.daemon.command("backup", "n1", "windows", "-m", "beside", "--part", "1", "--timeout", "60", seconds=90)
    assert lab.nodes["n1"].wait(30) == 0, lab.output()
    lab.boot("n3").wait_for("joined")
    words = ["restore", "windows", "n3", "--part", "1", "--disk", "serial=SERIAL-n3", "--yes", "--wait"]
    lab.daemon.command(*words, seconds=90)
    assert lab.nodes["n3"].wait(30) == 0, lab.output()
    device = lab.disks["n3"].device
    add_partitions(device)
    assert part(device, 1)[: len(other)] == other
    assert part(device, 2) == rest, "the files are as they were"


def part(device: str, number: int) -> bytes:
    """What a partition holds."""
    return Path(f"{device}p{number}").read_bytes()


def test_a_golden_node_becomes_an_image_and_another_node(lab: Lab) -> None:
    """``backup --files`` of what one node got: nothing changes on it, the second time nothing is sent; it goes
    onto a larger disk with the layout of the source, and the tree is the same again."""
    (lab.source / "large").write_bytes(os.urandom(12 << 20))
    lab.put("golden", "-x", "/tmp")
    lab.boot("n1").wait_for("joined")
    deploy(lab, "--wait", nodes="n1")
    assert lab.nodes["n1"].wait(30) == 0, lab.output()
    disk = lab.disks["n1"]
    with volumes.mounted("ext4", f"{disk.device}p2", lab.folder / "mount") as mounted:
        uuids = {number: tag(f"{disk.device}p{number}", "UUID") for number in (1, 2, 3)}
        lines = [f"UUID={uuids[2]} / ext4 defaults 0 1", f"UUID={uuids[3]} /home ext4 nodev 0 2"]
        lines += [
            f"UUID={uuids[1]} none swap sw 0 0",
            "UUID=00000000-dead /data xfs defaults 0 0",
            "proc /proc proc",
        ]
        (mounted / "etc/fstab").write_text("\n".join(lines))
    before = disk.digest()
    lab.boot("n1").wait_for("joined")
    words = ["backup", "n1", "copy", "-m", "golden", "--files", "-x", "/tmp", "--after", "stay", "--json"]
    first = json.loads(lab.daemon.command(*words, "--timeout", "60", seconds=90))
    assert first["state"] == "done", first
    assert disk.digest() == before, "nothing of the golden disk has changed"
    second = json.loads(lab.daemon.command(*words, "--timeout", "60", seconds=90))
    assert second["sent"] == 0, "the same tree is the same archive"
    shown = json.loads(lab.daemon.command("image", "show", "copy", "--json"))
    assert [(one["path"], one["kind"], one["uuid"]) for one in shown["tree"]["mounts"]] == [
        ("/", "ext4", uuids[2]),
        ("/home", "ext4", uuids[3]),
        ("", "swap", uuids[1]),
    ]
    words = ["deploy", "copy", "n3", "--disk", "only", "--layout", "@source", "-r", "none", "--skip", "initramfs"]
    lab.boot("n3").wait_for("joined")
    lab.daemon.command(*words, "--yes", "--name", "three", "--wait", seconds=90)
    assert lab.nodes["n3"].wait(30) == 0, lab.output()
    target = lab.disks["n3"].device
    add_partitions(target)
    kinds = {tag(f"{target}p{number}", "LABEL"): number for number in (1, 2, 3)}
    assert sorted(tag(f"{target}p{number}", "TYPE") for number in (1, 2, 3)) == ["ext4", "ext4", "swap"]
    with volumes.mounted("ext4", f"{target}p{kinds['root']}", lab.folder / "mount") as mounted:
        text, root = (mounted / "etc/fstab").read_text(), tag(f"{target}p{kinds['root']}", "UUID")
        assert f"UUID={root} / ext4" in text
        assert not any("/data" in line for line in text.splitlines() if not line.startswith("#"))


def tag(device: str, name: str) -> str:
    """What blkid says of the device itself."""
    words = ["blkid", "--probe", "--match-tag", name, "--output", "value", device]
    return subprocess.run(words, check=False, capture_output=True, text=True).stdout.strip()


def test_an_archive_that_breaks_off_is_no_image(lab: Lab) -> None:
    """Who reads the tree fails in the middle; or says nothing that makes sense."""
    client, about = Client(lab.daemon.socket), tree.look(str(lab.source))

    def broken() -> Iterator[bytes]:
        yield tree.head_of(about)
        yield os.urandom(3 << 20)
        raise OperatorError("a file changed", "leave it alone")

    with pytest.raises(OperatorError, match="a file changed"):
        client.send("image-trees", pieces=broken(), query="name=half&comment=why")
    for head, query, code, words in (
        (b"{}\n", "name=x&comment=y", Exit.USAGE, "description of a tree"),
        (b"no line at all", "name=x&comment=y", Exit.USAGE, "description of a tree"),
        (tree.head_of(about), "name=x&comment=", Exit.USAGE, "why"),
        (tree.head_of(about), "name=../x&comment=y", Exit.USAGE, "names no image"),
        (tree.head_of(about), "name=x&comment=y", Exit.INPUT, "empty"),
    ):
        with pytest.raises(OperatorError) as caught:
            client.send("image-trees", pieces=iter((head,)), query=query)
        assert caught.value.code is code, caught.value
        assert words in f"{caught.value.message} {caught.value.hint}"
    assert json.loads(lab.daemon.command("image", "list", "--json")) == []
    assert lab.process.running()
    text = lab.daemon.command("image", "put", "--tree", "/nowhere", "x", "-m", "y", expect=Exit.INPUT)
    assert "no such folder" in text


def test_cancelled_while_it_unpacks_and_begun_anew(lab: Lab) -> None:
    """The node lets go of the disk, is there again, and its disk, not empty now, is erased only by name."""
    (lab.source / "large").write_bytes(os.urandom(60 << 20))
    lab.put("golden", "-x", "/tmp")
    lab.room.limit("n1", 40)  # megabits a second
    lab.boot("n1").wait_for("joined")
    deploy(lab, nodes="n1")
    lab.nodes["n1"].wait_for("kainstall2", 60)
    lab.daemon.command("session", "cancel", "one", "--yes")
    lab.room.limit("n1", 1000)
    lab.nodes["n1"].wait_for("cancelled", 30)
    lab.nodes["n1"].wait_for("joined", 30)
    assert "not unmounted" not in lab.nodes["n1"].output
    assert "--erase SERIAL" in deploy(lab, "--name", "two", nodes="n1", expect=Exit.REFUSED)
    deploy(lab, "--erase", "SERIAL-n1", "--name", "two", "--wait", nodes="n1")
    assert lab.nodes["n1"].wait(30) == 0, lab.output()
    lab.check("n1", exclude=("/tmp/*",))


@pytest.mark.long
def test_a_real_debian_with_its_boot_loader(lab: Lab) -> None:
    """Kernel, initramfs and GRUB of the tree itself; the rest is as it was, but for what customise names."""
    debian = debian_tree.build(Path(__file__).parents[2] / DEFAULT)
    lab.disks["n1"].close()
    lab.disks["n1"] = disk = LoopDisk(lab.folder / "large.disk", 2600 * MIB, 0)
    lab.layout.write_text(LAYOUT.replace("120M", "2200M"))
    words = ["image", "put", "--tree", str(debian), "bookworm", "-m", "test", "-x", "/var/cache", "--json"]
    lab.daemon.command(*words, seconds=120)
    lab.boot("n1").wait_for("joined")
    words = ["deploy", "bookworm", "n1", "--disk", "only", "--layout", str(lab.layout), "--with", "dm_mod", "--yes"]
    lab.daemon.command(*words, "--name", "one", "--wait", seconds=400)
    assert lab.nodes["n1"].wait(30) == 0, lab.output()
    print(
        *(line for line in lab.nodes["n1"].output.splitlines() if "proven" in line or "customise" in line), sep="\n"
    )
    add_partitions(disk.device)
    with disk.path.open("rb") as stream:
        assert b"GRUB" in stream.read(440), "boot code"
    uuids = {number: tag(f"{disk.device}p{number}", "UUID") for number in (1, 2, 3)}
    with volumes.mounted("ext4", f"{disk.device}p2", lab.folder / "mount") as mounted:
        fstab = (mounted / "etc/fstab").read_text()
        assert all(f"UUID={uuid}" in fstab for uuid in uuids.values())
        assert uuids[2] in (mounted / "boot/grub/grub.cfg").read_text()
        named = [
            f"/{name}" for name in ("boot/grub", "boot/initrd.img-*", "etc/initramfs-tools", "etc/ssh/ssh_host_*")
        ]
        named += ["/var/cache", "/var/lib", "/home", "/proc/*", "/run/*", "/sys/*", *CHANGED]
        lines = trees.differences(debian, mounted, *named)
        assert [line for line in lines if not line.startswith(".d..t......")] == []
        (initramfs,) = (mounted / "boot").glob("initrd.img-*")
        assert b"/dm-mod.ko" in volumes.run("chroot", mounted, "lsinitramfs", f"/boot/{initramfs.name}")
