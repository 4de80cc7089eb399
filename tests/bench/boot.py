"""``make bench-boot``: from power-on to stage1 beside dnsmasq with PXELINUX, and to a local disk's login.

One virtual machine at a time, in the same room, with the same kernel and initrd; a virtio card; emulated, so
compare lines and not absolute seconds.

- stage1: bootd in proxy mode beside dnsmasq, against dnsmasq alone as DHCP and TFTP server with Debian's pxelinux.0
  (BIOS) or syslinux.efi (UEFI). Both end when the agent in the initrd says its first word.
- local: the golden disk's login through the network with the label ``local``, against the same machine without a
  network card. The difference is what a node pays for asking first.

A line that a loader cannot boot within the time limit is shown as such. One JSON line per result goes to
build/bench/boot.jsonl.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bootd.build.cache import DEFAULT, Cache
from bootd.build.debian import unpack
from tests.lab import golden
from tests.lab.arrival import follow, powered_on
from tests.lab.errors import LabError
from tests.lab.lab import GOLDEN_LOGIN, STAGE_LABEL, build_artefacts
from tests.lab.machine import Firmware, Machine, Specification
from tests.lab.room import Room
from tests.lab.server import CONSOLE
from tests.lab.story import Step

ROOT = Path(__file__).parents[2]
MAC = "52:54:00:b0:07:01"
LIMIT = 150.0  # seconds for one boot
FIRMWARE = {"bios": Firmware.BIOS, "uefi": Firmware.UEFI}
STAGE1 = Step("stage1", r"bootd-stage1: start", LIMIT)
LOGIN = Step("login", GOLDEN_LOGIN, LIMIT)
# pxelinux's own files, by firmware: in the boot folder -> in Debian's packages.
PEER = {
    "pxelinux.0": "usr/lib/PXELINUX/pxelinux.0",
    "ldlinux.c32": "usr/lib/syslinux/modules/bios/ldlinux.c32",
    "syslinux.efi": "usr/lib/SYSLINUX.EFI/efi64/syslinux.efi",
    "ldlinux.e64": "usr/lib/syslinux/modules/efi64/ldlinux.e64",
}


@dataclass(frozen=True)
class Row:
    """One line of the result; ``seconds`` of every run that came to its end."""

    firmware: str
    what: str
    how: str
    seconds: tuple[float, ...]
    failure: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")


class Lab:
    """The boot folder, the golden disk and what dnsmasq serves, built once."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.boot, self.peer, self.image = folder / "boot", folder / "peer", folder / "golden.raw"
        cache = ROOT / DEFAULT
        build_artefacts(self.boot, cache, Said(say))
        golden.build(self.image, cache)
        packages = unpack(["pxelinux", "syslinux-common", "syslinux-efi"], Cache(cache))
        (self.peer / "pxelinux.cfg").mkdir(parents=True)
        for name, source in PEER.items():
            shutil.copyfile(packages / source, self.peer / name)
        for name in ("vmlinuz", "initrd.img"):
            shutil.copyfile(self.boot / "stage1" / name, self.peer / name)
        words = f"APPEND bootd.server=10.47.0.1 bootd.node={MAC} {CONSOLE}"
        (self.peer / "pxelinux.cfg/default").write_text(
            f"DEFAULT x\nPROMPT 0\nLABEL x\n  LINUX vmlinuz\n  INITRD initrd.img\n  {words}\n"
        )

    def node(self, firmware: Firmware, *, golden_disk: bool = False) -> Specification:
        disk = self.folder / "disk.raw"
        disk.unlink(missing_ok=True)
        if golden_disk:
            shutil.copyfile(self.image, disk)
        else:
            disk.write_bytes(bytes(1 << 20))
        return Specification("node1", firmware, MAC, disk, "BENCH-1")

    def bootd_stage1(self, firmware: Firmware) -> float:
        with powered_on(self.folder / "run", self.node(firmware), self.boot, label=STAGE_LABEL) as machine:
            return follow(machine, [STAGE1])["stage1"]

    def peer_stage1(self, firmware: Firmware) -> float:
        with self._dnsmasq(self.node(firmware)) as machine:
            return follow(machine, [STAGE1])["stage1"]

    def local_by_network(self, firmware: Firmware) -> float:
        node = self.node(firmware, golden_disk=True)
        with powered_on(self.folder / "run", node, self.boot, node_label="local") as machine:
            return follow(machine, [LOGIN])["login"]

    def local_without_network(self, firmware: Firmware) -> float:
        machine = Machine(self.node(firmware, golden_disk=True), self.folder / "run")
        machine.power_on()
        try:
            return follow(machine, [LOGIN])["login"]
        finally:
            machine.kill()

    @contextmanager
    def _dnsmasq(self, node: Specification) -> Iterator[Machine]:
        with Room(self.folder / "run", 1) as room:
            room.start_dhcp(
                more=(
                    *("--enable-tftp", f"--tftp-root={self.peer}", "--user=root"),
                    *("--dhcp-match=set:efi,option:client-arch,7", "--dhcp-boot=tag:efi,syslinux.efi"),
                    "--dhcp-boot=tag:!efi,pxelinux.0",
                )
            )
            machine = Machine(node, self.folder / "run")
            room.own(machine)
            machine.power_on(room.network(0), room.inside(room.switch))
            yield machine


