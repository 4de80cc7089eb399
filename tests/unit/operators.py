"""The operators' interface for real, on a unix socket, in a loop of its own thread, with bootd as the client."""

import asyncio
import http.client
import itertools
import json
import socket
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from bootd.cli.main import main
from bootd.config import Api, Images, Registry
from bootd.drivers.engine import Engine
from bootd.drivers.http.images import ImageRoutes
from bootd.drivers.http.network import NetworkInterface
from bootd.drivers.http.operator import Operators as Handlers
from bootd.drivers.http.unix_socket import OperatorInterface
from bootd.drivers.jobs.runner import Jobs
from bootd.drivers.journal import Journal
from bootd.drivers.power.control import PowerControl
from bootd.drivers.tokens import TokenStore
from bootd.netboot.labels import BUILT_IN
from bootd.session.coordinator import Coordinator
from bootd.wire.control import Disk, Join
from tests.unit.session_room import LABELS, counter, mac


class Operators:
    """Nodes lab1, lab2 and lab3 are known by name; time goes on by a second with each question."""

    def __init__(
        self,
        folder: Path,
        power: PowerControl | None = None,
        *,
        images: Images = Images(keep_last=2),  # noqa: B008 - frozen
        registry: Registry | None = None,
    ) -> None:
        self.socket = folder / "s"
        self.journal = Journal(folder / "bootd.db")
        self.engine = Engine(
            Coordinator(
                labels=LABELS,
                default_label="local",
                names={mac(number): f"lab{number}" for number in (1, 2, 3)},
                node_labels={},
                head_host="192.0.2.1",
                draw=counter(),
            ),
            self.journal,
            clock=itertools.count(1.0).__next__,
        )
        self._loop = asyncio.new_event_loop()
        labels = {label.name: label for label in BUILT_IN}
        self.images = folder / "images"
        self.jobs = Jobs()
        routes = ImageRoutes(self.engine, self.images, images, self.jobs, registry)
        self.tokens = TokenStore(self.journal)
        self._handlers = Handlers(self.engine, labels, self.tokens, images=routes, power=power)
        self._interface = OperatorInterface(self._handlers, self.socket)
        self._network: NetworkInterface | None = None
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.call(self._interface.bind())
        self.call(self._interface.serve())

    def join(self, number: int, *disks: Disk) -> None:
        message = Join(mac(number), "", "x86_64", "bios", f"192.0.2.{number}", "", "ka", 1 << 29, disks)
        self.engine.run(self.engine.coordinator.join(message, 0.0))

    def run(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
        """Exit code, standard output and error of ``bootd WORDS``."""
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--socket", str(self.socket), *words])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of a request below /api/v1, without the command line."""
        connection = http.client.HTTPConnection("bootd", timeout=10)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(10)
            sock.connect(str(self.socket))
            connection.sock = sock
            connection.request(method, f"/api/v1{path}", None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None

    def listen(self, api: Api) -> None:
        """Also over the network."""
        self._network = NetworkInterface(self._handlers, api)
        self.call(self._network.bind())
        self._serving = asyncio.run_coroutine_threadsafe(self._network.serve(), self._loop)

    def close_network(self) -> None:
        if self._network is not None:
            self._serving.cancel()
            self.call(self._network.close())
            self._network = None

    def close(self) -> None:
        self.close_network()
        self.call(self.jobs.close())
        self.call(self._interface.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self.journal.close()

    def call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
