"""fstab and crypttab as distributions write them, for the file systems of another disk."""

import shutil
import subprocess
from pathlib import Path

import pytest

from stage2.customise.fstab import MARK, rewrite_crypttab, rewrite_fstab
from stage2.made import SWAP, Filesystem

ROOT = Filesystem("/dev/sda2", "ext4", "11111111-2222-4333-8444-555555555555", "", "/")
HOME = Filesystem("/dev/sda4", "ext4", "22222222-2222-4333-8444-555555555555", "", "/home")
ESP = Filesystem("/dev/sda1", "vfat", "ABCD-0001", "", "/boot/efi")
SPACE = Filesystem("/dev/sda3", SWAP, "33333333-2222-4333-8444-555555555555", "", "")
BTRFS = Filesystem("/dev/sda2", "btrfs", "44444444-2222-4333-8444-555555555555", "", "/")
BOOT = Filesystem("/dev/sda5", "ext4", "55555555-2222-4333-8444-555555555555", "", "/boot")

# As debian-installer leaves it.
DEBIAN = """\
# /etc/fstab: static file system information.
#
# Use 'blkid' to print the universally unique identifier for a
# device; this may be used with UUID= as a more robust way to name devices
# that works even if disks are added and removed. See fstab(5).
#
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
# / was on /dev/vda2 during installation
UUID=0f6eb4c1-5ef5-4e8c-a9dd-1ab6df3ed4ba /               ext4    errors=remount-ro 0       1
# /boot/efi was on /dev/vda1 during installation
UUID=5C1E-9B7D  /boot/efi       vfat    umask=0077      0       1
# swap was on /dev/vda3 during installation
UUID=7f8bb6a3-1b36-4a5b-8c53-6d6f7d1a9f10 none            swap    sw              0       0
/dev/sr0        /media/cdrom0   udf,iso9660 user,noauto     0       0
"""
DEBIAN_FRESH = (
    DEBIAN.replace("0f6eb4c1-5ef5-4e8c-a9dd-1ab6df3ed4ba", ROOT.uuid)
    .replace("5C1E-9B7D", ESP.uuid)
    .replace("7f8bb6a3-1b36-4a5b-8c53-6d6f7d1a9f10", SPACE.uuid)
)
# Ubuntu with LVM: by-id links and a swap file.
UBUNTU = """\
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
# / was on /dev/ubuntu-vg/ubuntu-lv during curtin installation
/dev/disk/by-id/dm-uuid-LVM-x0bLDQkRU1Kd3mWQJ8vJ0bqX5f2N6wT9 / ext4 defaults 0 1
# /boot was on /dev/sda2 during curtin installation
/dev/disk/by-uuid/6b2b5e8b-54b3-4d7f-9f39-0a86ba6ad2a7 /boot ext4 defaults 0 1
/swap.img\tnone\tswap\tsw\t0\t0
"""
UBUNTU_FRESH = f"""\
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
# / was on /dev/ubuntu-vg/ubuntu-lv during curtin installation
UUID={ROOT.uuid} / ext4 defaults 0 1
# /boot was on /dev/sda2 during curtin installation
UUID={BOOT.uuid} /boot ext4 defaults 0 1
/swap.img\tnone\tswap\tsw\t0\t0
"""
# Fedora: two subvolumes of one btrfs, compression.
FEDORA = """\

#
# /etc/fstab
# Created by anaconda on Tue Apr 18 12:00:00 2023
#
UUID=2a8b1f0c-9f4f-4a6d-8d0c-6b2f0e1d7a55 /                       btrfs   subvol=root,compress=zstd:1 0 0
UUID=c3a9d1d2-5f7e-4a13-bd0f-a86d87f0c1b4 /boot                   ext4    defaults        1 2
UUID=2a8b1f0c-9f4f-4a6d-8d0c-6b2f0e1d7a55 /home                   btrfs   subvol=home,compress=zstd:1 0 0
"""
FEDORA_FRESH = f"""\

#
# /etc/fstab
# Created by anaconda on Tue Apr 18 12:00:00 2023
#
UUID={BTRFS.uuid} /                       btrfs   compress=zstd:1 0 0
UUID={BOOT.uuid} /boot                   ext4    defaults        1 2
{MARK}it is not a file system of its own on this node: UUID=2a8b1f0c-9f4f-4a6d-8d0c-6b2f0e1d7a55 /home\
                   btrfs   subvol=home,compress=zstd:1 0 0
"""
# Arch's genfstab, tabs, no newline at the end; btrfs to ext4: only what fits any kind stays.
ARCH = (
    "# Static information about the filesystems.\n\n# /dev/nvme0n1p2 LABEL=arch\n"
    "PARTUUID=8f3d1a55-02\t/         \tbtrfs     \trw,relatime,ssd,space_cache=v2,subvolid=256,subvol=/@\t0 0\n\n"
    "tmpfs\t/tmp\ttmpfs\tnosuid,nodev\t0 0\n/dev/nvme0n1p3\tnone\tswap\tdefaults\t0 0"
)
ARCH_FRESH = (
    "# Static information about the filesystems.\n\n# /dev/nvme0n1p2 LABEL=arch\n"
    f"UUID={ROOT.uuid}\t/         \text4     \trw,relatime\t0 1\n\n"
    f"tmpfs\t/tmp\ttmpfs\tnosuid,nodev\t0 0\nUUID={SPACE.uuid}\tnone\tswap\tdefaults\t0 0\n"
)
# What administrators add: binds, NFS, CIFS, spaces, labels in quotes, a trailing slash, left-out fields, nonsense.
ODD = r"""LABEL="my\040root"  /  ext4  errors=remount-ro
  /dev/sdb1   /home/   ext4  noatime,x-systemd.device-timeout=5s  0  2   # the big disk
/home/shared /srv/shared none bind 0 0
/dev/sdb1 /mnt/again none rbind 0 0
files.example.org:/export/work\040space /srv/work\040space nfs defaults,_netdev 0 0
//nas/share /srv/nas cifs credentials=/root/.nas,nofail 0 0
UUID=9a7c-11 /media/my\040stick vfat noauto,user 0 0
sshfs#me@host: /srv/ssh fuse noauto 0 0
none /proc/sys/fs/binfmt_misc binfmt_misc defaults
/dev/zram0 none swap pri=100
nonsense line
"""
ODD_FRESH = rf"""UUID={ROOT.uuid}  /  ext4  errors=remount-ro
  UUID={HOME.uuid}   /home/   ext4  noatime,x-systemd.device-timeout=5s  0  2   # the big disk
/home/shared /srv/shared none bind 0 0
/dev/sdb1 /mnt/again none rbind 0 0
files.example.org:/export/work\040space /srv/work\040space nfs defaults,_netdev 0 0
//nas/share /srv/nas cifs credentials=/root/.nas,nofail 0 0
{MARK}it is not a file system of its own on this node: UUID=9a7c-11 /media/my\040stick vfat noauto,user 0 0
sshfs#me@host: /srv/ssh fuse noauto 0 0
none /proc/sys/fs/binfmt_misc binfmt_misc defaults
/dev/zram0 none swap pri=100
{MARK}not a line of fstab: nonsense line
"""
TABLES = [
    pytest.param(DEBIAN, (ROOT, ESP, SPACE), DEBIAN_FRESH, id="debian"),
    pytest.param(UBUNTU, (ROOT, BOOT), UBUNTU_FRESH, id="ubuntu"),
    pytest.param(FEDORA, (BTRFS, BOOT), FEDORA_FRESH, id="fedora"),
    pytest.param(ARCH, (ROOT, SPACE), ARCH_FRESH, id="arch"),
    pytest.param(ODD, (ROOT, HOME), ODD_FRESH, id="odd"),
]


