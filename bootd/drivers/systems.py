"""Systems that nodes boot in place of bootd's own stage2: images in ``boot_dir/systems``, each with a record.

``systems/NAME.json`` says what the image is and where; it is written last, so what it names is whole. A system is a
label of the same name, unless the settings have one. `bootd stage import` and `bootd ramboot` write them.
"""

import fcntl
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import structlog

from bootd.build.cache import write
from bootd.errors import Exit, OperatorError
from bootd.member.durable import sync_file
from bootd.netboot.labels import NAME, Label, LabelKind, problem

log = structlog.get_logger(__name__)

FOLDER = "systems"
MAX_RECORD = 1 << 20  # bytes
METHODS = ("ka", "dolly", "http")
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class StageFile(msgspec.Struct, frozen=True):
    """A file that stage1 fetches: ``stage2/stage2.json``, and a part of `System`."""

    size: Annotated[int, msgspec.Meta(gt=0)]
    sha256: Sha256
    block: int = 1 << 20
    blocks: tuple[Sha256, ...] = ()


class System(StageFile, frozen=True):
    """``systems/NAME.json``. ``image`` is below `FOLDER`; ``origin`` what it is made of, ``content`` its digest."""

    image: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,100}$")] = ""
    init: str = "/sbin/init"
    method: str = "ka"
    title: str = ""
    origin: str = ""
    content: str = ""

    def label(self, name: str) -> Label:
        words = f"automatic=method:{self.method},interface:auto,network:dhcp"
        if self.init != "/sbin/init":
            words += f" init={self.init}"
        return Label(name, LabelKind.STAGE, self.title or f"System {name}", words, system=name)


@dataclass(frozen=True)
class Listed:
    """A system as operators see it. ``problem``: why it cannot be booted, or ""."""

    name: str
    system: System | None
    problem: str = ""

    def view(self) -> dict[str, Any]:
        known = self.system
        return {
            "name": self.name,
            "size": known.size if known else 0,
            "sha256": known.sha256 if known else "",
            "init": known.init if known else "",
            "method": known.method if known else "",
            "title": known.title if known else "",
            "origin": known.origin if known else "",
            "problem": self.problem,
        }


def read_stage(boot_dir: Path, system: str = "") -> tuple[StageFile, str]:
    """What stage1 is to fetch, and its path below ``boot_dir``. ValueError in an operator's words."""
    if not system:
        return _read(boot_dir / "stage2" / "stage2.json", StageFile), "stage2/stage2.squashfs"
    if not NAME.match(system):
        raise ValueError(f"{system[:80]!r} is no name of a system")
    found: System = _read(boot_dir / FOLDER / f"{system}.json", System)
    return found, f"{FOLDER}/{found.image}"


def list_systems(boot_dir: Path) -> list[Listed]:
    """All that are there, also those that are broken, by name."""
    found = []
    for path in sorted((boot_dir / FOLDER).glob("*.json")):
        try:
            system: System = _read(path, System)
            size = (path.parent / system.image).stat().st_size
            wrong = problem(system.label(path.stem))
            if size != system.size:
                wrong = f"{system.image} has {size} bytes, not {system.size}"
            found.append(Listed(path.stem, system, wrong))
        except (OSError, ValueError) as error:
            found.append(Listed(path.stem, None, str(error)))
    return found


@contextmanager
def changing(boot_dir: Path) -> Iterator[Path]:
    """The folder of systems, for one writer at a time; and a place to work in, which is gone afterwards."""
    folder = boot_dir / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in folder.glob(".work-*"):  # of one that was killed: the lock is ours
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as work:
                yield Path(work)
    except OSError as error:
        raise OperatorError(f"{error.filename or folder}: {error.strerror}", "see server.boot_dir") from None


def keep(boot_dir: Path, name: str, image: Path, system: System) -> None:
    """Put ``image`` in its place, then its record. Who fetches the one before goes on with that."""
    folder = boot_dir / FOLDER
    image.chmod(0o644)
    sync_file(image)
    image.rename(folder / system.image)
    write(folder / f"{name}.json", msgspec.json.format(msgspec.json.encode(system)) + b"\n")
    _forget_images(folder, name, system.image)


def image_name(name: str, sha256: str) -> str:
    return f"{name}-{sha256[:16]}.squashfs"


def remove(boot_dir: Path, name: str) -> None:
    """`OperatorError` (USAGE) when there is no such system."""
    folder = boot_dir / FOLDER
    if not NAME.match(name) or not (folder / f"{name}.json").is_file():
        raise OperatorError(f"there is no system {name!r}", "bootd stage list", Exit.USAGE)
    (folder / f"{name}.json").unlink()
    _forget_images(folder, name, "")


def _forget_images(folder: Path, name: str, keep: str) -> None:
    pattern = re.compile(re.escape(name) + r"-[0-9a-f]{16}\.squashfs\Z")
    for path in folder.iterdir():
        if pattern.match(path.name) and path.name != keep:
            path.unlink(missing_ok=True)


class Systems:
    """The labels of a daemon: those of the settings, and one for each system."""

    def __init__(self, boot_dir: Path, configured: dict[str, Label]) -> None:
        self._boot_dir, self._configured = boot_dir, configured
        self.labels = dict(configured)  # this very dict is shared, and changes with `take_over`
        self.take_over(self.look())

    def look(self) -> list[Listed]:
        """All that are there now, read from disk."""
        return list_systems(self._boot_dir)

    def take_over(self, found: list[Listed]) -> None:
        """Have a label for each of ``found``."""
        wanted = dict(self._configured)
        for item in found:
            if item.problem or item.system is None:
                log.warning("a system cannot be booted", system=item.name, reason=item.problem)
            else:
                wanted.setdefault(item.name, item.system.label(item.name))
        for name in self.labels.keys() - wanted.keys():
            del self.labels[name]
        self.labels.update(wanted)


def _read(path: Path, kind: type[Any]) -> Any:
    try:
        with path.open("rb") as stream:
            return msgspec.json.decode(stream.read(MAX_RECORD), type=kind)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
