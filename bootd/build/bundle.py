"""The node bundle: one zip application with what the nodes run, and the folder of the wheels they need.

The bundle holds compiled modules only: a ``.pyc`` beside its ``.py`` would never be used, and compiling on every
boot costs seconds on a slow node. So the building interpreter and the node's must be of one version, which
`check_version` sees to.
"""

import io
import marshal
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

import bootd
from bootd.errors import Exit, OperatorError

NODE_PYTHON = (3, 11)  # Debian 12
WHEELS = ("blake3", "zstandard")
_SHARED = ("bootd/__init__.py", "bootd/wire/*.py")
_MEMBER = ("bootd/member/*.py", "bootd/wire/ring/*.py", "bootd/wire/scheme/*.py")
_EPOCH = (1980, 1, 1, 0, 0, 0)

_MAIN = """
import os, sys
_here = os.path.dirname(os.path.abspath(sys.path[0]))
_site = os.path.join(_here, "site")
if os.path.isdir(_site):
    sys.path.insert(1, _site)
from {module} import main
sys.exit(main())
"""


def check_version() -> None:
    """`OperatorError` unless this interpreter makes byte code that the nodes' Python understands."""
    if sys.version_info[:2] != NODE_PYTHON or sys.implementation.name != "cpython":
        here = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"
        wanted = ".".join(str(part) for part in NODE_PYTHON)
        raise OperatorError(
            f"stages are built with {here}, but the nodes run CPython {wanted}",
            f"build with Debian 12's python{wanted}",
            Exit.INPUT,
        )


def source_root() -> Path:
    """The folder that holds the packages ``bootd``, ``stage1`` and ``stage2``."""
    return Path(bootd.__file__).resolve().parent.parent


def bundle_files(stage: str, *, member: bool) -> list[tuple[str, Path]]:
    """Name in the bundle and source file of every module; recipes and the daemon stay at home."""
    root = source_root()
    patterns = (*_SHARED, *(_MEMBER if member else ()), f"{stage}/*.py", f"{stage}/*/*.py")
    found = {path for pattern in patterns for path in root.glob(pattern)}
    if member:
        found |= {path for path in (root / "bootd/member/__init__.py",) if path.is_file()}
    return [
        (path.relative_to(root).as_posix(), path)
        for path in sorted(found)
        if path.relative_to(root).as_posix() != f"{stage}/recipe.py"
    ]


def build_bundle(stage: str, *, member: bool) -> bytes:
    """A zip application that runs ``STAGE.agent.main``; equal sources give equal bytes."""
    check_version()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "__main__.py", _MAIN.format(module=f"{stage}.agent").encode())
        for name, path in bundle_files(stage, member=member):
            _add(archive, name, path.read_bytes())
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, source: bytes) -> None:
    entry = zipfile.ZipInfo(name + "c", _EPOCH)
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, compile_module(name, source))


def compile_module(name: str, source: bytes) -> bytes:
    """A ``.pyc`` without time stamp or check against a source file (PEP 552, unchecked hash)."""
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    return util.MAGIC_NUMBER + (1).to_bytes(4, "little") + util.source_hash(source) + marshal.dumps(code)


def site_files(wheels: tuple[str, ...] = WHEELS) -> Iterator[tuple[str, bytes]]:
    """Name below the site folder and content of every file that the nodes need of these installed packages.

    Taken from the running interpreter's own installation, so the nodes run the version that was tested here.
    Extension modules of another Python and type stubs stay behind.
    """
    check_version()
    suffixes = (f".cpython-{NODE_PYTHON[0]}{NODE_PYTHON[1]}-x86_64-linux-gnu.so", ".abi3.so")
    for wheel in wheels:
        try:
            files = metadata.distribution(wheel).files or []
        except metadata.PackageNotFoundError:
            raise OperatorError(
                f"Python package {wheel} is not installed here", f"pip install {wheel}", Exit.INPUT
            ) from None
        extensions = [file for file in files if file.name.endswith(".so")]
        fitting = [file for file in extensions if file.name.endswith(suffixes)]
        if not fitting:
            raise OperatorError(
                f"{wheel}: no extension module for CPython {NODE_PYTHON[0]}.{NODE_PYTHON[1]} on x86_64 among "
                + (", ".join(file.name for file in extensions) or "its files"),
                f"reinstall {wheel} from its wheel",
                Exit.INPUT,
            )
        for file in sorted(files, key=str):
            name = file.as_posix()
            # zstandard's cffi backend is for PyPy and half of stage2's size.
            if ".." in file.parts or file.parts[0].endswith((".dist-info", ".libs")) or "cffi" in file.name:
                continue
            content = Path(str(file.locate()))
            if file in fitting:
                yield name, content.read_bytes()
            elif name.endswith(".py"):
                yield name + "c", compile_module(name, content.read_bytes())
