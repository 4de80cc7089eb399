"""One virtual node: QEMU under software emulation, real firmware, its serial line in a log file.

BIOS is SeaBIOS with the network card's iPXE option ROM; UEFI is OVMF with its own PXE stack. The network card is
first in the boot order, the disk second, as in a machine room.
"""

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

from tests.lab.errors import LabError

_OVMF = Path("/usr/share/OVMF")
_KEPT = 1 << 20  # characters of the serial line that are kept in memory; the log file has all
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?=]*[A-Za-z]|c)")


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


@dataclass(frozen=True)
class Marker:
    """A line of the serial console that was waited for."""

    text: str
    groups: tuple[str, ...]
    at: float  # seconds since the machine was started


class Machine:
    """Started by `start`, ended by `kill`; the owner calls `kill` on every way out."""

    def __init__(self, specification: Specification, folder: Path, network: Iterable[str] = ()) -> None:
        """``network``: QEMU's arguments for ``-netdev``'s value (without ``id=``); empty for no network card."""
        self.specification = specification
        self.name = specification.name
        self.log = folder / f"{self.name}-serial.log"
        self._folder = folder
        self._network = ",".join(network)
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = threading.Condition()
        self._text = ""
        self._dropped = 0  # characters cut off the front of _text
        self._position = 0  # absolute: everything before has been matched
        self._ended = False
        self._started = 0.0

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def age(self) -> float:
        """Seconds since `start`."""
        return time.monotonic() - self._started

    def start(self, prefix: Iterable[str] = ()) -> None:
        """Run QEMU; ``prefix`` is put before its command line (``ip netns exec NAME``)."""
        if shutil.which("qemu-system-x86_64") is None:
            raise LabError(self.name, "start", "qemu-system-x86_64 is not installed: install qemu-system-x86")
        command = [*prefix, *self._command()]
        self._folder.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        reader = threading.Thread(target=self._read, args=(self._process.stdout,), name=f"serial-{self.name}")
        reader.daemon = True
        reader.start()

    def kill(self) -> None:
        """SIGKILL, as a power cut; does nothing when the machine is not running."""
        process = self._process
        if process is None:
            return
        process.kill()
        process.wait(timeout=20)
        if process.stdin:
            process.stdin.close()

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def find(self, pattern: str) -> Marker | None:
        """The next match of ``pattern`` after the last one, if the console has shown it already.

        One search from where the last match ended: what came before a match is not looked at again.
        """
        with self._changed:
            return self._find(re.compile(pattern))

    def wait_for(self, pattern: str, seconds: float, step: str) -> Marker:
        """The next match of ``pattern``; `LabError` after ``seconds`` or when the machine ends before."""
        wanted = re.compile(pattern)
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                marker = self._find(wanted)
                if marker is not None:
                    return marker
                left = deadline - time.monotonic()
                if self._ended:
                    raise LabError(self.name, step, f"the machine ended before {pattern!r}", self.log)
                if left <= 0:
                    raise LabError(self.name, step, f"no {pattern!r} within {seconds:.0f} s", self.log)
                self._changed.wait(left)

    def type(self, text: str) -> None:
        """Send ``text`` to the serial console."""
        if self._process is None or self._process.stdin is None:
            raise LabError(self.name, "type", "the machine is not running", self.log)
        try:
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()
        except OSError as error:
            raise LabError(self.name, "type", f"{error}", self.log) from None

    def run(self, command: str, seconds: float, step: str) -> str:
        """Output of a shell command typed at a prompt of the console; ends are marked, so echoes do not confuse."""
        self.type(f"echo be''gin; {command}; echo e''nd\n")
        self.wait_for(r"(?m)^begin\s*$", seconds, step)
        return self.wait_for(r"(?ms)\A(.*?)^end\s*$", seconds, step).groups[0].replace("\r", "")

    def _find(self, pattern: re.Pattern[str]) -> Marker | None:
        start = max(self._position - self._dropped, 0)
        # \A in a pattern means where the last match ended.
        found = pattern.search(self._text[start:])
        if found is None:
            return None
        self._position = self._dropped + start + found.end()
        return Marker(found.group(0), tuple(group or "" for group in found.groups()), self.age)

    def _read(self, stream: IO[bytes]) -> None:
        with self.log.open("wb", buffering=0) as log:
            while data := os.read(stream.fileno(), 65536):
                log.write(data)
                text = _ESCAPES.sub("", data.decode("utf-8", errors="replace"))
                with self._changed:
                    self._text += text
                    if len(self._text) > 2 * _KEPT:
                        self._dropped += len(self._text) - _KEPT
                        self._text = self._text[-_KEPT:]
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _command(self) -> list[str]:
        node = self.specification
        command = ["qemu-system-x86_64", "-name", node.name, "-nodefaults", "-no-user-config", "-display", "none"]
        command += ["-accel", "tcg,tb-size=256", "-cpu", "max", "-smp", "1", "-m", str(node.memory)]
        command += ["-machine", "q35,graphics=off", "-device", "virtio-rng-pci"]
        command += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
        if node.firmware is Firmware.UEFI:
            command += self._uefi()
        # cache=unsafe: the page cache of this machine is the disk; nothing here survives a power cut anyway.
        command += ["-drive", f"if=none,id=disk,format=raw,cache=unsafe,file={node.disk}"]
        command += ["-device", f"virtio-blk-pci,drive=disk,serial={node.serial},bootindex=2"]
        if self._network:
            rom = ",romfile=" if node.firmware is Firmware.UEFI else ""
            command += ["-netdev", f"{self._network},id=network"]
            command += ["-device", f"{node.card},netdev=network,mac={node.mac},bootindex=1{rom}"]
        return command

    def _uefi(self) -> list[str]:
        variables = self._folder / f"{self.name}-vars.fd"
        code = _OVMF / "OVMF_CODE_4M.fd"
        if not code.exists():
            raise LabError(self.name, "start", f"{code} is missing: install ovmf")
        shutil.copyfile(_OVMF / "OVMF_VARS_4M.fd", variables)
        arguments = ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
        arguments += ["-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
        # Otherwise OVMF tries PXE over IPv6 for a minute when IPv4 fails.
        return [*arguments, "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]
