"""The operators' requests about backups: nodes' disks that are read into images."""

from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from bootd.drivers.captures import check_request
from bootd.drivers.engine import Engine
from bootd.drivers.http import answers
from bootd.drivers.http.requests import read_as, who_asks
from bootd.drivers.http.routes import CALLER, Caller, Route
from bootd.errors import Exit, OperatorError
from bootd.session.captures import CaptureRequest, Captures, Task, view
from bootd.wire.control import RUNNING


class BackupOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/backups. ``image``: its name; ``disk``: a selector; ``part``: sda5, "" = the whole disk;
    ``files``: the files of the system on it, as an archive, but the content of the folders ``exclude``;
    ``running``: of the system that runs there, by its agent.

    ``user`` "" = who asks; another one may be named on the unix socket only.
    """

    node: str
    image: str
    comment: str
    user: str = ""
    disk: str = "only"
    part: str = ""
    dirty: bool = False
    raw: bool = False
    quick: bool = False
    after: Literal["reboot", "stay"] = "reboot"
    tags: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()
    files: bool = False
    exclude: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)] = ()
    running: bool = False


class Backups:
    """Answers the requests of `BACKUP_ROUTES`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def list_backups(self, _request: web.Request) -> web.Response:
        return web.json_response([self._view(task) for task in self._captures.tasks.values()])

    async def show_backup(self, request: web.Request) -> web.Response:
        return self._answer(request.match_info["id"])

    async def order_backup(self, request: web.Request) -> web.Response:
        order = await read_as(request, BackupOrder)
        caller: Caller = request[CALLER]
        if order.user and caller.token:
            raise OperatorError("only root may make an image for another user", "leave user out", Exit.REFUSED)
        wanted = CaptureRequest(
            node=order.node,
            image=order.image,
            comment=order.comment,
            user=order.user or caller.who,
            disk=order.disk,
            part=order.part,
            dirty=order.dirty,
            raw=order.raw,
            quick=order.quick,
            after=order.after,
            tags=order.tags,
            files=order.files,
            exclude=order.exclude,
            running=order.running,
        )
        check_request(wanted)
        if order.running:
            self._check_agent(order.node)
        if self._engine.captures is None:
            raise OperatorError("images are not kept here", "see images.directory")
        id_, effects = self._engine.coordinator.order_capture(wanted, caller.who, self._engine.now())
        self._engine.run(effects)
        return self._answer(id_, 201)

    async def cancel_backup(self, request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        self._engine.run(self._captures.cancel(id_, who_asks(request), self._engine.now()))
        if self._engine.captures is not None:
            self._engine.captures.forget(id_)
        return self._answer(id_)

    def _check_agent(self, node: str) -> None:
        """`OperatorError` unless the agent of the running system is there, and knows how to read it."""
        nodes, keeper = self._engine.coordinator.nodes, self._engine.sync
        mac = nodes.find(node)
        name, other = nodes.name(mac), "or leave out --running: stage2 reads it"
        if keeper is None or mac not in keeper.store.agents:
            text = f"there is no agent for the running system of {name}"
            raise OperatorError(text, f"bootd sync agent {name} --out FILE, {other}", Exit.REFUSED)
        if not keeper.streams.listens(mac):
            text = f"the agent of {name} is not there"
            raise OperatorError(text, f"start {name}, and bootd-agent there; {other}", Exit.REFUSED)
        if RUNNING not in keeper.abilities.get(mac, ()):
            text = f"the agent of {name} makes no backups: it is of an older bootd, or lacks compiled packages"
            hint = f"bootd sync agent {name} --out FILE, unpack it there (its journal tells more); {other}"
            raise OperatorError(text, hint, Exit.REFUSED)

    @property
    def _captures(self) -> Captures:
        return self._engine.coordinator.captures

    def _answer(self, id_: str, status: int = 200) -> web.Response:
        return web.json_response(self._view(self._captures.find(id_)), status=status)

    def _view(self, task: Task) -> dict[str, Any]:
        return view(task, self._engine.coordinator.nodes.name, self._engine.now())


BACKUP_ROUTES = (
    Route("GET", "/backups", Backups.list_backups, "Disks that are read into images", list[answers.Backup]),
    Route(
        "POST",
        "/backups",
        Backups.order_backup,
        "Read a disk or a partition of a machine into an image",
        answers.Backup,
        BackupOrder,
        status=201,
    ),
    Route("GET", "/backups/{id}", Backups.show_backup, "One backup", answers.Backup),
    Route("DELETE", "/backups/{id}", Backups.cancel_backup, "Cancel a backup", answers.Backup),
)
