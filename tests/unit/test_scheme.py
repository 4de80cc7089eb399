"""Schemes: KA's desc, the TOML form, and where they go; the seeds' own examples word for word."""

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from bootd.cli.main import cli
from bootd.errors import Exit, OperatorError
from bootd.wire.control import Disk, Partition
from bootd.wire.errors import PeerProtocolError
from bootd.wire.scheme import desc, encoding, text
from bootd.wire.scheme.describing import describe, of_inventory
from bootd.wire.scheme.fitting import Bare, Fitted, Misfit, fit
from bootd.wire.scheme.model import FILL, MIB, Content, Scheme, SchemeError
from bootd.wire.scheme.rows import rows

GIB = 1 << 30
MANUAL = "linux 3500\nextended fill\nlogical swap 500\nlogical linux fill\n"
NODE42 = "swap 7993\nlinux 29996\nextended 38326\nlogical linux 38326\n"
NODE42_BY_HAND = "swap 7993\nlinux 29996\nextended fill\nlogical linux fill\n"
BUG = """swap 509
linux 5992
extended 71657
logical linux 52281
logical linux 19375
logical linux 78167
logical linux 156327
"""
BUG_BY_HAND = """swap 509
linux 5992
extended fill
logical linux 52281
logical linux 19375
logical linux 78167
logical linux fill
"""


def fitted(scheme: Scheme, size: int, firmware: str = "bios", sector: int = 512) -> Fitted:
    answer = fit(scheme, [Bare(size, sector)], firmware)
    assert isinstance(answer, Fitted), answer
    return answer


def why(scheme: Scheme, size: int, firmware: str = "bios") -> str:
    answer = fit(scheme, [Bare(size)] * scheme.disks, firmware)
    assert isinstance(answer, Misfit)
    return answer.reason


# --- desc -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [MANUAL, NODE42, NODE42_BY_HAND, BUG_BY_HAND])
def test_desc_files_of_the_manual_there_and_back(written: str) -> None:
    scheme = text.parse(written)
    assert desc.format_desc(scheme) == written
    assert text.parse(text.format_toml(scheme)) == scheme
    assert encoding.decode(encoding.encode(scheme)) == scheme


def test_the_known_bug_is_named_with_its_line_and_cured() -> None:
    with pytest.raises(
        SchemeError, match=r"^line 3: the logical partitions need 306150 MiB, the extended one has 716"
    ):
        text.parse(BUG)
    assert desc.format_desc(text.parse(BUG, mend=True)) == BUG_BY_HAND
    for sound in (MANUAL, NODE42):
        assert desc.format_desc(text.parse(sound, mend=True)) == sound


def test_types_by_number() -> None:
    """ "linux is the same as type83" (ka-d manual)."""
    scheme = text.parse("type83 10\ntype82 10\ntype0c 10\ntype5 fill\nlogical type7 fill\n")
    assert [one.kind for one in scheme.partitions] == ["linux", "swap", "type", "extended", "type"]
    types = {entry.number: entry.type for entry in fitted(scheme, GIB).tables[0].entries}
    assert types == {1: "83", 2: "82", 3: "c", 4: "5", 5: "7"}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "there are no partitions"),
        ("linux 10\nlinux\n", "line 2: 'linux': say"),
        ("linux 10M\n", "line 1: size '10M': megabytes"),
        ("linux -5\n", "line 1: size '-5'"),
        ("linux 0\n", "line 1: a size of 0"),
        ("# all\n\nreiserfs 10\n", "line 3: reiserfs: say linux"),
        ("type 10\n", "line 1: type: say"),
        ("type0 10\n", "line 1: type 0 is"),
        ("type833 10\n", "line 1: 'type833 10': say"),
        ("linux83 10\n", "line 1: linux83: say"),
        ("logical linux 10\n", "line 1: a logical partition without"),
        ("linux 1\nlogical linux 10\nextended fill\n", "line 2: a logical partition before"),
        ("extended 5\nextended 6\n", "line 2: a disk has one extended"),
        ("extended fill\nlogical extended 6\n", "line 2: an extended partition is"),
        ("linux 99999999999999\n", "line 1: size"),
        ("Linux 10\n", "line 1: Linux: say"),
    ],
)
def test_desc_that_means_nothing(written: str, message: str) -> None:
    with pytest.raises(SchemeError) as caught:
        text.parse(written)
    assert str(caught.value).startswith(message), caught.value


