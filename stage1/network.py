"""Bringing the boot interface up: find it, give it an address by DHCP (BusyBox udhcpc) or as the label says."""

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from stage1.cmdline import BootOptions, StaticNetwork

DRIVER_SCRIPT = "/stage1/drivers.sh"
LEASE_SCRIPT = "/stage1/lease.sh"
LEASE_FILE = "/run/bootd/lease"
RESOLVER_FILE = "/etc/resolv.conf"
APPEAR_SECONDS = 15.0  # drivers find their cards on their own time
LINK_SECONDS = 30.0  # spanning tree may hold a port back
DHCP_TRIES = 8
DHCP_PAUSE = 3  # seconds between two DISCOVERs


class NetworkError(Exception):
    """No usable interface, no link or no address; the text says which."""


@dataclass(frozen=True)
class Interface:
    name: str
    mac: str  # lower case, colons


@dataclass(frozen=True)
class Lease:
    """What the node got, from DHCP or from the label."""

    interface: str
    address: str
    prefix: int  # bits
    gateways: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    domain: str = ""
    dynamic: bool = False  # from DHCP, so it must be kept up in stage2


def choose_interface(options: BootOptions, present: Mapping[str, str]) -> Interface | None:
    """The interface that the command line means among ``present`` (name -> MAC), None when it is not there (yet).

    A name counts when the label gives one; else the MAC in BOOTIF, else the node's own; a machine with several
    cards must not ask on a network that it did not boot from.
    """
    if options.interface != "auto":
        mac = present.get(options.interface)
        return None if mac is None else Interface(options.interface, mac)
    wanted = options.boot_interface or options.node
    for name, mac in sorted(present.items()):
        if mac == wanted:
            return Interface(name, mac)
    return None


def interfaces(root: str = "/sys/class/net") -> dict[str, str]:
    """Name and MAC of every Ethernet interface that has hardware behind it."""
    found = {}
    for name in sorted(os.listdir(root)):
        folder = f"{root}/{name}"
        try:
            with open(f"{folder}/type") as stream:
                kind = stream.read().strip()
            with open(f"{folder}/address") as stream:
                mac = stream.read().strip().lower()
        except OSError:
            continue
        if kind == "1" and os.path.exists(f"{folder}/device"):  # 1: ARPHRD_ETHER
            found[name] = mac
    return found


def wait_for_interface(options: BootOptions, seconds: float = APPEAR_SECONDS) -> Interface:
    """`choose_interface` until it finds one; `NetworkError` lists what is there instead."""
    end = time.monotonic() + seconds
    while True:
        present = interfaces()
        chosen = choose_interface(options, present)
        if chosen is not None:
            return chosen
        if time.monotonic() > end:
            wanted = options.interface if options.interface != "auto" else options.boot_interface or options.node
            there = ", ".join(f"{name} ({mac})" for name, mac in present.items()) or "none: no driver for the card?"
            raise NetworkError(f"no network interface {wanted}; present: {there}")
        time.sleep(0.5)
        subprocess.run([DRIVER_SCRIPT], check=False)  # for a card that shows up late, such as one on USB


def parse_lease(interface: str, text: str) -> Lease:
    """The variables that udhcpc gave to `LEASE_SCRIPT`, NAME=VALUE lines; `NetworkError` without an address."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    address, mask = values.get("ip", ""), values.get("mask", "")
    if not address or not mask.isdigit() or not 0 <= int(mask) <= 32:
        raise NetworkError(f"{interface}: the DHCP server gave no usable address ({address!r}/{mask!r})")
    return Lease(
        interface,
        address,
        int(mask),
        tuple(values.get("router", "").split()),
        tuple(values.get("dns", "").split()),
        values.get("domain", ""),
        dynamic=True,
    )


def bring_up(interface: Interface, static: StaticNetwork | None) -> Lease:
    """Raise the link, get an address, set it. `NetworkError` when any of it fails."""
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "set", interface.name, "up")
    _wait_for_link(interface.name)
    if static is not None:
        gateways = (static.gateway,) if static.gateway else ()
        lease = Lease(interface.name, static.address, static.prefix, gateways)
    else:
        lease = _ask(interface.name)
    _set_address(lease)
    return lease


def _wait_for_link(name: str) -> None:
    end = time.monotonic() + LINK_SECONDS
    while True:
        try:
            with open(f"/sys/class/net/{name}/carrier") as stream:
                if stream.read().strip() == "1":
                    return
        except OSError:  # EINVAL while the interface is still coming up
            pass
        if time.monotonic() > end:
            raise NetworkError(f"{name}: no link after {LINK_SECONDS:.0f} s; is the cable in?")
        time.sleep(0.1)


def _ask(name: str) -> Lease:
    if os.path.exists(LEASE_FILE):
        os.unlink(LEASE_FILE)
    command = ["udhcpc", "-i", name, "-f", "-q", "-n", "-t", str(DHCP_TRIES), "-T", str(DHCP_PAUSE)]
    done = subprocess.run(["/bin/busybox", *command, "-s", LEASE_SCRIPT], capture_output=True, check=False)
    if done.returncode != 0 or not os.path.exists(LEASE_FILE):
        tail = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise NetworkError(f"{name}: no answer from a DHCP server ({' '.join(tail)})")
    with open(LEASE_FILE) as stream:
        return parse_lease(name, stream.read())


def _set_address(lease: Lease) -> None:
    _run("ip", "-4", "addr", "flush", "dev", lease.interface)
    _run("ip", "addr", "add", f"{lease.address}/{lease.prefix}", "broadcast", "+", "dev", lease.interface)
    for gateway in lease.gateways[:1]:
        # `onlink`: a gateway outside the prefix is unusual, but some hosters' DHCP servers hand one out.
        _run("ip", "route", "replace", "default", "via", gateway, "dev", lease.interface, "onlink")
    lines = [f"search {lease.domain}"] if lease.domain else []
    lines += [f"nameserver {address}" for address in lease.resolvers[:3]]
    with open(RESOLVER_FILE, "w") as stream:
        stream.write("".join(f"{line}\n" for line in lines))


def _run(*command: str) -> None:
    done = subprocess.run(["/bin/busybox", *command], capture_output=True, check=False)
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()
        raise NetworkError(f"{' '.join(command)}: {text or done.returncode}")
