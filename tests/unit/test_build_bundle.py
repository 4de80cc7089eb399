"""Node bundles: built here, run by Debian's own Python without site packages, from an empty folder."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bootd.build import bundle
from bootd.errors import OperatorError
from stage1.recipe import EXTENSIONS, STANDARD_LIBRARY

PYTHON = "/usr/bin/python3"


def debian_python() -> None:
    if not Path(PYTHON).is_file():
        pytest.skip(f"{PYTHON} is not here")
    version = subprocess.run(
        [PYTHON, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, check=True
    )
    if version.stdout.decode().strip() != str(bundle.NODE_PYTHON):
        pytest.skip(f"{PYTHON} is {version.stdout.decode().strip()}, nodes run {bundle.NODE_PYTHON}")


def place(folder: Path, stage: str, *, member: bool) -> Path:
    path = folder / f"{stage}.pyz"
    path.write_bytes(bundle.build_bundle(stage, member=member))
    if member:
        for name, data in bundle.site_files():
            (folder / "site" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "site" / name).write_bytes(data)
    return path


def run(path: Path, folder: Path, *code: str) -> "subprocess.CompletedProcess[str]":
    folder.mkdir(exist_ok=True)
    arguments = ["-c", *code] if code else [str(path)]
    command = [PYTHON, "-I", "-S", "-B", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env={})


def test_bundles_hold_byte_code_of_the_node_side_only() -> None:
    for stage, member in (("stage1", False), ("stage2", True)):
        names = zipfile.ZipFile(io.BytesIO(bundle.build_bundle(stage, member=member))).namelist()
        assert all(name.endswith(".pyc") for name in names)
        assert f"{stage}/agent.pyc" in names
        assert f"{stage}/recipe.pyc" not in names
        assert "bootd/wire/control.pyc" in names
        assert ("bootd/member/member.pyc" in names) is member
        for foreign in ("bootd/drivers", "bootd/build", "bootd/session", "bootd/errors", "bootd/config", "tests"):
            assert not any(name.startswith(foreign) for name in names), foreign


def test_equal_sources_give_equal_bytes() -> None:
    assert bundle.build_bundle("stage2", member=True) == bundle.build_bundle("stage2", member=True)


def test_stage2_runs_from_an_empty_folder(tmp_path: Path) -> None:
    debian_python()
    path = place(tmp_path, "stage2", member=True)
    done = run(path, tmp_path / "empty")
    # On this machine no stage1 has run before: the agent says so and parks, it does not crash.
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "bootd-stage2: start",
        "bootd-stage2: parked: /run/bootd/node.json: No such file or directory",
    ]
    assert done.returncode == 1


def test_every_module_of_the_bundle_imports_there(tmp_path: Path) -> None:
    debian_python()
    path = place(tmp_path, "stage2", member=True)
    names = [name for name in zipfile.ZipFile(path).namelist() if name != "__main__.pyc"]
    modules = [name.removesuffix(".pyc").removesuffix("/__init__").replace("/", ".") for name in names]
    code = f"""
import importlib, json, sys
sys.path[:0] = [{str(path)!r}, {str(tmp_path / "site")!r}]
for name in {modules!r}:
    importlib.import_module(name)
from bootd.wire import digest
print(json.dumps([digest.digest(b"").hex(), sys.modules["blake3"].__file__, sys.modules["zstandard"].__file__]))
"""
    done = run(path, tmp_path / "empty", code)
    assert done.returncode == 0, done.stderr
    empty, blake3, zstandard = json.loads(done.stdout)
    # BLAKE3 of nothing, from its authors' test vectors
    assert empty == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert blake3.startswith(str(tmp_path))
    assert zstandard.startswith(str(tmp_path))


def test_stage1_finds_all_it_imports_in_its_own_standard_library(tmp_path: Path) -> None:
    """Every import of the agent, and of a traceback, is on the recipe's list: the initrd has nothing else."""
    debian_python()
    path = place(tmp_path, "stage1", member=False)
    code = f"""
import sys
sys.path.insert(0, {str(path)!r})
import stage1.agent, runpy, traceback, zipimport
print(chr(10).join(sorted({{m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)}})))
"""
    done = run(path, tmp_path / "empty", code)
    assert done.returncode == 0, done.stderr
    library = "/usr/lib/python3.11/"
    used = {line.removeprefix(library) for line in done.stdout.split() if line.startswith(library)}
    modules = {name.removesuffix(".py") for name in used if name.endswith(".py")}
    assert modules <= set(STANDARD_LIBRARY.split()), "add these to STANDARD_LIBRARY in stage1/recipe.py"
    extensions = {name.removeprefix("lib-dynload/").split(".", 1)[0] for name in used if name.endswith(".so")}
    assert extensions <= set(EXTENSIONS)
    assert "json/__init__" in modules


def test_another_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "NODE_PYTHON", (3, 99))
    with pytest.raises(OperatorError, match=r"nodes run CPython 3\.99") as caught:
        bundle.build_bundle("stage1", member=False)
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in str(caught.value)


def test_wheel_for_another_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OperatorError, match="pip install no-such-wheel"):
        list(bundle.site_files(("no-such-wheel",)))
    with pytest.raises(OperatorError, match=r"click: no extension module for CPython 3\.11"):
        list(bundle.site_files(("click",)))
