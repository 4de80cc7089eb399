"""Trees of files on the server: orders and their encoding, layouts derived from a source, which disk it is."""

import json
from dataclasses import replace

import pytest

from bootd.session import selector, trees
from bootd.session.effects import FilesOrder
from bootd.session.selector import Refusal
from bootd.wire import tree as wire
from bootd.wire.control import FILES, Disk, Join, Partition
from bootd.wire.errors import PeerProtocolError
from bootd.wire.scheme import encoding, text
from bootd.wire.scheme.model import FILL
from bootd.wire.tree import Mount, Tree

GIB, MIB = 1 << 30, 1 << 20
SEED = Tree(  # the golden node of KA's manual: 789 MB of files
    (
        Mount("/", "ext3", 8 * GIB, 700 * MIB, 30_000, "aaaa", "", "relatime", "", "/dev/sda2"),
        Mount("/home", "ext4", 4 * GIB, 89 * MIB, 900, "bbbb", "", "relatime", "", "/dev/sda5"),
        Mount("", "swap", 512 * MIB, 0, 0, "cccc", "", "defaults", "", "/dev/sda1"),
    )
)
DESC = "swap 512\nlinux 8000\nextended fill\nlogical linux fill\n"


def join(size: int = 40 * GIB, *, partitions: tuple[Partition, ...] = (), serial: str = "S1") -> Join:
    disk = Disk("sda", size, 512, serial, "", "", "sata", False, "", "00" * 32, partitions)
    return Join(
        "52:54:00:00:00:01", "", "x86_64", "bios", "10.0.0.1", "", "ka", 1 << 30, (disk,), abilities=(FILES,)
    )


def order(layout: str = DESC, **more: object) -> FilesOrder:
    return trees.make_order(SEED, text.parse(layout), "desc", **more)  # type: ignore[arg-type] # its own keywords


def choose(files: FilesOrder, seen: Join, **more: Disk) -> Disk | Refusal:
    written = [more["written"]] if "written" in more else []
    found = trees.choose_disks(seen, [selector.parse("only")], files, (), size=MIB, written=written)
    return found if isinstance(found, Refusal) else found[0]


def test_a_desc_gets_file_systems_and_places_of_the_source_by_number() -> None:
    found = encoding.decode(wire.decode(order().document.encode()).scheme)
    contents = [(one.content.filesystem, one.content.mount) for one in found.partitions]
    assert contents == [("swap", ""), ("ext3", "/"), ("", ""), ("ext4", "/home")]


def test_a_desc_that_says_not_where_the_root_is() -> None:
    with pytest.raises(trees.TreeError, match="cannot be told"):
        trees.make_order(
            replace(SEED, mounts=(replace(SEED.mounts[0], device=""),)), text.parse("linux 900\nlinux fill"), "x"
        )
    one = trees.make_order(Tree((Mount("/", "", 0, MIB, 1),)), text.parse("swap 9\nlinux fill"), "x")
    scheme = encoding.decode(wire.decode(one.document.encode()).scheme)
    assert [(part.content.filesystem, part.content.mount) for part in scheme.partitions] == [
        ("swap", ""),
        ("ext4", "/"),
    ]


def test_the_layout_of_the_source() -> None:
    found = trees.scheme_of(SEED)
    assert [(one.content.mount, one.content.filesystem, one.size) for one in found.partitions] == [
        ("/home", "ext4", 4 * GIB),
        ("", "swap", 512 * MIB),
        ("/", "ext3", FILL),
    ]


def test_which_disk_and_why_not() -> None:
    empty, full = join(), join(partitions=(Partition(1, GIB, "", "ext4", ""),))
    assert choose(order(), empty) == empty.disks[0]
    for files, seen, words in (
        (order(), full, "not empty"),
        (order(erase=("S2",)), full, "not empty"),
        (order(protect=("S1",)), empty, "--protect-disk"),
        (order(protect=("sda",)), empty, "--protect-disk"),
        (
            order(protect=("sda",), erase=("S1",)),
            join(serial="", partitions=full.disks[0].partitions),
            "every disk",
        ),
        (order(), join(8 * GIB), "sda: "),
        (order("swap 512\nlinux 600\nextended fill\nlogical linux fill"), empty, "takes 734003200"),
    ):
        refused = choose(files, seen)
        assert isinstance(refused, Refusal)
        assert words in refused.reason, refused.reason
    assert choose(order(erase=("S1",)), full) == full.disks[0]
    assert choose(order(), full, written=full.disks[0]) == full.disks[0]
    other = replace(full.disks[0], serial="S9")
    assert isinstance(choose(order(), full, written=other), Refusal), "only the disk that was begun, no other"


def test_encoded_and_back() -> None:
    made = order(exclude=("/tmp",), modules=("ata_piix",), hooks=(("10-name", "#!/bin/sh\n"),), skip=("seeds",))
    data = made.document.encode()
    assert wire.digest(data) == made.digest
    back = wire.decode(data)
    assert back.tree == SEED
    assert (back.exclude, back.modules, back.skip) == (("/tmp",), ("ata_piix",), ("seeds",))
    assert wire.encode(back) == data


@pytest.mark.parametrize(
    "change",
    [
        {"exclude": ["tmp"]},
        {"exclude": ["/a/../b"]},
        {"exclude": ["//x"]},
        {"loader": "lilo"},
        {"hooks": [["name"]]},
        {"tree": {"mounts": []}},
        {"tree": {"mounts": [{"path": "/x", "kind": "ext4", "size": 0, "used": 0, "files": 0}]}},
        {"tree": {"mounts": [{"path": "/", "kind": "ext4", "size": -1, "used": 0, "files": 0}]}},
        {"tree": 5},
        {"modules": "ata"},
    ],
)
def test_what_is_no_order(change: dict[str, object]) -> None:
    line, _, scheme = order().document.encode().partition(b"\n")
    value = json.loads(line)
    value["order"].update(change)
    with pytest.raises(PeerProtocolError):
        wire.decode(json.dumps(value).encode() + b"\n" + scheme)


def test_bytes_that_are_no_order() -> None:
    data = order().document.encode()
    for index in range(0, data.index(b"\n"), 7):
        with pytest.raises(PeerProtocolError):
            wire.decode(data[:index])
