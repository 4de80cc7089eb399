"""The manual page bootd.1, in man(7), from the commands themselves: ``python -m bootd.cli.manual > bootd.1``."""

import inspect
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version

import click

from bootd.cli.main import cli
from bootd.errors import Exit

EXIT_MEANINGS = {
    Exit.OK: "Done; of a session: every node is verified.",
    Exit.ERROR: "Something failed, and the text says what; of a session: no node is verified.",
    Exit.USAGE: "The command line is wrong, or names what is not there.",
    Exit.PARTLY: "Some nodes are verified, others not.",
    Exit.REFUSED: "A safety rule said no, and nothing was written; or this is not allowed, here or elsewhere.",
    Exit.CONFIG: "The configuration file is wrong.",
    Exit.BUSY: "A port or an image is in use, another daemon runs, or too many requests were made.",
    Exit.UNREACHABLE: "The daemon does not answer; or a registry, or the bootd of another site.",
    Exit.INPUT: "An image cannot be read, or a file is missing.",
}
_FILES = (
    ("/etc/bootd/bootd.toml", "Settings of the daemon."),
    ("/run/bootd/bootd.sock", "Where commands reach the daemon."),
    ("/var/lib/bootd", "State, and the boot files."),
)


def page(date: str) -> str:
    """The whole page. ``date`` as 2026-11-21."""
    context = click.Context(cli, info_name="bootd", **cli.context_settings)
    lines = [
        f'.TH BOOTD 1 "{date}" "bootd {version("bootd")}" "User Commands"',
        ".SH NAME",
        r"bootd \- network-boot machines and clone disks onto them, verified",
        ".SH SYNOPSIS",
        ".B bootd",
        r"[\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        *_paragraphs(cli.help or ""),
        ".SH OPTIONS",
        *_options(cli.get_params(context), context),
        ".SH COMMANDS",
        *_commands(cli, context),
        ".SH EXIT STATUS",
    ]
    for code in Exit:
        lines += [".TP", rf"\fB{code.value}\fR", *_text(EXIT_MEANINGS[code])]
    lines.append(".SH ENVIRONMENT")
    for parameter in cli.params:
        if isinstance(parameter, click.Option) and isinstance(parameter.envvar, str):
            lines += [".TP", rf"\fB{_escape(parameter.envvar)}\fR", *_text(f"Stands for {parameter.opts[0]}.")]
    lines.append(".SH FILES")
    for path, text in _FILES:
        lines += [".TP", rf"\fI{_escape(path)}\fR", *_text(text)]
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, above: click.Context) -> Iterator[str]:
    for name in sorted(group.list_commands(above)):
        command = group.get_command(above, name)
        if command is None or command.hidden:
            continue
        context = click.Context(command, info_name=name, parent=above, **command.context_settings)
        if isinstance(command, click.Group):
            yield from _commands(command, context)
            continue
        words = " ".join(command.collect_usage_pieces(context))
        yield f'.SS "{_escape(context.command_path)} {_escape(words)}"'
        yield from _paragraphs(command.help or "")
        yield from _options(command.params, context)


def _options(parameters: Iterable[click.Parameter], context: click.Context) -> Iterator[str]:
    for parameter in parameters:
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            yield ".TP"
            yield rf"\fB{_escape(record[0])}\fR"
            yield from _text(record[1])


def _paragraphs(text: str) -> Iterator[str]:
    """Help as click reads it: paragraphs, those that begin with \\b line by line."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(text.partition("\f")[0]))):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            yield ".nf"
            for line in paragraph.removeprefix("\b").strip("\n").splitlines():
                yield from _continued(_guarded(_escape(line)))
            yield ".fi"
        else:
            yield from _text(paragraph)


def _text(text: str) -> Iterator[str]:
    """Running text, a new line for each sentence, as roff wants it."""
    for sentence in re.split(r"(?<=[.:;?!]) +(?=[A-Z])", " ".join(text.split())):
        for line in textwrap.wrap(_escape(sentence), 79, break_long_words=False, break_on_hyphens=False):
            yield _guarded(line)


def _continued(escaped: str) -> Iterator[str]:
    """One line of output as several of input, broken at spaces: long ones are bad style in roff."""
    while len(escaped) > 79 and (place := escaped.rfind(" ", 1, 78)) > 0:
        yield escaped[:place] + "\\"
        escaped = escaped[place:]
    yield escaped


def _guarded(escaped: str) -> str:
    """A line of text that is not taken for a request."""
    return rf"\&{escaped}" if escaped[:1] in (".", "'") else escaped


def _escape(text: str) -> str:
    """Characters that roff would read otherwise; quotes too, since headings are quoted."""
    table = {"\\": r"\e", "-": r"\-", '"': r"\(dq", "^": r"\(ha", "~": r"\(ti", "`": r"\(ga", "'": r"\(aq"}
    return "".join(table.get(character, character) for character in text)


def main() -> None:
    """Print the page, of today or of ``SOURCE_DATE_EPOCH``."""
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    sys.stdout.write(page(time.strftime("%Y-%m-%d", time.gmtime(seconds))))


if __name__ == "__main__":
    main()
