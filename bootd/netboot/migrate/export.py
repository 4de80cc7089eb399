"""What another DHCP server has to say so that nodes boot from here without our proxy: ISC dhcpd, Kea, dnsmasq.

The rows come from the one offer decision itself: each architecture asks, and its answer is written down in the
other server's language. So an export cannot promise what we would not. The file name goes into the BOOTP field
`file` alone: these servers would send option 67 without the NUL that some ROMs need (quirk file-name-ends).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from bootd.netboot import offer
from bootd.netboot.clients.air import Firmware
from bootd.netboot.dhcp import SERVER_PORT, Message, MessageType, Option, encapsulated, parse
from bootd.netboot.loaders import ARCHITECTURES, RASPBERRY_PI, Platform
from bootd.netboot.offer import Ignore, Interface, NodePolicy

_IPXE: dict[int, bytes] = {Option.USER_CLASS: b"iPXE"}
_HARDWARE = bytes.fromhex("525400000101")


@dataclass(frozen=True)
class Row:
    """Clients with one of ``codes`` (option 93) fetch ``file`` from us. ``name`` is a tag for the other server.

    ``ipxe``: only iPXE. ``http``: option 60 = HTTPClient must be in the answer. ``prefix`` limits the row to MAC
    addresses that begin so, and ``vendor`` is what option 43 has to be for them.
    """

    name: str
    codes: tuple[int, ...]
    file: str
    ipxe: bool = False
    http: bool = False
    prefix: str = ""
    vendor: bytes = b""


@dataclass(frozen=True)
class Export:
    """``address`` is this server's; ``missing`` is why the others are not served, a sentence each."""

    address: str
    rows: tuple[Row, ...]
    missing: tuple[str, ...]


def export(interface: Interface) -> Export:
    """What ``interface`` would offer to each architecture, grouped by file."""
    files: dict[tuple[str, bool, bool], list[int]] = {}
    missing: list[str] = []
    for code, architecture in ARCHITECTURES.items():
        http = architecture.platform is Platform.HTTP
        vendor_class = f"{'HTTP' if http else 'PXE'}Client:Arch:{code:05d}:UNDI:003016"
        for ipxe in (False, True):
            if ipxe and architecture.platform not in (Platform.BIOS, Platform.UEFI):
                continue
            firmware = Firmware(code, vendor_class, _HARDWARE, _IPXE if ipxe else {})
            found = _ask(firmware.message(MessageType.DISCOVER), interface)
            if isinstance(found, str):
                missing.append(found)
            else:
                # iPXE's own script goes by MAC; autoexec.ipxe, the same for all, lets iPXE fill it in.
                script = found[0].split("/boot/boot.ipxe?mac=")
                file = f"{script[0]}/boot/autoexec.ipxe" if len(script) > 1 else found[0]
                files.setdefault((file, ipxe, http), []).append(code)
    plain = {(file, http): codes for (file, ipxe, http), codes in files.items() if not ipxe}
    rows = [
        Row(_name(codes[0], file, ipxe=ipxe), tuple(codes), file, ipxe, http)
        for (file, ipxe, http), codes in files.items()
        if not ipxe or plain.get((file, http)) != codes  # iPXE that gets what the ROM gets needs no row
    ]
    return Export(interface.address, (*rows, *_raspberry_pis(interface, missing)), tuple(dict.fromkeys(missing)))


def _raspberry_pis(interface: Interface, missing: list[str]) -> list[Row]:
    rows = []
    for prefix in interface.raspberry_pi_prefixes:
        hardware = bytes.fromhex(prefix.replace(":", "")).ljust(6, b"\0")
        firmware = Firmware(0, "PXEClient:Arch:00000:UNDI:002001", hardware)
        found = _ask(firmware.message(MessageType.DISCOVER), interface)
        if isinstance(found, str):
            missing.append(found)
        elif encapsulated(found[1]):
            name = f"{RASPBERRY_PI.family}-{prefix.replace(':', '')}"
            rows.append(Row(name, (0,), found[0], prefix=prefix, vendor=found[1]))
    return rows


def _ask(request: Message, interface: Interface) -> tuple[str, bytes] | str:
    """(file, option 43), or why there is none."""
    decision = offer.decide(request, NodePolicy(), interface, SERVER_PORT, ("0.0.0.0", 68))
    if isinstance(decision, Ignore):
        return decision.reason
    return decision.file, parse(decision.reply).options.get(Option.VENDOR, b"")


def _name(code: int, file: str, *, ipxe: bool) -> str:
    if ipxe and file.endswith("/autoexec.ipxe"):
        return "ipxe"
    architecture = ARCHITECTURES[code]
    words = [architecture.family, "http" if architecture.platform is Platform.HTTP else "", "ipxe" if ipxe else ""]
    return "-".join(word for word in words if word)


def _rivals(row: Row, found: Export) -> list[Row]:
    """Rows that are more special than ``row`` and apply to some of its clients."""
    if row.ipxe or row.prefix or row.http:
        return []
    shared = [other for other in found.rows if set(other.codes) & set(row.codes)]
    return [other for other in shared if other.ipxe or other.prefix]


def _head(found: Export, mark: str, server: str) -> list[str]:
    lines = [
        f"{server}: nodes boot from bootd at {found.address}.",
        "bootd itself then needs no DHCP: [dhcp] proxy = false, and no [[dhcp.pool]].",
        *(f"Not served: {reason}" for reason in found.missing),
    ]
    return [f"{mark} {line}" for line in lines]


