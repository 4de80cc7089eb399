"""Boots read out of timelines, the timeline on disk, and the loop breaker."""

import itertools
import re
import sqlite3
from pathlib import Path

import pytest

from bootd.config import Boot, parse
from bootd.drivers.boot_context import BootContext
from bootd.drivers.boot_history import LoopBreaker, boots_of
from bootd.drivers.engine import Engine
from bootd.drivers.journal import Journal
from bootd.drivers.timeline import TimelineStore
from bootd.errors import OperatorError
from bootd.netboot import render
from bootd.netboot.timeline import Happening, State, Step, boots, judge, looping
from bootd.session.coordinator import Coordinator

MAC = "52:54:00:00:00:07"
OFFER = ("offer", "UEFI x64: ipxe.efi (0.0.0.0)")
SECOND = ("boot-file", "UEFI x64: ipxe.efi (10.9.0.7)")
LOADER = ("fetched", "ipxe.efi, 1000 bytes (10.9.0.7)")
SCRIPT = ("offer", f"UEFI x64: http://10.9.0.2:7467/boot/boot.ipxe?mac={MAC} (0.0.0.0)")
CONFIGURATION = ("configuration", "iPXE configuration, label kamethod, over HTTP")
KERNEL = ("loaded", "stage1/vmlinuz, 8000000 bytes (10.9.0.7)")
INITRD = ("loaded", "stage1/initrd.img, 16000000 bytes (10.9.0.7)")
STAGE1 = ("stage1", "asks for stage2")
STAGE2 = ("loaded", "stage2/stage2.squashfs, 80000000 bytes (10.9.0.7)")
JOINED = ("joined", "10.9.0.7, uefi, 1 disks")
DONE = ("done", "")
LOCAL = ("config", "PXELINUX configuration, label local, 99 bytes (10.9.0.7)")
WHOLE = (OFFER, SECOND, LOADER, SCRIPT, CONFIGURATION, KERNEL, INITRD, STAGE1, STAGE2, JOINED)

# Signed GRUB beside another DHCP server, as tests/vm/test_firmware.py boots it.
SHIM = (
    ("offer", "UEFI x64: shimx64.efi (0.0.0.0)"),
    ("boot-file", "UEFI x64: shimx64.efi (10.9.0.7)"),
    ("fetched", "shimx64.efi, 1048504 bytes (10.9.0.7)"),
    ("not-found", "revocations_sku.efi: no such file (10.9.0.7)"),
    ("fetched", "grubx64.efi, 3843520 bytes (10.9.0.7)"),
)


def told(*events: tuple[str, str], begin: float = 1000.0, apart: float = 2.0) -> list[Happening]:
    return [Happening(begin + index * apart, kind, text) for index, (kind, text) in enumerate(events)]


def test_one_boot_with_ipxe_in_between_is_one_boot() -> None:
    (boot,) = boots(told(*WHOLE))
    assert list(boot.reached) == [
        Step.DISCOVER, Step.BOOT_SERVER, Step.LOADER, Step.CONFIGURATION, Step.KERNEL, Step.INITRD, Step.STAGE1,
        Step.STAGE2, Step.JOINED,
    ]  # fmt: skip
    assert boot.reached[Step.KERNEL] - boot.begun == 10.0
    assert (boot.label, boot.offered) == ("kamethod", "ipxe.efi")
    assert judge(boot, 5000.0).state is State.COMPLETE


def test_boots_follow_each_other() -> None:
    clone = [*told(*WHOLE, DONE), *told(OFFER, LOCAL, begin=1030.0)]
    first, second = boots(clone)
    assert first.furthest is Step.DONE
    assert list(second.reached) == [Step.DISCOVER, Step.LOCAL]
    assert judge(second, 9999.0).state is State.COMPLETE
    # An option ROM that is iPXE: its first offer is the script, again and again.
    assert len(boots(told(*[SCRIPT, CONFIGURATION, KERNEL] * 3))) == 3
    assert len(boots(told(*[SCRIPT, CONFIGURATION] * 3))) == 3
    # A loader that has its address already asks for its configuration alone.
    assert len(boots(told(*[CONFIGURATION, KERNEL, INITRD] * 3))) == 3
    # GRUB asks twice in one boot, and a kernel image asks for its words: no boots of their own.
    assert len(boots(told(OFFER, CONFIGURATION, CONFIGURATION, KERNEL))) == 1
    words = ("configuration", "stage1 configuration, label kamethod, over HTTP")
    assert len(boots(told(OFFER, ("loaded", "stage1/uki-x64.efi, 1 bytes"), words, STAGE1))) == 1
    # A DISCOVER that is repeated is one boot; hours later it is another.
    assert len(boots(told(OFFER, OFFER, OFFER))) == 1
    assert len(boots(told(OFFER, OFFER, apart=3600.0))) == 2


