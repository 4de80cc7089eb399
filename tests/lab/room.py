"""The virtual machine room's network: a switch, a foreign DHCP server, a place for bootd, a port per node.

Everything lives in network namespaces with the process id in their names, so nothing of it shows on this
machine's own network and several rooms may exist at once:

    SWITCH   bridge "switch", veth ports "dhcp" and "server", tap ports "node0", "node1", ...; QEMU runs here
    DHCP     "eth0" 10.47.0.1: dnsmasq, which offers addresses and nothing else
    SERVER   "eth0" 10.47.0.2: bootd

`Room` is a context manager: what it made is gone after it, whatever happened in between; rooms of processes that
are dead are swept away by the next one.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.lab.console import Console
from tests.lab.errors import LabError

SERVER_ADDRESS = "10.47.0.2"
_DHCP_ADDRESS = "10.47.0.1"
_DHCP_ADDRESS_6 = "fd47::1"
PREFIX = "bootd-lab"
TEMPORARY = Path(tempfile.gettempdir())
_NAME = re.compile(
    rf"{PREFIX}-(\d+)-\w+(?:-[a-z]+)?\Z"
)  # of a namespace or a temporary folder; the number is our pid


class Room:
    _count = 0

    def __init__(self, folder: Path, ports: int) -> None:
        """``folder`` for log files; ``ports`` is the number of nodes."""
        Room._count += 1
        self.folder = folder
        self.ports = ports
        base = f"{PREFIX}-{os.getpid()}-{Room._count}"
        self.switch, self.dhcp, self.server = (f"{base}-{name}" for name in ("switch", "dhcp", "server"))
        self._consoles: list[Console] = []

    def __enter__(self) -> "Room":
        if os.geteuid() != 0:
            raise LabError("room", "start", "network namespaces need root")
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the processes of the room, the last started first, and take the namespaces away."""
        while self._consoles:
            self._consoles.pop().terminate(8)
        for name in (self.server, self.dhcp, self.switch):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=20)

    def inside(self, namespace: str) -> list[str]:
        """What to put before a command line that shall run in ``namespace``."""
        return ["ip", "netns", "exec", namespace]

    def own(self, console: Console) -> Console:
        """End ``console``'s process with the room."""
        self._consoles.append(console)
        return console

    def start_dhcp(self, next_server: str = "", more: Sequence[str] = ()) -> Console:
        """dnsmasq as any office router would be: addresses, no boot options, no DNS.

        ``next_server`` (siaddr) is the one boot option that some routers let people set. It announces an IPv6
        prefix too, as such routers do: without any announcement iPXE waits 15 s for one. ``more`` are
        arguments that make it a boot server after all, for comparison.
        """
        # --no-daemon: it changes no credentials, which would make it outlive us (see `Console.start`).
        command = ["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--log-facility=-"]
        command += ["--interface=eth0", "--bind-interfaces", "--dhcp-range=10.47.0.100,10.47.0.199,1h"]
        command += ["--enable-ra", "--dhcp-range=::,constructor:eth0,ra-only"]
        command += [f"--dhcp-boot=,,{next_server}"] if next_server else []
        command += ["--dhcp-authoritative", "--no-ping", "--log-dhcp", "--pid-file="]
        command += [f"--dhcp-leasefile={self.folder / 'dnsmasq.leases'}"]
        command += more
        (self.folder / "dnsmasq.leases").unlink(missing_ok=True)
        console = self.own(Console("dnsmasq", self.folder / "dnsmasq.log"))
        console.start(self.inside(self.dhcp) + command)
        console.wait_for(r"DHCP, sockets bound|DHCP, IP range", 10, "start")
        return console

    def network(self, port: int) -> str:
        """QEMU's ``-netdev`` value for node ``port`` (from 0)."""
        return f"tap,ifname=node{port},script=no,downscript=no"

    def limit(self, port: int, megabits: float) -> None:
        """Limit what node ``port`` receives to ``megabits`` per second."""
        rate = f"{int(megabits * 1000)}kbit"
        self._in(self.switch, f"tc qdisc replace dev node{port} root tbf rate {rate} burst 128k latency 100ms")

    def _build(self) -> None:
        for name in (self.switch, self.dhcp, self.server):
            _run(["ip", "netns", "add", name])
            self._in(name, "ip link set lo up")
        self._in(self.switch, "ip link add switch type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
        self._in(self.switch, "ip link set switch up")
        for port, name, address in (("dhcp", self.dhcp, _DHCP_ADDRESS), ("server", self.server, SERVER_ADDRESS)):
            self._in(self.switch, f"ip link add {port} type veth peer name eth0 netns {name}")
            self._plug(port)
            self._in(name, f"ip address add {address}/24 dev eth0")
            self._in(name, "ip link set eth0 up")
        self._in(self.dhcp, f"ip address add {_DHCP_ADDRESS_6}/64 dev eth0 nodad")
        for number in range(self.ports):
            self._in(self.switch, f"ip tuntap add node{number} mode tap")
            self._plug(f"node{number}")

    def _plug(self, port: str) -> None:
        self._in(self.switch, f"ip link set {port} master switch")
        self._in(self.switch, f"ip link set {port} up")

    def _in(self, namespace: str, command: str) -> None:
        _run([*self.inside(namespace), *command.split()])


def sweep() -> None:
    """Delete what rooms of dead processes left. Their programs died with them (see `Console.start`)."""
    listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=20).stdout
    for line in listing.splitlines():
        name = line.split()[0] if line.split() else ""
        if _is_orphan(name):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=20)
    for folder in TEMPORARY.glob(f"{PREFIX}-*"):
        if _is_orphan(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _is_orphan(name: str) -> bool:
    found = _NAME.match(name)
    return found is not None and not Path(f"/proc/{found.group(1)}").exists()


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        raise LabError("room", "start", f"{command[0]} is not installed") from None
    if done.returncode:
        raise LabError("room", " ".join(command), (done.stderr or done.stdout).strip()[-400:])
