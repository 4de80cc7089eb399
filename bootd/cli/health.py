"""``bootd health`` and ``bootd metrics``: how the daemon itself is."""

import click

from bootd.cli.context import Context, json_option, pass_context, print_json
from bootd.errors import Exit


@click.command()
@json_option
@pass_context
def health(context: Context, as_json: bool) -> int:
    """Whether the daemon can do its work. Exit code 0: nothing is wrong; 1: something is, a line each."""
    answer = context.client.health()
    if as_json:
        print_json(answer)
    else:
        for text in answer["trouble"] or ["ok"]:
            click.echo(text)
    return Exit.OK if answer["ok"] else Exit.ERROR


@click.command()
@pass_context
def metrics(context: Context) -> None:
    """Everything that the daemon counts, in Prometheus' text format."""
    click.echo(context.client.text("metrics"), nl=False)
