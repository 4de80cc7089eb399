"""The agent of a running system: it waits for syncs, and carries them out. Nothing else is done for the daemon.

``python3 agent.pyz [--logon] [SETTINGS]``; with ``--logon`` it asks for the syncs of a logon, and waits for them.
The settings are one JSON object: ``server`` (HOST:PORT), ``node`` (boot MAC) and ``key``.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from bootd.member.control import ControlClient, ControlError
from bootd.wire.control import Disk, Message, StopSync, Sync
from stage2.inventory import take
from stage2.places import running
from stage2.sync import Station, Syncs

SETTINGS = "/etc/bootd-agent/agent.json"
INBOX = 16
LOOK = 0.5  # seconds between two looks at a job
LOGON_SECONDS = 75.0  # a little longer than the server waits
REFUSED_PAUSE = 60.0  # seconds, when the daemon does not know the key


@dataclass(frozen=True)
class Settings:
    server: str
    node: str
    key: str


class SettingsError(Exception):
    """They cannot be used; the text says why."""


class AgentClient(ControlClient):
    """Orders of running systems come on a stream of their own."""

    events_path = "/node/v1/sync/events"

    def log_on(self) -> None:
        """Returns when what is scheduled for a logon is over; `ControlError`."""
        self._request("POST", f"/node/v1/sync/logon?node={quote(self._node, safe='')}", b"", LOGON_SECONDS)


def read_settings(path: str) -> Settings:
    try:
        with open(path, encoding="utf-8") as stream:
            if os.fstat(stream.fileno()).st_mode & 0o077:
                raise SettingsError(f"{path}: others may read the key in it: chmod 600 {path}")
            value = json.load(stream)
        return Settings(str(value["server"]), str(value["node"]), str(value["key"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path}: {error!r}") from None


class Resident:
    """`run` until `stop`."""

    def __init__(
        self,
        settings: Settings,
        say: Callable[[str], None],
        take_disks: Callable[[], Sequence[Disk]] = take,
        reboot: Callable[[], None] | None = None,
    ) -> None:
        self._client = AgentClient(settings.server, settings.node, settings.key)
        self._say, self._reboot = say, reboot or restart
        self._inbox: queue.Queue[Message] = queue.Queue(INBOX)
        self._stopping = threading.Event()
        self._syncs = Syncs(
            Station(
                settings.node,
                settings.server,
                settings.key,
                self._client.send_sync,
                lambda order: running(order, take_disks),
                say,
            )
        )

    def run(self) -> None:
        threading.Thread(target=self._listen, name="bootd-events", daemon=True).start()
        while not self._stopping.is_set():
            try:
                message = self._inbox.get(timeout=LOOK)
                if isinstance(message, Sync | StopSync):
                    self._syncs.take(message)
            except queue.Empty:
                pass
            job = self._syncs.finished()
            if job is not None and job.is_to_reboot:
                self._say("restarts in a minute, as the sync asked")
                self._reboot()
        self._syncs.close()

    def stop(self) -> None:
        self._stopping.set()
        self._client.close()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                for message in self._client.events():
                    self._inbox.put(message)
            except ControlError as error:
                self._say(f"the server says no: {error}")
                self._stopping.wait(REFUSED_PAUSE)


def restart() -> None:
    """In a minute, as whoever is logged in is told."""
    subprocess.run(["shutdown", "-r", "+1", "bootd has synchronised this system"], check=False)


def main() -> int:
    def say(text: str) -> None:
        print(f"bootd-agent: {text}", flush=True)

    words = [word for word in sys.argv[1:] if word != "--logon"]
    try:
        settings = read_settings(words[0] if words else SETTINGS)
    except SettingsError as error:
        say(str(error))
        return 2
    if len(words) < len(sys.argv[1:]):
        try:
            AgentClient(settings.server, settings.node, settings.key).log_on()
        except ControlError as error:
            say(f"no sync at this logon: {error}")
            return 1
        return 0
    resident = Resident(settings, say)
    signal.signal(signal.SIGTERM, lambda *_: resident.stop())
    signal.signal(signal.SIGINT, lambda *_: resident.stop())
    say(f"{settings.node}, server {settings.server}, {time.strftime('%Y-%m-%d %H:%M:%S')}")
    resident.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
