"""What tests of trees of files share: a daemon, three nodes with empty disks of different sizes, a tree."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.netns import file_trees as trees
from tests.netns import volumes
from tests.netns.daemon import ADDRESS, HTTP_PORT, Daemon
from tests.netns.disks import MIB, LoopDisk, add_partitions
from tests.netns.room import Process, Room

NODES = ("n1", "n2", "n3")
MACS = {name: f"52:54:00:00:00:0{number}" for number, name in enumerate(NODES, 1)}
SIZES = {"n1": 300 * MIB, "n2": 420 * MIB, "n3": 360 * MIB}  # of the disks: each another one
LAYOUT = """table = "dos"

[[partition]]
kind = "swap"
size = "16M"
filesystem = "swap"

[[partition]]
kind = "linux"
size = "120M"
filesystem = "ext4"
label = "root"
mount = "/"

[[partition]]
kind = "linux"
size = "fill"
filesystem = "ext4"
mount = "/home"
"""
# What customise changes in this tree; all else is as it was.
CHANGED = ("/etc/fstab", "/etc/hostname", "/etc/hosts", "/etc/machine-id", "/etc/bootd", "/var/lib/bootd")


class Lab:
    def __init__(self, room: Room, folder: Path) -> None:
        self.room, self.folder = room, folder
        self.daemon = Daemon(room, folder)
        self.process = self.daemon.start()
        self.disks = {name: LoopDisk(folder / f"{name}.disk", SIZES[name], 0) for name in NODES}
        self.nodes: dict[str, Process] = {}
        for name, mac in MACS.items():
            self.daemon.command("node", "name", mac, name)
        self.source = folder / "source"
        self.source.mkdir()
        trees.make(self.source)
        self.layout = folder / "layout.toml"
        self.layout.write_text(LAYOUT)

    def put(self, name: str = "golden", *words: str) -> dict[str, Any]:
        text = self.daemon.command("image", "put", "--tree", str(self.source), name, "-m", "test", "--json", *words)
        found: dict[str, Any] = json.loads(text)
        return found

    def boot(self, name: str) -> Process:
        """The node comes up in stage2, as its boot label says, and stays until it reboots."""
        # The end of a session lets it boot from its own disk.
        self.daemon.command("label", "set", "kamethod", "--node", MACS[name])
        own = self.folder / f"{name}.run"
        own.mkdir(exist_ok=True)
        number = 10 + int(name[1:])
        shown = self.folder / f"{name}.disks"
        if not shown.exists():
            self.show(name, (self.disks[name], f"SERIAL-{name}"))
        words = [MACS[name], f"10.9.0.{number}", f"{ADDRESS}:{HTTP_PORT}", f"@{shown}"]
        self.nodes[name] = self.room.start(name, [sys.executable, "-m", "tests.netns.files_node", str(own), *words])
        return self.nodes[name]

    def show(self, name: str, *disks: tuple[LoopDisk, str]) -> None:
        """The node has these disks, with these serials, whenever it looks from now on."""
        own = self.folder / f"{name}.disks"
        own.with_suffix(".new").write_text("".join(f"{disk.device} {serial}\n" for disk, serial in disks))
        own.with_suffix(".new").rename(own)

    def output(self) -> str:
        return "\n".join(f"--- {name}\n{process.output[-3000:]}" for name, process in self.nodes.items())

    def check(self, name: str, *, root: int = 2, home: int = 3, exclude: tuple[str, ...] = ()) -> None:
        """Fsck finds nothing, and the tree on the disk is the source, by rsync."""
        device = self.disks[name].device
        add_partitions(device)
        self.check_on(name, f"{device}p{root}", f"{device}p{home}", exclude)

    def check_on(self, name: str, root: str, home: str, exclude: tuple[str, ...] = ()) -> None:
        """The same of two partitions."""
        for partition in (root, home):
            volumes.run("e2fsck", "-f", "-n", partition)
        with volumes.mounted("ext4", root, self.folder / "mount") as mounted:
            volumes.run("mount", "-o", "ro", home, str(mounted / "home"))
            try:
                changed = ("/proc/*", "/run/*", "/sys/*", "/home/lost+found", *CHANGED, *exclude)
                lines = trees.differences(self.source, mounted, *changed)
                # Of a folder in which customise has changed something only the time differs.
                found = [line for line in lines if not line.startswith(".d..t......")]
                assert found == [], f"{name}: {found}"
                assert (mounted / "etc/hostname").read_text().strip() == name
            finally:
                volumes.run("umount", str(mounted / "home"))

    def close(self) -> None:
        for process in self.nodes.values():
            process.stop()
        for disk in self.disks.values():
            disk.close()
