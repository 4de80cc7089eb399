"""A node for tests: the whole agent of stage2 on loop devices, which it takes for its disks.

``python -m tests.netns.loop_node MAC ADDRESS SERVER DEVICE SERIAL``. SERVER is HOST:PORT. Prints what the console
of a node shows, and ``node: rebooted`` at the end. What lies on the disks is found with lsblk and blkid. DEVICE
SERIAL may be ``@FILE``, where each line is that of one disk. It is read at each look, for disks come and go.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bootd.member.control import ControlClient
from bootd.wire.control import Disk
from stage2 import signatures
from stage2.agent import Agent
from stage2.console import Console
from stage2.inventory import COLUMNS, Facts, disks_of, exclusion, table_digest
from stage2.node import Node
from tests.netns.disks import add_partitions
from tests.netns.ring_node import boot_token


def main(mac: str, address: str, server: str, *places: str) -> int:
    node = Node(mac, server, boot_token(server, mac), "ka", "", None, "eth0", address, dynamic=False)
    client = ControlClient(server, mac, node.token)

    def rebooted() -> None:
        print("node: rebooted", flush=True)

    for device, _ in read_places(places):
        add_partitions(device)
    return Agent(node, client, lambda: take(places), Console(), reboot=rebooted).run()


def take(places: Sequence[str]) -> tuple[Disk, ...]:
    return tuple(disk_at(device, serial) for device, serial in read_places(places))


def read_places(places: Sequence[str]) -> list[tuple[str, str]]:
    """Device and serial of each disk."""
    words = Path(places[0][1:]).read_text().split() if places[0].startswith("@") else list(places)
    return list(zip(words[::2], words[1::2], strict=True))


def disk_at(path: str, serial: str) -> Disk:
    """The loop device as stage2's inventory would have it, were it a SATA disk."""
    subprocess.run(["blockdev", "--flushbufs", path], check=True)
    text = subprocess.run(
        ["lsblk", "--json", "--bytes", "--output", COLUMNS, path], check=True, capture_output=True
    ).stdout
    device = json.loads(text)["blockdevices"][0]
    signatures.complete(device)
    name, size = str(device["kname"]), int(device["size"])
    descriptor = os.open(path, os.O_RDONLY)
    try:
        digest = table_digest(descriptor, size)
    finally:
        os.close(descriptor)
    facts = Facts(serial, "", "sata", "LOOP", digest)
    (disk,) = disks_of({"blockdevices": [device]}, {name: facts})
    return replace(disk, excluded=exclusion({**device, "kname": "sda", "type": "disk"}, "sata", facts))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
