"""Debian's docker-registry as a process of the test, on a port of loopback."""

import base64
import json
import os
import re
import signal
import subprocess
import threading
from collections import deque
from pathlib import Path

from bootd.drivers.registry.credentials import Login

PROGRAM = "/usr/bin/docker-registry"
_LISTENING = re.compile(r"listening on (?:127\.0\.0\.1|\[::\]):(\d+)")
_START_SECONDS = 30.0


class DockerRegistry:
    """``auth`` and ``tls`` are lines of its configuration, below these keys. A context manager."""

    def __init__(self, folder: Path, *, auth: str = "", tls: str = "", http: str = "") -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log: deque[str] = deque(maxlen=2000)
        self._auth, self._tls, self._http = auth, tls, http
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._later: threading.Timer | None = None
        self.port = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> "DockerRegistry":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._later is not None:
            self._later.join()
        self.stop()

    def start(self) -> None:
        """On the port that it had before, if it ran before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(exist_ok=True)
        lines = ["version: 0.1", "log: {level: info}", "storage:", f"  filesystem: {{rootdirectory: {self.data}}}"]
        lines += ["  delete: {enabled: true}", "http:", f"  addr: 127.0.0.1:{self.port}"]
        lines += [f"  tls: {self._tls}"] if self._tls else []
        lines += [self._http] if self._http else []
        lines += ["auth:", self._auth] if self._auth else []
        configuration = self.folder / "config.yml"
        configuration.write_text("\n".join(lines) + "\n")
        listening = threading.Event()
        self._process = subprocess.Popen(
            [PROGRAM, "serve", str(configuration)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )

        def read(process: subprocess.Popen[str]) -> None:
            for line in process.stderr or ():
                self.log.append(line.rstrip())
                found = _LISTENING.search(line)
                if found:
                    self.port = int(found[1])
                    listening.set()
            listening.set()

        self._reader = threading.Thread(target=read, args=(self._process,))
        self._reader.start()
        if not listening.wait(_START_SECONDS) or self.port == 0 or self._process.poll() is not None:
            self.stop()
            raise RuntimeError("docker-registry does not start: " + "\n".join(self.log))

    def start_later(self, seconds: float) -> None:
        """As `start`, from another thread."""
        self._later = threading.Timer(seconds, self.start)
        self._later.start()

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        process, reader = self._process, self._reader
        self._process = self._reader = None
        if process is None or reader is None:
            return
        process.send_signal(how)
        process.wait()
        reader.join()
        if process.stderr is not None:
            process.stderr.close()

    def blobs(self) -> dict[str, Path]:
        """The file of every blob that it keeps, by digest (without ``sha256:``)."""
        folder = self.data / "docker/registry/v2/blobs/sha256"
        return {path.parent.name: path for path in folder.glob("*/*/data")}


def htpasswd(folder: Path, login: Login) -> str:
    """For the registry's configuration: it wants to be told ``login``."""
    path = folder / "htpasswd"
    words = ["htpasswd", "-Bbn", login.user, login.password]
    path.write_text(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return f"  htpasswd: {{realm: tests, path: {path}}}"


def config_json(folder: Path, host: str, login: Login) -> Path:
    """As ``docker login`` writes it."""
    path = folder / "config.json"
    auth = base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    path.chmod(0o600)
    return path
