"""What the DHCP tests share: clients of other people in a room, and what they say happened to them."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.netns.room import Process, Room

# What a PXE ROM says of itself: options 60, 93 (architecture), 94 (network interface), 97 (machine).
PXE_CLASS = "PXEClient:Arch:00000:UNDI:002001"
UDHCPC_PXE = ("-V", PXE_CLASS, "-x", "0x5d:0000", "-x", "0x5e:010201",
              "-x", "0x61:00000102030405060708090a0b0c0d0e0f", "-O", "bootfile", "-O", "tftp")  # fmt: skip
DHCLIENT_PXE = f"""
option pxe-arch code 93 = unsigned integer 16;
option pxe-nic code 94 = string;
option pxe-uuid code 97 = string;
send vendor-class-identifier "{PXE_CLASS}";
send pxe-arch 0;
send pxe-nic 01:02:01;
send pxe-uuid 00:00:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f;
"""
_UDHCPC_SCRIPT = """#!/bin/sh
case "$1" in
bound|renew)
    ip address flush dev "$interface" scope global
    ip address add "$ip/$mask" dev "$interface"
    [ -z "$router" ] || ip route replace default via "$router" ;;
deconfig) ip address flush dev "$interface" scope global ;;
esac
echo "udhcpc: event=$1 ip=$ip server=$serverid siaddr=$siaddr file=$boot_file lease=$lease router=$router" \\
     "dns=$dns mask=$mask domain=$domain" >> OUTPUT
"""
_DHCLIENT_SCRIPT = """#!/bin/sh
case "$reason" in
BOUND|RENEW|REBIND|REBOOT)
    ip address flush dev "$interface" scope global
    ip address add "$new_ip_address/$new_subnet_mask" dev "$interface" ;;
EXPIRE|FAIL|RELEASE|STOP|PREINIT)
    ip address flush dev "$interface" scope global
    ip link set "$interface" up ;;
esac
echo "dhclient: event=$reason ip=$new_ip_address server=$new_dhcp_server_identifier file=$new_filename" >> OUTPUT
exit 0
"""


@dataclass
class Client:
    """A DHCP client program in a namespace, and the file that its script writes."""

    process: Process
    events: Path

    def event(self, kind: str, seconds: float = 12.0) -> dict[str, str]:
        """The next event of this kind, as the client's script saw it."""
        found = self.process.wait_for(rf"event={kind} [^\n]*\n", seconds).group(0)
        return dict(re.findall(r"(\w+)=(\S*)", found))


def udhcpc(room: Room, name: str, folder: Path, *more: str, interface: str = "eth0") -> Client:
    """busybox udhcpc, which stays: SIGUSR1 renews, SIGUSR2 releases."""
    script = _script(folder / f"udhcpc-{name}", _UDHCPC_SCRIPT)
    words = ["busybox", "udhcpc", "-i", interface, "-f", "-t", "6", "-T", "1", "-A", "1", "-s", str(script), *more]
    return Client(room.start(name, words), script)


def dhclient(room: Room, name: str, folder: Path, *more: str, config: str = "") -> Client:
    """ISC dhclient in the foreground, with files of its own; ``-r`` releases what an earlier one has got."""
    script = _script(folder / f"dhclient-{name}", _DHCLIENT_SCRIPT)
    settings = folder / f"dhclient-{name}.conf"
    settings.write_text(
        f"timeout 8; retry 1; initial-interval 1; select-timeout 0;\n{config}\n"
        "request subnet-mask, broadcast-address, routers, domain-name-servers, bootfile-name;\n"
    )
    files = ("-lf", str(folder / f"{name}.leases"), "-pf", str(folder / f"{name}.pid"), "-cf", str(settings))
    words = ["dhclient", "-d", "-v", *files, "-sf", str(script), *more, "eth0"]
    return Client(room.start(name, words), script)


def _script(path: Path, text: str) -> Path:
    """A client's script that speaks on the client's own standard output, wherever the client sends it."""
    path.write_text(text.replace("OUTPUT", "/proc/$PPID/fd/1"))
    path.chmod(0o755)
    return path


def missing(*programs: str) -> str:
    """Which of these programs is not installed; "" for none."""
    return next((program for program in programs if not shutil.which(program)), "")
