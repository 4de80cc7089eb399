"""Virtual disks by way of qemu-img: only what is whole in one file, with limits on what it may use."""

import json
import shutil
from pathlib import Path
from typing import Any

from bootd.drivers.formats.scratch import Scratch, run
from bootd.errors import OperatorError
from bootd.images.foreign.errors import ForeignError

_MEMORY = 2 << 30  # bytes of address space
_LIMITS = ("prlimit", f"--as={_MEMORY}", "--core=0")
_SECONDS = 60


def examine(path: Path, kind: str) -> int:
    """Bytes of the disk in ``path``; `ForeignError` for one that is damaged, or that leans on another file."""
    if shutil.which("qemu-img") is None:  # prlimit would only say that something is not there
        raise OperatorError("qemu-img is not installed", "apt install qemu-utils")
    with path.open("rb") as file:
        start = file.read(4)
    if kind == "vmdk" and start != b"KDMV":
        raise ForeignError("a vmdk of several files: make it one with qemu-img convert -O qcow2")
    found = _ask("info", path, kind)
    details: dict[str, Any] = found.get("format-specific", {}).get("data", {})
    others = [found.get(key) for key in ("backing-filename", "full-backing-filename")]
    others += [details.get("data-file")]
    others += [extent.get("filename") for extent in details.get("extents", ())]
    for other in others:
        if other and Path(other) != path:
            raise ForeignError(f"it leans on another file ({str(other)[:200]}): make it one with qemu-img convert")
    if found.get("encrypted"):
        raise ForeignError("the virtual disk is encrypted: make a plain one with qemu-img convert")
    size = found.get("virtual-size")
    if not isinstance(size, int) or size <= 0 or size % 512:
        raise ForeignError(f"a virtual disk of {size} bytes")
    return size


def check(path: Path, kind: str) -> None:
    """`ForeignError` when qemu-img finds damage; formats that it cannot check pass."""
    done = run(*_LIMITS, "qemu-img", "check", "-f", kind, str(path), seconds=None)
    if done.returncode not in (0, 3, 63):  # 3: only unused clusters are lost; 63: it cannot check this format
        raise ForeignError(f"qemu-img finds it damaged: {_complaint(done.stderr or done.stdout)}")


def unpack(path: Path, kind: str, scratch: Scratch) -> None:
    """Write the disk in ``path`` into ``scratch``, sparse."""
    command = ("qemu-img", "convert", "-n", "-S", "4k", "-t", "writeback", "-f", kind, "-O", "raw")
    done = run(*_LIMITS, *command, str(path), scratch.path, descriptors=(scratch.descriptor,), seconds=None)
    if done.returncode:
        raise ForeignError(f"qemu-img cannot read it: {_complaint(done.stderr)}")


def pack(source: Scratch, target: Path) -> None:
    """Write the raw disk in ``source`` as the qcow2 file ``target``."""
    command = ("qemu-img", "convert", "-f", "raw", "-O", "qcow2", source.path, str(target))
    done = run(*command, descriptors=(source.descriptor,), seconds=None)
    if done.returncode:
        raise ForeignError(f"qemu-img cannot write {target}: {_complaint(done.stderr)}")


def _ask(verb: str, path: Path, kind: str) -> dict[str, Any]:
    done = run(*_LIMITS, "qemu-img", verb, "--output=json", "-f", kind, str(path))
    if done.returncode:
        raise ForeignError(f"qemu-img cannot read it: {_complaint(done.stderr)}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _complaint(text: bytes) -> str:
    return text.decode("utf-8", "replace").strip()[-300:]
