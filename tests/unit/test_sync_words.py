"""What rsync is told and what it says. Its lines are as rsync 3.2.7 and 3.5.0 of Debian print them."""

from dataclasses import replace

import pytest

from bootd.wire.control import Sync
from bootd.wire.sync import Tally, arguments, bound_of, deleted_beyond, kind_of, reason_of

SAID = """\
*deleting   old name
hf+++++++++ b => a
cL+++++++++ l -> x
cd+++++++++ new folder/
cS+++++++++ socket
>f+++++++++ one
>f.st...... two
>fc........ three
.f...p..... four
.f....og... five
.f.......a. six
.d..t...... folder/
.d..tp..... folder2/
.L..t...... link -> x
cD+++++++++ dev/null
cLc.t...... changed -> y

Number of files: 1,235 (reg: 1,000, dir: 235)
Number of created files: 5 (reg: 2)
Number of deleted files: 1 (reg: 1)
Total bytes sent: 131
Total bytes received: 2,035
"""


def test_lines_of_rsync_are_counted() -> None:
    tally = Tally()
    for line in SAID.splitlines():
        tally.take(line)
    assert (tally.files, tally.created, tally.changed, tally.attributes, tally.deleted) == (1235, 6, 3, 5, 1)
    assert tally.wire == 2166
    assert tally.changes[:2] == ["deleted old name", "created b => a"]
    assert "attributes folder2/" in tally.changes
    assert not any(line == "attributes folder/" for line in tally.changes)


@pytest.mark.parametrize(
    "line", ["", "x", ">f", "sent 131 bytes  received 35 bytes", "*deleting", "cannot delete non-empty"]
)
def test_what_is_no_change_is_none(line: str) -> None:
    tally = Tally()
    tally.take(line)
    assert tally.changes == []


def test_kinds() -> None:
    assert kind_of(">f+++++++++") == "created"
    assert kind_of("<f.st......") == "changed"
    assert kind_of(".f          ") == ""
    assert kind_of("hf         ") == ""


def test_too_many_deletions() -> None:
    tally = Tally(files=100, created=20, deleted=20)
    assert tally.present == 100
    assert deleted_beyond(tally, 20) == ""
    assert deleted_beyond(tally, 19).startswith("20 of 100 files would be deleted, more than 19 %")
    assert deleted_beyond(Tally(files=10, created=10), 0) == ""
    assert deleted_beyond(Tally(files=0, deleted=1), 99) != ""
    assert deleted_beyond(Tally(files=0, deleted=1), 100) == ""


def test_a_source_that_goes_away_after_the_look_empties_no_node() -> None:
    looked = Tally(files=10_000, created=0, deleted=5)
    assert bound_of(looked, 50) == 105
    assert bound_of(Tally(files=100, deleted=20), 20) == 24
    assert bound_of(Tally(files=100), 50) == 10
    assert bound_of(Tally(files=100), 0) == 0
    assert bound_of(looked, 100) is None
    order = Sync("t", "lab", "/", freeze=True)
    assert "--max-delete=105" in arguments(order, "", "source", "/mnt", most_deleted=105)
    assert not any(
        "max-delete" in word for word in arguments(replace(order, freeze=False), "", "source", "/", most_deleted=1)
    )


def test_arguments() -> None:
    order = Sync("t", "lab", "/", freeze=True, dry=True)
    words = arguments(order, "/rules", "source", "/mnt", ["/old"])
    assert words[-3:] == ["--", "bootd::source/", "/mnt/"]
    assert {
        "--delete",
        "--force",
        "--dry-run",
        "--numeric-ids",
        "--link-dest=/old",
        "--filter=merge /rules",
    } <= set(words)
    laid = arguments(order, "/names", "overlay", "/mnt")
    assert {"--files-from=/names", "--from0", "--no-implied-dirs"} <= set(laid)
    assert "--delete" not in laid
    assert arguments(Sync("t", "lab", "/", collect=True), "", "collect", "/")[-2:] == ["/", "bootd::collect/"]


def test_codes() -> None:
    assert reason_of(0) == ""
    assert "apt install rsync" in reason_of(127)
    assert reason_of(99) == "rsync ended with status 99"
