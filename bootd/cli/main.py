"""``bootd``: the operator's commands. Exit codes are those of `bootd.errors.Exit`."""

import sys
from pathlib import Path

import click

from bootd.cli import (
    deploy,
    doctor,
    export,
    import_,
    label,
    leases,
    node,
    ring,
    serve,
    session,
    simulate,
    stage,
    state,
)
from bootd.cli.context import Context
from bootd.errors import Exit, OperatorError

DEFAULT_SOCKET = "/run/bootd/bootd.sock"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="bootd", prog_name="bootd")
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    envvar="BOOTD_SOCKET",
    default=DEFAULT_SOCKET,
    show_default=True,
    show_envvar=True,
    help="Socket of the daemon.",
)
@click.pass_context
def cli(context: click.Context, socket_path: Path) -> None:
    """Network-boot a room of machines and clone disks onto them, unattended and verified."""
    context.obj = Context(socket_path)


for command in (
    serve.serve,
    deploy.deploy,
    deploy.wait,
    session.session,
    state.state,
    state.watch,
    label.label,
    node.node,
    leases.leases,
    ring.ring,
    simulate.simulate,
    doctor.doctor,
    export.export,
    import_.import_,
    stage.stage,
):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Entry of the program: runs a command and ends the process with its exit code."""
    try:
        code = cli.main(arguments, prog_name="bootd", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("bootd: nothing was done", err=True)
        sys.exit(Exit.ERROR)
    except click.ClickException as error:
        error.show()
        sys.exit(Exit.USAGE)
    except OperatorError as error:
        report(error)
        sys.exit(error.code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has gone: no complaint
        sys.exit(Exit.OK)
    sys.exit(code if isinstance(code, int) else Exit.OK)


def report(error: OperatorError) -> None:
    """What is wrong, and what to do, on standard error."""
    click.echo(f"bootd: {error.message}", err=True)
    if error.hint:
        click.echo(f"  -> {error.hint}", err=True)
