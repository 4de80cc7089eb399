"""What every command gets: the client, and the two ways of printing."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from bootd.cli.client import Client
from bootd.cli.remote import Remote

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Context:
    """``socket`` is the daemon's; ``remote`` takes its place."""

    socket: Path
    remote: Remote | None = None

    @property
    def client(self) -> Client:
        return Client(self.socket, self.remote)


pass_context = click.make_pass_decorator(Context)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def console() -> Console:
    """Standard output; wide and plain when it is not a terminal, so that nothing is cut."""
    wide = Console()
    return wide if wide.is_terminal else Console(width=200)


def tell(as_json: bool, value: Any, *lines: str) -> None:
    """What was done: ``value`` for programs, ``lines`` for people."""
    if as_json:
        print_json(value)
    else:
        for line in lines:
            click.echo(line)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
