"""``bootd compat``: commands of CloneSys and ka-deploy, in their own words. The table is `old_words`."""

import shlex
import sys
from pathlib import Path

import click

from bootd.cli.context import Context
from bootd.cli.old_words import OLD_WORDS, Room
from bootd.errors import Exit, OperatorError


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--prefix", envvar="BOOTD_PREFIX", show_envvar=True, default="", help="What host ids are numbers of.")
@click.option("--image", default="", help="What ka-d.sh clones, in place of the machine that it ran on.")
@click.option("--print", "only_print", is_flag=True, help="Print the commands; run none.")
@click.argument("word")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def compat(
    context: click.Context, *, prefix: str, image: str, only_print: bool, word: str, words: tuple[str, ...]
) -> int:
    """Do what WORD did: a command of CloneSys or ka-deploy, with its own WORDS.

    Prints the bootd commands that it stands for, and runs them; they ask as always. The highest of their exit codes
    counts. docs/migrating.md lists all WORDs. A link to bootd that is called like one works, too.
    """
    old = OLD_WORDS.get(word)
    if old is None:
        raise OperatorError(f"{word!r} is none of the old words", f"known: {', '.join(OLD_WORDS)}", Exit.USAGE)
    if old.translate is None:
        raise OperatorError(f"{word}: use {old.here}", old.note, Exit.USAGE)
    own: Context = context.obj

    def sessions() -> list[str]:
        return [item["id"] for item in own.client.get("sessions") if not item["ended"]]

    commands = old.translate(list(words), Room(prefix, image, sessions))
    if not commands:
        click.echo("nothing is going on", err=True)
    code: int = Exit.OK
    for command in commands:
        line = shlex.join(["bootd", *command])
        click.echo(line if only_print else f"-> {line}", err=not only_print)
        if not only_print:
            code = max(code, _run(context.find_root(), command))
    return code


def called_as(argument: str) -> list[str]:
    """The words before those of the command line, where the program is a link with the name of an old command."""
    name = Path(argument).name
    return ["compat", name] if name in OLD_WORDS else []


def _run(root: click.Context, words: list[str]) -> int:
    group = root.command
    command = group.get_command(root, words[0]) if isinstance(group, click.Group) else None
    if command is None:
        raise OperatorError(
            f"this bootd has no command {words[0]}", "docs/migrating.md tells what there is", Exit.USAGE
        )
    with command.make_context(words[0], words[1:], parent=root) as context:
        result = command.invoke(context)
    sys.stdout.flush()
    return result if isinstance(result, int) else Exit.OK
