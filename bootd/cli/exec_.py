"""``bootd exec``: a command on nodes that are up in stage2."""

import contextlib
import time
from typing import Any
from urllib.parse import urlencode

import click

from bootd.cli.client import Client
from bootd.cli.context import Context, json_option, pass_context, print_json
from bootd.errors import Exit, OperatorError
from bootd.wire.commands import MAX_SECONDS

_POLL_SECONDS = 0.3


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("--timeout", type=click.IntRange(1, MAX_SECONDS), default=60, show_default=True, help="Seconds.")
@click.option("--in-session", is_flag=True, help="Also on nodes that a session is at work on.")
@json_option
@click.argument("words", nargs=-1, required=True, metavar="NODES... -- COMMAND...")
@pass_context
def exec_(context: Context, *, timeout: int, in_session: bool, as_json: bool, words: tuple[str, ...]) -> int:
    """Run COMMAND, as root, on each of NODES that is up in stage2; `any` is all that are.

    Its words are passed on as they are; for a shell say sh -c '...'. Exit code 0 when it ended with 0 on all nodes,
    3 on some, 1 on none, 4 when no node was asked. Ctrl-C ends it everywhere.
    """
    if "--" not in words:
        raise OperatorError("where does the command begin?", "bootd exec NODES -- COMMAND", Exit.USAGE)
    place = words.index("--")
    if any(word.startswith("-") for word in words[:place]):
        raise OperatorError("options come before the nodes", "bootd exec --timeout 5 NODES -- COMMAND", Exit.USAGE)
    body = {
        "nodes": ",".join(words[:place]),
        "command": words[place + 1 :],
        "seconds": timeout,
        "in_session": in_session,
    }
    client = context.client
    command = client.request("POST", "exec", body=body)
    printer = Printer(command, is_silent=as_json)
    try:
        command = _follow(client, command["id"], printer)
    except KeyboardInterrupt:
        client.request("DELETE", "exec", command["id"])
        click.echo("bootd: it is ended everywhere", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            command = _follow(client, command["id"], printer)
    if as_json:
        print_json({**command, "output": printer.pieces})
    else:
        printer.end(command)
    return int(command["code"] if command["code"] is not None else Exit.ERROR)


def _follow(client: Client, id_: str, printer: "Printer") -> dict[str, Any]:
    """The command, once it is over and all of its output has been printed."""
    while True:
        query = urlencode({"after": printer.number})
        command: dict[str, Any] = client.request("GET", "exec", id_, query=query)
        printer.take(command["output"])
        if not command["output"]:
            if command["ended"]:
                return command
            time.sleep(_POLL_SECONDS)


class Printer:
    """Whole lines, each with the name of its node before it; standard error stays standard error."""

    def __init__(self, command: dict[str, Any], *, is_silent: bool) -> None:
        self.number = 0
        self.pieces: list[dict[str, Any]] = []  # all of them, when nothing is printed
        self._is_silent = is_silent
        self._names = {node["node"]: node["name"] for node in command["nodes"]}
        self._width = max(map(len, self._names.values()), default=0)
        self._rest: dict[tuple[str, str], str] = {}

    def take(self, pieces: list[dict[str, Any]]) -> None:
        """Print what is complete of ``pieces``."""
        for piece in pieces:
            self.number = piece["number"]
            if self._is_silent:
                self.pieces.append(piece)
                continue
            key = piece["node"], piece["stream"]
            lines = (self._rest.pop(key, "") + piece["text"]).split("\n")
            for line in lines[:-1]:
                self._line(*key, line)
            if lines[-1]:
                self._rest[key] = lines[-1]

    def end(self, command: dict[str, Any]) -> None:
        """Print the rest, and how it ended where it did not end well."""
        for key, line in self._rest.items():
            self._line(*key, line)
        for node in command["nodes"]:
            how = f"status {node['code']}" if node["code"] is not None else node["state"]
            if node["code"] or node["reason"] or node["state"] != "ended":
                why = f": {node['reason']}" if node["reason"] else ""
                click.echo(f"bootd: {node['name']}: {how}{why}", err=True)
            if node["dropped"]:
                click.echo(f"bootd: {node['name']}: {node['dropped']} bytes of output are left out", err=True)
        if command["forgotten"]:
            click.echo(f"bootd: {command['forgotten']} pieces of output came too fast and are lost", err=True)

    def _line(self, node: str, stream: str, text: str) -> None:
        clean = "".join(character if character.isprintable() or character == "\t" else "?" for character in text)
        click.echo(f"{self._names[node]:{self._width}}: {clean}", err=stream == "err")