@pytest.mark.parametrize(
    ("events", "step", "part"),
    [
        ((OFFER,), Step.DISCOVER, "the offer was not taken"),
        (
            (OFFER, ("not-found", "ipxe.efi: no such file")),
            Step.DISCOVER,
            "ipxe.efi could not be fetched over TFTP",
        ),
        ((OFFER, SECOND), Step.BOOT_SERVER, "ipxe.efi was named but not fetched"),
        ((OFFER, SECOND, LOADER), Step.LOADER, "Secure Boot"),
        (SHIM, Step.LOADER, "Name bootd as next server"),
        (WHOLE[:5], Step.CONFIGURATION, "label kamethod but fetched no kernel"),
        (WHOLE[:6], Step.KERNEL, "the initrd was not"),
        (WHOLE[:7], Step.INITRD, "no driver for the network card"),
        (WHOLE[:8], Step.STAGE1, "did not get stage2"),
        (WHOLE[:9], Step.STAGE2, "did not join"),
        ((("ignored", "no boot file for this architecture"),), None, "no boot file for this architecture"),
    ],
)
def test_the_stalled_step_is_named(events: tuple[tuple[str, str], ...], step: Step | None, part: str) -> None:
    (boot,) = boots(told(*events))
    verdict = judge(boot, boot.last + 61.0)
    assert (verdict.state, verdict.stalled_after) == (State.STALLED, step)
    assert part in verdict.reason
    assert judge(boot, boot.last + 59.0).state is State.UNDER_WAY
    assert judge(boot, boot.last + 1.0, last=False).state is State.STALLED  # another boot has begun since


def test_a_loop_is_boots_that_lead_nowhere() -> None:
    round_ = WHOLE[:7]
    attempts = boots(told(*round_ * 4))
    assert len(attempts) == 4
    now = attempts[-1].last
    reason = looping(attempts, now, 4, 1800.0)
    assert re.match(r"boot loop: 4 boots within 30 min ended after 'initrd fetched': .*no driver", reason)
    assert looping(attempts, now, 5, 1800.0) == ""
    assert looping(attempts, now, 4, 20.0) == ""
    assert looping(attempts, now, 0, 1800.0) == ""
    assert looping(boots(told(*round_ * 3, *WHOLE)), now, 4, 1800.0) == ""  # one came up
    assert looping(boots(told(*[OFFER, LOCAL] * 9)), now, 4, 1800.0) == ""  # a disk that is booted often is no loop
    assert looping(boots(told(*[OFFER] * 9, apart=130.0)), now, 4, 1800.0) == ""  # nothing was loaded


def test_a_shell_and_an_own_kernel_are_where_a_boot_ends() -> None:
    def labelled(label: str, last: int) -> list[Happening]:
        asked = ("configuration", f"iPXE configuration, label {label}, over HTTP")
        return told(*[event if event is not CONFIGURATION else asked for event in WHOLE[:last]] * 3)

    rescue = boots(labelled("rescue", 9))
    assert [judge(boot, 9999.0).state for boot in rescue] == [State.COMPLETE] * 3
    assert looping(rescue, 1060.0, 3, 1800.0) == ""
    (own, *_) = boots(labelled("memtest", 6))
    assert judge(own, 9999.0, foreign={"memtest"}).state is State.COMPLETE
    assert judge(own, 9999.0).state is State.STALLED


