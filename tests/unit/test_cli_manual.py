"""The manual page and the completions, judged by mandoc, man and bash."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bootd.cli.main import cli
from bootd.cli.manual import EXIT_MEANINGS, page
from bootd.errors import Exit

DATE = "2026-01-02"
BOOTD = Path(sys.executable).parent / "bootd"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("man") / "bootd.1"
    file.write_text(page(DATE), encoding="utf-8")
    return file


def run(*words: str, **environment: str) -> str:
    """Output and error together, of a program that must end with 0."""
    done = subprocess.run(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_mandoc_finds_nothing_to_complain_about(path: Path) -> None:
    assert run("mandoc", "-Tlint", str(path)) == ""


def test_mandoc_would_complain(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.1"
    wrong.write_text(page(DATE).replace(".SH FILES", ".NONESUCH"))
    done = subprocess.run(["mandoc", "-Tlint", str(wrong)], capture_output=True, text=True, timeout=30)
    assert "NONESUCH" in done.stdout


def test_man_shows_it(path: Path) -> None:
    text = run("man", "--warnings", "-l", str(path), MANWIDTH="100", LC_ALL="C.UTF-8", MAN_KEEP_FORMATTING="")
    assert "warning" not in text
    assert "bootd - network-boot machines and clone disks onto them, verified" in text


def commands(group: click.Group, words: tuple[str, ...] = ("bootd",)) -> list[str]:
    found = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            found += commands(command, (*words, name))
        else:
            found.append(" ".join((*words, name)))
    return found


def test_every_command_option_and_exit_code_is_on_it(path: Path) -> None:
    text = run("mandoc", "-Tascii", "-Owidth=200", str(path))
    plain = "".join(text[i] for i in range(len(text)) if text[i] != "\b" and text[i + 1 : i + 2] != "\b")
    headings = [line.strip() for line in plain.splitlines()]
    for command in commands(cli):
        assert any(line.startswith(command) for line in headings), command
    assert "bootd token create [OPTIONS] NAME" in headings
    assert "--token-file FILE" in headings
    assert set(EXIT_MEANINGS) == set(Exit)
    for code, meaning in EXIT_MEANINGS.items():
        assert any(line.startswith(f"{code.value} ") and meaning[:30] in line for line in headings), code


def test_the_date_is_given() -> None:
    text = run(sys.executable, "-m", "bootd.cli.manual", SOURCE_DATE_EPOCH="1767312000")
    assert text == page(DATE)


def test_bash_completes() -> None:
    """bash itself, with what is printed for it."""
    script = f"""
        PATH="{BOOTD.parent}:$PATH"; eval "$(bootd completion bash)"; complete -p bootd
        complete_words() {{
            COMPREPLY=(); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _bootd_completion bootd; echo "${{COMPREPLY[@]}}"
        }}
        complete_words bootd token cr
        complete_words bootd token create --scope o
    """
    lines = run("bash", "--norc", "-c", script).splitlines()
    assert "_bootd_completion" in lines[0]
    assert lines[1:] == ["create", "operate"]


@pytest.mark.parametrize(
    ("shell", "word"), [("zsh", "#compdef bootd"), ("fish", "complete --no-files --command bootd")]
)
def test_other_shells(shell: str, word: str) -> None:
    assert word in run(str(BOOTD), "completion", shell)
