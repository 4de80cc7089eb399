"""Labels with a password for iPXE, which can ask but not check: the server checks, and then renders the entry.

``POST /boot/unlock.ipxe``, a form of ``mac``, ``label`` and ``password``. Tries are bounded per address, since the
network is full of machines that could guess.
"""

import asyncio
import time
from collections.abc import Callable
from urllib.parse import parse_qs

import structlog
from aiohttp import web

from bootd.drivers.engine import Engine
from bootd.drivers.http.limits import Buckets, network_of
from bootd.drivers.http.server import read_body, text_error
from bootd.drivers.tree import NotFound, VirtualTree, normal_mac
from bootd.netboot import passwords, render
from bootd.netboot.labels import Label

log = structlog.get_logger(__name__)

MAX_FORM = 4096
TRIES_PER_MINUTE = 6.0


class Unlock:
    """Answers for one node interface."""

    def __init__(
        self,
        engine: Engine,
        tree: VirtualTree,
        labels: dict[str, Label],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._tree, self._labels, self._clock = engine, tree, labels, clock
        self._tries = Buckets(TRIES_PER_MINUTE / 60, TRIES_PER_MINUTE)
        self._one_at_a_time = asyncio.Lock()  # a guess costs a core some ten milliseconds

    async def answer(self, request: web.Request) -> web.Response:
        """An iPXE script, whatever comes of it: a status that is no success would end in the firmware."""
        form = await _form(request)
        name, typed = (form.get(key, [""])[0] for key in ("label", "password"))
        password = typed.encode("latin-1").decode(errors="replace")
        mac = normal_mac(form.get("mac", [""])[0])
        label = self._labels.get(name)
        if not mac or label is None:
            return text_error(400, "the form needs mac, label and password")
        wait = self._tries.take(network_of(request.remote or ""), self._clock())
        if wait > 0:
            return self._again(mac, f"too many tries, wait {int(wait) + 1} s", int(wait) + 1)
        async with self._one_at_a_time:
            good = await asyncio.to_thread(passwords.verify, password, label.password)
        self._engine.note("unlock", mac, "", f"label {name}: {'right' if good else 'wrong'} password")
        if not good:
            return self._again(mac, "wrong password", 3)
        found = self._tree.unlocked(mac, name)
        if isinstance(found, NotFound):
            return text_error(404, found.reason)
        return self._script(found.content)

    def _again(self, mac: str, text: str, seconds: int) -> web.Response:
        return self._script(render.ipxe_again(mac, text, seconds).encode())

    @staticmethod
    def _script(content: bytes) -> web.Response:
        return web.Response(body=content, content_type="text/plain", headers={"Cache-Control": "no-store"})


async def _form(request: web.Request) -> dict[str, list[str]]:
    """``application/x-www-form-urlencoded``, as iPXE sends ``params``; {} for what is none."""
    try:
        return parse_qs((await read_body(request, MAX_FORM)).decode("ascii"), max_num_fields=8, encoding="latin-1")
    except ValueError:
        return {}