def test_what_a_desc_cannot_say() -> None:
    scheme = text.parse('[[partition]]\nkind = "bios"\nsize = "1M"\n[[partition]]\nsize = "fill"\n')
    with pytest.raises(SchemeError, match="no word for kind bios"):
        desc.format_desc(scheme)


def test_file_systems_of_the_source_by_number() -> None:
    """As KA did with the fstab: node42's / on sda2, /home on sda5."""
    contents = {1: Content("ext4", mount="/no"), 2: Content("ext3", mount="/"), 5: Content("ext4", mount="/home")}
    scheme = desc.completed(text.parse(NODE42), contents)
    found = [(one.content.filesystem, one.content.mount) for one in scheme.partitions]
    assert found == [("swap", ""), ("ext3", "/"), ("", ""), ("ext4", "/home")]


# --- TOML -----------------------------------------------------------------------------------------------------

FULL = """
table = "gpt"
boot_code = "63oA"

[[partition]]
kind = "esp"
size = "512M"

[[partition]]
kind = "raid"
name = "r"
size = "1.5G"
disks = [0, 1]

[[partition]]
kind = "lvm"
name = "pv"
disk = 1
size = "fill"

[[array]]
name = "root"
level = "raid1"
members = ["r"]
filesystem = "xfs"
mount = "/"
label = "a \\"label\\""
options = "noatime,x-systemd.growfs"
make = ["-m", "reflink=0"]

[[group]]
name = "data"
members = ["pv"]

[[volume]]
name = "srv"
group = "data"
size = "fill"
filesystem = "btrfs"
mount = "/srv"
"""


