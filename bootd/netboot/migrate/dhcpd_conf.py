"""dhcpd.conf of ISC dhcpd, read into settings of bootd: subnets, pools, hosts, lease times, options for PXELINUX.

What bootd does by itself (the PXE option space, the classes PXE and Etherboot) is named as such; what it cannot do
is left, with its line.
"""

import ipaddress
import re
from dataclasses import dataclass, field, replace

from bootd.netboot.migrate.dhcpd_syntax import Statement, parse
from bootd.netboot.migrate.imported import Imported, NotReadable, Value

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_MAC = re.compile(r"[0-9A-Fa-f]{1,2}(:[0-9A-Fa-f]{1,2}){5}\Z")
_DOMAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")
_SHORTEST, _LONGEST = 60, 31_536_000  # seconds of a lease that bootd takes
_DEFAULT_SECONDS = 43_200  # dhcpd's own default-lease-time
# Statements that ask for what bootd does, or must not do, anyway.
_NATIVE = {
    ("allow", "booting"): "bootd answers every node that its policy does not silence",
    ("allow", "bootp"): "BOOTP clients get the address that is reserved for them",
    ("ddns-update-style",): "bootd's own DNS has the names of its nodes",
    ("option", "space"): "bootd builds PXE's options itself",
    ("site-option-space",): "bootd builds PXELINUX's options itself",
    ("vendor-option-space",): "bootd builds PXE's options itself",
    ("next-server",): "files come from bootd itself",
    ("option", "subnet-mask"): "it follows from the subnet",
    ("option", "broadcast-address"): "it follows from the subnet",
    ("option", "pxelinux.magic"): "sent with the others",
    ("subclass",): "bootd tells its clients apart by option 60 and 93",
}


@dataclass(frozen=True)
class _Scope:
    """What is in force for the subnets below: inherited from the enclosing blocks."""

    routers: tuple[str, ...] = ()
    name_servers: tuple[str, ...] = ()
    domain: str = ""
    seconds: int = _DEFAULT_SECONDS


