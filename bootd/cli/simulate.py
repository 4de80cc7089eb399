"""``bootd simulate``: what each kind of firmware would do with this configuration. Nothing is sent."""

from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from bootd import config
from bootd.cli.context import console, json_option, print_json
from bootd.config import Settings
from bootd.drivers import interfaces
from bootd.drivers.dhcp import offering
from bootd.errors import Exit, OperatorError
from bootd.netboot.addresses.lease import Lease
from bootd.netboot.clients.air import NOBODY, Ending
from bootd.netboot.clients.room import Play
from bootd.netboot.clients.survey import Neighbour, Result, survey
from bootd.netboot.loaders import ARTEFACTS
from bootd.netboot.offer import NodePolicy
from bootd.wire.errors import LocalProtocolError

_EXAMPLE = "192.0.2.2"  # RFC 5737: an address for documentation
_STYLES = {Ending.FETCHES: "green", Ending.LOCAL: "cyan", Ending.WAITS: "yellow", Ending.FAILS: "red"}


@click.command()
@click.argument("path", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--client", "clients", multiple=True, metavar="TEXT", help="Only clients with TEXT in their names.")
@click.option("--steps", is_flag=True, help="Show every request and who answers it.")
@click.option("--assume-built", is_flag=True, help="As if every boot file were in the boot folder.")
@click.option("--local", is_flag=True, help="For a node whose label boots its own disk.")
@click.option("--their-file", default="", metavar="FILE", help="The other DHCP server names this boot file, too.")
@click.option(
    "--their-next-server", default="", metavar="ADDRESS", help="The other DHCP server names this TFTP server."
)
@click.option("--their-class", default="", metavar="TEXT", help="The other DHCP server sends this option 60.")
@json_option
def simulate(
    *,
    path: Path | None,
    clients: tuple[str, ...],
    steps: bool,
    assume_built: bool,
    local: bool,
    their_file: str,
    their_next_server: str,
    their_class: str,
    as_json: bool,
) -> None:
    """What each kind of firmware would do with the settings in CONFIG: proxied (another server gives addresses) and
    full (bootd gives them).

    Models of EDK2, HTTP Boot, iPXE, BIOS ROMs, U-Boot and the Raspberry Pi get bootd's own offers.
    """
    settings, source = config.load(path)
    name, address, guessed = reached_at(settings)
    present = ARTEFACTS if assume_built else offering.artefacts(settings)()
    interface = offering.interface(settings, name, address, present)
    neighbour = Neighbour(_beside(address), their_file, their_next_server or NOBODY, their_class)
    try:
        results = survey(
            interface, _example(settings, address), neighbour, NodePolicy(stage=not local, disk=local), clients
        )
    except (ValueError, LocalProtocolError) as error:
        raise OperatorError(str(error), "write addresses as 192.0.2.1 and text in ASCII", Exit.USAGE) from None
    if not results:
        raise OperatorError(f"no client is called {', '.join(clients)}", "see `bootd simulate`", Exit.USAGE)
    mode = "proxied" if settings.dhcp.proxy else "full"
    if as_json:
        print_json(
            {"settings": source, "address": address, "mode": mode, "clients": [_value(row) for row in results]}
        )
    else:
        _print(results, mode, steps)
        if guessed:
            click.echo(f"{address} stands for the server: {guessed}")
        missing = sorted({"lpxelinux.0", "ipxe.efi"} - present)
        if missing:
            click.echo(
                f"missing in {settings.boot_dir}: {', '.join(missing)} -> bootd stage build, or --assume-built"
            )


def reached_at(settings: Settings) -> tuple[str, str, str]:
    """(interface, address, why that is only an example, or ""): a configuration may be for another machine."""
    names = settings.server.interface
    name = (names if isinstance(names, str) else next(iter(names), "")) or "eth0"
    if settings.server.address:
        return name, settings.server.address, ""
    try:
        found = interfaces.detect(settings.server)[0]
    except OperatorError as error:
        return name, _EXAMPLE, error.message
    return found.name, found.address, ""


def _beside(address: str) -> str:
    """An address for the other server: another one than ours."""
    head, last = address.rsplit(".", 1)
    return f"{head}.{1 if last != '1' else 254}"


def _example(settings: Settings, address: str) -> Lease:
    """A lease as the first pool would give it, else one beside the server's address."""
    if settings.dhcp.pool:
        subnet = settings.dhcp.pool[0].parsed()
        client = subnet.address_at(0) if subnet.size else subnet.network + 100
        text = ".".join(str(byte) for byte in client.to_bytes(4, "big"))
        seconds = subnet.seconds
        return Lease(
            text,
            subnet.netmask,
            address,
            seconds,
            seconds // 2,
            seconds * 7 // 8,
            routers=subnet.routers,
            name_servers=subnet.name_servers,
            domain=subnet.domain,
        )
    head = address.rsplit(".", 1)[0]
    return Lease(f"{head}.100", "255.255.255.0", address, 3600, 1800, 3150)


def _print(results: list[Result], mode: str, steps: bool) -> None:
    output = console()
    table = Table("client", *(f"{name} (configured)" if name == mode else name for name in ("proxied", "full")))
    table.box = None
    for row in results:
        table.add_row(row.client, _cell(row.proxied), _cell(row.full))
    output.print(table)
    if not steps:
        return
    for row in results:
        for name, played in (("proxied", row.proxied), ("full", row.full)):
            output.print(Text(f"\n{row.client}, {name}", style="bold"))
            for step in played.steps:
                output.print(Text(f"  {step.request}"))
                for answer in step.answers or ("nobody answers",):
                    output.print(Text(f"    {answer}", style="dim"))
                for refusal in step.refusals:
                    output.print(Text(f"    bootd: {refusal}", style="yellow"))
            output.print(Text("  ").append_text(_cell(played)))


def _cell(played: Play) -> Text:
    outcome = played.outcome
    text = Text(outcome.url or outcome.reason or outcome.ending.value, style=_STYLES[outcome.ending])
    if outcome.url and outcome.reason:
        text.append(f"\n  {outcome.reason}")
    for note in (*played.refusals, *outcome.notes):
        text.append(f"\n  {note}", style="dim")
    return text


def _value(row: Result) -> dict[str, Any]:
    return {"client": row.client, "proxied": _play_value(row.proxied), "full": _play_value(row.full)}


def _play_value(played: Play) -> dict[str, Any]:
    outcome = played.outcome
    return {
        "ending": outcome.ending.name.lower(),
        "url": outcome.url,
        "reason": outcome.reason,
        "refusals": list(played.refusals),
        "notes": list(outcome.notes),
        "steps": [{"request": step.request, "answers": list(step.answers)} for step in played.steps],
    }