def test_all_that_toml_can_say_there_and_back() -> None:
    scheme = text.parse(FULL)
    assert scheme.disks == 2
    assert scheme.partitions[1].size == 1536 * MIB
    assert scheme.partitions[0].content == Content("vfat", mount="/boot/efi", options="umask=0077")
    assert scheme.arrays[0].content.make == ("-m", "reflink=0")
    assert text.parse(text.format_toml(scheme)) == scheme
    assert encoding.decode(encoding.encode(scheme)) == scheme
    with pytest.raises(SchemeError, match="one disk without RAID"):
        desc.format_desc(scheme)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('level = "raid1"', 'level = "raid7"', "line 21: array: level 'raid7'"),
        ('level = "raid1"', 'level = "raid5"', "line 21: array: raid5 needs 3 members at least, there are 2"),
        ('members = ["r"]', 'members = ["x"]', "line 21: array: member 'x' is no partition of kind raid"),
        ('members = ["pv"]', 'members = ["pv", "pv"]', "line 31: group: member 'pv' is no"),
        ('members = ["pv"]', 'members = ["r"]', "line 31: group: member 'r' is no"),
        ('size = "1.5G"', "size = 1536", "line 9: partition: size: text"),
        ('size = "1.5G"', 'size = "15 parsecs"', "line 9: partition: size '15 parsecs'"),
        ('name = "pv"\n', 'name = "pv"\nmuont = "/"\n', "line 15: partition: 'muont' is not known"),
        ('mount = "/srv"', 'mount = "/"', "line 35: volume: two file systems at /"),
        ('mount = "/srv"', 'mount = "/srv/../etc"', "line 35: volume: mount point '/srv/../etc'"),
        ('mount = "/srv"', 'mount = "srv"', "line 35: volume: mount point 'srv'"),
        ('filesystem = "btrfs"', 'filesystem = "reiserfs"', "line 35: volume: file system 'reiserfs'"),
        ('"reflink=0"', '"/dev/sda"', "line 21: array: words for mkfs"),
        ('"noatime,x-systemd.growfs"', '"noatime errors"', "line 21: array: mount options"),
        ('name = "srv"', 'name = "pvmove0"', "line 35: volume: LVM keeps the name"),
        ('name = "srv"', 'name = "-rf"', "line 35: volume: name '-rf'"),
        ('group = "data"', 'group = "date"', "line 35: volume: there is no group 'date'"),
        ('label = "a \\"label\\""', 'label = "thirteen char"', "line 21: array: label"),
        ("disks = [0, 1]", "disks = [0, 17]", "line 9: partition: disks [0, 17]"),
        ("disks = [0, 1]", "disks = [0, 0]", "line 9: partition: disks [0, 0]"),
        ("disk = 1", "disk = 3", "nothing is made on disk 2"),
        ("disk = 1", "disk = true", "line 15: partition: disks: a list"),
        ('kind = "esp"', 'kind = "esp"\nfilesystem = "ext4"', "line 5: partition: an EFI system partition has"),
        ('kind = "esp"', 'kind = "swap"\nfilesystem = "ext4"', "line 5: partition: kind and file system swap"),
        ('table = "gpt"', 'table = "bsd"', "table 'bsd': say one of auto, dos, gpt"),
        ('boot_code = "63oA"', 'boot_code = "not base64"', "boot_code: base64"),
        ('table = "gpt"', 'tabel = "gpt"', "'tabel' is not known"),
        ('name = "root"', 'name = "r"', "line 21: array: the name 'r' stands for something else"),
        ('table = "gpt"', "table = gpt", "TOML: Invalid value (at line 2, column 9)"),
    ],
)
def test_errors_name_the_line(old: str, new: str, message: str) -> None:
    assert old in FULL
    with pytest.raises(SchemeError) as caught:
        text.parse(FULL.replace(old, new, 1))
    assert str(caught.value).startswith(message), caught.value


def test_what_is_sent_is_judged_as_strictly() -> None:
    good = json.loads(encoding.encode(text.parse(FULL)))
    for broken in (
        b"[]",
        b"{",
        b"[" * 100_000,
        json.dumps({**good, "version": 2}).encode(),
        json.dumps({**good, "more": 1}).encode(),
        json.dumps({**good, "partition": good["partition"] * 100}).encode(),
        json.dumps({**good, "partition": [1]}).encode(),
        json.dumps({**good, "array": {}}).encode(),
        b" " * (encoding.MAX_SCHEME + 1),
    ):
        with pytest.raises(PeerProtocolError):
            encoding.decode(broken)


# --- fitting --------------------------------------------------------------------------------------------------


def test_fill_with_nothing_left() -> None:
    scheme = text.parse("linux 1000\nlinux fill\n")
    assert fitted(scheme, 1002 * MIB).tables[0].entries[1].size == 2048
    assert why(scheme, 1001 * MIB) == "disk 0 has room for 1000 MiB, the layout needs 1001 MiB: 1 MiB too little"
    assert "too little" in why(scheme, 0)
    exact = text.parse("linux 1000\n")
    assert fitted(exact, 1001 * MIB)
    assert why(exact, 1001 * MIB - 512).endswith("1 MiB too little")


