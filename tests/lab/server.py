"""bootd in the room: its settings, its process and its command line."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.lab.console import Console
from tests.lab.errors import LabError
from tests.lab.room import PREFIX, SERVER_ADDRESS, TEMPORARY, Room

BOOTD = Path(sys.executable).parent / "bootd"
CONSOLE = "console=ttyS0,115200 quiet"

Tables = Mapping[str, Mapping[str, Any]]  # of bootd.toml: values that JSON and TOML write alike


class Server:
    """``bootd serve`` in the server's namespace, told what to do by ``bootd`` commands, as an operator does."""

    def __init__(self, room: Room, boot: Path, nodes: Mapping[str, str], settings: Tables | None = None) -> None:
        """``boot`` is the folder of the boot artefacts; ``nodes`` maps names to MAC addresses; ``settings`` go into
        bootd.toml beside the room's own."""
        self._room = room
        # A socket's path has at most 107 bytes: not below the checkout, which may be deep.
        self._run = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-", dir=TEMPORARY))
        self._configuration = room.folder / "bootd.toml"
        self._state = room.folder / "state"
        shutil.rmtree(self._state, ignore_errors=True)
        self._configuration.write_text(self._settings(boot, nodes, settings or {}))
        self._notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.console = Console("server", room.folder / "bootd.log")

    def __enter__(self) -> "Server":
        try:
            self._start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def command(self, *words: str, seconds: float = 30, accept: tuple[int, ...] = (0,)) -> str:
        """Standard output of ``bootd WORDS``; `LabError` unless it ends with a status in ``accept``."""
        environment = {**os.environ, "BOOTD_SOCKET": str(self._run / "bootd.sock")}
        step = f"bootd {' '.join(words[:2])}"
        try:
            done = subprocess.run(
                [str(BOOTD), *words], env=environment, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise LabError("server", step, f"no answer within {seconds:.0f} s", self.console.log) from None
        if done.returncode not in accept:
            text = (done.stderr or done.stdout).strip()[-600:]
            raise LabError("server", step, f"exit status {done.returncode}: {text}", self.console.log)
        return done.stdout

    def query(self, *words: str) -> Any:
        """What ``bootd WORDS --json`` prints."""
        text = self.command(*words, "--json")
        try:
            return json.loads(text)
        except ValueError:
            raise LabError("server", f"bootd {' '.join(words)} --json", f"not JSON: {text[:200]!r}") from None

    def check(self) -> None:
        """`LabError` when the daemon has ended."""
        if not self.console.running():
            raise LabError("server", "bootd serve", f"ended: {self.console.last_line()}", self.console.log)

    def _start(self) -> None:
        notify = self._run / "notify"
        self._notifications.bind(str(notify))
        self._notifications.settimeout(0.5)
        command = [str(BOOTD), "serve", "--config", str(self._configuration)]
        self.console.start([*self._room.inside(self._room.server), *command], {"NOTIFY_SOCKET": str(notify)})
        self._room.own(self.console)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self.check()
            try:
                if b"READY=1" in self._notifications.recv(4096):
                    return
            except TimeoutError:
                continue
        raise LabError("server", "bootd serve", "not ready within 30 s", self.console.log)

    def _close(self) -> None:
        self.console.terminate(10)
        self._notifications.close()
        shutil.rmtree(self._run, ignore_errors=True)

    def _settings(self, boot: Path, nodes: Mapping[str, str], more: Tables) -> str:
        tables: dict[str, dict[str, Any]] = {
            "server": {
                "interface": "eth0",
                "address": SERVER_ADDRESS,
                "state_dir": str(self._state.resolve()),
                "run_dir": str(self._run),
                "boot_dir": str(boot.resolve()),
            },
            "boot": {"console": CONSOLE},
        }
        for name, values in more.items():
            tables.setdefault(name, {}).update(values)
        lines = []
        for name, table in tables.items():
            plain = {key: value for key, value in table.items() if not isinstance(value, list)}
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in plain.items())]
            for key in table.keys() - plain.keys():  # a list of tables
                for row in table[key]:
                    lines += [
                        f"[[{name}.{key}]]",
                        *(f"{word} = {json.dumps(value)}" for word, value in row.items()),
                    ]
        for name, mac in nodes.items():
            lines += ["[[node]]", f'mac = "{mac}"', f'name = "{name}"']
        return "\n".join(lines) + "\n"
