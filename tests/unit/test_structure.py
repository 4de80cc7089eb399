"""The tree keeps its shape: who may import whom, what sans-IO code may touch, how large a module may grow."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# package -> first-party packages that it may import. docs/architecture.md shows the same table.
ALLOWED: dict[str, set[str]] = {
    "bootd": set(),
    "bootd.errors": set(),
    "bootd.config": {"bootd.errors", "bootd.netboot", "bootd.session"},
    "bootd.wire": set(),
    "bootd.member": {"bootd.wire"},
    "bootd.netboot": {"bootd.wire"},
    "bootd.session": {"bootd.wire", "bootd.errors"},
    "bootd.dolly": set(),
    "bootd.images": {"bootd.wire", "bootd.errors"},
    "bootd.build": {"bootd.errors"},
    "bootd.drivers": {
        "bootd.errors",
        "bootd.config",
        "bootd.wire",
        "bootd.member",
        "bootd.netboot",
        "bootd.session",
        "bootd.images",
        "bootd.dolly",
        "bootd.build",
    },
    "bootd.cli": {
        "bootd.errors",
        "bootd.config",
        "bootd.wire",
        "bootd.netboot",
        "bootd.session",
        "bootd.images",
        "bootd.dolly",
        "bootd.build",
        "bootd.drivers",
        "stage1.recipe",
        "stage2.recipe",
    },
    "stage1": {"bootd.wire", "bootd.member"},
    "stage2": {"bootd.wire", "bootd.member"},
    "stage1.recipe": {"bootd.build", "bootd.errors"},
    "stage2.recipe": {"bootd.build", "bootd.errors"},
}
SANS_IO = ("bootd.wire", "bootd.netboot", "bootd.session", "bootd.images", "bootd.dolly")
# What would let a sans-IO module see the world: clocks, randomness, sockets, files, processes, the environment.
IMPURE = {
    "asyncio", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "selectors",
    "shutil", "signal", "socket", "sqlite3", "subprocess", "sys", "tempfile", "threading", "time", "uuid",
}  # fmt: skip
NAMES_OF_NOTHING = {"utils", "util", "common", "manager", "helpers", "helper", "misc"}
NODE_SIDE = ("bootd.wire", "bootd.member", "stage1", "stage2")
THIRD_PARTY_ON_NODES = {"bootd.wire.digest": {"blake3", "zstandard"}}
STANDARD_LIBRARY = __import__("sys").stdlib_module_names


def modules() -> Iterator[tuple[str, Path]]:
    for top in ("bootd", "stage1", "stage2"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names of what a module imports, also inside functions; (name, line)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module or "", node.lineno
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def package(name: str) -> str:
    """The row of ALLOWED that a module or an imported name belongs to."""
    parts = name.split(".")
    for length in (2, 1):
        if ".".join(parts[:length]) in ALLOWED:
            return ".".join(parts[:length])
    return parts[0]


MODULES = list(modules())


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_module_imports_only_what_its_package_may(name: str, path: Path) -> None:
    own = package(name)
    for imported, line in imports(path):
        target = package(imported)
        if target.split(".")[0] not in ("bootd", "stage1", "stage2") or target in (own, "bootd"):
            continue
        assert target in ALLOWED[own], f"{path}:{line}: {own} must not import {target}"


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_sans_io_modules_touch_nothing(name: str, path: Path) -> None:
    if not name.startswith(SANS_IO):
        return
    for imported, line in imports(path):
        assert imported.split(".")[0] not in IMPURE, f"{path}:{line}: a sans-IO module imports {imported}"
    for node in ast.walk(ast.parse(path.read_text())):
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        assert called not in ("open", "print", "input"), f"{path}: a sans-IO module calls {called}()"


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_node_side_needs_no_package_of_others(name: str, path: Path) -> None:
    if not name.startswith(NODE_SIDE) or name.endswith(".recipe"):
        return
    allowed = THIRD_PARTY_ON_NODES.get(name, set())
    for imported, line in imports(path):
        top = imported.split(".")[0]
        known = top in STANDARD_LIBRARY or top in ("bootd", "stage1", "stage2") or top in allowed
        assert known, f"{path}:{line}: {imported} is not on the nodes"


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_module_size_and_name(name: str, path: Path) -> None:
    assert not NAMES_OF_NOTHING & set(name.split(".")), f"{path}: a name that says nothing"
    lines = len(path.read_text().splitlines())
    assert lines <= 800, f"{path}: {lines} lines; split it"


def test_daemon_package_is_empty_for_the_nodes() -> None:
    assert (ROOT / "bootd/__init__.py").read_text() == ""


def test_no_assert_for_input() -> None:
    """`python -O` must not remove a check, so product code has none."""
    for _, path in MODULES:
        found = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]
        assert not found, f"{path}:{found[0]}: assert in product code"


def test_the_import_check_sees_a_forbidden_edge(tmp_path: Path) -> None:
    """The tests above can fail: a planted edge is found."""
    planted = tmp_path / "planted.py"
    planted.write_text("def f():\n    from bootd.drivers import serve\n")
    assert {package(name) for name, _ in imports(planted)} == {"bootd.drivers"}
    assert "bootd.drivers" not in ALLOWED["bootd.wire"]


def test_features_name_tests_that_exist() -> None:
    """A proof in docs/features.md points at something: the file, and the test in it."""
    references = re.findall(r"`(?:tests/\w+/)?(test_\w+\.py)::(test_\w+)`", (ROOT / "docs/features.md").read_text())
    files = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs/features.md").read_text())
    assert len(references) > 10
    assert len(files) > 5
    for name in files:
        assert (ROOT / name).is_file(), name
    for file, test in references:
        found = list((ROOT / "tests").rglob(file))
        assert found, file
        assert f"def {test}(" in found[0].read_text(), f"{file}::{test}"
