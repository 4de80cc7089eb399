"""``bootd setup``: the first settings, from answers or flags, checked before they are written."""

import asyncio
import ipaddress
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from bootd import config
from bootd.cli.context import json_option, tell
from bootd.config import Dhcp, Server, Settings
from bootd.drivers.dhcp import rogue
from bootd.drivers.interfaces import detect, list_interfaces
from bootd.drivers.links import Links
from bootd.errors import Exit, OperatorError

PROXY, FULL = "proxy", "full"
_SECONDS = 10  # for one run of `ip`


@dataclass(frozen=True)
class Answers:
    """What an operator has said. ``subnet`` and all that follows only where bootd gives the addresses."""

    interface: str
    full: bool = False
    subnet: str = ""
    range: str = ""
    gateway: str = ""
    dns: tuple[str, ...] = ()

    def to_toml(self) -> str:
        """The settings as `bootd.config` reads them."""
        lines = ["# By bootd setup.", "[server]", f"interface = {_quoted(self.interface)}", "", "[dhcp]"]
        lines.append(f"proxy = {'false' if self.full else 'true'}")
        if self.full:
            lines += ["", "[[dhcp.pool]]", f"subnet = {_quoted(self.subnet)}"]
            lines += [f"range = {_quoted(self.range)}"] if self.range else []
            lines += [f"gateway = {_quoted(self.gateway)}"] if self.gateway else []
            lines += [f"dns = [{', '.join(_quoted(item) for item in self.dns)}]"] if self.dns else []
        return "\n".join(lines) + "\n"


