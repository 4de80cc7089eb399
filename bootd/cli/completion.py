"""``bootd completion``: what a shell needs to complete commands and options."""

import click
from click.shell_completion import get_completion_class

from bootd.errors import Exit, OperatorError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion for SHELL, as in: eval "$(bootd completion bash)"."""
    kind = get_completion_class(shell)
    if kind is None:
        raise OperatorError(f"no completion for {shell}", "bash, zsh or fish", Exit.USAGE)
    click.echo(kind(context.find_root().command, {}, "bootd", "_BOOTD_COMPLETE").source())
