"""``bootd dolly``: dolly's configuration and wire, as head (-s) and as client; with --ring, bootd's own ring."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bootd.cli.context import json_option, print_json
from bootd.cli.dolly_report import client_report, head_report, tell_client, tell_head
from bootd.dolly.config import Config, Transfer
from bootd.dolly.errors import DollyError
from bootd.dolly.grammar import parse
from bootd.dolly.lines import LIMITS, files_table, head_summary, hosts_table, log_line, parameters
from bootd.dolly.place import SERVER, children, is_server
from bootd.dolly.wire import BLOCK, MAX_BLOCK
from bootd.drivers.dolly.client import DollyClient
from bootd.drivers.dolly.head import HeadSettings, run_head
from bootd.drivers.dolly.link import Tuning
from bootd.drivers.dolly.session import ClientSettings
from bootd.drivers.dolly.target import Consent, ask_on_terminal
from bootd.errors import Exit, OperatorError

VERSION = "0.58C"  # of dolly, whose wire this is
MAX_CONFIG = 1 << 20  # bytes
_NOT_USED = {
    "no_sync": "-n is not used: nothing is confirmed here before it is on stable storage",
    "quiet": "",  # there are no messages about signals to suppress
    "no_config": "",
}


Command = Callable[..., Any]
_Option = tuple[tuple[str, ...], dict[str, Any]]
# Of the client.
_CLIENT: tuple[_Option, ...] = (
    (("--outfile", "outfiles"), {"multiple": True, "metavar": "PATH", "help": "Client: write here, whatever the "
      "head says. Once for each file."}),
    (("--allow", "allowed"), {"multiple": True, "metavar": "PATH", "help": "Client: the head may write PATH."}),
    (("--yes-overwrite", "confirmed"), {"multiple": True, "metavar": "PATH", "help": "Client: the head may, and "
      "what is there now may be lost."}),
    (("--tries",), {"type": click.IntRange(1, 100), "default": 3, "show_default": True,
      "help": "Client: wait -a seconds so often."}),
    (("--listen", "address"), {"default": "0.0.0.0", "show_default": True, "metavar": "ADDRESS",
      "help": "Client: IPv4 address to listen on."}),
    (("--from", "heads"), {"multiple": True, "metavar": "ADDRESS", "help": "Client: only these hosts may send."}),
    (("--name",), {"envvar": "MYNODENAME", "show_envvar": True, "help": "What this host is called in dolly.cfg."}),
)  # fmt: skip
# Of both, with bootd's ring.
_RING: tuple[_Option, ...] = (
    (("--ring", "by_ring"), {"is_flag": True, "help": "bootd's own ring: digests, recovery, a secret. On "
      "all hosts, or on none."}),
    (("--token",), {"envvar": "BOOTD_RING_TOKEN", "show_envvar": True, "help": "--ring: secret that all know."}),
    (("--token-file",), {"type": click.Path(path_type=Path, dir_okay=False), "help": "--ring: it is in there."}),
    (("--port",), {"type": click.IntRange(1, 65535), "default": 7469, "show_default": True,
      "help": "--ring: clients listen here."}),
)  # fmt: skip


def _options(table: tuple[_Option, ...]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for names, settings in reversed(table):
            command = click.option(*names, **settings)(command)
        return command

    return decorate


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-s", "serves", is_flag=True, help="This is the server (head): dolly.cfg must name this host.")
@click.option("-S", "serves_anyway", is_flag=True, help="This is the server, whatever dolly.cfg calls it.")
@click.option("-f", "path", type=click.Path(path_type=Path), help="dolly.cfg.")
@click.option("-v", "verbose", is_flag=True, help="Say more.")
@click.option("-a", "timeout", type=click.IntRange(1, 86400), default=120, show_default=True, metavar="SECONDS", help="Give up when nothing moves.")  # fmt: skip  # noqa: E501
@click.option("-d", "is_dummy", is_flag=True, help="Dummy: send zeros, write nothing. Clients stay until dummy 0.")
@click.option("-t", "seconds", type=click.IntRange(1, 86400), default=None, metavar="SECONDS", help="Server: how long a dummy run lasts.")  # fmt: skip  # noqa: E501
@click.option("-o", "log", type=click.Path(path_type=Path, dir_okay=False), help="Server: append statistics there.")
@click.option("-c", "unpacked", type=click.IntRange(0), default=0, metavar="BYTES", help="Server: size of a compressed infile when unpacked, for statistics.")  # fmt: skip  # noqa: E501
@click.option("-b", "block", type=click.IntRange(512, MAX_BLOCK), default=BLOCK, show_default=True, help="Bytes for each interface in turn (add). The same on all hosts.")  # fmt: skip  # noqa: E501
@click.option("-u", "buffer", type=click.IntRange(0, 1 << 28), default=0, help="Bytes of the sockets' buffers.")
@click.option("-I", "infile", metavar="PATH", help="Server: instead of -f, with -O and -H.")
@click.option("-O", "outfile", metavar="PATH", help="Server: what clients write.")
@click.option("-H", "hosts", metavar="HOST[,HOST…]", help="Server: the clients.")
@click.option("-Y", "hyphennormal", is_flag=True, help="Server: - is part of a host's name (with -H).")
@click.option("-C", "no_config", is_flag=True, hidden=True)
@click.option("-q", "quiet", is_flag=True, help="Accepted; there are no messages about signals.")
@click.option("-n", "no_sync", is_flag=True, help="Not used: nothing is confirmed before it is synced.")
@click.option("-V", "version", is_flag=True, help="Which dolly this speaks, and end.")
@_options(_CLIENT)
@_options(_RING)
@json_option
def dolly(
    *,
    serves: bool,
    serves_anyway: bool,
    path: Path | None,
    verbose: bool,
    timeout: int,
    is_dummy: bool,
    seconds: int | None,
    log: Path | None,
    unpacked: int,
    block: int,
    buffer: int,
    infile: str | None,
    outfile: str | None,
    hosts: str | None,
    hyphennormal: bool,
    version: bool,
    outfiles: tuple[str, ...],
    allowed: tuple[str, ...],
    confirmed: tuple[str, ...],
    tries: int,
    address: str,
    heads: tuple[str, ...],
    name: str | None,
    by_ring: bool,
    token: str | None,
    token_file: Path | None,
    port: int,
    as_json: bool,
    **ignored: bool,
) -> int:
    """Clone as dolly does, in one room with dolly.

    \b
    bootd dolly -s -v -f dolly.cfg            on the server (head)
    bootd dolly -v --allow /dev/sda5          on each client
    bootd dolly … --ring --token-file FILE    on all hosts: the same over bootd's own ring

    dolly.cfg is dolly's (0.5x) or dolly+'s (iofiles). The wire is that of dolly 0.5x: its servers and clients take
    part. A client writes only what is agreed to on it: --allow, --outfile, --yes-overwrite. Exit code: 0 all copies
    are whole, 3 some are, 1 none is, 4 refused, 7 no server came.
    """
    if version:
        click.echo(f"Dolly version {VERSION} (its configuration and wire, spoken by bootd)")
        return Exit.OK
    for word, text in _NOT_USED.items():
        if ignored.get(word) and text:
            _tell(f"WARNING: {text}")
    detail = _tell if verbose else _hush
    names = _names(name)
    config = _config(path, infile, outfile, hosts, names[0], hyphennormal=hyphennormal)
    is_head = serves or serves_anyway or hosts is not None
    if is_head and config is None:
        raise OperatorError("no configuration", "say -f dolly.cfg, or -I FILE -O PATH -H HOST,…", Exit.USAGE)
    for warning in config.warnings if config else ():
        _tell(f"WARNING: {warning}")
    if is_head and config is not None and not serves_anyway and hosts is None:
        _check_server(config, names)
    if by_ring:
        from bootd.cli.dolly_ring import receive_by_ring, send_by_ring  # noqa: PLC0415 - half a second of imports

        secret = (token, token_file)
        if is_head and config is not None:
            return send_by_ring(config, secret, port, float(timeout * 3), as_json=as_json)
        return receive_by_ring(config, outfiles, confirmed, secret, (address, port))
    tuning = Tuning(buffer, block)
    if is_head and config is not None:
        _check_dummy(config, seconds, is_dummy=is_dummy)
        settings = HeadSettings(float(timeout * 3), float(timeout), tuning, float(seconds or 0))
        return _send(config, settings, detail, log, unpacked, as_json=as_json)
    if config is not None:  # the operator of this host has written down what may be written
        allowed += tuple(transfer.outfile for transfer in config.files)
    ask = ask_on_terminal if sys.stdin.isatty() and not as_json else None
    consent = Consent(outfiles, allowed, confirmed, ask)
    client = ClientSettings(
        tuple(names), consent, float(timeout), tries, float(timeout), address, heads, is_dummy, tuning
    )
    return _receive(client, detail, as_json=as_json)


def _send(
    config: Config,
    settings: HeadSettings,
    detail: Callable[[str], None],
    log: Path | None,
    unpacked: int,
    *,
    as_json: bool,
) -> int:
    _tell(LIMITS)
    following = [config.clients[place] for place in children(config, SERVER)]
    for line in (
        hosts_table(config) + files_table(config) if config.is_plus else parameters(config, SERVER, following)
    ):
        detail(line)
    try:
        reports = run_head(config, settings, _tell, detail)
    except KeyboardInterrupt:
        raise OperatorError(
            "interrupted", "no client has a whole copy of what was being sent", Exit.ERROR
        ) from None
    total, seconds = sum(report.sent for report in reports), sum(report.seconds for report in reports)
    for line in head_summary(config, total, seconds, unpacked):
        _tell(line)
    if log is not None:
        _log(log, log_line(config, total, seconds))
    value = head_report(config, reports)
    if as_json:
        print_json(value)
    tell_head(config, reports, _tell)
    return int(value["code"])


def _receive(settings: ClientSettings, detail: Callable[[str], None], *, as_json: bool) -> int:
    client = DollyClient(settings, _tell, detail)
    _tell(LIMITS)
    try:
        reports = client.run()
    except KeyboardInterrupt:
        raise OperatorError("interrupted", "what was being written is not whole", Exit.ERROR) from None
    value = client_report(reports)
    if as_json:
        print_json(value)
    tell_client(reports, _tell)
    return int(value["code"])


def _config(
    path: Path | None, infile: str | None, outfile: str | None, hosts: str | None, name: str, *, hyphennormal: bool
) -> Config | None:
    if hosts is not None:
        if path is not None or infile is None:
            raise OperatorError("-H goes with -I, not with -f", "say -I FILE [-O PATH] -H HOST,HOST", Exit.USAGE)
        clients = tuple(filter(None, hosts.split(",")))
        if not clients or len(set(clients)) < len(clients):
            raise OperatorError(f"-H {hosts}", "name each client once", Exit.USAGE)
        transfer = Transfer(infile, outfile or infile)
        return Config(name, clients, (transfer,), clients[0], clients[-1], hyphennormal=hyphennormal)
    if path is None:
        return None
    try:
        data = path.read_bytes()
        if len(data) > MAX_CONFIG:
            raise OperatorError(f"{path} has {len(data)} bytes", "name a dolly.cfg", Exit.CONFIG)
        return parse(data.decode())
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}", "name a dolly.cfg with -f", Exit.INPUT) from None
    except UnicodeDecodeError:
        raise OperatorError(f"{path} is not text", "name a dolly.cfg with -f", Exit.CONFIG) from None
    except DollyError as error:
        raise OperatorError(error.place(str(path)), error.complaint.hint, Exit.CONFIG) from None


def _names(name: str | None) -> list[str]:
    """What this host may be called; as dolly looks: what is said, HOST, the host's name."""
    found = [name, os.environ.get("HOST"), socket.gethostname()]
    return list(dict.fromkeys(item for item in found if item))


def _check_server(config: Config, names: list[str]) -> None:
    try:
        here = {str(item[4][0]) for item in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        here = set()
    if not is_server(config, names, here):
        text = f"dolly.cfg says that the server is {config.server}, this host is {', '.join(names)}"
        raise OperatorError(text, "correct it, or say -S instead of -s", Exit.CONFIG)


def _check_dummy(config: Config, seconds: int | None, *, is_dummy: bool) -> None:
    if is_dummy and config.files:
        raise OperatorError("-d, but dolly.cfg has files", "write dummy instead of infile and outfile", Exit.USAGE)
    if config.dummy == -1 and seconds is None:
        raise OperatorError("dummy without a size", "write dummy 128, or say -t SECONDS", Exit.USAGE)


def _log(path: Path, line: str) -> None:
    try:
        with path.open("a") as file:
            file.write(f"{line}\n")
    except OSError as error:
        _tell(f"WARNING: {path}: {error.strerror}")


def _tell(line: str) -> None:
    """Names and paths in it may be a stranger's: a terminal only shows them."""
    click.echo("".join(item if item.isprintable() or item == "\t" else "?" for item in line), err=True)


def _hush(line: str) -> None:
    """Without -v."""
