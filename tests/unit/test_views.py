"""Which file systems of a running system can be read at one moment, and how: mount tables as machines have them."""

from dataclasses import replace

import pytest

from bootd.wire.mounts import parse_fstab, parse_mountinfo
from stage2 import snapshots
from stage2.snapshots import Volume
from stage2.used_blocks import RefusedError
from stage2.views import choose

GIB = 1 << 30
EXTENT = 4 << 20
# A Debian 12 as its installer makes it with "guided, LVM, separate /home", on UEFI; a USB stick; a container.
MOUNTS = r"""23 29 0:21 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
24 29 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:14 - proc proc rw
29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/mapper/lab--vg-root rw,errors=remount-ro
45 29 254:2 / /home rw,relatime shared:31 - ext4 /dev/mapper/lab--vg-home rw
48 29 259:2 / /boot rw,relatime shared:33 - ext2 /dev/nvme0n1p2 rw
51 48 259:1 / /boot/efi rw,relatime shared:35 - vfat /dev/nvme0n1p1 rw,fmask=0077,dmask=0077
60 29 8:1 / /media/eva/a\040stick rw,nosuid,nodev - ext4 /dev/sda1 rw
61 29 254:0 /srv/data /var/lib/data rw,relatime shared:1 - ext4 /dev/mapper/lab--vg-root rw,errors=remount-ro
62 29 0:50 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
"""
FSTAB = """# <file system> <mount point> <type> <options> <dump> <pass>
/dev/mapper/lab--vg-root / ext4 errors=remount-ro 0 1
UUID=4b1d /boot ext2 defaults 0 2
UUID=7E0A-1 /boot/efi vfat umask=0077 0 1
/dev/mapper/lab--vg-home /home ext4 defaults 0 2
/dev/mapper/lab--vg-swap_1 none swap sw 0 0
/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0
server:/export /net nfs defaults 0 0
"""
ROOT = Volume("lab-vg", "root", 28 * GIB, "254:0", 1024, EXTENT, False, "", ("",), 0.0, False)
HOME = replace(ROOT, name="home", size=84 * GIB, number="254:2")
SWAP = replace(ROOT, name="swap_1", size=GIB, number="254:1")


def test_a_debian_on_lvm_with_boot_and_efi() -> None:
    views, notes = choose(parse_mountinfo(MOUNTS), parse_fstab(FSTAB), [ROOT, SWAP, HOME])
    assert [(view.mounted.point, view.volume.name if view.volume else "", view.is_still) for view in views] == [
        ("/", "root", False),
        ("/boot", "", True),
        ("/boot/efi", "", True),
        ("/home", "home", False),
    ]
    # 4 GiB are free: a quarter of what is there is /'s.
    assert [view.extents for view in views] == [256, 0, 0, 768]
    assert [view.options for view in views][:3] == ["errors=remount-ro", "defaults", "umask=0077"]
    assert notes == [
        "/media/cdrom0 is not mounted: left out",
        "/media/eva/a stick (ext4 on /dev/sda1) is not in fstab: left out",
    ]


@pytest.mark.parametrize(
    ("mounts", "volumes", "why"),
    [
        (MOUNTS, [replace(ROOT, free=0), replace(HOME, free=0)], "has 0 MB free"),
        (MOUNTS, [replace(ROOT, free=200), replace(HOME, free=200)], "too little to keep what is written"),
        (MOUNTS, [], "/ is ext4 on /dev/mapper/lab--vg-root, of which there can be no snapshot"),
        (
            MOUNTS.replace("/dev/mapper/lab--vg-root rw,errors", "overlay rw,errors", 1),
            [ROOT, HOME],
            "no disk of this",
        ),
        (MOUNTS.replace(" - ext2", " - f2fs"), [ROOT, HOME], "/boot: files of f2fs"),
        (MOUNTS.replace("259:2 / /boot", "259:2 /old /boot"), [ROOT, HOME], "/boot is the folder /old of"),
    ],
)
def test_what_cannot_be_read_at_one_moment_is_refused(mounts: str, volumes: list[Volume], why: str) -> None:
    with pytest.raises(RefusedError, match=why) as error:
        choose(parse_mountinfo(mounts), parse_fstab(FSTAB), volumes)
    if "f2fs" not in why:
        assert "stage2" in str(error.value), "it says what to do"


def test_a_thin_volume_needs_no_room_of_its_group() -> None:
    thin = replace(ROOT, thin=True, free=0)
    lines = parse_fstab("/dev/mapper/lab--vg-root / ext4 defaults 0 1\n")
    views, _ = choose(parse_mountinfo(MOUNTS), lines, [thin])
    assert [(view.mounted.point, view.extents) for view in views] == [("/", 0)]


def test_room_is_never_more_than_all_of_it_overwritten() -> None:
    small = replace(ROOT, size=GIB, free=100_000)
    assert snapshots.room(small, [small]) == GIB // EXTENT * 102 // 100 + 2


@pytest.mark.parametrize(
    ("name", "tags", "origin", "ours"),
    [
        ("bootd-backup-00aa-0", ("bootd-backup",), "root", True),
        ("bootd-backup-00aa-0", ("x", "bootd-backup"), "root", True),
        ("bootd-backup-00aa-0", ("",), "root", False),
        ("bootd-backup-00aa-0", ("bootd-backup",), "", False),
        ("before-upgrade", ("bootd-backup",), "root", False),
    ],
)
def test_only_what_is_surely_ours_is_ever_removed(
    name: str, tags: tuple[str, ...], origin: str, ours: bool
) -> None:
    assert replace(ROOT, name=name, tags=tags, origin=origin).is_ours is ours
