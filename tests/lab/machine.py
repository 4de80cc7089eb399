"""One virtual node: QEMU under software emulation, real firmware, its serial line in a log file.

BIOS is SeaBIOS with the network card's iPXE option ROM; UEFI is OVMF with its own PXE stack. The network card is
first in the boot order, the disk second, as in a machine room.
"""

import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.lab.console import Console
from tests.lab.errors import LabError
from tests.lab.monitor import Monitor

_OVMF = Path("/usr/share/OVMF")


class Firmware(Enum):
    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True)
class Specification:
    """What a node is made of. ``disk`` is a raw file; ``memory`` in MiB."""

    name: str
    firmware: Firmware
    mac: str
    disk: Path
    serial: str
    memory: int = 640
    card: str = "virtio-net-pci"


class Machine(Console):
    """Started by `power_on`, ended by `kill`; the owner calls `kill` on every way out."""

    def __init__(self, specification: Specification, folder: Path) -> None:
        super().__init__(specification.name, folder / f"{specification.name}-serial.log")
        self.specification = specification
        self._folder = folder
        self.standing = threading.Event()  # set while the guest's reset waits for `resume`
        self._stood_at = 0.0
        self._monitor: Monitor | None = None

    def power_on(self, network: str = "", prefix: Sequence[str] = ()) -> None:
        """Run QEMU.

        ``network`` is the value of QEMU's ``-netdev`` without its id, "" for a machine without a network card;
        ``prefix`` is put before the command line (``ip netns exec NAME``).
        """
        if shutil.which("qemu-system-x86_64") is None:
            raise LabError(self.who, "start", "qemu-system-x86_64 is not installed: install qemu-system-x86")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._monitor = Monitor(self._stand)
        command = [*prefix, *self._command(network), *self._monitor.arguments()]
        self.start(command, descriptors=(self._monitor.descriptor,))
        self._monitor.start()

    def resume(self, *, hold: bool = False) -> None:
        """Let the guest go through the reset at which it stands; ``hold``: and stand at the next one again.

        SeaBIOS resets once more by itself after a reset.
        """
        self.standing.clear()
        if self._monitor is not None:
            self._monitor.resume(hold=hold)

    def reset(self) -> None:
        """Press the reset button; the machine does not stand at this reset."""
        if self._monitor is not None:
            self._monitor.resume(hold=False)

    @property
    def standing_for(self) -> float:
        """Seconds since the guest asked for its reset; 0.0 when it runs."""
        return time.monotonic() - self._stood_at if self.standing.is_set() else 0.0

    def _stand(self) -> None:
        self._stood_at = time.monotonic()
        self.standing.set()
        if self.changed is not None:
            self.changed.set()

    def _end(self) -> None:
        super()._end()
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def run(self, command: str, seconds: float, step: str) -> str:
        """Output of a shell command typed at the console's prompt."""
        # The quotes keep the terminal's echo of the command from looking like its output.
        self.type(f"echo be''gin; {command}; echo e''nd\n")
        self.wait_for(r"(?m)^begin\s*$", seconds, step)
        return self.wait_for(r"(?ms)\A(.*?)^end\s*$", seconds, step).groups[0].replace("\r", "")

    def _command(self, network: str) -> list[str]:
        node = self.specification
        command = ["qemu-system-x86_64", "-name", node.name, "-nodefaults", "-no-user-config", "-display", "none"]
        command += ["-accel", "tcg,tb-size=256", "-cpu", "max", "-smp", "1", "-m", str(node.memory)]
        command += ["-machine", "q35,graphics=off", "-device", "virtio-rng-pci"]
        command += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
        if node.firmware is Firmware.UEFI:
            command += self._uefi()
        # cache=unsafe: the page cache of this machine is the disk; nothing here has to survive a power cut.
        command += ["-drive", f"if=none,id=disk,format=raw,cache=unsafe,file={node.disk}"]
        command += ["-device", f"virtio-blk-pci,drive=disk,serial={node.serial},bootindex=2"]
        if network:
            rom = ",romfile=" if node.firmware is Firmware.UEFI else ""
            command += ["-netdev", f"{network},id=network"]
            command += ["-device", f"{node.card},netdev=network,mac={node.mac},bootindex=1{rom}"]
        return command

    def _uefi(self) -> list[str]:
        variables = self._folder / f"{self.who}-vars.fd"
        code = _OVMF / "OVMF_CODE_4M.fd"
        if not code.exists():
            raise LabError(self.who, "start", f"{code} is missing: install ovmf")
        shutil.copyfile(_OVMF / "OVMF_VARS_4M.fd", variables)
        arguments = ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
        arguments += ["-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
        # Otherwise OVMF tries PXE over IPv6 for a minute when IPv4 fails.
        return [*arguments, "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]
