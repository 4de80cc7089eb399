"""Lines of fstab(5) and of mountinfo in proc(5)."""

from bootd.wire.mounts import Entry, Mounted, escape, normal, parse_fstab, parse_mountinfo, unescape

FSTAB = r"""# <file system> <mount point> <type> <options> <dump> <pass>
UUID=aaaa-bbbb /home//users/ ext4 noatime 0 2
  # indented
/dev/sda5 none swap sw 0 0
UUID=2222 / ext4   # a comment
LABEL=a#b /mnt/my\040share	ext4 ro
short /one
"""
# As /proc/self/mountinfo of a Debian 12 has them.
MOUNTINFO = r"""22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
97 28 0:52 / /srv/nfs\040share rw,relatime shared:54 - nfs4 10.0.0.1:/x rw
99 28 254:3 /a\134b /srv/data rw,relatime - xfs /dev/vda3 rw
broken
"""


def test_fstab() -> None:
    assert parse_fstab(FSTAB) == [
        Entry("UUID=aaaa-bbbb", "/home/users", "ext4", "noatime"),
        Entry("/dev/sda5", "none", "swap", "sw"),
        Entry("UUID=2222", "/", "ext4", "defaults"),
        Entry("LABEL=a#b", "/mnt/my share", "ext4", "ro"),
    ]


def test_mountinfo() -> None:
    found = parse_mountinfo(MOUNTINFO)
    assert len(found) == 4
    assert found[2] == Mounted("/srv/nfs share", "0:52", "/", "nfs4", "10.0.0.1:/x")
    assert found[3].inner == "/a\\b"


def test_escapes_go_both_ways() -> None:
    assert unescape(r"/a\040b\134\011") == "/a b\\\t"
    assert escape("/a b\\\t#") == r"/a\040b\134\011\043"


def test_normal() -> None:
    assert [normal(point) for point in ("/", "//", "//a/./b/", "none")] == ["/", "/", "/a/b", "none"]
    assert normal("/a/../b") == "/b"
    assert normal("/../../run") == "/run", "an fstab never leads out of the tree that it is in"
