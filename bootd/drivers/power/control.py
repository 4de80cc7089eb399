"""Switches nodes on and off: by their controller where the settings name one, else by a magic packet."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp
import structlog

from bootd.config import NodeTable, Settings
from bootd.drivers.power import ipmi, redfish
from bootd.drivers.power.actions import Action, Answer, ControllerError
from bootd.drivers.power.wake import wake
from bootd.drivers.secrets import read_password
from bootd.errors import OperatorError
from bootd.netboot.power import Kind, parse_controller, parse_fingerprint, parse_secure_on

log = structlog.get_logger(__name__)

AT_ONCE = 16  # controllers that are asked side by side
TOTAL_SECONDS = 50.0  # for all nodes of one request; the command line waits for 60


@dataclass(frozen=True)
class Result:
    """What became of one node. ``state`` "on", "off" or "" (not known)."""

    mac: str
    ok: bool
    state: str
    text: str


class PowerControl:
    """``interfaces`` are those that the daemon serves."""

    def __init__(self, settings: Settings, interfaces: Sequence[str]) -> None:
        self._settings, self._interfaces = settings.power, tuple(interfaces)
        self._nodes = {node.mac.lower(): node for node in settings.node}

    async def carry_out(self, macs: Sequence[str], action: Action, uefi: Callable[[str], bool]) -> list[Result]:
        """``action`` at each of ``macs`` (lower case, colons), some side by side; results in their order.

        ``uefi`` tells whether a node was seen with that firmware. Every node is answered for within
        `TOTAL_SECONDS`; nothing is tried twice, since a controller may have done what it did not answer for.
        """
        gate = asyncio.Semaphore(AT_ONCE)
        deadline = asyncio.get_running_loop().time() + TOTAL_SECONDS

        async def one(mac: str) -> Result:
            try:
                async with asyncio.timeout_at(deadline), gate, asyncio.timeout(self._settings.seconds):
                    answer = await self._ask(mac, action, uefi(mac))
            except TimeoutError:
                return Result(mac, False, "", "its controller did not answer in time")
            except ControllerError as error:
                return Result(mac, False, "", str(error))
            except OperatorError as error:
                return Result(mac, False, "", str(error))
            return Result(mac, True, answer.state, answer.text)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(mac)) for mac in macs]
        return [task.result() for task in tasks]

    async def _ask(self, mac: str, action: Action, uefi: bool) -> Answer:
        table = self._nodes.get(mac)
        address = table.power if table is not None else ""
        if action is Action.WAKE or (action is Action.ON and not address):
            return self._wake(mac, table)
        if table is None or not address:
            raise ControllerError('no power controller is set: [[node]] power = "redfish://..." or "ipmi://..."')
        controller = parse_controller(address)
        secret = table.power_secret or self._settings.secret
        if not secret:
            raise ControllerError("no password is set: power.secret, or the node's power_secret, names its file")
        password = await asyncio.to_thread(read_password, secret)
        if controller.kind is Kind.IPMI:
            return await ipmi.ask(controller, action, password, uefi=uefi)
        trusted = self._trust(table)
        return await redfish.ask(controller, action, password, trusted, uefi=uefi)

    def _trust(self, table: NodeTable) -> ssl.SSLContext | aiohttp.Fingerprint:
        fingerprint = parse_fingerprint(table.power_fingerprint) if table.power_fingerprint else b""
        return redfish.trust(self._settings.authority, fingerprint)

    def _wake(self, mac: str, table: NodeTable | None) -> Answer:
        password = b""
        if table is not None and table.wake_secret:
            try:
                password = parse_secure_on(read_password(table.wake_secret))
            except ValueError as error:
                raise ControllerError(f"{table.wake_secret}: {error}") from None
        sent = wake(mac, self._interfaces, password, self._settings.wake_addresses)
        return Answer("", f"magic packet sent to {', '.join(sent)}")
