"""``bootd serve`` in a namespace of a room, and its commands, as an operator uses them."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.netns.room import PATIENCE, Process, Room, RoomError

BOOTD = str(Path(sys.executable).parent / "bootd")
ADDRESS = "10.9.0.2"
HTTP_PORT = 7467


class Daemon:
    """Folder, settings and processes of one daemon. ``folder`` must have a short path: it holds a unix socket."""

    def __init__(self, room: Room, folder: Path, settings: str = "") -> None:
        self.room, self.folder = room, folder
        self.socket = folder / "run" / "bootd.sock"
        self.config = folder / "bootd.toml"
        server = f'[server]\ninterface = "eth0"\nstate_dir = "{folder / "state"}"\nrun_dir = "{folder / "run"}"\n'
        self.config.write_text(server + settings)
        self.boot = folder / "state" / "boot"
        self.boot.mkdir(parents=True, exist_ok=True)

    def start(self, seconds: float = 15.0) -> Process:
        """Start it and wait for READY=1 on its notification socket."""
        path = self.folder / "notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(path))
            ready.settimeout(0.2)
            process = self.start_unready({"NOTIFY_SOCKET": str(path)})
            deadline = time.monotonic() + seconds * PATIENCE
            while time.monotonic() < deadline and process.running():
                try:
                    if b"READY=1" in ready.recv(4096).split(b"\n"):
                        return process
                except TimeoutError:
                    continue
        raise RoomError(f"bootd serve was not ready:\n{process.output[-3000:]}")

    def start_unready(self, environment: dict[str, str] | None = None) -> Process:
        return self.room.start("server", [BOOTD, "serve", "--config", str(self.config)], environment)

    def command(self, *words: str, expect: int = 0, seconds: float = 30.0) -> str:
        """Standard output and error of ``bootd WORDS``, which must end with status ``expect``."""
        done = subprocess.run(
            [BOOTD, "--socket", str(self.socket), *words],
            capture_output=True,
            text=True,
            timeout=seconds * PATIENCE,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "COLUMNS": "200"},
        )
        text = done.stdout + done.stderr
        if done.returncode != expect:
            raise RoomError(f"bootd {' '.join(words)}: status {done.returncode}, not {expect}:\n{text[-3000:]}")
        return text

    def state(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.command("state", "--json"))
        return value

    def session(self, name: str) -> dict[str, Any]:
        sessions: list[dict[str, Any]] = self.state()["sessions"]
        return [session for session in sessions if name in (session["name"], session["id"])][-1]
