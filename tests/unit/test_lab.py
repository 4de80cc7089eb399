"""The virtual room's own parts that need no machine: consoles, stories, comparison, boot sectors."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import demo, grub
from tests.lab.compare import first_difference
from tests.lab.console import Console
from tests.lab.errors import LabError
from tests.lab.story import Step, Story


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    console = Console("node1", tmp_path / "node1.log")
    yield console
    console.kill()


def echo(console: Console, *lines: str) -> None:
    """A process that repeats what it is told, after ``lines``."""
    repeat = "for line in sys.stdin: print(line, end='', flush=True)"
    program = f"import sys\nfor line in sys.argv[1:]: print(line, flush=True)\n{repeat}"
    console.start([sys.executable, "-c", program, *lines])


def test_console_finds_in_order_and_logs_everything(console: Console) -> None:
    echo(console, "one", "\x1b[31mtwo\x1b[0m")
    assert console.wait_for(r"t(w)o", 10, "step").groups == ("w",)
    assert console.find("one") is None, "what came before a match is not looked at again"
    console.type("three\n")
    console.wait_for("three", 10, "step")
    console.kill()
    assert b"\x1b[31mtwo" in console.log.read_bytes()


def test_console_names_node_step_and_log_when_the_deadline_passes(console: Console) -> None:
    echo(console, "one")
    with pytest.raises(LabError) as caught:
        console.wait_for("two", 0.2, "login")
    assert (caught.value.who, caught.value.step, caught.value.log) == ("node1", "login", console.log)
    assert "no 'two' within" in caught.value.reason


def test_console_does_not_wait_for_a_process_that_has_ended(console: Console) -> None:
    console.start([sys.executable, "-c", "print('gone')"])
    with pytest.raises(LabError, match="ended before 'login'"):
        console.wait_for("login", 60, "login")


def test_story_reaches_steps_in_order(console: Console) -> None:
    story = Story(console, (Step("first", "alpha", 30), Step("second", "beta", 30)))
    echo(console, "alpha beta gamma")
    console.wait_for(r"(?=alpha beta gamma)", 10, "start")
    assert [step.name for step, _ in story.advance()] == ["first", "second"]
    assert story.done


def test_story_ends_at_the_first_marker_that_is_missed(console: Console) -> None:
    story = Story(console, (Step("first", "alpha", 0.0), Step("second", "beta", 30)))
    echo(console, "beta")
    console.wait_for(r"(?=beta)", 10, "start")
    with pytest.raises(LabError, match=r"node1: first: not within 0 s; last line: 'beta'"):
        story.advance()


@pytest.mark.parametrize(
    "line",
    [
        "bootd-stage2: refused two disks match",
        "bootd-stage1: parked; press Enter",
        "[    1.2] Kernel panic - not syncing: VFS",
    ],
)
def test_story_ends_when_the_node_gives_up(console: Console, line: str) -> None:
    story = Story(console, (Step("login", "login:", 60),))
    echo(console, line)
    console.wait_for(r"(?=.+\n)", 10, "start")
    with pytest.raises(LabError, match=r"node1: login: "):
        story.advance()


def test_first_difference(tmp_path: Path) -> None:
    size = 3 * (1 << 20) + 512
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(bytes(size))
    other.write_bytes(bytes(size + 4096))
    assert first_difference(one, other, size) is None
    with other.open("r+b") as file:
        file.seek(size - 1)
        file.write(b"x")
    assert first_difference(one, other, size) == size - 1
    other.write_bytes(bytes(size - 100))
    assert first_difference(one, other, size) == size - 100


def test_grub_is_placed_around_the_partition_table() -> None:
    sector0 = bytes(440) + b"SIGNATURE".ljust(70, b"\x07") + b"\x55\xaa"
    boot = bytes([0xEB] * 512)
    core = bytes([0x11] * 1300)
    first_sector, body = grub.place_on_disk(sector0, boot, core, 2048, 2048)
    assert first_sector[440:] == sector0[440:]
    assert struct.unpack_from("<Q", first_sector, 0x5C) == (2048,)
    # The first sector of the core image is told where the rest of it is: two more sectors from 2049 on.
    assert struct.unpack_from("<QH", body, 500) == (2049, 2)
    with pytest.raises(LabError, match="needs 3 sectors"):
        grub.place_on_disk(sector0, boot, core, 2048, 2)


@pytest.mark.parametrize(
    "words", [["--nodes", "4"], ["--nodes", "0"], ["--kill", "node1"], ["--kill", "node1@101"]]
)
def test_demo_refuses_what_it_cannot_do(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        demo.main(words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_demo_refuses_an_image_that_is_no_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "odd.raw"
    image.write_bytes(bytes(1000))
    assert demo.main(["--image", str(image), "--folder", str(tmp_path / "demo")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "not whole sectors" in " ".join(lines)
    assert lines[-1] == "demo: 0/2 nodes cloned, verified and booted"
