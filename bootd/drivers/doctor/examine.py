"""The examination: client models ask on a real link, and what they choose is fetched as they would.

Nothing is taken: a REQUEST that would lease an address is not sent but answered from the offer, and the doctor asks
as a machine that is none (`diagnosis.DOCTOR_MAC`) unless it is told to ask as another.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from bootd.drivers import interfaces
from bootd.drivers.doctor import fetch as doctor_fetch
from bootd.drivers.doctor.link import DoctorLink
from bootd.errors import Exit, OperatorError
from bootd.netboot import diagnosis
from bootd.netboot.clients.air import (
    EVERYBODY,
    NOBODY,
    Attempt,
    Ending,
    Outcome,
    Received,
    Request,
    dotted,
    failure,
)
from bootd.netboot.clients.roster import CLIENTS
from bootd.netboot.dhcp import MessageType, Option
from bootd.netboot.diagnosis import Facts, Fetched, Finding, Journey, Resolved

_ROUNDS = 12  # requests of one client model
_ANSWER_SECONDS = 1.0  # for a request to one server
_SERVER_NAME = "bootd"


@dataclass(frozen=True)
class Examination:
    facts: Facts
    findings: tuple[Finding, ...]


def choose_interface(name: str) -> tuple[str, str]:
    """(interface, its first IPv4 address or ""): ``name``, or the only one that is up. `OperatorError` else."""
    known = interfaces.list_interfaces()
    possible = [one for one in known if one.name == name] if name else [
        one for one in known if one.up and not one.loopback
    ]  # fmt: skip
    if name and not possible:
        raise OperatorError(f"there is no interface {name}", "see `ip link`", Exit.USAGE)
    if len(possible) != 1:
        names = ", ".join(one.name for one in possible) or "none"
        raise OperatorError(
            f"which interface is meant? Up are: {names}", "name it: bootd doctor --interface IF", Exit.USAGE
        )
    return possible[0].name, next(iter(possible[0].addresses), "")


def examine(
    interface: str,
    address: str,
    mac: str,
    seconds: float,
    *,
    names: Sequence[str] = (),
    dns: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Examination:
    """Everything, in about ``seconds`` and the time that the downloads take. ``names`` are resolved too, by ``dns``
    or by the boot server."""
    link = DoctorLink(interface, mac, address)
    say(f"asking on {interface} as {mac} for {seconds:g} s")
    journeys = _choices(link, seconds)
    offered = tuple(link.offered)
    if address:
        say("fetching what they chose")
        fetcher = _Fetcher(mac)
        journeys = [replace(one, fetched=fetcher.follow(one)) for one in journeys]
    resolved = _names(diagnosis.boot_hosts(offered), names, dns) if address else ()
    facts = Facts(interface, offered, tuple(journeys), resolved, address)
    return Examination(facts, tuple(diagnosis.conclude(facts)))


def _choices(link: DoctorLink, seconds: float) -> list[Journey]:
    """Every model's way to its outcome; their DISCOVERs go out together."""
    first = secrets.randbits(31)
    attempts: dict[str, Attempt] = {one.name: one.boot() for one in CLIENTS if one.name in diagnosis.CLIENTS}
    waiting: dict[str, Request] = {name: next(attempt) for name, attempt in attempts.items()}
    answers = link.ask_all(waiting, first, seconds)
    numbers = {name: first + index for index, name in enumerate(waiting)}
    journeys = []
    for name, attempt in attempts.items():
        outcome = _play(link, attempt, waiting[name], answers[name], numbers[name])
        journeys.append(Journey(name, outcome))
    return journeys


def _play(link: DoctorLink, attempt: Attempt, request: Request, offers: Sequence[Received], number: int) -> Outcome:
    received: Sequence[Received] = offers
    try:
        for _ in range(_ROUNDS):
            request = attempt.send(tuple(received))
            if _selects(request):
                received = _acknowledge(request, offers)
            elif request.address == EVERYBODY or request.address.startswith("224."):
                received = link.ask_all({"": request}, number, _ANSWER_SECONDS)[""]
            else:
                received = link.ask_one(request, number, _ANSWER_SECONDS)
    except StopIteration as stop:
        return stop.value if isinstance(stop.value, Outcome) else failure("the model ended", [])
    attempt.close()
    return failure("it asks without end", [])


def _selects(request: Request) -> bool:
    """The REQUEST that takes an address."""
    message = request.message
    return message.message_type is MessageType.REQUEST and message.client == NOBODY


def _acknowledge(request: Request, offers: Sequence[Received]) -> list[Received]:
    """The ACK that follows from the offer: servers repeat in it what they offered (RFC 2131 section 4.3.1)."""
    chosen = dotted(request.message.options.get(Option.SERVER_IDENTIFIER, b""))
    ack = bytes((MessageType.ACK,))
    return [
        replace(one, message=replace(one.message, options={**one.message.options, Option.MESSAGE_TYPE: ack}))
        for one in offers
        if one.message.your != NOBODY and chosen in (NOBODY, one.server_identifier)
    ]


class _Fetcher:
    """Each file once, and no server that is silent twice."""

    def __init__(self, mac: str) -> None:
        self._mac = mac
        self._done: dict[str, tuple[Fetched, bytes]] = {}
        self._silent: set[str] = set()

    def follow(self, journey: Journey) -> tuple[Fetched, ...]:
        """The first file, its configuration, and what that names."""
        url = journey.outcome.url
        if journey.outcome.ending is not Ending.FETCHES or not url:
            return ()
        whole = not (url.startswith("http") and journey.client.startswith("HTTP"))
        first, data = self._get(url, whole=whole)
        if not first.error:
            first = replace(first, wrong=diagnosis.unfit(journey.client, data))
        found = [first]
        if first.error or first.wrong:
            return tuple(found)
        text = b""
        parts = urlsplit(url)
        if data.startswith(b"#!ipxe"):
            text = data
        elif parts.scheme == "tftp" and "pxelinux" in parts.path:
            folder = parts.path.rpartition("/")[0]
            name = f"{folder}/pxelinux.cfg/01-{self._mac.replace(':', '-')}"
            configuration, text = self._get(f"tftp://{parts.netloc}{name}", whole=True)
            found.append(configuration)
        found += [self._get(link, whole=False)[0] for link in diagnosis.links(text)]
        return tuple(found)

    def _get(self, url: str, *, whole: bool) -> tuple[Fetched, bytes]:
        if url not in self._done:
            parts = urlsplit(url)
            server = f"{parts.scheme}://{parts.netloc}"
            if server in self._silent:
                self._done[url] = Fetched(url, error="no answer"), b""
            else:
                self._done[url] = doctor_fetch.fetch(url) if whole else doctor_fetch.look(url)
                if self._done[url][0].error in ("no answer", "timed out"):
                    self._silent.add(server)
        return self._done[url]


def _names(
    hosts: Sequence[str] | dict[str, list[str]], names: Sequence[str], dns: Sequence[str]
) -> tuple[Resolved, ...]:
    own = [doctor_fetch.resolve(host, _SERVER_NAME, expected=host) for host in hosts]
    servers = tuple(dns) or tuple(hosts)
    wanted = [doctor_fetch.resolve(server, name, asked_for=True) for server in servers for name in names]
    return (*own, *wanted)