class Said:
    """What building says."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.step = say

    def node_step(self, *_: object) -> None: ...
    def node_status(self, *_: object) -> None: ...
    def node_failed(self, *_: object) -> None: ...


def measure(lab: Lab, firmware: list[str], runs: int, say: Callable[[str], None]) -> list[Row]:
    ways = (
        ("stage1", "bootd", lab.bootd_stage1),
        ("stage1", "dnsmasq, PXELINUX", lab.peer_stage1),
        ("local disk's login", "bootd, label local", lab.local_by_network),
        ("local disk's login", "no network card", lab.local_without_network),
    )
    rows = []
    for name in firmware:
        for what, how, boot in ways:
            seconds, failure = [], ""
            for _ in range(runs):
                try:
                    seconds.append(boot(FIRMWARE[name]))
                except LabError as error:
                    failure = str(error)
                    break
            rows.append(Row(name, what, how, tuple(seconds), failure))
            say(f"{name}, {what}, {how}: " + (failure or " ".join(f"{value:.1f}" for value in seconds)))
    return rows


def shown(rows: list[Row]) -> Table:
    table = Table(title="Seconds after power-on, median", title_justify="left")
    for title in ("firmware", "until", "how", "seconds", "runs"):
        table.add_column(title, justify="right" if title in ("seconds", "runs") else "left")
    for row in rows:
        seconds = f"{row.median:.1f}" if row.seconds else "did not get there"
        table.add_row(row.firmware, row.what, row.how, seconds, str(len(row.seconds)))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-boot")
    parser.add_argument("--firmware", choices=(*FIRMWARE, "both"), default="both")
    parser.add_argument("--runs", type=int, default=3, choices=range(1, 21), metavar="N")
    options = parser.parse_args()
    console = Console(highlight=False)
    firmware = list(FIRMWARE) if options.firmware == "both" else [options.firmware]
    out = ROOT / "build/bench/boot.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    with tempfile.TemporaryDirectory(prefix="bench-boot-") as folder:
        try:
            rows = measure(Lab(Path(folder), say), firmware, options.runs, say)
        except LabError as error:
            console.print(f"[red]bench-boot: {error}[/red]")
            return 1
    with out.open("w") as lines:
        for row in rows:
            lines.write(json.dumps({**asdict(row), "median": row.median if row.seconds else None}) + "\n")
    console.print(shown(rows))
    return 1 if any(row.failure and row.how != "dnsmasq, PXELINUX" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
