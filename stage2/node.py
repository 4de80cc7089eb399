"""What this node is: what stage1 handed over, and what goes into `Join`."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from bootd.wire.control import ABILITIES, Disk, Join
from stage2.hardware import read_hardware

HANDOVER = "/run/bootd/node.json"
LEASE_SCRIPT = "/bootd/lease"


class HandoverError(Exception):
    """stage1 left nothing that can be read; the text says what."""


@dataclass(frozen=True)
class Node:
    """This node, as stage1 found it."""

    mac: str  # boot MAC, lower case, colons
    server: str  # HOST:PORT
    token: str
    work: str  # "ka", "dolly", "dollyC", or "" for no cloning
    session: str  # kaopt=, or ""
    dolly_timeout: int | None  # seconds
    interface: str
    address: str  # IPv4
    dynamic: bool  # the address is leased
    gives_up_by_reboot: bool = False  # give_up:reboot of the label; else it parks


def parse_handover(data: bytes) -> Node:
    """The file that stage1 wrote; `HandoverError` names what is missing."""
    try:
        value = json.loads(data)
        options, lease = value["options"], value["lease"]
        return Node(
            mac=str(options["node"]),
            server=f"{options['server_host']}:{int(options['server_port'])}",
            token=str(options["token"]),
            work=str(options["work"]),
            session=str(options["session"]),
            dolly_timeout=None if options["dolly_timeout"] is None else int(options["dolly_timeout"]),
            interface=str(lease["interface"]),
            address=str(lease["address"]),
            dynamic=bool(lease["dynamic"]),
            gives_up_by_reboot=bool(options.get("gives_up_by_reboot", False)),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise HandoverError(f"{HANDOVER}: {error!r}") from None


def read_handover(path: str = HANDOVER) -> Node:
    try:
        with open(path, "rb") as stream:
            return parse_handover(stream.read())
    except OSError as error:
        raise HandoverError(f"{path}: {error.strerror}") from None


def firmware(sys_root: str = "/sys") -> str:
    """How this machine boots: "uefi" or "bios"."""
    return "uefi" if os.path.isdir(f"{sys_root}/firmware/efi") else "bios"


def join_of(node: Node, disks: Sequence[Disk], sys_root: str = "/sys", proc_root: str = "/proc") -> Join:
    """The message with which this node asks for work. The UUID is "" where the board does not tell one."""
    try:
        with open(f"{sys_root}/class/dmi/id/product_uuid") as stream:
            uuid = stream.read().strip().lower()
    except OSError:
        uuid = ""
    with open(f"{proc_root}/meminfo") as stream:
        memory = next((int(line.split()[1]) << 10 for line in stream if line.startswith("MemTotal:")), 0)
    return Join(
        node=node.mac,
        uuid=uuid,
        arch=os.uname().machine,
        firmware=firmware(sys_root),
        address=node.address,
        session=node.session,
        method=node.work,
        memory=memory,
        disks=tuple(disks),
        abilities=ABILITIES,
        hardware=read_hardware(sys_root, proc_root),
    )


def keep_lease(node: Node) -> "subprocess.Popen[bytes] | None":
    """A DHCP client that renews what stage1 leased: a session may outlast the lease. None for a fixed address."""
    if not node.dynamic:
        return None
    command = ["/bin/busybox", "udhcpc", "-f", "-i", node.interface, "-r", node.address, "-s", LEASE_SCRIPT]
    nothing = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)
