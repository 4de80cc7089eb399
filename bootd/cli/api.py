"""``bootd api``: the description of the interface."""

import click

from bootd.cli.context import print_json


@click.group()
def api() -> None:
    """The interface that programs use."""


@api.command("openapi")
def openapi() -> None:
    """Print its description, OpenAPI 3.1; no daemon is asked."""
    from bootd.drivers.http.operator import describe  # noqa: PLC0415 (the other commands start faster without it)

    print_json(describe())
