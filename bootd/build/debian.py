"""Debian packages for the stages: resolve, download, unpack. Needs apt and dpkg on the building machine."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from bootd.build.cache import Cache, digest_of, file_digest
from bootd.errors import Exit, OperatorError

APT_LISTS = Path("/var/lib/apt/lists")
APT_SOURCES = Path("/etc/apt")
MAX_LINKS = 8  # one after the other
_QUIET = ("-o", "APT::Sandbox::User=root", "-q")
_URI = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})")


@dataclass(frozen=True)
class Package:
    """One binary package as the archive offers it now."""

    name: str
    file: str  # as apt names it on disk
    size: int  # bytes
    sha256: str

    @property
    def version(self) -> str:
        """As dpkg says it, with its epoch: ``3:6.04-1`` in ``pxelinux_3%3a6.04-1_all.deb``."""
        return unquote(self.file.split("_")[1])


@dataclass(frozen=True)
class Apt:
    """Which package lists are asked: this machine's own, or those of ``architecture`` (see `foreign`)."""

    options: tuple[str, ...] = ()
    architecture: str = ""


NATIVE = Apt()


def run(command: Sequence[str], *, package: str, cwd: Path | None = None, data: bytes | None = None) -> bytes:
    """The standard output of a program; `OperatorError` names the Debian package that has a missing program."""
    try:
        done = subprocess.run(command, cwd=cwd, input=data, capture_output=True, check=False)
    except (FileNotFoundError, PermissionError):  # the latter where a folder of PATH cannot be searched
        raise OperatorError(f"{command[0]} is not installed", f"apt-get install {package}", Exit.INPUT) from None
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace").strip().splitlines()[-5:]
        raise OperatorError(f"{shlex.join(command[:4])} failed ({done.returncode}): " + " / ".join(tail))
    return done.stdout


def archive_state() -> str:
    """A digest that changes whenever ``apt-get update`` or an edit of the sources may change an answer."""
    lines = []
    for folder in (APT_LISTS, APT_SOURCES, APT_SOURCES / "sources.list.d", APT_SOURCES / "preferences.d"):
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            if path.is_file() and path.name != "lock":
                state = path.stat()
                lines.append(f"{path} {state.st_size} {state.st_mtime_ns}")
    return digest_of("\n".join(lines))


def resolve(names: Sequence[str], cache: Cache, apt: Apt = NATIVE) -> tuple[Package, ...]:
    """What the archive offers under these names, in their order.

    Kept in the cache until the package lists change, since apt needs about a second to answer.
    """
    wanted = sorted(set(names))
    key = digest_of(archive_state(), apt.architecture, *wanted)
    entry = cache.get("resolved", key, lambda path: _resolve_to(path, wanted, apt), keep=32)
    found = {}
    for line in entry.read_text().splitlines():
        name, file, size, sha256 = line.split("\t")
        found[name] = Package(name, file, int(size), sha256)
    return tuple(found[name] for name in names)


def _resolve_to(path: Path, names: Sequence[str], apt: Apt) -> None:
    try:
        output = run(["apt-get", *_QUIET, *apt.options, "--print-uris", "download", *names], package="apt").decode()
    except OperatorError as error:
        raise OperatorError(
            f"Debian packages cannot be resolved: {error.message}",
            "run `apt-get update`; bootd builds its stages on Debian 12 (bookworm)",
            Exit.INPUT,
        ) from None
    found = {}
    for match in _URI.finditer(output):
        found[match["file"].split("_", 1)[0]] = match
    missing = [name for name in names if name not in found]
    if missing:
        raise OperatorError(
            f"Debian packages not found: {', '.join(missing)}", "run `apt-get update` on Debian 12", Exit.INPUT
        )
    path.write_text(
        "".join(f"{name}\t{m['file']}\t{m['size']}\t{m['sha256']}\n" for name, m in sorted(found.items()))
    )


def kernel_name(cache: Cache) -> str:
    """The package that ``linux-image-amd64`` stands for now, for example ``linux-image-6.1.0-51-amd64``."""

    def look(path: Path) -> None:
        output = run(["apt-cache", "depends", "--important", "linux-image-amd64"], package="apt").decode()
        match = re.search(r"Depends: (linux-image-6\.1\.\S+)", output)
        if match is None:
            raise OperatorError(
                "no Debian kernel 6.1 in the package lists", "run `apt-get update` on Debian 12", Exit.INPUT
            )
        path.write_text(match[1])

    return cache.get("kernel-name", digest_of(archive_state()), look).read_text()


def fetch(package: Package, cache: Cache, apt: Apt = NATIVE) -> Path:
    """The package file, downloaded once and checked against the archive's SHA-256."""
    return cache.get("deb", package.sha256, lambda path: _download(package, path, apt), keep=96)


def _download(package: Package, path: Path, apt: Apt) -> None:
    folder = path.parent
    run(["apt-get", *_QUIET, *apt.options, "download", package.name], package="apt", cwd=folder)
    found = list(folder.glob("*.deb"))
    if len(found) != 1 or file_digest(found[0]) != package.sha256:
        raise OperatorError(
            f"{package.name}: the downloaded file is not the one in the package lists", "run `apt-get update`"
        )
    shutil.move(found[0], path)


def file_of(folder: Path, name: str) -> Path:
    """``name`` in an unpacked tree. A link leads where it would after installation: inside the tree, never to the
    files of this machine."""
    path = folder / name
    for _ in range(MAX_LINKS):
        if not path.is_symlink():
            break
        target = path.readlink()
        path = folder / target.relative_to("/") if target.is_absolute() else path.parent / target
    return path


def unpack(names: Sequence[str], cache: Cache, apt: Apt = NATIVE) -> Path:
    """A folder with the files of these packages, unpacked over each other; no maintainer script runs."""
    packages = resolve(names, cache, apt)

    def make(path: Path) -> None:
        path.mkdir()
        for package in packages:
            run(["dpkg-deb", "--extract", str(fetch(package, cache, apt)), str(path)], package="dpkg")

    return cache.get("unpacked", digest_of(*(package.sha256 for package in packages)), make, keep=24)
