"""What the operator of a ring by hand sees: bars while it runs, a table at the end."""

import contextlib
from typing import Any

import click
from rich.progress import Progress, TaskID
from rich.table import Table

from bootd.cli.context import console, print_json
from bootd.cli.format import megabytes, size


class Screen:
    """A bar for each receiver that has a plan; bytes written and bytes verified both count."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def take(self, name: str, done: int) -> None:
        """A stream comes in, of unknown length."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(f"{name}: taking in", total=None)
        self._progress.update(self._tasks[name], completed=done)

    def show(self, view: dict[str, Any]) -> None:
        digested = view["head"]["digested"]
        if view["image_root"] is None:
            self._update("source", "digesting", view["source_size"], digested)
        for member in view["members"]:
            if member["name"] not in self._tasks and "source" in self._tasks:
                with contextlib.suppress(KeyError):
                    self._progress.remove_task(self._tasks.pop("source"))
            done = member["written"] + member["verified"]
            self._update(member["name"], member["state"], 2 * (member["total"] or 0), done)

    def _update(self, name: str, state: str, total: int, done: int) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None)
        self._progress.update(self._tasks[name], description=f"{name} {state}", total=total or None, completed=done)


def tell(text: str) -> None:
    """A line for the operator, beside what goes to standard output."""
    click.echo(text, err=True)


def conclude(view: dict[str, Any], *, as_json: bool) -> int:
    """Say what came of it; the exit code."""
    if as_json:
        print_json(view)
    else:
        console().print(verdicts(view))
        console().print(f"{view['state']}: {view['reason']}", highlight=False)
    return int(view["outcome"]["code"])


def verdicts(view: dict[str, Any]) -> Table:
    """A row for each host: its verdict, its three numbers, and why."""
    table = Table("host", "verdict", "written MB", "durable MB", "verified MB", "why", box=None)
    members = {member["node"]: member for member in view["members"]}
    for row in view["outcome"]["nodes"]:
        member = members.get(row["node"])
        counts = [megabytes(member[key]) if member else "-" for key in ("written", "durable", "verified")]
        verdict = "verified" if row["ok"] else row["state"]
        table.add_row(row["name"], verdict, *counts, row["reason"])
    table.caption = f"{size(view['source_size'])} from {view['source']}, {view['epoch']} arrangements"
    return table
