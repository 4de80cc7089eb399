"""Which interfaces and addresses the daemon serves: as configured, else the only one that is possible."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from bootd.config import Server
from bootd.errors import Exit, OperatorError

_SECONDS = 10


@dataclass(frozen=True)
class Interface:
    name: str
    address: str  # IPv4


@dataclass(frozen=True)
class Candidate:
    """An interface as the kernel lists it."""

    name: str
    up: bool
    loopback: bool
    addresses: tuple[str, ...]  # IPv4, primary first


def detect(server: Server) -> list[Interface]:
    """The interfaces to serve on, at least one; `OperatorError` (CONFIG) that lists what there is."""
    return choose(list_interfaces(), server)


def list_interfaces() -> list[Candidate]:
    """What ``ip -json address`` shows; `OperatorError` when it cannot be run."""
    try:
        done = subprocess.run(["ip", "-json", "address", "show"], capture_output=True, timeout=_SECONDS, check=True)
        listing = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise OperatorError(
            f"cannot list network interfaces: {error}", "apt-get install iproute2", Exit.CONFIG
        ) from None
    return parse_listing(listing)


def parse_listing(listing: list[dict[str, Any]]) -> list[Candidate]:
    """Candidates from the decoded output of ``ip -json address``. A tunnel's base device loses its suffix."""
    return [
        Candidate(
            name=str(entry["ifname"]),
            up="UP" in entry.get("flags", ()),
            loopback="LOOPBACK" in entry.get("flags", ()),
            addresses=tuple(
                str(item["local"]) for item in entry.get("addr_info", ()) if item.get("family") == "inet"
            ),
        )
        for entry in listing
        if entry.get("ifname")
    ]


def choose(candidates: list[Candidate], server: Server) -> list[Interface]:
    """Decide. An interface or address that is configured must exist; nothing is guessed among several."""
    if server.interfaces:
        chosen = [_configured(candidates, server, name) for name in server.interfaces]
        if server.address and server.address not in [interface.address for interface in chosen]:
            raise OperatorError(
                f"{', '.join(server.interfaces)}: none has the address {server.address}: {_describe(candidates)}",
                "mend server.address in bootd.toml",
                Exit.CONFIG,
            )
        return chosen
    possible = [item for item in candidates if item.up and not item.loopback and item.addresses]
    if server.address:
        possible = [item for item in candidates if item.up and server.address in item.addresses]
        if not possible:
            raise OperatorError(
                f"no interface that is up has the address {server.address}: {_describe(candidates)}",
                "set server.address or server.interface in bootd.toml",
                Exit.CONFIG,
            )
    if not possible:
        raise OperatorError(
            f"no interface is up with an IPv4 address: {_describe(candidates)}",
            "give one an address, then start bootd again",
            Exit.CONFIG,
        )
    if len(possible) > 1:
        raise OperatorError(
            f"several interfaces could be served: {_describe(possible)}",
            f'set interface = "{possible[0].name}" (or another) under [server] in bootd.toml',
            Exit.CONFIG,
        )
    return [Interface(possible[0].name, server.address or possible[0].addresses[0])]


def _configured(candidates: list[Candidate], server: Server, name: str) -> Interface:
    found = next((item for item in candidates if item.name == name), None)
    if found is None:
        raise OperatorError(
            f"there is no interface {name}: {_describe(candidates)}",
            "mend server.interface in bootd.toml",
            Exit.CONFIG,
        )
    if not found.up:
        raise OperatorError(
            f"interface {found.name} is down", f"ip link set {found.name} up, then start again", Exit.CONFIG
        )
    if not found.addresses:
        raise OperatorError(
            f"interface {found.name} has no IPv4 address",
            f"ip address add ADDRESS/PREFIX dev {found.name}, then start again",
            Exit.CONFIG,
        )
    own = server.address
    return Interface(found.name, own if own in found.addresses else found.addresses[0])


def _describe(candidates: list[Candidate]) -> str:
    parts = []
    for item in candidates:
        notes = [*item.addresses] or ["no IPv4 address"]
        if not item.up:
            notes.append("down")
        parts.append(f"{item.name} ({', '.join(notes)})")
    return ", ".join(parts) or "there is none"