@click.command()
@click.option("--interface", "-i", default="", metavar="IF", help="The network of the machines.")
@click.option("--mode", type=click.Choice([PROXY, FULL]), help="Beside a DHCP server, or giving the addresses.")
@click.option("--range", "range_", default="", metavar="FIRST-LAST", help="Addresses to give, with --mode full.")
@click.option("--gateway", default="", metavar="ADDRESS", help="The machines' router, with --mode full.")
@click.option("--dns", multiple=True, metavar="ADDRESS", help="The machines' DNS server, with --mode full.")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=config.DEFAULT_PATH,
    show_default=True,
    help="Where the settings go.",
)
@click.option("--seconds", default=3.5, show_default=True, type=click.FloatRange(0.1, 30), help="Look so long.")
@click.option("--no-check", is_flag=True, help="Do not look for other DHCP servers.")
@click.option("--print", "only_print", is_flag=True, help="Print the settings and write nothing.")
@click.option("--yes", "-y", is_flag=True, help="Ask nothing, and replace settings that are there.")
@json_option
def setup(
    *,
    interface: str,
    mode: str | None,
    range_: str,
    gateway: str,
    dns: tuple[str, ...],
    path: Path,
    seconds: float,
    no_check: bool,
    only_print: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Ask which network is served and how, look for other DHCP servers, and write bootd.toml.

    What is given as a flag is not asked. Status 6: somebody else gives addresses there already.
    """
    asking = sys.stdin.isatty() and not yes
    name = interface or (_ask_interface() if asking else "")
    found = detect(Server(interface=name))[0]
    other = "" if no_check else asyncio.run(other_server(found.name, seconds))
    if other:
        click.echo(f"bootd: {other}", err=True)
    full = _mode(mode, asking, bool(other), no_check) == FULL
    if full and other:
        raise OperatorError(
            "two DHCP servers on one link give one address to two machines",
            f"say --mode {PROXY}, and machines boot from here beside that server; or stop it",
            Exit.BUSY,
        )
    if not full and (range_ or gateway or dns):
        raise OperatorError(
            "--range, --gateway and --dns are for a network where bootd gives the addresses",
            f"say --mode {FULL}, or leave them out",
            Exit.USAGE,
        )
    if full:
        subnet = str(subnet_of(found.name, found.address))
        if asking:
            range_ = range_ or click.prompt(f"Addresses of {subnet} to give (FIRST-LAST)")
            gateway = gateway or click.prompt(
                "Router of the machines (empty: none)", default="", show_default=False
            )
            dns = dns or tuple(click.prompt("DNS servers (empty: none)", default="", show_default=False).split())
        if not range_:
            raise OperatorError(
                "which addresses may be given?", "say --range FIRST-LAST, both of the subnet " + subnet, Exit.USAGE
            )
        answers = Answers(found.name, True, subnet, range_, gateway, dns)
    else:
        answers = Answers(found.name)
    text = answers.to_toml()
    settings = config.parse(text, "these answers")
    if not full and not other and not no_check:
        click.echo(
            f"bootd: no DHCP server answers on {found.name}: machines there get no address before one does",
            err=True,
        )
    if only_print and not as_json:
        click.echo(text, nl=False)
        return
    if not only_print:
        write(path, text, replace=yes or (asking and path.exists() and click.confirm(f"Replace {path}?")))
    written = {"path": str(path), "written": not only_print, "settings": text, "other_server": other}
    tell(as_json, written, f"wrote {path}", *_what_is_next(settings))


def _ask_interface() -> str:
    usable = [item for item in list_interfaces() if item.up and not item.loopback and item.addresses]
    for item in usable:
        click.echo(f"  {item.name}  {', '.join(item.addresses)}", err=True)
    if len(usable) == 1:
        return usable[0].name
    return str(click.prompt("Interface of the machines' network", default=usable[0].name if usable else None))


def _mode(given: str | None, asking: bool, other: bool, unknown: bool) -> str:
    """Without a word from anybody: proxy, which never gives an address that it should not."""
    if given or not asking:
        return given or PROXY
    suggested = PROXY if other or unknown else FULL
    return str(
        click.prompt(
            f"Boot beside a DHCP server ({PROXY}) or give the addresses ({FULL})",
            type=click.Choice([PROXY, FULL]),
            default=suggested,
        )
    )


async def other_server(interface: str, seconds: float) -> str:
    """Who else gives addresses on ``interface``, in words; "" for nobody. `OperatorError` when one cannot look."""
    if os.geteuid() != 0:
        raise OperatorError(
            "only root may look for other DHCP servers", "use sudo; --no-check does not look", Exit.ERROR
        )
    links = await Links([interface], lambda _: None).look()
    try:
        await rogue.check(Dhcp(rogue="refuse", rogue_seconds=seconds), list(links.values()))
    except OperatorError as error:
        if error.code is not Exit.BUSY:
            raise
        return error.message
    return ""


def subnet_of(interface: str, address: str) -> ipaddress.IPv4Network:
    """The subnet in which ``interface`` has ``address``; `OperatorError` when the kernel does not say."""
    try:
        command = ["ip", "-json", "-4", "address", "show", "dev", interface]
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=True)
        items = [item for entry in json.loads(done.stdout) for item in entry.get("addr_info", ())]
        prefix = next(item["prefixlen"] for item in items if item["local"] == address)
        return ipaddress.ip_interface(f"{address}/{prefix}").network  # type: ignore[return-value]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, StopIteration) as error:
        raise OperatorError(
            f"{interface}: the subnet of {address} is not known: {error}", "see: ip address show", Exit.CONFIG
        ) from None


def write(path: Path, text: str, *, replace: bool) -> None:
    """Put the settings at ``path``, whole or not at all; what was there stays as ``PATH.old``.

    `OperatorError` (REFUSED) when there are settings and ``replace`` is false, and nothing is changed then.
    """
    if path.exists() and not replace:
        raise OperatorError(
            f"{path} is there already; nothing was changed",
            "--print shows what would be written, --yes replaces it",
            Exit.REFUSED,
        )
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # the daemon is not root
            os.fsync(file.fileno())
        if replace and path.exists():
            old = path.with_name(f"{path.name}.old")
            old.unlink(missing_ok=True)
            old.hardlink_to(path)
        if replace:
            Path(temporary).replace(path)
        else:
            path.hardlink_to(temporary)  # fails if somebody else was quicker
    except FileExistsError:
        raise OperatorError(
            f"{path} has just come into being", "look at it, then say --yes", Exit.REFUSED
        ) from None
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}", "run this as root (sudo)", Exit.CONFIG) from None
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _what_is_next(settings: Settings) -> list[str]:
    built = (settings.boot_dir / "stage1").exists()
    build = [] if built else [f"next: bootd stage build --out {settings.boot_dir}"]
    return [*build, "then: systemctl restart bootd"]


def _quoted(text: str) -> str:
    """A TOML basic string."""
    return json.dumps(text, ensure_ascii=False)