def dhcpd(found: Export) -> str:
    """For ISC dhcpd, at the top level of dhcpd.conf. No option 60 for TFTP clients: quirk no-class-with-address."""
    lines = [*_head(found, "#", "ISC dhcpd"), "option bootd-architecture code 93 = unsigned integer 16;"]
    for row in found.rows:
        length = 10 if row.http else 9
        where = [f'substring(option vendor-class-identifier, 0, {length}) = "{_class(row)}"']
        codes = " or ".join(f"option bootd-architecture = {code >> 8:02x}:{code & 255:02x}" for code in row.codes)
        if 0 in row.codes and not row.prefix:
            codes += " or not exists bootd-architecture"  # ROMs older than RFC 4578
        where.append(f"({codes})")
        # Raw or counted (RFC 3004): the last four bytes are the same. To dhcpd `a and b` is unknown, not false,
        # when `a` is false, and so is the `not` of it.
        ipxe = 'suffix(option user-class, 4) = "iPXE"'
        where += [ipxe] if row.ipxe else []
        where += [_hardware(row.prefix)] if row.prefix else []
        rivals = _rivals(row, found)
        where += [f"(not exists user-class or not ({ipxe}))"] if any(rival.ipxe for rival in rivals) else []
        where += [f"not ({_hardware(rival.prefix)})" for rival in rivals if rival.prefix]
        lines += [f'class "bootd-{row.name}" {{', f"  match if {' and '.join(where)};"]
        lines += [
            f"  next-server {found.address};",
            f'  server-name "{found.address}";',
            f'  filename "{row.file}";',
        ]
        if row.http or row.vendor:
            lines.append(f'  option vendor-class-identifier "{_class(row)}";')
        if row.vendor:
            lines.append(f"  option vendor-encapsulated-options {row.vendor.hex(':')};")
        lines.append("}")
    return "\n".join(lines) + "\n"


def _hardware(prefix: str) -> str:
    return f"substring(hardware, 1, {len(prefix.split(':'))}) = {prefix}"


def kea(found: Export) -> str:
    """For Kea's DHCPv4 server: ``client-classes`` of ``Dhcp4``, JSON with comments as Kea reads them."""
    classes = []
    for row in found.rows:
        codes = " or ".join(f"option[93].hex == 0x{code:04x}" for code in row.codes)
        if 0 in row.codes and not row.prefix:
            codes += " or not option[93].exists"  # ROMs older than RFC 4578
        length = 10 if row.http else 9
        where = [f"({codes})", f"substring(option[60].hex, 0, {length}) == '{_class(row)}'"]
        if row.prefix:
            length = len(row.prefix.split(":"))
            where.append(f"substring(pkt4.mac, 0, {length}) == 0x{row.prefix.replace(':', '')}")
        if row.ipxe:
            where.append("substring(option[77].hex, -4, 4) == 'iPXE'")
        where += [f"not member('bootd-{rival.name}')" for rival in _rivals(row, found)]
        options: list[dict[str, object]] = []
        if row.http or row.vendor:
            options.append({"name": "vendor-class-identifier", "data": _class(row), "always-send": True})
        if row.vendor:
            options.append({"code": 43, "csv-format": False, "data": row.vendor.hex(), "always-send": True})
        classes.append(
            {
                "name": f"bootd-{row.name}",
                "test": " and ".join(where),
                "next-server": found.address,
                "server-hostname": found.address,
                "boot-file-name": row.file,
                "option-data": options,
            }
        )
    # A class may name only classes before it.
    classes.sort(key=lambda entry: "not member(" in str(entry["test"]))
    body = json.dumps({"Dhcp4": {"client-classes": classes}}, indent=2)
    short = "// Kea's replies are shorter than BOOTP's 300 bytes: some old BIOS ROMs drop them."
    return "\n".join([*_head(found, "//", "Kea"), short, body]) + "\n"


def dnsmasq(found: Export) -> str:
    """For dnsmasq, in dnsmasq.conf or a file of conf-dir."""
    lines = _head(found, "#", "dnsmasq")
    if any(row.ipxe for row in found.rows):
        lines.append("dhcp-userclass=set:bootd-is-ipxe,iPXE")
    for row in found.rows:
        tag = f"bootd-{row.name}"
        wanted = [tag, "bootd-is-ipxe"] if row.ipxe else [tag]
        if row.prefix:
            stars = ":*" * (6 - len(row.prefix.split(":")))
            lines += [f"dhcp-mac=set:{name},{row.prefix}{stars}" for name in (tag, "bootd-raspberry-pi")]
        else:
            lines += [f"dhcp-match=set:{tag},option:client-arch,{code}" for code in row.codes]
        rivals = _rivals(row, found)
        wanted += ["!bootd-is-ipxe"] if any(rival.ipxe for rival in rivals) else []
        wanted += ["!bootd-raspberry-pi"] if any(rival.prefix for rival in rivals) else []
        tags = ",".join(f"tag:{name}" for name in wanted)
        lines.append(f"dhcp-boot={tags},{row.file},{found.address},{found.address}")
        if row.http:
            lines.append(f"dhcp-option-force={tags},60,{_class(row)}")
        if row.vendor:
            lines.append(f"dhcp-option-force={tags},43,{row.vendor.hex(':')}")
            lines.append(f"dhcp-option-force={tags},60,{_class(row)}")
    return "\n".join(lines) + "\n"


def _class(row: Row) -> str:
    return "HTTPClient" if row.http else "PXEClient"


WRITERS: dict[str, Callable[[Export], str]] = {"dhcpd": dhcpd, "kea": kea, "dnsmasq": dnsmasq}
