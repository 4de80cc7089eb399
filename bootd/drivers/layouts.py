"""Schemes (`bootd.wire.scheme`) of this machine's disks, and of files that an operator names."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bootd.errors import Exit, OperatorError
from bootd.wire.scheme import text
from bootd.wire.scheme.describing import Derived, describe
from bootd.wire.scheme.encoding import MAX_SCHEME
from bootd.wire.scheme.model import MAX_BOOT_CODE, Scheme, SchemeError

SECONDS = 60.0
FSTAB = Path("/etc/fstab")


def of_file(path: Path, *, mend: bool = False) -> Scheme:
    """The scheme in a TOML or desc file. `OperatorError` names the line."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_SCHEME + 1)
        return text.parse(data.decode(), mend=mend)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}", "name a layout file", Exit.INPUT) from None
    except UnicodeDecodeError:
        raise OperatorError(f"{path}: not text", "a layout is TOML, or KA's desc", Exit.INPUT) from None
    except SchemeError as error:
        hint = "see docs/layouts.md" if mend else "see docs/layouts.md; for what fdisk_to_desc wrote: --mend"
        raise OperatorError(f"{path}: {error}", hint, Exit.INPUT) from None


def of_devices(devices: Sequence[str], fstab: Path | None = FSTAB) -> Derived:
    """The scheme of disks of this machine; () = the one that it runs from. `OperatorError`."""
    try:
        lines = fstab.read_text(errors="replace") if fstab is not None and fstab.exists() else ""
        return describe(_run, list(devices) or [_own_disk()], lines)
    except (SchemeError, OSError) as error:
        hint = "name a disk with a partition table, and run this as root"
        raise OperatorError(str(error), hint, Exit.INPUT) from None


def boot_code_of(path: Path) -> bytes:
    """The first bytes of a file or a disk, as ``ka-d.sh -m`` and ``-M`` took them. `OperatorError`."""
    try:
        with path.open("rb") as stream:
            code = stream.read(MAX_BOOT_CODE)
    except OSError as error:
        raise OperatorError(
            f"{path}: {error.strerror}", "name a disk, or a file of 446 bytes", Exit.INPUT
        ) from None
    if len(code) < 440:
        raise OperatorError(f"{path}: {len(code)} bytes", "boot code has 440 to 446 bytes", Exit.INPUT)
    return code


def _own_disk() -> str:
    """The disk below /: of an array or a volume the first one."""
    source = _run(["findmnt", "--noheadings", "--nofsroot", "--output", "SOURCE", "/"]).strip()
    lines = _run(["lsblk", "--inverse", "--noheadings", "--list", "--output", "TYPE,PATH", source]).splitlines()
    found = [line.split()[1] for line in lines if line.split()[:1] == ["disk"]]
    if not found:
        raise SchemeError(f"/ lies on {source or 'nothing'}, which is no disk")
    return found[0]


def _run(words: Sequence[str]) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=SECONDS,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
