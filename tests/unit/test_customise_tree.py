"""A tree is somebody else's input: no name in it leads to a file outside of it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage2.customise import customise
from stage2.customise.facts import STEPS, Facts
from stage2.customise.hooks import listed
from stage2.customise.tree import MAX_TEXT, Tree, TreeError
from stage2.made import Filesystem, Made

SECRET = "outside\n"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    (folder / "folder").mkdir(parents=True)
    (folder / "file").write_text(SECRET)
    (folder / "folder/file").write_text(SECRET)
    return folder


@pytest.fixture
def tree(tmp_path: Path, outside: Path) -> Iterator[Tree]:
    (tmp_path / "root/etc").mkdir(parents=True)
    with Tree(str(tmp_path / "root")) as tree:
        yield tree
    assert (outside / "file").read_text() == SECRET
    assert (outside / "folder/file").read_text() == SECRET
    assert sorted(path.name for path in outside.rglob("*")) == ["file", "file", "folder"]


def test_a_link_to_a_file_outside_leads_to_the_trees_own(tree: Tree, outside: Path) -> None:
    link = Path(tree.root) / "etc/fstab"
    for target in (str(outside / "file"), f"../../../../../..{outside}/file"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert tree.read("/etc/fstab") in (None, "inside\n")
        tree.write("/etc/fstab", "inside\n")
        assert tree.read("/etc/fstab") == "inside\n"
        assert (Path(tree.root) / str(outside / "file").lstrip("/")).read_text() == "inside\n"


def test_a_linked_folder_leads_to_the_trees_own(tree: Tree, outside: Path) -> None:
    (Path(tree.root) / "etc/ssh").symlink_to(outside / "folder")
    assert tree.names("/etc/ssh") == []
    assert not tree.remove("/etc/ssh/file")
    with pytest.raises(TreeError, match="cannot be a folder"):
        tree.write("/etc/ssh/file", "inside\n")  # the link leads nowhere, inside
    (Path(tree.root) / "up").symlink_to("../" * 20 + str(outside))
    assert tree.read("/up/file") is None
    assert tree.read("/etc/../../../../../../../.." + str(outside / "file")) is None


def test_a_link_is_removed_itself(tree: Tree, outside: Path) -> None:
    (Path(tree.root) / "etc/key").symlink_to(outside / "file")
    assert tree.exists("/etc/key")
    assert tree.remove("/etc/key")
    assert not tree.exists("/etc/key")


def test_a_hard_link_to_a_file_outside_is_not_written_through(tree: Tree, outside: Path) -> None:
    (Path(tree.root) / "etc/hostname").hardlink_to(outside / "file")
    assert tree.write("/etc/hostname", "node7\n")
    assert tree.read("/etc/hostname") == "node7\n"


def test_the_kernels_own_links_are_not_followed(tree: Tree, outside: Path) -> None:
    descriptor = os.open(outside, os.O_RDONLY)
    try:
        (Path(tree.root) / "etc/mailname").symlink_to(f"/proc/self/fd/{descriptor}/file")
        assert tree.read("/etc/mailname") is None
    finally:
        os.close(descriptor)


def test_what_is_no_file_is_refused_and_never_opened(tree: Tree) -> None:
    os.mkfifo(Path(tree.root) / "etc/fstab")
    for call in (lambda: tree.read("/etc/fstab"), lambda: tree.write("/etc/fstab", "x")):
        with pytest.raises(TreeError, match="/etc/fstab is not a file"):
            call()
    (Path(tree.root) / "etc/hosts").mkdir()
    with pytest.raises(TreeError, match="/etc/hosts is not a file"):
        tree.write("/etc/hosts", "x")
    assert not tree.remove("/etc/hosts")
    assert tree.is_folder("/etc/hosts")


def test_circles_and_great_files_end(tree: Tree) -> None:
    (Path(tree.root) / "etc/a").symlink_to("b")
    (Path(tree.root) / "etc/b").symlink_to("a")
    with pytest.raises(TreeError, match="too many links"):
        tree.write("/etc/a", "x")
    with pytest.raises(TreeError, match="/etc/a"):
        tree.read("/etc/a")
    with (Path(tree.root) / "etc/big").open("wb") as stream:
        stream.truncate(MAX_TEXT + 1)
    with pytest.raises(TreeError, match="too many for a file of settings"):
        tree.read("/etc/big")


def test_mode_and_attributes_stay_and_equal_text_is_not_written(tree: Tree) -> None:
    path = Path(tree.root) / "etc/shadow"
    path.write_text("old")
    path.chmod(0o640)
    try:
        os.setxattr(path, "user.note", b"kept")
    except OSError:
        pytest.skip("no extended attributes on this file system")
    assert tree.write("/etc/shadow", "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.getxattr(path, "user.note") == b"kept"
    before = path.stat().st_ino
    assert not tree.write("/etc/shadow", "new")
    assert path.stat().st_ino == before
    assert [path.name for path in (Path(tree.root) / "etc").iterdir()] == ["shadow"]


def test_bytes_of_another_encoding_survive(tree: Tree) -> None:
    path = Path(tree.root) / "etc/fstab"
    path.write_bytes(b"# caf\xe9\n")
    tree.write("/etc/fstab", f"{tree.read('/etc/fstab')}more\n")
    assert path.read_bytes() == b"# caf\xe9\nmore\n"


def test_programs_outside_get_no_path_with_a_link(tree: Tree, outside: Path) -> None:
    (Path(tree.root) / "boot/grub").mkdir(parents=True)
    assert tree.outside("/boot/grub") == f"{tree.root}/boot/grub"
    (Path(tree.root) / "boot/grub/i386-pc").symlink_to(outside)
    assert tree.find_link("/boot/grub") == "/boot/grub/i386-pc"
    (Path(tree.root) / "efi").symlink_to(outside)
    assert tree.find_link("/efi") == "/efi"
    with pytest.raises(TreeError, match="/efi is a link"):
        tree.outside("/efi")


# --- the whole of it, as far as it needs no program ------------------------------------------------------------

NO_PROGRAMS = frozenset({"ssh-keys", "hooks", "initramfs", "bootloader"})
FACTS = Facts("node7", "52:54:00:00:00:07", "bios", skip=NO_PROGRAMS)


def test_an_attack_tree_has_nothing_written_outside(tree: Tree, outside: Path) -> None:
    """Every file that customise writes is a link that leads out, by an absolute or by a relative way."""
    top = Path(tree.root)
    for number, name in enumerate(
        ("hostname", "hosts", "machine-id", "fstab", "crypttab", "mailname", "modprobe.conf")
    ):
        target = outside / "file" if number % 2 else Path("../" * 12 + str(outside / "file"))
        (top / "etc" / name).symlink_to(target)
    for folder in ("etc/udev", "var/lib", "etc/network", "etc/mdadm", "etc/selinux"):
        (top / folder).parent.mkdir(parents=True, exist_ok=True)
        (top / folder).symlink_to(outside / "folder")
    (top / "boot").symlink_to(outside)
    lines: list[str] = []
    result = customise(tree.root, Made((), "dos", ()), FACTS, lines.append)
    assert result.failure.startswith("record: /var/lib cannot be a folder"), result.failure


def test_facts_that_cannot_be_meant_are_refused_before_anything_is_written(tree: Tree) -> None:
    before = sorted(Path(tree.root).rglob("*"))
    for facts, words in (
        (Facts("no name", FACTS.mac, "bios"), "is no host name"),
        (Facts("node7", "52:54", "bios"), "is no MAC address"),
        (Facts("node7", FACTS.mac, "bios", bootloader="lilo"), "'lilo' is not supported: grub or none"),
        (Facts("node7", FACTS.mac, "bios", skip=frozenset({"hostnme"})), "there is no step hostnme"),
    ):
        result = customise(tree.root, Made((), "dos", ()), facts, lambda _: None)
        assert not result.is_done
        assert words in result.failure
    assert sorted(Path(tree.root).rglob("*")) == before


def test_a_tree_that_is_not_mounted_where_it_should_be_is_refused(tree: Tree) -> None:
    made = Made(("/dev/null",), "dos", (Filesystem("/dev/null", "ext4", "1-2", "", "/"),))
    result = customise(tree.root, made, FACTS, lambda _: None)
    assert result.failure == f"start: nothing is mounted at {tree.root}, where /dev/null belongs"


def test_a_second_time_changes_no_byte(tree: Tree) -> None:
    top = Path(tree.root)
    files = {
        "etc/hostname": "golden\n",
        "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 golden\n",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "etc/mailname": "golden.example.org\n",
        "etc/udev/rules.d/70-persistent-net.rules": 'SUBSYSTEM=="net", NAME="eth0"\n',
        "etc/sysconfig/network-scripts/ifcfg-eth0": "HWADDR=aa:bb:cc:dd:ee:01\n",
        "var/lib/dhcp/dhclient.eth0.leases": "lease {}\n",
        "var/lib/dbus/machine-id": "0123456789abcdef0123456789abcdef\n",
        "var/lib/systemd/random-seed": "seed",
        "etc/selinux/config": "SELINUX=enforcing\n",
        "etc/lvm/devices/system.devices": "IDTYPE=sys_serial\n",
    }
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    first = customise(tree.root, Made((), "dos", ()), FACTS, lambda _: None)
    assert first.is_done, first.failure
    assert [outcome.step for outcome in first.outcomes] == [
        step for step in STEPS if step not in NO_PROGRAMS and step not in ("fstab", "crypttab", "arrays", "volumes")
    ]
    state = {path: path.read_bytes() for path in top.rglob("*") if path.is_file()}
    assert (top / "etc/hostname").read_text() == "node7\n"
    assert (top / "etc/machine-id").read_bytes() == b""
    assert (top / "var/lib/dbus/machine-id").readlink() == Path("/etc/machine-id")
    assert (top / "etc/sysconfig/network-scripts/ifcfg-eth0").read_text() == f"HWADDR={FACTS.mac}\n"
    assert (top / ".autorelabel").exists()
    for gone in ("etc/udev/rules.d/70-persistent-net.rules", "var/lib/dhcp/dhclient.eth0.leases"):
        assert not (top / gone).exists()
    second = customise(tree.root, Made((), "dos", ()), FACTS, lambda _: None)
    assert second.is_done
    assert [outcome.changed for outcome in second.outcomes] == [()] * len(second.outcomes)
    assert {path: path.read_bytes() for path in top.rglob("*") if path.is_file()} == state


def test_ids_that_a_node_has_made_itself_stay(tree: Tree) -> None:
    top = Path(tree.root)
    assert customise(tree.root, Made((), "dos", ()), FACTS, lambda _: None).is_done
    (top / "etc/machine-id").write_text("fedcba9876543210fedcba9876543210\n")
    assert customise(tree.root, Made((), "dos", ()), FACTS, lambda _: None).is_done
    assert (top / "etc/machine-id").read_text() == "fedcba9876543210fedcba9876543210\n"
    other = Facts("node8", "52:54:00:00:00:08", "bios", skip=NO_PROGRAMS)
    assert customise(tree.root, Made((), "dos", ()), other, lambda _: None).is_done
    assert (top / "etc/machine-id").read_text() == ""


def test_hooks_are_the_executable_files_by_name(tmp_path: Path) -> None:
    for name, mode in (
        ("20-b.sh", 0o755),
        ("10-a", 0o755),
        ("30-c.sh~", 0o755),
        ("40-d", 0o644),
        (".hidden", 0o755),
    ):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(mode)
    assert listed(str(tmp_path)) == ["10-a", "20-b.sh"]
