"""Where a sync writes: what fstab and the kernel say of mounts, and which folders are meant."""

from pathlib import Path

import pytest

from bootd.wire.control import Disk, Lock, Partition, Sync
from stage2 import places
from stage2.gate import RefusedError
from stage2.places import find_disk, leaves_out, mounted_at_boot, running, within

FSTAB = """\
UUID=aaaa-bbbb /home/users ext4 defaults 0 2
UUID=1111 / ext4 errors=remount-ro 0 1
/dev/sda5 none swap sw 0 0
UUID=2222 /home ext4 defaults 0 2
UUID=3333 /media/usb vfat noauto,user 0 0
"""


def test_what_fstab_mounts_at_boot() -> None:
    assert [one.point for one in mounted_at_boot(FSTAB)] == ["/", "/home", "/home/users"]


def test_a_target_is_a_folder_and_no_link(tmp_path: Path) -> None:
    (tmp_path / "srv/data").mkdir(parents=True)
    (tmp_path / "home").symlink_to("/data/home")
    (tmp_path / "file").touch()
    assert within(str(tmp_path), "/srv/data/") == f"{tmp_path}/srv/data"
    assert within(str(tmp_path), "/") == str(tmp_path)
    for path, why in (
        ("/home/x", "link to /data/home"),
        ("/file", "no folder"),
        ("/none", "No such"),
        ("/srv/../etc", "no .."),
    ):
        with pytest.raises(RefusedError, match=why):
            within(str(tmp_path), path)


def test_rules_that_leave_a_mount_out() -> None:
    assert leaves_out(["- /home/"], "/", "/home")
    assert leaves_out(["- /home"], "/", "/home")
    assert leaves_out(["- /kiosk/***"], "/home", "/home/kiosk")
    assert not leaves_out(["- /home/*", "+ /home"], "/", "/home")


def disk(**changes: object) -> Disk:
    part = Partition(1, 1 << 30, "p1", "ext4", "", 1 << 20)
    fields = {"excluded": "", "partitions": (part,), **changes}
    return Disk("sda", 1 << 31, 512, "S1", "", "", "sata", False, table_digest="x", **fields)  # type: ignore[arg-type]


def test_the_disk() -> None:
    order = Sync("t", "lab", "/", disk="S1")
    assert find_disk(order, [disk()]).serial == "S1"
    for disks, why in (
        ([], "0 disks"),
        ([disk(), disk()], "2 disks"),
        ([disk(excluded="mounted at /")], "excluded: mounted"),
    ):
        with pytest.raises(RefusedError, match=why):
            find_disk(order, disks)
    with pytest.raises(RefusedError, match="0 disks are named"):
        find_disk(Sync("t", "lab", "/"), [disk()])


def test_a_lock_holds_its_partition_but_reading_is_free() -> None:
    lock = Lock("S1", 1, "p1", "root", "exam")
    one = disk()
    for order, is_refused in (
        (Sync("t", "lab", "/", locks=(lock,)), True),
        (Sync("t", "lab", "/", locks=(lock,), dry=True), False),
        (Sync("t", "lab", "/", locks=(lock,), collect=True), False),
    ):
        if is_refused:
            with pytest.raises(RefusedError, match="locked by root: exam"):
                places._judge(order, one, one.partitions[0], [one])
        else:
            places._judge(order, one, one.partitions[0], [one])


def test_the_root_of_a_running_system() -> None:
    with pytest.raises(RefusedError, match="whole_system"), running(Sync("t", "lab", "/"), list):
        pass
    with (
        pytest.raises(RefusedError, match="cannot be swapped"),
        running(Sync("t", "lab", "/", whole=True, staged=True), list),
    ):
        pass
    with running(Sync("t", "lab", "/", whole=True, dry=True), list) as place:
        assert place.folder == "/"
        assert "/proc" in place.foreign
    with pytest.raises(RefusedError, match="not this machine's"), running(Sync("t", "lab", "/proc/sys"), list):
        pass
