"""``bootd job``: long work of the daemon, and how other commands wait for theirs."""

import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bootd.cli.client import Client
from bootd.cli.context import Context, console, json_option, pass_context, print_json, tell
from bootd.cli.format import duration
from bootd.errors import Exit, OperatorError

_POLL_SECONDS = 0.25


@click.group()
def job() -> None:
    """Long work of the daemon: what runs, what came of it."""


@job.command("list")
@json_option
@pass_context
def list_jobs(context: Context, as_json: bool) -> None:
    """All jobs of this run of the daemon, the last 100 that have ended among them."""
    jobs = context.client.get("jobs")
    if as_json:
        print_json(jobs)
        return
    table = Table("job", "what", "who", "state", "done", "for", box=None)
    for item in jobs:
        part = f"{100 * item['done'] // item['total']} %" if item["total"] else "-"
        ran = (item["ended"] or time.time()) - item["created"]
        table.add_row(
            item["id"], f"{item['kind']} {item['detail']}", item["who"], item["state"], part, duration(ran)
        )
    console().print(table)


@job.command("show")
@click.argument("id_", metavar="JOB")
@json_option
@pass_context
def show(context: Context, id_: str, as_json: bool) -> None:
    """One job: what it does, how far it is, what came of it."""
    item = context.client.get("jobs", id_)
    error = item["error"]
    lines = [f"job {item['id']}: {item['kind']} {item['detail']}, ordered by {item['who']}"]
    lines += [f"{item['state']}: {item['done']} of {item['total']} {item['text']}".rstrip()]
    lines += item["notes"]
    lines += [f"error: {error['message']}", f"  -> {error['hint']}"] if error else []
    lines += [f"{key}: {value}" for key, value in (item["result"] or {}).items()]
    tell(as_json, item, *lines)


@job.command("cancel")
@click.argument("id_", metavar="JOB")
@json_option
@pass_context
def cancel(context: Context, id_: str, as_json: bool) -> None:
    """End a job. What it has done until now stays: the next one goes on with it."""
    item = context.client.request("DELETE", "jobs", id_)
    tell(as_json, item, f"job {id_}: {item['state']}")


@job.command("wait")
@click.argument("id_", metavar="JOB")
@json_option
@pass_context
def wait(context: Context, id_: str, as_json: bool) -> None:
    """Wait for the end of a job and print what came of it."""
    result = follow(context.client, context.client.get("jobs", id_))
    tell(as_json, result, *(f"{key}: {value}" for key, value in result.items()))


def follow(client: Client, item: dict[str, Any]) -> dict[str, Any]:
    """Show how a job goes on until its end; its result. `OperatorError` with the job's own error."""
    told = 0
    with shown() as tell:
        while True:
            for note in item["notes"][told:]:
                tell.note(note)
            told = len(item["notes"])
            tell.progress(item["done"], item["total"], item["text"])
            if item["ended"] is not None:
                break
            time.sleep(_POLL_SECONDS)
            item = client.get("jobs", item["id"])
    if item["error"] is not None:
        error = item["error"]
        raise OperatorError(error["message"], error["hint"], Exit(error["code"]))
    if item["state"] != "done":
        raise OperatorError(f"job {item['id']} was {item['state']}", "order it again: it goes on where it was")
    result: dict[str, Any] = item["result"]
    return result


class shown:  # noqa: N801 - used as a function
    """A `bootd.drivers.jobs.tell.Tell` on standard error, for the length of a ``with``."""

    def __init__(self) -> None:
        output = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=output, disable=not output.is_terminal)
        self._task = self._progress.add_task("begins", total=None)

    def __enter__(self) -> "shown":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def progress(self, done: int, total: int, text: str = "") -> None:
        self._progress.update(self._task, completed=done, total=total or None, description=text)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


def here(work: Callable[..., dict[str, Any]], **order: Any) -> dict[str, Any]:
    """Do long work in this process, without the daemon."""
    with shown() as tell:
        return work(tell, **order)
