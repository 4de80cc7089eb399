"""``bootd dolly --ring``: what dolly.cfg says, over bootd's own ring."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bootd.cli.ring import make_secret, read_secret, receive_onto
from bootd.cli.ring_screen import conclude, tell
from bootd.dolly.config import Config, Transfer
from bootd.drivers.dolly.by_ring import check, default_spool, ring_sources, ring_targets
from bootd.drivers.ring.host import resolve
from bootd.drivers.ring.sender import Course, RingSender, Timing
from bootd.drivers.ring.source import open_sources
from bootd.drivers.ring.target import TargetSet, check_spool
from bootd.errors import Exit, OperatorError

Secret = tuple[str | None, Path | None]


def send_by_ring(config: Config, secret: Secret, port: int, wait: float, *, as_json: bool) -> int:
    """The files of ``config`` to its clients; exit codes as of `bootd ring send`."""
    for warning in check(config):
        tell(f"WARNING: {warning}")
    names = resolve(config.clients, port)
    token = read_secret(*secret) or make_secret(secret[1], Console(stderr=True))
    words, commands = ring_sources(config)
    sources = open_sources(words, commands, check_spool(default_spool()), _hush, is_fresh=True)
    course = Course(fan_out=config.fanout, barrier=len(sources) > 1)
    sender = RingSender(sources, names, token, timing=Timing(wait=wait), show=_see, tell=tell, course=course)
    view = sender.run()
    return conclude(view, as_json=as_json)


def receive_by_ring(
    config: Config | None,
    outfiles: Sequence[str],
    confirmed: Sequence[str],
    secret: Secret,
    listen: tuple[str, int],
) -> int:
    """``listen``: address and port. What the same dolly.cfg (or --outfile) says that this host writes."""
    token = read_secret(*secret)
    if token is None:
        raise OperatorError("no secret", "say --token-file FILE, as on the server", Exit.USAGE)
    files = config.files if config is not None else tuple(Transfer("", path) for path in outfiles)
    if not files:
        hint = "say -f dolly.cfg here, too, or --outfile PATH: the ring tells no host what to write"
        raise OperatorError("nothing to write", hint, Exit.USAGE)
    spool = check_spool(default_spool())
    claimed = TargetSet(ring_targets(files, outfiles, confirmed, spool))
    result = receive_onto(claimed, listen, token, None)
    tell(result.text)
    return int(result.code)


def _hush(name: str, done: int) -> None:
    """A stream comes in."""


def _see(view: dict[str, Any]) -> None:
    """The table at the end says it."""
