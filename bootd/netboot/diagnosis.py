"""What `bootd doctor` saw from the outside, and what it means. Pure: facts in, findings out."""

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from bootd.netboot.clients.air import NOBODY, Ending, Outcome

DOCTOR_MAC = "02:b0:07:d0:c7:0a"  # locally administered: asks, and never becomes a node
CLIENTS = (
    "BIOS ROM (Intel)",
    "UEFI ia32 (EDK2)",
    "UEFI x64 (EDK2)",
    "UEFI x64 (old EDK2)",
    "iPXE on UEFI x64",
    "HTTP Boot x64 (EDK2)",
    "UEFI ARM 64 (EDK2)",
)
_MACHINES = {0x14C: "ia32", 0x8664: "x64", 0x1C0: "ARM 32", 0x1C2: "ARM 32", 0xAA64: "ARM 64", 0x5064: "RISC-V 64"}
_BIOS_MOST = 600 << 10  # conventional memory that a ROM can load into
_URL = re.compile(rb"https?://[!-~]+")
_MOST_LINKS = 8


class Severity(Enum):
    PROBLEM = "problem"  # machines do not boot, or not from where they should
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Offered:
    """One answer to the DISCOVER of ``client``, as an independent codec read it. Addresses "0.0.0.0" for none."""

    client: str
    server: str  # source of the packet
    hardware: str  # its MAC, or that of the router in between
    identifier: str  # option 54
    address: str  # given to the client
    next_server: str
    file: str
    vendor_class: str

    @property
    def gives_address(self) -> bool:
        return self.address != NOBODY

    @property
    def boots(self) -> bool:
        """It has to do with network boot: a file, or "ask me on 4011"."""
        return bool(self.file) or self.vendor_class.startswith(("PXEClient", "HTTPClient"))

    @property
    def boot_host(self) -> str:
        """Whom the client would ask for its file; "" when this answer is not about booting."""
        if not self.boots:
            return ""
        if "://" in self.file:
            return urlsplit(self.file).hostname or ""
        return self.next_server if self.next_server != NOBODY else self.identifier


@dataclass(frozen=True)
class Fetched:
    """``url`` as it was asked for; ``error`` "" when all of it came."""

    url: str
    size: int = 0
    seconds: float = 0.0
    error: str = ""
    wrong: str = ""  # it came, and is not what such a client can use


@dataclass(frozen=True)
class Journey:
    """What one kind of client would have done: its choice, and every file that it went for."""

    client: str
    outcome: Outcome
    fetched: tuple[Fetched, ...] = ()


@dataclass(frozen=True)
class Resolved:
    """``server`` was asked for ``name``. ``expected`` "" = any address will do."""

    server: str
    name: str
    answers: tuple[str, ...] = ()
    expected: str = ""
    error: str = ""
    asked_for: bool = False  # the operator named it


@dataclass(frozen=True)
class Facts:
    interface: str
    offered: tuple[Offered, ...]
    journeys: tuple[Journey, ...]
    resolved: tuple[Resolved, ...] = ()
    address: str = ""  # of the interface; "" = nothing could be fetched


@dataclass(frozen=True)
class Finding:
    severity: Severity
    text: str
    mend: str


def conclude(facts: Facts) -> list[Finding]:
    """The worst first. Empty: every client that was asked for boots, from one server."""
    findings = [
        *_servers(facts),
        *_journeys(facts.journeys, bool(facts.offered)),
        *_files(facts.journeys),
        *_names(facts.resolved),
    ]
    if not facts.address:
        findings.append(
            Finding(
                Severity.WARNING,
                f"{facts.interface} has no IPv4 address: no file could be fetched, port 4011 not be asked",
                f"get one first: udhcpc -i {facts.interface}, or ip address add",
            )
        )
    return sorted(findings, key=lambda finding: list(Severity).index(finding.severity))


def address_servers(offered: Iterable[Offered]) -> dict[str, Offered]:
    """One answer of each server that gives addresses."""
    return {one.server: one for one in offered if one.gives_address}


def boot_hosts(offered: Iterable[Offered]) -> dict[str, list[str]]:
    """Who serves boot files, and which servers' answers lead there."""
    hosts: dict[str, list[str]] = {}
    for one in offered:
        if one.boot_host and one.server not in hosts.setdefault(one.boot_host, []):
            hosts[one.boot_host].append(one.server)
    return hosts


def unfit(client: str, data: bytes) -> str:
    """Why ``data`` is no first file for ``client`` (a name of `CLIENTS`), or ""."""
    if not data:
        return "it is empty"
    if client.startswith("iPXE"):
        return "" if data.startswith((b"#!ipxe", b"MZ")) else "it is neither an iPXE script nor an EFI program"
    machine = _machine(data)
    if client.startswith("BIOS"):
        if machine:
            return f"it is an EFI program for {machine}: a BIOS cannot start it"
        return "" if len(data) <= _BIOS_MOST else f"it has {len(data)} bytes: a BIOS ROM takes {_BIOS_MOST} at most"
    wanted = next((name for name in ("ia32", "x64", "ARM 64", "ARM 32", "RISC-V 64") if name in client), "")
    if not machine:
        return "it is no EFI program"
    return "" if machine == wanted else f"it is an EFI program for {machine}, not for {wanted}"


