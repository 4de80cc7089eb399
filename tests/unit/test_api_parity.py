"""Everything that the command line does, the API does: commands go through it, or are local by nature."""

import ast
import dis
import inspect
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import click
import pytest

from bootd.cli.main import COMMANDS, cli
from bootd.drivers.http.operator import ROUTES

CLI = Path(__file__).parents[2] / "bootd" / "cli"

# Commands that ask no daemon, and why. A new one belongs here only if a program could not want it from afar.
LOCAL = {
    "api openapi": "the description is in the program; the daemon has it at /openapi.json, too",
    "completion": "of this shell",
    "dolly": "works without a daemon",
    "doctor": "looks at the network from this machine: that is its use",
    "export dhcpd": "prints what the settings lead to",
    "export dnsmasq": "prints what the settings lead to",
    "export kea": "prints what the settings lead to",
    "import dhcpd.conf": "reads a file here, prints another",
    "import pxe.conf": "reads a file here, prints another",
    "layout check": "reads a file here, and computes",
    "layout convert": "reads a file here, prints another",
    "label password": "a password that is sent nowhere",
    "ring send": "works without a daemon",
    "ring receive": "works without a daemon",
    "serve": "is the daemon",
    "setup": "writes the settings of a daemon that is not there yet",
    "simulate": "models of firmware, by the settings",
    "stage build": "builds on this machine",
    "stage medium": "writes a file on this machine, out of what stage build has made",
}


# Commands without --json, and why.
NO_JSON = {
    "api openapi": "it is JSON",
    "compat": "the commands that it runs have it",
    "completion": "a program for the shell",
    "export clonesys": "the format of another program",
    "export dhcpd": "the format of another program",
    "export dnsmasq": "the format of another program",
    "export kea": "the format of another program",
    "export nodes": "CSV",
    "import dhcpd.conf": "TOML",
    "import pxe.conf": "TOML",
    "metrics": "Prometheus' format",
    "ring receive": "its sender has the report",
    "serve": "its log is JSON",
}


def leaves(group: click.Group = cli, above: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*above, name))
        else:
            yield " ".join((*above, name)), command


LEAVES = dict(leaves())


def asks_the_daemon(function: Callable[..., Any] | None, seen: set[int] | None = None) -> bool:
    """Whether ``function``, or what it calls of `bootd.cli`, takes hold of the client."""
    seen = set() if seen is None else seen
    plain = inspect.unwrap(function) if function is not None else None
    if not isinstance(plain, FunctionType) or id(plain) in seen or not plain.__module__.startswith("bootd.cli"):
        return False
    seen.add(id(plain))
    codes = [plain.__code__, *(one for one in plain.__code__.co_consts if inspect.iscode(one))]
    names = {name for code in codes for name in code.co_names}
    if any(_takes_the_client(code) for code in codes):
        return True
    called = [plain.__globals__.get(name) for name in names]
    called += [cell.cell_contents for cell in plain.__closure__ or ()]
    return any(asks_the_daemon(one, seen) for one in called if callable(one))


def _takes_the_client(code: CodeType) -> bool:
    """``context.client``, by the name that commands give their `Context`."""
    steps = pairwise(dis.get_instructions(code))
    return any(one.argval in ("context", "own") and two.argval == "client" for one, two in steps)


@pytest.mark.parametrize("words", LEAVES)
def test_each_command_goes_through_the_api_or_is_local_by_nature(words: str) -> None:
    asks = asks_the_daemon(LEAVES[words].callback)
    assert asks != (words in LOCAL), f"bootd {words}: {'asks the daemon' if asks else 'does not ask the daemon'}"


def test_the_local_ones_are_there() -> None:
    assert LOCAL.keys() <= LEAVES.keys()
    assert len(LEAVES) > len(COMMANDS)


def calls() -> Iterator[tuple[str, list[str | None], str]]:
    """Method, path (None: a part that is not known here) and place of every request in `bootd.cli`."""
    for path in sorted(CLI.glob("*.py")):
        if path.name == "client.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = node.func.value
            name = (
                owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            )
            if name != "client" or node.func.attr not in ("get", "request", "text"):
                continue
            if any(isinstance(part, ast.Starred) for part in node.args):
                continue
            parts = [part.value if isinstance(part, ast.Constant) else None for part in node.args]
            method = parts.pop(0) if node.func.attr == "request" else "GET"
            yield str(method), [part if part is None else str(part) for part in parts], f"{path.name}:{node.lineno}"


CALLS = list(calls())


@pytest.mark.parametrize(("method", "parts", "place"), CALLS, ids=[place for _, _, place in CALLS])
def test_each_request_has_its_route(method: str, parts: list[str | None], place: str) -> None:
    def fits(template: str) -> bool:
        segments = template.strip("/").split("/")
        return len(segments) == len(parts) and all(
            part is None or segment == part or segment.startswith("{")
            for segment, part in zip(segments, parts, strict=True)
        )

    assert [route for route in ROUTES if route.method == method and fits(route.path)], f"{place}: {method} {parts}"


def test_the_walk_sees_what_it_should() -> None:
    assert len(CALLS) > 40
    assert asks_the_daemon(LEAVES["power off"].callback), "through a closure"
    assert asks_the_daemon(LEAVES["deploy"].callback)
    assert not asks_the_daemon(LEAVES["label password"].callback)


def test_who_changes_something_needs_more_than_to_look() -> None:
    for route in ROUTES:
        assert (route.method == "GET") or route.scope.value != "read", route.path
        if route.path.startswith("/tokens"):
            assert route.scope.value == "admin"


@pytest.mark.parametrize("words", LEAVES)
def test_each_command_has_json(words: str) -> None:
    options = {name for parameter in LEAVES[words].params for name in parameter.opts}
    assert ("--json" in options) != (words in NO_JSON), words


@pytest.mark.parametrize("words", LEAVES)
def test_what_asks_can_be_told_not_to(words: str) -> None:
    """A command that asks has --yes: scripts have nobody to ask."""
    command = LEAVES[words]
    options = {name for parameter in command.params for name in parameter.opts}
    source = inspect.getsource(inspect.unwrap(command.callback)) if command.callback is not None else ""
    if "click.confirm" in source or "_ask(" in source:
        assert "--yes" in options, words
