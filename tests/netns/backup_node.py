"""A node for tests: the agent of stage2 as it is, on a loop device in the place of the machine's disk.

``python -m tests.netns.backup_node MAC ADDRESS SERVER DEVICE SERIAL``. The boot token is taken from the boot
configuration that the daemon renders for MAC, as firmware would get it. Prints what the console of a node shows.
"""

import sys
from dataclasses import replace
from pathlib import Path

from bootd.member.control import ControlClient
from bootd.wire.control import Disk
from stage2.agent import Agent
from stage2.console import Console
from stage2.inventory import Facts, disks_of, run_lsblk
from stage2.node import Node
from tests.netns.ring_node import boot_token


def main(mac: str, address: str, server: str, device: str, serial: str) -> int:
    node = Node(mac, server, boot_token(server, mac), "ka", "", None, "eth0", address, dynamic=False)
    name = Path(device).name

    def take() -> tuple[Disk, ...]:
        devices = [item for item in run_lsblk()["blockdevices"] if item["kname"] == name]
        found = disks_of({"blockdevices": devices}, {name: Facts(serial=serial, table_digest="00" * 32)})
        return tuple(replace(disk, excluded=disk.excluded.replace("loop device", "")) for disk in found)

    return Agent(node, ControlClient(server, mac, node.token), take, Console(), reboot=lambda: None).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
