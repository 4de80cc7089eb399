"""One virtual node: QEMU under software emulation, real firmware, its serial line in a log file.

BIOS is SeaBIOS with the network card's iPXE option ROM; UEFI is OVMF (AAVMF on arm64) with its own PXE and HTTP
stack. The network card is first in the boot order, the disk second, as in a machine room.
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

_NO_PXE = ("IPv4PXESupport", "IPv6PXESupport")
# A card whose QEMU ROM brings a UEFI driver: OVMF itself only knows virtio.
_CARDS_OF_OVMF = ("virtio-net-pci",)


class Firmware(Enum):
    BIOS = "bios"
    UEFI = "uefi"
    SECURE = "uefi-secure"  # OVMF with Secure Boot on and Microsoft's keys enrolled
    HTTP = "uefi-http"  # OVMF that knows no PXE, only HTTP Boot over IPv4
    SECURE_HTTP = "uefi-secure-http"  # the same with Debian's test key enrolled (PkKek-1-snakeoil), HTTP Boot only
    IA32 = "uefi-ia32"  # 32-bit OVMF on a 64-bit processor
    ARM64 = "uefi-arm64"  # AAVMF
    ARM64_HTTP = "uefi-arm64-http"


@dataclass(frozen=True)
class _Uefi:
    """Files of a UEFI firmware, its Debian package, and the boot options of its network stack to switch off.

    IPv6 is always off: OVMF tries PXE over IPv6 for a minute when IPv4 fails.
    """

    code: str
    variables: str
    package: str = "ovmf"
    off: tuple[str, ...] = ("IPv6PXESupport",)
    secure: bool = False


_OVMF = "/usr/share/OVMF/OVMF"
_AAVMF = "/usr/share/AAVMF/AAVMF"
_UEFI = {
    Firmware.UEFI: _Uefi(f"{_OVMF}_CODE_4M.fd", f"{_OVMF}_VARS_4M.fd"),
    Firmware.SECURE: _Uefi(f"{_OVMF}_CODE_4M.secboot.fd", f"{_OVMF}_VARS_4M.ms.fd", secure=True),
    Firmware.HTTP: _Uefi(f"{_OVMF}_CODE_4M.fd", f"{_OVMF}_VARS_4M.fd", off=_NO_PXE),
    Firmware.SECURE_HTTP: _Uefi(
        f"{_OVMF}_CODE_4M.secboot.fd", f"{_OVMF}_VARS_4M.snakeoil.fd", off=_NO_PXE, secure=True
    ),
    Firmware.IA32: _Uefi(f"{_OVMF}32_CODE_4M.secboot.fd", f"{_OVMF}32_VARS_4M.fd", "ovmf-ia32", secure=True),
    Firmware.ARM64: _Uefi(f"{_AAVMF}_CODE.fd", f"{_AAVMF}_VARS.fd", "qemu-efi-aarch64"),
    Firmware.ARM64_HTTP: _Uefi(f"{_AAVMF}_CODE.fd", f"{_AAVMF}_VARS.fd", "qemu-efi-aarch64", _NO_PXE),
}
_ARM64 = (Firmware.ARM64, Firmware.ARM64_HTTP)


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
    bus: str = "virtio"  # of the disk; or "ahci"


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
        program, package = self._program()
        if shutil.which(program) is None:
            raise LabError(self.who, "start", f"{program} is not installed: install {package}")
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

    def _program(self) -> tuple[str, str]:
        """QEMU for the node's processor, and its Debian package."""
        if self.specification.firmware in _ARM64:
            return "qemu-system-aarch64", "qemu-system-arm"
        return "qemu-system-x86_64", "qemu-system-x86"

    def _command(self, network: str) -> list[str]:
        node = self.specification
        command = [self._program()[0], "-name", node.name, "-nodefaults", "-no-user-config", "-display", "none"]
        command += ["-accel", "tcg,tb-size=256", "-smp", "1", "-m", str(node.memory)]
        command += self._board()
        command += ["-device", "virtio-rng-pci"]
        command += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
        if node.firmware in _UEFI:
            command += self._uefi(_UEFI[node.firmware])
        # cache=unsafe: the page cache of this machine is the disk; nothing here has to survive a power cut.
        command += ["-drive", f"if=none,id=disk,format=raw,cache=unsafe,file={node.disk}"]
        kind = "ide-hd,bus=ide.0" if node.bus == "ahci" else "virtio-blk-pci"
        command += ["-device", f"{kind},drive=disk,serial={node.serial},bootindex=2"]
        if network:
            rom = ",romfile=" if node.firmware in _UEFI and node.card in _CARDS_OF_OVMF else ""
            command += ["-netdev", f"{network},id=network"]
            command += ["-device", f"{node.card},netdev=network,mac={node.mac},bootindex=1{rom}"]
        return command

    def _board(self) -> list[str]:
        firmware = self.specification.firmware
        if firmware in _ARM64:
            return ["-machine", "virt", "-cpu", "cortex-a57"]
        if firmware in _UEFI and _UEFI[firmware].secure:
            # The firmware writes its variables in system management mode, and nobody else may.
            flash = "driver=cfi.pflash01,property=secure,value=on"
            return ["-machine", "q35,graphics=off,smm=on", "-cpu", "max", "-global", flash]
        return ["-machine", "q35,graphics=off", "-cpu", "max"]

    def _uefi(self, firmware: _Uefi) -> list[str]:
        variables = self._folder / f"{self.who}-vars.fd"
        for file in (firmware.code, firmware.variables):
            if not Path(file).exists():
                raise LabError(self.who, "start", f"{file} is missing: install {firmware.package}")
        shutil.copyfile(firmware.variables, variables)
        arguments = ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={firmware.code}"]
        arguments += ["-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
        for option in firmware.off:
            arguments += ["-fw_cfg", f"name=opt/org.tianocore/{option},string=n"]
        return arguments