@dataclass
class _Reader:
    found: Imported
    nodes: dict[str, str] = field(default_factory=dict)  # MAC and name of hosts already taken, to their line

    def statements(self, statements: tuple[Statement, ...], scope: _Scope) -> _Scope:
        """Options first, in whatever order they stand: dhcpd applies them to the whole block."""
        for statement in statements:
            scope = self._option(statement, scope)
        for statement in statements:
            self._statement(statement, scope)
        return scope

    def _option(self, statement: Statement, scope: _Scope) -> _Scope:
        """``scope`` with what this statement says for it."""
        words = statement.words
        if statement.block is not None:
            return scope
        if words[:2] == ("option", "routers") or words[:2] == ("option", "domain-name-servers"):
            addresses = tuple(word for word in words[2:] if word != ",")
            if not addresses or not all(_is_address(address) for address in addresses):
                self._leave(statement, "not IPv4 addresses: write them into the [[dhcp.pool]] yourself")
                return scope
            routers = words[1] == "routers"
            self._take(statement, f"[[dhcp.pool]] {'gateway' if routers else 'dns'}")
            return replace(scope, routers=addresses) if routers else replace(scope, name_servers=addresses)
        if words[:2] == ("option", "domain-name") and len(words) == 3:
            if not _DOMAIN.match(words[2]):
                self._leave(statement, "not a domain")
                return scope
            self._take(statement, "[[dhcp.pool]] domain")
            return replace(scope, domain=words[2])
        if words[0] == "default-lease-time" and len(words) == 2 and words[1].isdigit():
            seconds = min(max(int(words[1]), _SHORTEST), _LONGEST)
            self._take(statement, f"[[dhcp.pool]] lease_seconds = {seconds}")
            return replace(scope, seconds=seconds)
        return scope

    def _statement(self, statement: Statement, scope: _Scope) -> None:
        words = statement.words
        if not words:
            self._leave(statement, "a block without a name")
        elif words[0] == "subnet":
            self._subnet(statement, scope)
        elif words[0] in ("group", "shared-network") and statement.block is not None:
            self.statements(statement.block, scope)
        elif words[0] == "host":
            self._host(statement)
        elif words[0] == "class":
            self._class(statement)
        elif statement.block is not None:
            self._leave(statement, "bootd has nothing like it")
        elif words == ("authoritative",):
            self.found.put("dhcp", "authoritative", True)
            self._take(statement, "[dhcp] authoritative")
        elif words[0] == "max-lease-time":
            self._leave(statement, "leases are as long as lease_seconds at most")
        elif not self._is_known_option(statement):
            self._plain(statement)

    def _plain(self, statement: Statement) -> None:
        words = statement.words
        if len(words) >= 4 and words[0] == "option" and words[2] == "code":
            self._take(statement, "a definition: bootd knows the options that it sends")
            return
        for start, why in _NATIVE.items():
            if words[: len(start)] == start:
                self._take(statement, why)
                return
        setting = {
            "pxelinux.configfile": "config_file",
            "pxelinux.pathprefix": "path_prefix",
            "pxelinux.reboottime": "reboot_seconds",
        }.get(words[1] if words[0] == "option" and len(words) == 3 else "")
        value: Value = words[-1]
        if setting == "reboot_seconds":
            if not words[2].isdigit() or int(words[2]) > 86_400:
                self._leave(statement, "not a number of seconds up to a day")
                return
            value = int(words[2])
        if setting:
            self.found.put("pxe", setting, value)
            self._take(statement, f"[pxe] {setting}")
        else:
            self._leave(statement, "bootd has nothing like it")

    def _is_known_option(self, statement: Statement) -> bool:
        """Whether `_option` has dealt with it."""
        words = statement.words
        known = ("routers", "domain-name-servers", "domain-name")
        return words[0] == "default-lease-time" or (words[0] == "option" and len(words) > 2 and words[1] in known)

    def _subnet(self, statement: Statement, scope: _Scope) -> None:
        words = statement.words
        if len(words) != 4 or words[2] != "netmask" or statement.block is None:
            self._leave(statement, "not of the form subnet ADDRESS netmask MASK { ... }")
            return
        try:
            network = ipaddress.IPv4Network(f"{words[1]}/{words[3]}")
        except ValueError:
            self._leave(statement, f"{words[1]} netmask {words[3]} is no subnet: write your addresses in its place")
            return
        inner = self.statements(tuple(one for one in statement.block if not _is_range(one)), scope)
        ranges = self._ranges(statement.block, network)
        row: dict[str, Value] = {"subnet": str(network)}
        if ranges:
            row["range"] = ranges[0] if len(ranges) == 1 else ranges
        for key, addresses in (("gateway", inner.routers), ("dns", inner.name_servers)):
            if addresses:
                row[key] = addresses[0] if len(addresses) == 1 else list(addresses)
        if inner.domain:
            row["domain"] = inner.domain
        row["lease_seconds"] = inner.seconds
        self.found.put("dhcp", "proxy", False)
        self.found.add("dhcp.pool", row)
        self._take(statement, "[[dhcp.pool]]")

    def _ranges(self, statements: tuple[Statement, ...], network: ipaddress.IPv4Network) -> list[str]:
        """``range A B;`` of the subnet and of its pools."""
        ranges: list[str] = []
        for statement in statements:
            if statement.starts("pool") and statement.block is not None:
                ranges += self._ranges(statement.block, network)
                for other in statement.block:
                    if not other.starts("range"):
                        self._leave(other, "a pool of bootd has no rules of its own")
            elif statement.starts("range"):
                words = tuple(word for word in statement.words[1:] if word != "dynamic-bootp")
                ends = (words * 2)[:2]
                inside = all(_is_address(end) and ipaddress.IPv4Address(end) in network for end in ends)
                if not words or not inside:
                    self._leave(statement, "not addresses of this subnet")
                    continue
                ranges.append(f"{ends[0]}-{ends[1]}")
                self._take(statement, "[[dhcp.pool]] range")
        return ranges

    def _host(self, statement: Statement) -> None:
        if len(statement.words) != 2 or statement.block is None:
            self._leave(statement, "not of the form host NAME { ... }")
            return
        row: dict[str, Value] = {}
        for inner in statement.block:
            if inner.starts("hardware", "ethernet") and len(inner.words) == 3 and _MAC.match(inner.words[2]):
                row["mac"] = ":".join(part.zfill(2) for part in inner.words[2].lower().split(":"))
                self._take(inner, "[[node]] mac")
            elif inner.starts("fixed-address") and len(inner.words) == 2 and _is_address(inner.words[1]):
                row["address"] = inner.words[1]
                self._take(inner, "[[node]] address")
            elif inner.starts("fixed-address"):
                self._leave(inner, "bootd reserves one address, not a name: write it as [[node]] address")
            else:
                self._leave(inner, "bootd has nothing like it for one host")
        name = statement.words[1].split(".", 1)[0]
        if "mac" not in row:
            self._leave(statement, "without a hardware address")
            return
        if not _NAME.match(name):
            self._leave(statement, f"{name!r} is not a host name of letters, digits and hyphens")
            return
        for key in (str(row["mac"]), name.lower(), str(row.get("address", ""))):
            if key and key in self.nodes:
                self._leave(statement, f"{key} is taken by {self.nodes[key]}")
                return
        for key in (str(row["mac"]), name.lower(), str(row.get("address", ""))):
            self.nodes[key] = f"line {statement.line}"
        self.found.add("node", {"mac": row.pop("mac"), "name": name, **row})
        self._take(statement, "[[node]]")

    def _class(self, statement: Statement) -> None:
        """The classes that are about network boot: bootd knows those clients; their file names are not its own."""
        text = " ".join(word for one in statement.block or () for word in one.words)
        for prefix in ("PXEClient", "Etherboot", "HTTPClient"):
            if prefix in text:
                self._take(statement, f"bootd answers {prefix} by itself")
                break
        else:
            self._leave(statement, "bootd has no classes")
            return
        for inner in statement.block or ():
            if inner.starts("filename") and len(inner.words) == 2:
                self._leave(
                    inner,
                    "bootd starts its own loader; for another one put it into the boot folder and name it in "
                    "[boot.loaders]",
                )

    def _take(self, statement: Statement, what: str) -> None:
        self.found.take(statement.line, statement.text, what)

    def _leave(self, statement: Statement, why: str) -> None:
        self.found.leave(statement.line, statement.text, why)


def read(text: str, source: str) -> Imported:
    """Settings out of the file's ``text``; `NotReadable` when it is no such file."""
    statements = parse(text)
    if not statements:
        raise NotReadable("there is no statement in it")
    reader = _Reader(Imported(source))
    reader.statements(statements, _Scope())
    found = reader.found
    if "dhcp.pool" not in found.arrays and any(row.get("address") for row in found.arrays.get("node", ())):
        # A reserved address needs the subnet that it belongs to.
        for row in found.arrays["node"]:
            row.pop("address", None)
        found.leave(1, source, "no subnet could be taken over, so reserved addresses were left out")
    return found


def _is_range(statement: Statement) -> bool:
    return statement.starts("range") or statement.starts("pool")


def _is_address(word: str) -> bool:
    try:
        ipaddress.IPv4Address(word)
    except ValueError:
        return False
    return True
