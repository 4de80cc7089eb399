"""What the doctor concludes from what it saw: one fact at a time."""

import pytest

from bootd.netboot.clients.air import Ending, Outcome
from bootd.netboot.diagnosis import (
    Facts,
    Fetched,
    Finding,
    Journey,
    Offered,
    Resolved,
    Severity,
    boot_hosts,
    conclude,
    links,
    unfit,
)

X64 = b"MZ" + bytes(58) + b"\x40\0\0\0" + b"PE\0\0" + b"\x64\x86" + bytes(100)
ARM64 = X64.replace(b"\x64\x86", b"\x64\xaa")
IA32 = X64.replace(b"\x64\x86", b"\x4c\x01")
NONE = "0.0.0.0"
ROUTER = Offered("UEFI x64", "10.9.0.1", "02:00:00:00:00:01", "10.9.0.1", "10.9.0.100", NONE, "", "")
BOOTD = Offered("UEFI x64", "10.9.0.2", "02:00:00:00:00:02", "10.9.0.2", NONE, "10.9.0.2", "ipxe.efi", "PXEClient")
ROGUE = Offered("x", "10.9.0.9", "02:00:00:00:00:09", "10.9.0.9", "10.9.0.7", NONE, "", "")
BOOTS = Journey("UEFI x64", Outcome(Ending.FETCHES, "tftp://10.9.0.2/ipxe.efi"))
FAILS = Journey("UEFI ia32", Outcome(Ending.FAILS, reason="no offer"))


def worst(
    *offered: Offered, journeys: tuple[Journey, ...] = (BOOTS,), resolved: tuple[Resolved, ...] = ()
) -> list[Finding]:
    return conclude(Facts("eth0", offered, journeys, resolved, "10.9.0.50"))


def test_a_healthy_room() -> None:
    assert worst(ROUTER, BOOTD) == []
    # The other server sends clients to us, as `bootd export` writes it: that is one boot server still.
    pointing = Offered("x", "10.9.0.1", "m", "10.9.0.1", "10.9.0.100", "10.9.0.2", "ipxe.efi", "")
    assert worst(pointing, BOOTD) == []
    by_url = Offered("x", "10.9.0.1", "m", "10.9.0.1", "10.9.0.100", NONE, "http://10.9.0.2:7468/uki", "HTTPClient")
    assert boot_hosts((by_url, BOOTD)) == {"10.9.0.2": ["10.9.0.1", "10.9.0.2"]}


@pytest.mark.parametrize(
    ("findings", "part"),
    [
        (worst(), "nobody answers a DISCOVER on eth0"),
        (worst(BOOTD), "no server gives addresses"),
        (worst(ROUTER), "no server has anything to boot"),
        (
            worst(ROUTER, BOOTD, ROGUE),
            "2 servers give addresses: 10.9.0.1 (02:00:00:00:00:01) gives 10.9.0.100, 10.9.0.9 (02:00:00:00:00:09)",
        ),
        (
            worst(ROUTER, BOOTD, Offered("x", "10.9.0.9", "m", "10.9.0.9", NONE, NONE, "", "PXEClient")),
            "2 boot servers: 10.9.0.2 (offered by 10.9.0.2), 10.9.0.9",
        ),
        (worst(ROUTER, BOOTD, journeys=(FAILS,)), "no kind of client would boot: no offer"),
        (
            worst(ROUTER, BOOTD, journeys=(Journey("a", BOOTS.outcome, (Fetched("tftp://h/f", error="gone"),)),)),
            "a: tftp://h/f: gone",
        ),
        (worst(ROUTER, BOOTD, resolved=(Resolved("d", "n", error="no name", asked_for=True),)), "no name"),
        (worst(ROUTER, BOOTD, resolved=(Resolved("d", "n", ("1.1.1.1",), "1.1.1.2"),)), "1.1.1.1 instead of 1.1.1"),
    ],
)  # fmt: skip
def test_one_thing_wrong(findings: list[Finding], part: str) -> None:
    assert findings[0].severity is Severity.PROBLEM
    assert part in findings[0].text
    assert findings[0].mend


def test_less_than_a_problem() -> None:
    (one,) = worst(ROUTER, BOOTD, journeys=(BOOTS, FAILS))
    assert (one.severity, one.text) == (Severity.WARNING, "UEFI ia32: would not boot: no offer")
    (dns,) = worst(ROUTER, BOOTD, resolved=(Resolved("10.9.0.2", "bootd", (), "10.9.0.2", "timed out"),))
    assert dns.severity is Severity.NOTE
    (blind,) = conclude(Facts("eth0", (ROUTER, BOOTD), (BOOTS,)))
    assert "eth0 has no IPv4 address" in blind.text


@pytest.mark.parametrize(
    ("client", "data", "part"),
    [
        ("UEFI x64 (EDK2)", X64, ""),
        ("UEFI x64 (EDK2)", ARM64, "for ARM 64, not for x64"),
        ("UEFI ia32 (EDK2)", X64, "for x64, not for ia32"),
        ("UEFI ia32 (EDK2)", IA32, ""),
        ("UEFI ARM 64 (EDK2)", ARM64, ""),
        ("HTTP Boot x64 (EDK2)", b"<html>", "no EFI program"),
        ("UEFI x64 (EDK2)", b"MZ" + b"\xff" * 80, "no EFI program"),
        ("UEFI x64 (EDK2)", b"", "empty"),
        ("BIOS ROM (Intel)", X64, "a BIOS cannot start it"),
        ("BIOS ROM (Intel)", b"\xea\x05" * 1000, ""),
        ("BIOS ROM (Intel)", bytes(700 << 10), "takes 614400 at most"),
        ("iPXE on UEFI x64", b"#!ipxe\n", ""),
        ("iPXE on UEFI x64", b"hello", "neither"),
    ],
)
def test_first_files(client: str, data: bytes, part: str) -> None:
    found = unfit(client, data)
    assert part in found
    assert bool(found) == bool(part)


def test_links_of_a_script() -> None:
    text = b"kernel http://h:7468/k a=b\ninitrd http://h:7468/i\nchain http://h/boot?mac=${mac}\n"
    text += b"kernel http://h:7468/k\n"
    assert links(text) == ["http://h:7468/k", "http://h:7468/i"]
