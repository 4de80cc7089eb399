"""Pushing and pulling as long work of a job (`bootd.drivers.jobs.worker`)."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bootd.drivers.images.reading import reading
from bootd.drivers.images.store import ImageStore
from bootd.drivers.jobs.tell import Result, Tell
from bootd.drivers.registry.client import RegistryClient
from bootd.drivers.registry.credentials import find_file, read_login, trust
from bootd.drivers.registry.pull import Pull
from bootd.drivers.registry.push import Push
from bootd.drivers.registry.transfer import Progress
from bootd.images.oci.reference import RegistryReference, parse_reference


def push(
    tell: Tell,
    *,
    store: str,
    image: str,
    target: str,
    mount_from: Sequence[str] = (),
    credentials: str = "",
    authority: str = "",
    plain_hosts: Sequence[str] = (),
) -> Result:
    """Send ``image`` to the registry reference ``target``. The last three are those of [registry]."""
    where = parse_reference(target)
    images = ImageStore(Path(store))
    client = _client(tell, where, credentials, authority, plain_hosts)

    async def run(id_: str) -> Result:
        async with client:
            return asdict(await Push(images, client, where, _progress(tell), mount_from=mount_from).run(id_))

    with reading(images, image) as (id_, _):
        return asyncio.run(run(id_))


def pull(
    tell: Tell,
    *,
    store: str,
    source: str,
    name: str = "",
    credentials: str = "",
    authority: str = "",
    plain_hosts: Sequence[str] = (),
) -> Result:
    """Fetch the image of the registry reference ``source``, and let ``name`` be it too."""
    where = parse_reference(source)
    images = ImageStore(Path(store))
    client = _client(tell, where, credentials, authority, plain_hosts)

    async def run() -> Result:
        async with client:
            return asdict(await Pull(images, client, where, _progress(tell)).run(name))

    try:
        return asyncio.run(run())
    finally:
        images.close()


def _client(
    tell: Tell, where: RegistryReference, credentials: str, authority: str, plain_hosts: Sequence[str]
) -> RegistryClient:
    login = read_login(find_file(credentials), where.host)
    return RegistryClient(where, login, trust(authority), plain_hosts, tell.note)


def _progress(tell: Tell) -> Progress:
    return Progress(lambda progress: tell.progress(max(0, progress.done), progress.total, progress.note or "bytes"))