def test_an_own_kernel_is_never_parked(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    asked = ("configuration", "iPXE configuration, label memtest, over HTTP")
    keep(engine, told(*[OFFER, asked, KERNEL] * 5, OFFER))
    node = engine.coordinator.nodes.get(MAC)
    assert node is not None
    LoopBreaker(engine, Boot(loop_boots=3), {"memtest"}).check(MAC, 1040.0)
    assert node.parked == ""
    LoopBreaker(engine, Boot(loop_boots=3)).check(MAC, 1040.0)
    assert node.parked


def make_engine(folder: Path) -> Engine:
    numbers = itertools.count(1)
    coordinator = Coordinator(
        labels=["kamethod", "rescue"],
        default_label="kamethod",
        names={MAC: "lab7"},
        node_labels={},
        head_host="192.0.2.1",
        draw=lambda count: f"{next(numbers):0{2 * count}x}",
    )
    engine = Engine(coordinator, Journal(folder / "bootd.db"))
    engine.history = TimelineStore(folder / "timeline.db")
    return engine


def keep(engine: Engine, happenings: list[Happening]) -> None:
    assert engine.history is not None
    for one in happenings:
        engine.history.add({"time": one.time, "kind": one.kind, "node": MAC, "session": "", "text": one.text})


def test_a_node_in_a_loop_is_parked_and_an_operator_frees_it(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    breaker = LoopBreaker(engine, Boot(loop_boots=3, loop_minutes=10))
    node = engine.coordinator.nodes.get(MAC)
    assert node is not None
    keep(engine, told(*WHOLE[:7] * 2, OFFER))
    breaker.check(MAC, 1031.0)
    assert node.parked == ""  # two have failed; the third is under way
    keep(engine, told(*WHOLE[1:7], *WHOLE[:4], begin=1032.0))
    breaker.check(MAC, 1053.0)
    assert node.parked.startswith("boot loop: 3 boots within 10 min")
    assert engine.coordinator.choice(MAC).label == "rescue"
    assert [line["kind"] for line in engine.timeline_of(MAC)][-2:] == ["policy", "parked"]
    engine.run(engine.coordinator.unpark("lab7", "root", 1.0))
    breaker.check(MAC, 1054.0)
    assert node.parked == ""  # what was before does not count any more


def test_the_reason_stands_on_the_screen(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    context = BootContext(engine, parse(""), "192.0.2.1")
    assert context(MAC) is not None
    engine.run(engine.coordinator.park(MAC, "boot loop: 3 boots; 'x' ${y} \"z\""))
    made = context(MAC)
    assert made is not None
    text = "bootd: parked: boot loop: 3 boots   x    y   z "
    assert made.message == text
    assert f"\nSAY {text}\nPROMPT 1\nTIMEOUT 600\n" in render.pxelinux(made)
    assert f"\necho {text}\nprompt --timeout 60000 " in render.ipxe(made)
    assert f"\necho '{text}'\nsleep --interruptible 60\n" in render.grub(made)
    engine.run(engine.coordinator.unpark(MAC, "root", 1.0))
    made = context(MAC)
    assert made is not None
    assert made.message == ""


def test_boots_for_people(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    keep(engine, told(*WHOLE[:7], OFFER))
    first, second = boots_of(engine, MAC, 1015.0)
    assert (first["state"], first["stalled_after"], first["label"]) == ("stalled", "initrd", "kamethod")
    assert first["steps"][2] == {"step": "loader", "text": "loader fetched", "after": 4.0, "took": 2.0}
    assert (second["state"], second["waiting_seconds"], second["reason"]) == ("under_way", 1.0, None)


def test_the_timeline_survives_and_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "timeline.db"
    store = TimelineStore(path, per_node=10, in_all=25)

    def line(number: int, node: str) -> dict[str, object]:
        return {"time": float(number), "kind": "k", "node": node, "session": "", "text": f"line {number}"}

    for number in range(30):
        store.add(line(number, "a"))
    assert [one["text"] for one in store.of("a", 3)] == ["line 27", "line 28", "line 29"]  # not on disk yet
    store.flush()
    for node in "bcd":
        for number in range(10):
            store.add(line(number, node))
        store.flush()
    again = TimelineStore(path, per_node=10, in_all=25)
    assert [one["time"] for one in again.of("d")] == [float(number) for number in range(10)]
    assert len(list(again)) == 25
    assert [one["node"] for one in again][:6] == ["b"] * 5 + ["c"]
    again.add(line(99, "d"))
    again.flush()
    assert [one["time"] for one in again.of("d")][-2:] == [9.0, 99.0]
    assert len(again.of("d")) == 10


def test_a_disk_that_refuses_costs_no_line_and_no_node(tmp_path: Path) -> None:
    path = tmp_path / "timeline.db"
    store = TimelineStore(path)
    other = sqlite3.connect(path, isolation_level=None)
    store._file.connection.execute("PRAGMA busy_timeout = 10")
    other.execute("BEGIN IMMEDIATE")  # as a full disk would: the write fails
    store.add({"time": 1.0, "kind": "k", "node": "a", "session": "", "text": "kept"})
    store.flush()
    assert [one["text"] for one in store.of("a")] == ["kept"]
    other.execute("ROLLBACK")
    other.close()
    store.flush()
    assert [one["text"] for one in TimelineStore(path).of("a")] == ["kept"]
    path.with_name("newer.db").touch()
    newer = sqlite3.connect(path.with_name("newer.db"))
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(OperatorError, match="schema 99"):
        TimelineStore(path.with_name("newer.db"))
