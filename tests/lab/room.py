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
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.lab.console import Console
from tests.lab.errors import LabError
from tests.namespaces import Namespaces, inside, is_orphan

SERVER_ADDRESS = "10.47.0.2"
_DHCP_ADDRESS = "10.47.0.1"
_DHCP_ADDRESS_6 = "fd47::1"
PREFIX = "bootd-lab"
TEMPORARY = Path(tempfile.gettempdir())


class Room:
    def __init__(self, folder: Path, ports: int) -> None:
        """``folder`` for log files; ``ports`` is the number of nodes."""
        self.folder = folder
        self.ports = ports
        self._network = Namespaces(PREFIX, ("dhcp", "server"), lambda text: LabError("room", "start", text))
        self.switch, self.dhcp, self.server = self._network.switch, self._network["dhcp"], self._network["server"]
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
        self._network.remove()

    def inside(self, namespace: str) -> list[str]:
        """What to put before a command line that shall run in ``namespace``."""
        return inside(namespace)

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
        self._network.limit(f"node{port}", megabits)

    def _build(self) -> None:
        self._network.build()
        for name, address in ((self.dhcp, _DHCP_ADDRESS), (self.server, SERVER_ADDRESS)):
            self._network.ip(name, f"address add {address}/24 dev eth0")
        self._network.ip(self.dhcp, f"address add {_DHCP_ADDRESS_6}/64 dev eth0 nodad")
        for number in range(self.ports):
            self._network.ip(self.switch, f"tuntap add node{number} mode tap")
            self._network.plug(f"node{number}")


def sweep() -> None:
    """Delete the folders that rooms of dead processes left; their namespaces go when the next ones are made."""
    for folder in TEMPORARY.glob(f"{PREFIX}-*"):
        if is_orphan(PREFIX, folder.name):
            shutil.rmtree(folder, ignore_errors=True)
