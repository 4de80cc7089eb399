"""The swap of trees, killed at each of its steps: the old one or the new one, and the next time ends it."""

import os
from pathlib import Path

import pytest

from stage2 import staging
from stage2.staging import STAGE, Stage


class Killed(Exception):  # noqa: N818 - power is cut
    pass


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that passes for the root of a file system."""
    target = tmp_path / "root"
    target.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(target))
    monkeypatch.setattr(os, "sync", lambda: None)
    return target


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


OLD = {"etc/a": "old a", "etc/gone": "gone", "usr/b": "b", "only-old/x": "x", "file": "was a file"}
NEW = {"etc/a": "new a", "usr/b": "b", "only-new/y": "y", "file/now": "a folder"}


def test_a_root_file_system_killed_at_each_step(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename
    for steps in range(40):
        for path in root.iterdir():
            staging._remove(str(path)) if path.is_dir() else path.unlink()
        fill(root, OLD)
        stage = Stage(str(root))
        assert stage.begin() == [str(root)]
        fill(Path(stage.new), NEW)
        left = [steps]

        def rename(one: str, other: str, left: list[int] = left) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            real(one, other)

        monkeypatch.setattr(os, "rename", rename)
        try:
            stage.swap()
        except Killed:
            monkeypatch.setattr(os, "rename", real)
            was_swapping = Path(stage.folder, "swapping").exists()
            Stage(str(root)).finish()
            there = {path: text for path, text in content(root).items() if not path.startswith(STAGE)}
            assert there == (NEW if was_swapping else OLD)
            assert was_swapping == (steps > 0), "the mark is the first that is renamed"
        else:
            monkeypatch.setattr(os, "rename", real)
            assert content(root) == NEW
            assert not Path(stage.folder).exists()
            assert steps > 5
            return
    pytest.fail("it never came to its end")


def test_a_folder_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "srv"
    fill(target, OLD)
    stage = Stage(f"{target}/")
    stage.begin()
    fill(Path(stage.new), NEW)
    assert content(target) == OLD
    stage.swap()
    assert content(target) == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["srv"]


def test_what_an_interrupted_time_has_got_is_linked_to_and_never_written(tmp_path: Path) -> None:
    target = tmp_path / "srv"
    fill(target, OLD)
    stage = Stage(str(target))
    stage.begin()
    fill(Path(stage.new), {"usr/half": "half"})
    again = Stage(str(target))
    links = again.begin()
    assert links[0] == str(target)
    assert content(Path(links[1])) == {"usr/half": "half"}
    assert content(Path(again.new)) == {}
    assert content(target) == OLD