@pytest.mark.parametrize(("text", "made", "expected"), TABLES)
def test_each_line_gets_the_file_system_of_its_mount_point(
    text: str, made: tuple[Filesystem, ...], expected: str
) -> None:
    fresh = rewrite_fstab(text, made)
    assert fresh.text == expected
    again = rewrite_fstab(fresh.text, made)
    assert again.text == fresh.text
    assert again.notes == ()


@pytest.mark.parametrize(("text", "made", "expected"), TABLES)
def test_util_linux_reads_the_same(text: str, made: tuple[Filesystem, ...], expected: str, tmp_path: Path) -> None:
    """libmount is the judge: what it finds for each mount point is what was made for it."""
    if shutil.which("findmnt") is None:
        pytest.skip("no findmnt")
    path = tmp_path / "fstab"
    path.write_text(rewrite_fstab(text, made).text)
    command = ["findmnt", "--fstab", "--tab-file", str(path), "--noheadings", "--raw", "-o", "SOURCE,TARGET,FSTYPE"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    rows = [line.split(" ") for line in done.stdout.splitlines()]
    for one in made:
        found = [row for row in rows if row[0] == f"UUID={one.uuid}"]
        assert [row[2] for row in found] == [one.kind], done.stdout
        assert one.kind == SWAP or found[0][1].rstrip("/") == one.mount.rstrip("/")


def test_what_is_new_is_added_and_what_is_gone_goes() -> None:
    fresh = rewrite_fstab("/dev/hda1 / ext3 defaults 1 1\n/dev/hda5 swap swap defaults 0 0", (ROOT, HOME, ESP))
    assert fresh.text == (
        f"UUID={ROOT.uuid} / ext4 defaults 1 1\n"
        f"{MARK}this node has no such swap space: /dev/hda5 swap swap defaults 0 0\n"
        f"UUID={ESP.uuid}\t/boot/efi\tvfat\tumask=0077\t0\t2\n"
        f"UUID={HOME.uuid}\t/home\text4\tdefaults\t0\t2\n"
    )
    assert ("/dev/hda1", f"UUID={ROOT.uuid}") in fresh.replaced
    assert rewrite_fstab(fresh.text, (ROOT, HOME, ESP)).text == fresh.text


def test_options_of_the_layout_win() -> None:
    home = Filesystem("/dev/sda4", "ext4", HOME.uuid, "", "/my home", "noatime,nodev")
    fresh = rewrite_fstab("UUID=1 /my\\040home ext4 defaults 0 2\n", (home,))
    assert fresh.text == f"UUID={HOME.uuid} /my\\040home ext4 noatime,nodev 0 2\n"
    top = Filesystem("/dev/sda2", "btrfs", BTRFS.uuid, "", "/", "noatime,subvol=@")
    assert (
        rewrite_fstab("/dev/sda2 / btrfs subvol=@ 0 0\n", (top,)).text == f"UUID={BTRFS.uuid} / btrfs noatime 0 0\n"
    )
    assert rewrite_fstab("", (home,)).text == f"UUID={HOME.uuid}\t/my\\040home\text4\tnoatime,nodev\t0\t2\n"


def test_one_mount_point_is_not_mounted_twice() -> None:
    fresh = rewrite_fstab("/dev/sda1 / ext4 defaults 0 1\nUUID=2 / ext4 ro 0 1\n", (ROOT,))
    assert fresh.text.splitlines()[1] == f"{MARK}there are two lines for one mount point: UUID=2 / ext4 ro 0 1"
    assert len(fresh.notes) == 1


def test_crypttab_forgets_devices_and_keeps_files() -> None:
    text = (
        "# <target name>\t<source device>\t<key file>\t<options>\n"
        "sda3_crypt UUID=5b1c0b7e-9d62-4d7a-b2d0-0a2a5f0f7c11 none luks,discard\n"
        "cswap\t/dev/sda5\t/dev/urandom\tswap,cipher=aes-xts-plain64\n"
        "vault /srv/vault.img none luks,noauto\n"
    )
    fresh = rewrite_crypttab(text)
    lines = fresh.text.splitlines()
    assert lines[0].startswith("# <target")
    assert lines[1] == f"{MARK}its device is not on this node: " + text.splitlines()[1]
    assert lines[2].startswith(MARK)
    assert lines[3] == "vault /srv/vault.img none luks,noauto"
    assert len(fresh.notes) == 2
    assert rewrite_crypttab(fresh.text).text == fresh.text
