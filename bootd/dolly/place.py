"""Who is who in a room: which entry of the list a host is, and who follows whom."""

from collections.abc import Collection, Sequence

from bootd.dolly.config import Config
from bootd.dolly.errors import DollyError

SERVER = -1


def children(config: Config, place: int) -> tuple[int, ...]:
    """Places in the list of clients that ``place`` (`SERVER`, or from 0) sends to; none at the end of a branch."""
    first = (place + 1) * config.fanout
    return tuple(range(first, min(first + config.fanout, len(config.clients))))


def branch(config: Config, place: int) -> tuple[int, ...]:
    """``place`` and all that hang on it, in the order of the list."""
    found, edge = [place], [place]
    while edge:
        edge = [child for parent in edge for child in children(config, parent)]
        found += edge
    return tuple(sorted(found))


def find_client(config: Config, names: Sequence[str], addresses: Collection[str] = ()) -> int:
    """The place of the host that is called one of ``names`` (the surest first) or has one of ``addresses``.

    Without hyphennormal ``node1-giga`` is an interface of ``node1``, as dolly has it. `DollyError` when nothing
    fits.
    """
    for name in names:
        if name in config.clients:
            return config.clients.index(name)
    for place, client in enumerate(config.clients):
        if client in addresses:
            return place
    for name in names:
        fitting = [place for place, client in enumerate(config.clients) if _is_same(config, client, name)]
        if len(fitting) == 1:
            return fitting[0]
    hint = f"this host is {', '.join((*names, *sorted(addresses)))}: correct the list, or say --name NAME here"
    raise DollyError(f"this host is none of the clients {_short(config.clients)}", hint)


def is_server(config: Config, names: Sequence[str], addresses: Collection[str] = ()) -> bool:
    """Whether the host of these names is the one that the configuration calls its server."""
    if config.server in addresses:
        return True
    return any(config.server == name or _is_same(config, config.server, name) for name in names)


def _is_same(config: Config, written: str, name: str) -> bool:
    if written.split(".", maxsplit=1)[0] == name.split(".", maxsplit=1)[0] and not written[:1].isdigit():
        return True
    return (
        not config.hyphennormal
        and "-" in written
        and written.split("-", maxsplit=1)[0] == name.split(".", maxsplit=1)[0]
    )


def _short(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" … ({len(names)} in all)" if len(names) > 4 else "")
