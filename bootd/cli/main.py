"""``bootd``: the operator's commands. Exit codes are those of `bootd.errors.Exit`."""

import sys
from importlib import import_module
from pathlib import Path

import click

from bootd.cli.context import Context
from bootd.cli.remote import Remote
from bootd.errors import Exit, OperatorError

DEFAULT_SOCKET = "/run/bootd/bootd.sock"
# Where each command is: module of `bootd.cli`, name in it.
COMMANDS = {
    "api": ("api", "api"),
    "audit": ("audit", "audit"),
    "backup": ("backup", "backup"),
    "backups": ("backup", "backups"),
    "compat": ("compat", "compat"),
    "completion": ("completion", "completion"),
    "deploy": ("deploy", "deploy"),
    "doctor": ("doctor", "doctor"),
    "dolly": ("dolly", "dolly"),
    "exec": ("exec_", "exec_"),
    "export": ("export", "export"),
    "health": ("health", "health"),
    "group": ("group", "group"),
    "image": ("image", "image"),
    "import": ("import_", "import_"),
    "job": ("job", "job"),
    "init": ("init", "init"),
    "kiosk": ("kiosk", "kiosk"),
    "label": ("label", "label"),
    "layout": ("layout", "layout"),
    "leases": ("leases", "leases"),
    "lock": ("lock", "lock"),
    "logs": ("logs", "logs"),
    "metrics": ("health", "metrics"),
    "map": ("map", "map_"),
    "node": ("node", "node"),
    "plan": ("plan", "plan"),
    "ramboot": ("ramboot", "ramboot"),
    "restore": ("restore", "restore"),
    "power": ("power", "power"),
    "ring": ("ring", "ring"),
    "serve": ("serve", "serve"),
    "session": ("session", "session"),
    "setup": ("setup", "setup"),
    "simulate": ("simulate", "simulate"),
    "stage": ("stage", "stage"),
    "state": ("state", "state"),
    "sync": ("sync", "sync"),
    "token": ("token", "token"),
    "undo-table": ("undo_table", "undo_table"),
    "wait": ("deploy", "wait"),
    "watch": ("state", "watch"),
}


class Commands(click.Group):
    """Imports only the module of the command that is called: what the others need takes longer than they do."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as click calls it
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"bootd.cli.{module}"), name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
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
@click.option(
    "--server", envvar="BOOTD_SERVER", show_envvar=True, help="Daemon over the network, as https://HOST:PORT."
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="BOOTD_TOKEN_FILE",
    show_envvar=True,
    help="Token for --server.",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="BOOTD_CA",
    show_envvar=True,
    help="Authority of --server's certificate, PEM [default: the system's].",
)
@click.pass_context
def cli(
    context: click.Context, socket_path: Path, server: str | None, token_file: Path | None, ca: Path | None
) -> None:
    """Network-boot a room of machines and clone disks onto them, unattended and verified."""
    context.obj = Context(socket_path, Remote(server, token_file, ca) if server else None)


def main(arguments: list[str] | None = None) -> None:
    """Entry of the program: runs a command and ends the process with its exit code."""
    if arguments is None and not Path(sys.argv[0]).name.startswith("bootd"):
        arguments = [*import_module("bootd.cli.compat").called_as(sys.argv[0]), *sys.argv[1:]]
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
