"""The operators' requests about backups: nodes' disks that are read into images."""

from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from bootd.drivers.captures import check_request
from bootd.drivers.engine import Engine
from bootd.drivers.http.routes import CALLER, Caller
from bootd.errors import Exit, OperatorError
from bootd.session.captures import CaptureRequest, Task, view


class BackupOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /api/v1/backups. ``image``: its name; ``disk``: a selector; ``part``: sda5, "" = the whole disk.

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
    after: Literal["reboot", "stay"] = "reboot"
    tags: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()


class Backups:
    """Answers them; the caller has decoded the body and judged the scope."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> list[dict[str, Any]]:
        return [self._view(task) for task in self._engine.coordinator.captures.tasks.values()]

    def one(self, id_: str) -> dict[str, Any]:
        return self._view(self._engine.coordinator.captures.find(id_))

    def order(self, order: BackupOrder, request: web.Request) -> dict[str, Any]:
        caller: Caller = request[CALLER]
        if order.user and caller.token:
            raise OperatorError(
                f"token {caller.token!r} cannot make an image in the name of {order.user!r}",
                "leave the user out: it is who asks",
                Exit.REFUSED,
            )
        wanted = CaptureRequest(
            node=order.node,
            image=order.image,
            comment=order.comment,
            user=order.user or caller.who,
            disk=order.disk,
            part=order.part,
            dirty=order.dirty,
            raw=order.raw,
            after=order.after,
            tags=order.tags,
        )
        check_request(wanted)
        if self._engine.captures is None:
            raise OperatorError("images are not kept here", "see server.state_dir")
        id_, effects = self._engine.coordinator.order_capture(wanted, caller.who, self._engine.now())
        self._engine.run(effects)
        return self.one(id_)

    def cancel(self, id_: str, request: web.Request) -> dict[str, Any]:
        caller: Caller = request[CALLER]
        self._engine.run(self._engine.coordinator.captures.cancel(id_, caller.who, self._engine.now()))
        if self._engine.captures is not None:
            self._engine.captures.forget(id_)
        return self.one(id_)

    def _view(self, task: Task) -> dict[str, Any]:
        return view(task, self._engine.coordinator.nodes.name, self._engine.now())