def links(text: bytes) -> list[str]:
    """The URLs that a loader's configuration names, as far as they are complete."""
    found = (one.decode() for one in _URL.findall(text) if b"${" not in one)
    return list(dict.fromkeys(found))[:_MOST_LINKS]


def _machine(data: bytes) -> str:
    """The architecture in a PE header (Microsoft PE format, "COFF File Header"); "" when it is none."""
    if data[:2] != b"MZ" or len(data) < 64:
        return ""
    (start,) = struct.unpack_from("<I", data, 60)
    if data[start : start + 4] != b"PE\0\0" or len(data) < start + 6:
        return ""
    (machine,) = struct.unpack_from("<H", data, start + 4)
    return _MACHINES.get(machine, f"machine {machine:#06x}")


def _servers(facts: Facts) -> list[Finding]:
    if not facts.offered:
        return [
            Finding(
                Severity.PROBLEM,
                f"nobody answers a DISCOVER on {facts.interface}",
                "is bootd serve running on this link, and the DHCP server? Is the cable in, the VLAN right, no "
                "DHCP snooping in the switch? Behind a router: a DHCP relay is needed",
            )
        ]
    findings = []
    givers = address_servers(facts.offered)
    if not givers:
        findings.append(
            Finding(
                Severity.PROBLEM,
                "no server gives addresses: a boot server alone starts no machine",
                "start the DHCP server of this network, or let bootd give addresses: [[dhcp.pool]]",
            )
        )
    if len(givers) > 1:
        named = ", ".join(f"{one.server} ({one.hardware}) gives {one.address}" for one in givers.values())
        findings.append(
            Finding(
                Severity.PROBLEM,
                f"{len(givers)} servers give addresses: {named}",
                "one of them is a rogue: find its MAC in the switch and stop it; machines take whoever is first",
            )
        )
    hosts = boot_hosts(facts.offered)
    if len(hosts) > 1:
        named = ", ".join(f"{host} (offered by {', '.join(servers)})" for host, servers in hosts.items())
        findings.append(
            Finding(
                Severity.PROBLEM,
                f"{len(hosts)} boot servers: {named}",
                "leave one: remove next-server and filename (options 66, 67) or the PXE service of the other",
            )
        )
    if not hosts:
        findings.append(
            Finding(
                Severity.PROBLEM,
                "no server has anything to boot",
                "is bootd serve running on this link? See its log, and bootd simulate",
            )
        )
    return findings


def _journeys(journeys: Sequence[Journey], answered: bool) -> list[Finding]:
    lost = [journey for journey in journeys if journey.outcome.ending is Ending.FAILS]
    if not answered or not lost:
        return []
    if len(lost) == len(journeys):
        reasons = " / ".join(dict.fromkeys(journey.outcome.reason for journey in lost))
        return [Finding(Severity.PROBLEM, f"no kind of client would boot: {reasons}", "bootd simulate shows why")]
    return [
        Finding(
            Severity.WARNING,
            f"{journey.client}: would not boot: {journey.outcome.reason}",
            "if there are such machines: bootd simulate --steps, and bootd stage build for a missing loader",
        )
        for journey in lost
    ]


def _files(journeys: Sequence[Journey]) -> list[Finding]:
    findings: dict[tuple[str, str], Finding] = {}
    for journey in journeys:
        for file in journey.fetched:
            what = file.error or file.wrong
            if not what:
                continue
            scheme, host = urlsplit(file.url).scheme, urlsplit(file.url).netloc
            blocked = "UDP 69 and the high ports" if scheme == "tftp" else f"TCP of {host}"
            mend = (
                "put the right loader there: bootd stage build, and see boot.loaders"
                if file.wrong
                else f"does {host} run its {scheme.upper()} server, and does it have the file? "
                f"No firewall on {blocked}"
            )
            text = f"{journey.client}: {file.url}: {what}"
            findings.setdefault((file.url, what), Finding(Severity.PROBLEM, text, mend))
    return list(findings.values())


def _names(resolved: Sequence[Resolved]) -> list[Finding]:
    findings = []
    for one in resolved:
        wrong = bool(one.expected) and one.expected not in one.answers
        if one.error or wrong or not one.answers:
            said = one.error or (
                f"{', '.join(one.answers)} instead of {one.expected}" if one.answers else "no address"
            )
            findings.append(
                Finding(
                    Severity.PROBLEM if one.asked_for or (wrong and bool(one.answers)) else Severity.NOTE,
                    f"DNS server {one.server} on {one.name}: {said}",
                    "names are served with dns.enabled = true under [dns]; see docs/names.md",
                )
            )
    return findings
