"""Any scheme that fits a disk: no two partitions overlap, all aligned, inside, in order, as large as was asked."""

from hypothesis import given
from hypothesis import strategies as st

from bootd.wire.scheme import encoding, text
from bootd.wire.scheme.fitting import Bare, Fitted, Misfit, fit
from bootd.wire.scheme.model import EXTENDED, FILL, LVM, MIB, RAID, Array, Content, Group, Partition, Scheme, Volume
from bootd.wire.table import as_object, of_object

SIZES = st.one_of(st.just(FILL), st.integers(1, 4000).map(lambda count: count * MIB))
NOT_STACKED = st.sampled_from(["linux", "swap", "type", "esp"])


def _partition(kind: str, size: int, *, is_logical: bool = False, disk: int = 0) -> Partition:
    content = {"swap": Content("swap"), "esp": Content("vfat")}.get(kind, Content())
    return Partition(kind, size, content, type="7" if kind == "type" else "", is_logical=is_logical, disks=(disk,))


@st.composite
def schemes(draw: st.DrawFn) -> Scheme:
    """One disk or two, primary and logical partitions, perhaps an array and a group."""
    partitions: list[Partition] = []
    count = draw(st.integers(1, 2))
    for disk in range(count):
        own = [_partition(draw(NOT_STACKED), draw(SIZES), disk=disk) for _ in range(draw(st.integers(1, 4)))]
        if len(own) < 4 and draw(st.booleans()):
            inside = [
                _partition(draw(NOT_STACKED), draw(SIZES), is_logical=True, disk=disk)
                for _ in range(draw(st.integers(0, 6)))
            ]
            held = sum(one.size or MIB for one in inside)
            room = draw(st.sampled_from([FILL, max(held, MIB), held + 77 * MIB]))
            own += [Partition(EXTENDED, room, disks=(disk,)), *inside]
        partitions += own
    disks = tuple(range(count))
    arrays: tuple[Array, ...] = ()
    groups: tuple[Group, ...] = ()
    volumes: tuple[Volume, ...] = ()
    if count == 2 and draw(st.booleans()):
        partitions.insert(0, Partition(RAID, draw(SIZES), name="r", disks=disks))
        arrays = (Array("md", draw(st.sampled_from(["raid0", "raid1", "raid10", "linear"])), ("r",)),)
    if draw(st.booleans()) or arrays:
        partitions.insert(0, Partition(LVM, draw(SIZES), name="pv"))
        groups = (Group("g", ("pv", *(array.name for array in arrays))),)
        names = ["a", "b", "c"][: draw(st.integers(0, 3))]
        volumes = tuple(Volume(name, "g", draw(SIZES)) for name in names)
    table = draw(st.sampled_from(["auto", "dos", "gpt"]))
    return Scheme(tuple(partitions), arrays, groups, volumes, table)


NO_GUID = "0" * 8 + "-0000" * 3 + "-" + "0" * 12
DISKS = st.builds(
    Bare, st.integers(0, 200_000).map(lambda count: count * MIB + 4096 * 13), st.sampled_from([512, 4096])
)


@given(schemes(), DISKS, DISKS, st.sampled_from(["bios", "uefi"]))
def test_what_fits(scheme: Scheme, first: Bare, second: Bare, firmware: str) -> None:
    assert encoding.decode(encoding.encode(scheme)) == scheme
    assert text.parse(text.format_toml(scheme)) == scheme
    disks = [first, second][: scheme.disks]
    answer = fit(scheme, disks, firmware)
    if isinstance(answer, Misfit):
        assert answer.reason
        return
    assert answer == fit(scheme, disks, firmware)
    for number, (disk, table) in enumerate(zip(disks, answer.tables, strict=True)):
        identified = {**as_object(table), "id": "0x1" if table.label == "dos" else NO_GUID}
        for one in identified["partitions"]:
            one["uuid"] = NO_GUID
        of_object(identified)  # no two overlap, every number once, logical ones within the extended one
        assert table.least <= disk.size
        for entry in table.entries:
            assert entry.start * table.sector % MIB == 0
            assert entry.size * table.sector % MIB == 0
            assert entry.start * table.sector >= MIB
        own = [one for one in answer.partitions if one.disk == number]
        asked = [one for one in scheme.partitions if number in one.disks and one.kind != EXTENDED]
        placed = [one for one in own if not one.is_added]
        assert [one.kind for one in placed] == [one.kind for one in asked]
        starts = [one.entry.start for one in own]
        assert starts == sorted(starts), "the order of the scheme is that of the disk"
        for one, wanted in zip(placed, asked, strict=True):
            size = one.entry.size * table.sector
            assert size == wanted.size or (wanted.size == FILL and size >= MIB)
        if table.label == "gpt":
            assert len({one.entry.number for one in own}) == len(own)
    _check_groups(answer)


def _check_groups(answer: Fitted) -> None:
    for group in answer.groups:
        assert sum(volume.size for volume in group.volumes) <= group.size
        below = sum(
            answer.partitions[index].entry.size * answer.tables[answer.partitions[index].disk].sector
            for index in group.partitions
        )
        arrays = sum(array.size for array in answer.arrays if array.array.name in group.arrays)
        assert group.size <= below + arrays