def test_several_that_fill_share() -> None:
    sizes = [entry.size // 2048 for entry in fitted(text.parse("linux fill\n" * 3), 101 * MIB).tables[0].entries]
    assert sizes == [33, 33, 34]


def test_a_table_that_the_firmware_can_boot() -> None:
    scheme = text.parse('[[partition]]\nsize = "fill"\nmount = "/"\n')
    assert [fitted(scheme, size, how).tables[0].label for size, how in ((GIB, "bios"), (GIB, "uefi"))] == [
        "dos",
        "gpt",
    ]
    large = fitted(scheme, 3 << 40)
    assert large.tables[0].label == "gpt"
    assert [one.kind for one in large.partitions] == ["bios", "linux"]  # GRUB needs a place there
    assert fitted(scheme, 3 << 40, sector=4096).tables[0].label == "dos"
    five = text.parse("linux 10\n" * 5)
    assert fitted(five, GIB).tables[0].label == "gpt"
    dos = text.parse('table = "dos"\n' + '[[partition]]\nsize = "10M"\n' * 5)
    assert why(dos, GIB) == "there are 4 primary partitions at most, the layout has 5: make some logical"
    dos_uefi = text.parse('table = "dos"\n' + '[[partition]]\nsize = "10M"\n' * 4)
    assert "no number left for an EFI system partition" in why(dos_uefi, GIB, "uefi")
    assert [
        entry.type
        for entry in fitted(text.parse('table = "dos"\n[[partition]]\nsize = "10M"\n'), GIB, "uefi")
        .tables[0]
        .entries
    ] == ["83", "ef"]


def test_a_dos_table_of_a_disk_beyond_its_reach_uses_what_it_can_name() -> None:
    scheme = text.parse('table = "dos"\n[[partition]]\nsize = "fill"\n')
    (entry,) = fitted(scheme, 3 << 40).tables[0].entries
    assert entry.end <= 0xFFFFFFFF
    assert entry.size > 0xFFFFFFFF - 4096


def test_which_disks_get_a_boot_loader() -> None:
    scheme = text.parse(FULL)
    answer = fit(scheme, [Bare(4 * GIB), Bare(4 * GIB)], "bios")
    assert isinstance(answer, Fitted)
    assert answer.boot == (0, 1)
    other = text.parse(FULL.replace('mount = "/"', 'mount = "/var"'))
    answer = fit(other, [Bare(4 * GIB), Bare(4 * GIB)], "bios")
    assert isinstance(answer, Fitted)
    assert answer.boot == (0,)


def test_too_small_for_a_file_system() -> None:
    scheme = text.parse('[[partition]]\nsize = "200M"\nfilesystem = "xfs"\nmount = "/"\n')
    assert why(scheme, GIB) == "partition 1 has 200 MiB, xfs needs 300: 100 MiB too little"


def test_a_group_too_small_for_its_volumes() -> None:
    scheme = text.parse(
        '[[partition]]\nkind = "lvm"\nname = "pv"\nsize = "100M"\n[[group]]\nname = "g"\nmembers = ["pv"]\n'
        '[[volume]]\nname = "a"\ngroup = "g"\nsize = "90M"\n[[volume]]\nname = "b"\ngroup = "g"\nsize = "fill"\n'
    )
    assert len(rows(fitted(scheme, GIB))) == 3
    larger = text.parse(text.format_toml(scheme).replace('"90M"', '"97M"'))
    assert why(larger, GIB) == "group g has 96 MiB, its volumes need 104: 8 MiB too little"


def test_as_many_partitions_as_a_gpt_has() -> None:
    scheme = text.parse("linux 10\n" * 128)
    esp = text.parse('[[partition]]\nkind = "esp"\nsize = "50M"\n').partitions
    assert len(fitted(Scheme((*esp, *scheme.partitions[1:])), 2 * GIB, "uefi").partitions) == 128
    assert why(scheme, 2 * GIB, "uefi") == "a gpt has 128 partitions, and the firmware needs one more"
    with pytest.raises(SchemeError, match="more than 128"):
        text.parse("linux 10\n" * 129)


def test_the_wrong_number_of_disks() -> None:
    assert fit(text.parse(FULL), [Bare(GIB)], "bios") == Misfit("the layout is for 2 disks, there are 1")


# --- from disks -----------------------------------------------------------------------------------------------

NODE42_TABLE = """label: dos
label-id: 0xd9f7b576
1 : start=63, size=16370172, type=82, bootable
2 : start=16370235, size=61432560, type=83
3 : start=77802795, size=78493590, type=5
5 : start=77802858, size=78493527, type=83
"""


def test_the_disk_of_node42_gives_what_its_owner_wrote_by_hand(tmp_path: Path) -> None:
    """The seeds show ``fdisk -l`` of this disk, what fdisk_to_desc made of it, and how it was put right."""
    disk = tmp_path / "sda"
    with disk.open("wb") as stream:
        stream.truncate(80026361856)
    subprocess.run(["sfdisk", "--quiet", disk], input=NODE42_TABLE.encode(), check=True)

    def run(words: object) -> str:
        program, *rest = list(words)  # type: ignore[call-overload]
        if program == "lsblk":
            return json.dumps({"blockdevices": [{"path": str(disk), "type": "disk", "kname": "sda"}]})
        done = subprocess.run([program, *rest], capture_output=True, text=True, check=False)
        return done.stdout if program == "sfdisk" else ""

    derived = describe(run, [str(disk)])
    assert desc.format_desc(derived.scheme) == NODE42_BY_HAND


TWO_DISKS_TABLE = """{"partitiontable": {"label": "gpt", "id": "6D9F7A52-0D0C-4F7F-9F42-B007D0000001",
"unit": "sectors", "sectorsize": 512, "device": "/dev/DISK", "partitions": [
{"node": "/dev/DISK1", "start": 2048, "size": 2097152, "type": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
 "uuid": "6D9F7A52-0000-4F7F-9F42-B007D0000001"},
{"node": "/dev/DISK2", "start": 2099200, "size": 18870272, "type": "A19D880F-05FC-4D3B-A006-743F0F84911E",
 "uuid": "6D9F7A52-0000-4F7F-9F42-B007D0000002"}]}}"""


def _block(
    path: str, kind: str, size: int, filesystem: str = "", children: object = (), **more: object
) -> dict[str, object]:
    name = str(more.pop("name", path.removeprefix("/dev/")))
    known = {"path": path, "name": name, "kname": name, "type": kind, "size": size, "fstype": filesystem}
    return {**known, "children": children, "mountpoints": [], **more}


def test_lvm_on_raid_over_two_disks_comes_along() -> None:
    """As lsblk shows a volume group ``my-vg`` on an array: the array below each of its members, twice."""
    volumes = [
        _block("/dev/mapper/my--vg-root", "lvm", 5 * GIB, "btrfs", name="my--vg-root", uuid="U-1"),
        _block("/dev/mapper/my--vg-swap_1", "lvm", 4 * GIB - 64 * MIB, "swap", name="my--vg-swap_1", uuid="U-2"),
    ]
    array = _block("/dev/md127", "raid1", 9 * GIB - 16 * MIB, "LVM2_member", volumes)
    disks = [
        _block(
            f"/dev/{name}",
            "disk",
            10 * GIB,
            children=[
                _block(f"/dev/{name}1", "part", GIB, filesystem, uuid=f"U-{name}"),
                _block(f"/dev/{name}2", "part", 9 * GIB, "linux_raid_member", [array]),
            ],
        )
        for name, filesystem in (("sda", "ext4"), ("sdb", "crypto_LUKS"))
    ]
    fstab = "UUID=U-sda /boot ext4 defaults 0 2\n/dev/mapper/my--vg-root / btrfs subvol=@,noatime 0 0\n"
    fstab += "UUID=U-1 /home btrfs subvol=@home 0 0\n/dev/my-vg/swap_1 none swap sw 0 0\n"

    def run(words: object) -> str:
        program, *rest = list(words)  # type: ignore[call-overload]
        if program == "lsblk":
            return json.dumps({"blockdevices": disks})
        if program == "sfdisk":
            return TWO_DISKS_TABLE.replace("/dev/DISK", rest[-1])
        return "MD_LEVEL=raid1\nMD_NAME=golden:system\n" if program == "mdadm" else ""

    derived = describe(run, ["/dev/sda"], fstab)
    scheme = derived.scheme
    assert scheme.disks == 2
    assert [(one.name, one.level, one.members) for one in scheme.arrays] == [("system", "raid1", ("system.raid",))]
    assert [(one.name, one.members) for one in scheme.groups] == [("my-vg", ("system",))]
    assert [(one.name, one.size, one.content) for one in scheme.volumes] == [
        ("root", FILL, Content("btrfs", mount="/", options="noatime")),
        ("swap_1", 4 * GIB - 64 * MIB, Content("swap")),
    ]
    assert [(one.disks, one.kind, one.content.mount) for one in scheme.partitions] == [
        ((0,), "linux", "/boot"),
        ((0,), "raid", ""),
        ((1,), "linux", ""),
        ((1,), "raid", ""),
    ]
    assert [note.partition(":")[0] for note in derived.notes] == ["mapper/my--vg-root", "sdb1"]
    assert isinstance(fit(scheme, [Bare(80 * GIB), Bare(60 * GIB)], "uefi"), Fitted)
    assert text.parse(text.format_toml(scheme)) == scheme


def test_of_what_a_node_has_shown() -> None:
    partitions = (
        Partition(2, 20 * GIB, "", "ext4", "root", 513 * MIB, "0fc63daf-8483-4772-8e79-3d69d8477de4"),
        Partition(1, 512 * MIB, "", "vfat", "", MIB, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
        Partition(3, 9 * GIB, "", "ntfs", "", 21 * GIB, "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"),
    )
    derived = of_inventory(Disk("sda", 40 * GIB, 512, "S1", "", "", "", False, "", "", partitions))
    kinds = [(one.kind, one.size, one.content.filesystem) for one in derived.scheme.partitions]
    assert kinds == [("esp", 512 * MIB, "vfat"), ("linux", 20 * GIB, "ext4"), ("type", FILL, "")]
    assert any("ntfs is not made" in note for note in derived.notes)
    assert text.parse(text.format_toml(derived.scheme)) == derived.scheme


# --- the command ----------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "desc"
    file.write_text(BUG)
    runner = CliRunner()
    done = runner.invoke(cli, ["layout", "check", str(file)])
    assert isinstance(done.exception, OperatorError)
    assert done.exception.code is Exit.INPUT
    assert "line 3: the logical partitions need 306150 MiB" in str(done.exception)
    done = runner.invoke(cli, ["layout", "check", str(file), "--mend"])
    assert isinstance(done.exception, OperatorError)
    assert done.exception.code is Exit.REFUSED
    assert "54439 MiB too little" in str(done.exception)
    done = runner.invoke(cli, ["layout", "convert", str(file), "--mend", "--form", "desc"], catch_exceptions=False)
    assert done.output == BUG_BY_HAND
    words = ["layout", "check", str(file), "--mend", "--disk-size", "320G", "--firmware", "bios", "--json"]
    shown = json.loads(runner.invoke(cli, words, catch_exceptions=False).output)
    assert shown["tables"] == ["dos"]
    assert [row["number"] for row in shown["rows"]] == [1, 2, 3, 5, 6, 7, 8]
    assert shown["rows"][3]["size"] == 52281 * MIB
    plain = runner.invoke(cli, [*words[:-1]], catch_exceptions=False).output
    assert "52281 MiB" in plain
    assert "active" in plain


def test_boot_code_of_a_file(tmp_path: Path) -> None:
    """446 bytes, as ``ka-d.sh -M`` wants them; all else is refused."""
    file, code = tmp_path / "desc", tmp_path / "mbr"
    file.write_text(MANUAL)
    code.write_bytes(bytes(range(256)) + bytes(190))
    done = CliRunner().invoke(
        cli, ["layout", "convert", str(file), "--boot-code", str(code)], catch_exceptions=False
    )
    assert text.parse(done.output).boot_code == code.read_bytes()
    code.write_bytes(b"short")
    done = CliRunner().invoke(cli, ["layout", "convert", str(file), "--boot-code", str(code)])
    assert isinstance(done.exception, OperatorError)
    assert "440 to 446 bytes" in str(done.exception)
