"""The table of what a node does about a message, and the pure parts of what comes after the clone."""

import json
from dataclasses import replace

import pytest

from bootd.wire.control import Address, Arrange, Cancel, Disk, Finish, Message, Plan, Prepare, Report, Wait
from bootd.wire.control import MemberState as State
from stage2.bootable import entries_named, esp_number, order_with, partition_path
from stage2.console import progress_line
from stage2.flow import Abandon, Ignore, Leave, Place, Refuse, ShowWait, Situation, Step, TakeUp, decide
from stage2.node import HandoverError, parse_handover

NODE = "52:54:00:00:00:01"
PLAN = Plan("s1", NODE, "ab" * 32, 1 << 20, 1 << 20, Disk("sda", 1 << 20, 512, "S", "", "", "", False, "", "d"), 1)
PREPARE = Prepare(PLAN, "aa")
NEXT = Prepare(replace(PLAN, session="s2"), "bb")
BEHIND = Arrange("s1", 2, Address("10.0.0.1", 1), "head-s1")

IDLE = Situation(NODE)
MEMBER = Situation(NODE, Step.MEMBER, PREPARE, 1)
VERIFIED = replace(MEMBER, verified=True)
ENDED = Situation(NODE, Step.ENDED, PREPARE)
LEAVING = Situation(NODE, Step.LEAVING, PREPARE)


@pytest.mark.parametrize(
    ("situation", "message", "kind"),
    [
        (IDLE, Wait("soon"), ShowWait),
        (MEMBER, Wait("soon"), Ignore),
        (ENDED, Wait("soon"), Ignore),
        (IDLE, PREPARE, TakeUp),
        (IDLE, Prepare(replace(PLAN, node="52:54:00:00:00:02"), "aa"), Refuse),
        (MEMBER, PREPARE, Ignore),  # again after a reconnection
        (MEMBER, NEXT, Ignore),  # one disk, one session
        (ENDED, PREPARE, Ignore),  # a refusal is not asked twice
        (ENDED, NEXT, TakeUp),
        (IDLE, BEHIND, Ignore),
        (MEMBER, BEHIND, Place),
        (MEMBER, replace(BEHIND, epoch=1), Ignore),
        (MEMBER, replace(BEHIND, epoch=0), Ignore),
        (MEMBER, replace(BEHIND, session="s2"), Ignore),
        (MEMBER, replace(BEHIND, predecessor=None), Ignore),
        (VERIFIED, BEHIND, Place),  # others may need it
        (ENDED, BEHIND, Ignore),
        (IDLE, Finish("s1", "reboot"), Ignore),
        (MEMBER, Finish("s1", "reboot"), Abandon),  # never into a disk that is not verified
        (VERIFIED, Finish("s2", "reboot"), Ignore),
        (VERIFIED, Finish("s1", "reboot"), Leave),
        (ENDED, Finish("s1", "reboot"), Ignore),
        (MEMBER, Cancel("s1", "stop"), Abandon),
        (MEMBER, Cancel("s2", "stop"), Ignore),
        (IDLE, Cancel("s1", "stop"), Ignore),
        (MEMBER, Report(NODE, "s1", State.FAILED), Ignore),
        *((LEAVING, message, Ignore) for message in (Wait("x"), NEXT, BEHIND, Cancel("s1", "stop"))),
    ],
)
def test_table(situation: Situation, message: Message, kind: type[object]) -> None:
    assert type(decide(situation, message)) is kind


def test_what_leave_means() -> None:
    assert decide(VERIFIED, Finish("s1", "reboot")) == Leave(reboot=True)
    assert decide(VERIFIED, Finish("s1", "stay")) == Leave(reboot=False)
    assert decide(MEMBER, Cancel("s1", "the operator says stop")) == Abandon("the operator says stop")


# efibootmgr 17 of Debian 12 under OVMF.
EFIBOOTMGR = """\
BootCurrent: 0003
Timeout: 0 seconds
BootOrder: 0000,0003,0001
Boot0000* UiApp\tFvVol(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(462caa21-7614-4503-836e-8ab6f4662331)
Boot0001* UEFI Misc Device\tPciRoot(0x0)/Pci(0x3,0x0){auto_created_boot_option}
Boot0003* UEFI PXEv4 (MAC:525400123456)\tPciRoot(0x0)/Pci(0x2,0x0)/MAC(525400123456,1)
Boot0007* bootd local disk\tHD(2,GPT,6d9f7a52-0d0c-4f7f-9f42-b007d0000002,0x1000,0x3000)/File(\\x.efi)
Boot0008  bootd local disk\tHD(2,GPT,6d9f7a52-0d0c-4f7f-9f42-b007d0000002,0x1000,0x3000)
Boot0009* bootd local disk two\tHD(1,GPT,6d9f7a52-0d0c-4f7f-9f42-b007d0000002,0x1000,0x3000)
"""


def test_own_entries_and_no_others() -> None:
    assert entries_named(EFIBOOTMGR, "bootd local disk") == ["0007", "0008"]
    assert entries_named(EFIBOOTMGR, "UEFI PXEv4 (MAC:525400123456)") == ["0003"]


def test_disk_comes_behind_the_network() -> None:
    assert order_with(EFIBOOTMGR, "0007") == ["0000", "0003", "0007", "0001"]
    moved = EFIBOOTMGR.replace("BootOrder: 0000,0003,0001", "BootOrder: 0007,0003")
    assert order_with(moved, "0007") == ["0003", "0007"]
    assert order_with(EFIBOOTMGR.replace("BootCurrent: 0003", "BootCurrent: 0009"), "0007") == []
    assert order_with(EFIBOOTMGR.replace("BootCurrent: 0003\n", ""), "0007") == []
    assert order_with("", "0007") == []


@pytest.mark.parametrize(
    ("partitions", "number"),
    [
        ([{"node": "/dev/vda1", "type": "21686148-6449-6E6F-744E-656564454649"}], None),
        ([{"node": "/dev/vda2", "type": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"}], 2),
        ([{"node": "/dev/nvme0n1p15", "type": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"}], 15),
        ([{"node": "/dev/sda1", "type": "ef"}], 1),
        ([], None),
    ],
)
def test_esp(partitions: list[dict[str, str]], number: int | None) -> None:
    assert esp_number({"partitiontable": {"label": "gpt", "partitions": partitions}}) == number


def test_partition_paths() -> None:
    assert partition_path("sda", 2) == "/dev/sda2"
    assert partition_path("nvme0n1", 2) == "/dev/nvme0n1p2"
    assert partition_path("mmcblk0", 1) == "/dev/mmcblk0p1"


def test_progress_line() -> None:
    report = Report(NODE, "s1", State.RECEIVING, written=50, durable=25, verified=0, rate=3_000_000)
    assert progress_line(report, 100) == "50 % written, 25 % durable, 0 % verified of 0 MB, 3.0 MB/s"


def test_handover() -> None:
    options = {
        "node": NODE,
        "server_host": "10.0.0.1",
        "server_port": 7467,
        "token": "aa",
        "work": "ka",
        "session": "",
        "dolly_timeout": None,
    }
    lease = {"interface": "eth0", "address": "10.0.0.9", "dynamic": True}
    node = parse_handover(json.dumps({"options": options, "lease": lease}).encode())
    assert (node.mac, node.server, node.work, node.address) == (NODE, "10.0.0.1:7467", "ka", "10.0.0.9")
    for bad in (b"", b"[]", b"{}", json.dumps({"options": options, "lease": None}).encode()):
        with pytest.raises(HandoverError):
            parse_handover(bad)
