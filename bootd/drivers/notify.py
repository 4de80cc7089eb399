"""sd_notify(3) in a few lines: readiness, status and watchdog for the service manager."""

import asyncio
import os
import socket
from collections.abc import Mapping

import structlog

log = structlog.get_logger(__name__)


class Notifier:
    """Talks to the datagram socket that ``NOTIFY_SOCKET`` names; silent without one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_seconds = _watchdog(environment)

    def ready(self, status: str) -> None:
        """Everything is bound: the unit is started."""
        self._send(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send("STATUS=" + text.replace("\n", " "))

    def reloading(self, microseconds: int) -> None:
        """The settings are taken over anew; `ready` follows. ``microseconds`` of CLOCK_MONOTONIC."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={microseconds}")

    def stopping(self) -> None:
        """The daemon winds up."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The loop turns."""
        self._send("WATCHDOG=1")

    async def feed_watchdog(self) -> None:
        """Say `alive` twice per watchdog interval until cancelled; returns at once when there is no watchdog."""
        while self.watchdog_seconds:
            self.alive()
            await asyncio.sleep(self.watchdog_seconds / 2)

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), self._address)
        except OSError as error:
            log.warning("service manager does not take notifications", error=str(error))
            self._address = ""


def _watchdog(environment: Mapping[str, str]) -> float:
    """Interval in seconds; 0 when there is none or it is for another process."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    meant = environment.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdigit() or meant != str(os.getpid()):
        return 0.0
    return int(microseconds) / 1e6
