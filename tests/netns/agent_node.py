"""The real agent of stage2 on a loop device: ``python -m tests.netns.agent_node MAC ADDRESS SERVER DEVICE``.

SERVER is HOST:PORT; the boot token is the one that the daemon renders for MAC. Only DEVICE is shown as a disk, and
nothing touches this machine's firmware or restarts it: the program ends where the node would reboot.
"""

import os
import sys

from bootd.member.control import ControlClient
from bootd.wire.control import Disk
from bootd.wire.saved import table_digest, table_regions
from stage2 import agent
from stage2.console import Console
from stage2.node import Node
from tests.netns.ring_node import boot_token


def main(mac: str, address: str, server: str, device: str) -> int:
    token = boot_token(server, mac)
    node = Node(mac, server, token, "ka", "", None, "eth0", address, dynamic=False)
    vars(agent)["make_bootable"] = lambda disk: f"{disk} is made bootable"
    client = ControlClient(server, mac, token)
    console = Console()

    def take() -> list[Disk]:
        return [describe(device, f"LOOP-{mac[-2:]}")]

    return agent.Agent(node, client, take, console, reboot=lambda: console.say("here it would restart")).run()


def describe(device: str, serial: str) -> Disk:
    """The loop device as the only disk of the node."""
    descriptor = os.open(device, os.O_RDONLY)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        parts = [os.pread(descriptor, length, offset) for offset, length in table_regions(size)]
    finally:
        os.close(descriptor)
    return Disk(device[5:], size, 512, serial, "", "", "virtio", False, "", table_digest(size, parts))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
