"""Where boot loaders come from: the record ``pxelinux/loaders.toml``, and the file that it means, checked.

apt has checked a package against the archive's signature before anything is taken from it. The record is the second
check: of a version that was booted here every byte is known, so a file that differs from its line is refused. A
version that has no line (a security update) is taken and named, because an old loader is the worse choice: shim
and the firmware's revocation list refuse it some day.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootd.build.bundle import source_root
from bootd.build.cache import Cache, file_digest
from bootd.build.debian import NATIVE, Apt, file_of, resolve, unpack
from bootd.errors import Exit, OperatorError

RECORD = "pxelinux/loaders.toml"


@dataclass(frozen=True)
class Loader:
    """One line of the record. ``sha256`` by package version; ``part_of`` is "" for a file of its own."""

    name: str
    package: str
    file: str
    sha256: dict[str, str]
    architecture: str = ""
    part_of: str = ""


@dataclass(frozen=True)
class Taken:
    """A loader as Debian has it now. ``known``: its version is in the record, with this digest."""

    loader: Loader
    path: Path
    version: str
    sha256: str
    known: bool


def parse(text: str) -> tuple[Loader, ...]:
    """The record's lines; `OperatorError` names the one that is malformed."""
    try:
        rows: list[dict[str, Any]] = tomllib.loads(text)["loader"]
        loaders = tuple(Loader(**row) for row in rows)
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise OperatorError(f"{RECORD}: {error}", "restore it from the source tree", Exit.INPUT) from None
    for loader in loaders:
        wrong = [digest for digest in loader.sha256.values() if len(digest) != 64 or not _is_hexadecimal(digest)]
        if wrong or not loader.sha256:
            raise OperatorError(
                f"{RECORD}: {loader.name} has no SHA-256 or a malformed one", "mend the line", Exit.INPUT
            )
    return loaders


def _is_hexadecimal(text: str) -> bool:
    return not set(text) - set("0123456789abcdef")


def read() -> tuple[Loader, ...]:
    """The record of this installation."""
    path = source_root() / RECORD
    try:
        return parse(path.read_text())
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}", "reinstall bootd", Exit.INPUT) from None


def check(loader: Loader, version: str, path: Path) -> Taken:
    """``path`` is the loader's file in ``version`` of its package. `OperatorError` when it is missing or not its
    own: the record knows this version with another digest."""
    if not path.is_file():
        raise OperatorError(
            f"{loader.package} {version} has no file {loader.file}",
            f"mend the line of {loader.name} in {RECORD}",
            Exit.INPUT,
        )
    digest = file_digest(path)
    known = loader.sha256.get(version)
    if known is not None and known != digest:
        raise OperatorError(
            f"{loader.name}: {loader.file} of {loader.package} {version} has the SHA-256 {digest}, "
            f"{RECORD} says {known}",
            "the file was changed on its way: remove the cache folder and build again from a mirror you trust",
            Exit.REFUSED,
        )
    return Taken(loader, path, version, digest, known is not None)


def take(loaders: Sequence[Loader], cache: Cache, apt: Apt = NATIVE) -> list[Taken]:
    """Fetch the loaders' packages as ``apt`` offers them now, unpack them, check each file."""
    if not loaders:
        return []
    names = sorted({loader.package for loader in loaders})
    versions = {package.name: package.version for package in resolve(names, cache, apt)}
    folder = unpack(names, cache, apt)
    return [check(loader, versions[loader.package], file_of(folder, loader.file)) for loader in loaders]
