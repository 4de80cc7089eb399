"""``bootd doctor``: the network from the outside, as machines that want to boot see it. Needs no daemon."""

from dataclasses import asdict
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from bootd.cli.context import console, json_option, print_json
from bootd.drivers.doctor import examine as driver
from bootd.drivers.doctor.examine import Examination
from bootd.errors import Exit, OperatorError
from bootd.netboot import diagnosis
from bootd.netboot.clients.air import Ending
from bootd.netboot.diagnosis import Journey, Severity
from bootd.session.hosts import normal_mac

_STYLES = {Severity.PROBLEM: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


@click.command()
@click.option(
    "--interface", "-i", default="", metavar="IF", help="Where to ask; without it the only one that is up."
)
@click.option(
    "--seconds", default=4.0, show_default=True, type=click.FloatRange(0.2, 60), help="Wait for offers so long."
)
@click.option("--as", "mac", default=diagnosis.DOCTOR_MAC, metavar="MAC", help="Ask as this machine.")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Resolve this name, too.")
@click.option("--dns", multiple=True, metavar="ADDRESS", help="Ask this DNS server instead of the boot server.")
@json_option
def doctor(
    *, interface: str, seconds: float, mac: str, names: tuple[str, ...], dns: tuple[str, ...], as_json: bool
) -> int:
    """Who answers machines that want to boot on this network, what they would do, and what to mend.

    Run it as root on any machine of the network, or on the server. Status 0: healthy, 1: problems,
    7: nobody answers.
    """
    machine = normal_mac(mac)
    if not machine:
        raise OperatorError(f"{mac!r} is no MAC address", "write it as 52:54:00:12:34:56", Exit.USAGE)
    name, address = driver.choose_interface(interface)
    done = driver.examine(
        name, address, machine, seconds, names=names, dns=dns, say=lambda text: click.echo(text, err=True)
    )
    if as_json:
        print_json(_value(done))
    else:
        _print(done)
    if not done.facts.offered:
        return Exit.UNREACHABLE
    return Exit.ERROR if any(one.severity is Severity.PROBLEM for one in done.findings) else Exit.OK


def _print(done: Examination) -> None:
    out = console()
    if done.facts.offered:
        out.print(_servers(done))
        out.print(_clients(done))
    for one in done.facts.resolved:
        said = one.error or ", ".join(one.answers)
        out.print(f"{one.server}: {escape(one.name)} is {escape(said)}", highlight=False)
    for finding in done.findings:
        style = _STYLES[finding.severity]
        out.print(f"[{style}]{finding.severity.value}[/]: {escape(finding.text)}", highlight=False)
        out.print(f"  -> {escape(finding.mend)}", highlight=False)
    if not any(one.severity is Severity.PROBLEM for one in done.findings):
        booting = sum(one.outcome.ending is not Ending.FAILS for one in done.facts.journeys)
        out.print(f"healthy: {booting} of {len(done.facts.journeys)} kinds of clients boot", style="green")


def _servers(done: Examination) -> Table:
    table = Table("server", "MAC", "gives", "boots", box=None)
    for server in dict.fromkeys(one.server for one in done.facts.offered):
        own = [one for one in done.facts.offered if one.server == server]
        addresses = ", ".join(dict.fromkeys(one.address for one in own if one.gives_address)) or "no address"
        files = ", ".join(dict.fromkeys(one.file for one in own if one.file))
        asks = "ask on 4011" if any(one.boots and not one.file for one in own) else ""
        boots = ", ".join(part for part in (files, asks) if part) or "nothing"
        table.add_row(server, own[0].hardware, addresses, escape(boots))
    return table


def _clients(done: Examination) -> Table:
    table = Table("client", "would", "files", box=None)
    for one in done.facts.journeys:
        ending = one.outcome.ending
        what = f"fetch {one.outcome.url}" if ending is Ending.FETCHES else ending.value
        if ending is Ending.FAILS:
            what = f"not boot: {one.outcome.reason}"
        table.add_row(one.client, escape(what), escape(_files(one)))
    return table


def _files(journey: Journey) -> str:
    if not journey.fetched:
        return "-"
    bad = [file for file in journey.fetched if file.error or file.wrong]
    return f"{len(journey.fetched)} fetched" if not bad else f"{bad[0].error or bad[0].wrong}"


def _value(done: Examination) -> dict[str, Any]:
    facts = done.facts
    return {
        "interface": facts.interface,
        "address": facts.address or None,
        "healthy": bool(facts.offered) and not any(one.severity is Severity.PROBLEM for one in done.findings),
        "offers": [asdict(one) for one in facts.offered],
        "address_servers": sorted(diagnosis.address_servers(facts.offered)),
        "boot_servers": sorted(diagnosis.boot_hosts(facts.offered)),
        "clients": [
            {
                "client": one.client,
                "ending": one.outcome.ending.name.lower(),
                "url": one.outcome.url or None,
                "reason": one.outcome.reason or None,
                "notes": list(one.outcome.notes),
                "files": [asdict(file) for file in one.fetched],
            }
            for one in facts.journeys
        ],
        "names": [asdict(one) for one in facts.resolved],
        "findings": [{"severity": one.severity.value, "text": one.text, "mend": one.mend} for one in done.findings],
    }
