"""``make bench-registry``: packs of several sizes, and a blob for each chunk, to and from Debian's docker-registry.

For each: push an image, push one in which 1 % of the chunks are new, pull both. One JSON line for each step, on
standard output and in build/bench/registry.json: seconds, requests, bytes that travelled.
BENCH='--chunks 256 --packs 0 32' shortens it.
"""

import argparse
import asyncio
import json
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TextIO

from bootd.drivers.images.store import ImageStore
from bootd.drivers.registry.client import RegistryClient
from bootd.drivers.registry.credentials import trust
from bootd.drivers.registry.pull import Pull
from bootd.drivers.registry.push import Push
from bootd.drivers.registry.transfer import Progress
from bootd.images.manifest import ImageManifest
from bootd.images.oci.reference import RegistryReference, parse_reference
from bootd.wire.digest import digest
from tests.unit.docker_registry import DockerRegistry

MIB = 1 << 20
OUT = Path("build/bench/registry.json")


def make(store: ImageStore, chunks: int, changed: frozenset[int]) -> str:
    """An image of chunks of which 60 % cannot be compressed."""
    names = []
    for number in range(chunks):
        draw = random.Random(f"{number} {number in changed}")
        raw = draw.randbytes(600 << 10) + bytes(MIB - (600 << 10))
        name = digest(raw).hex()
        store.put_chunk(name, raw)
        names.append(name)
    created = "2026-02-01T00:00:00Z" if changed else "2026-01-31T00:00:00Z"
    manifest = ImageManifest(
        name="lab", user="bench", created=created, comment="bench", size=chunks * MIB, chunks=tuple(names)
    )
    return store.commit(manifest)


def tell(out: TextIO, **values: Any) -> None:
    line = json.dumps(values)
    print(line, flush=True)
    out.write(line + "\n")


async def step(
    where: RegistryReference, work: Callable[[RegistryClient], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    began = time.monotonic()
    async with RegistryClient(where, None, trust("")) as client:
        result = await work(client)
    return {"seconds": round(time.monotonic() - began, 2), "requests": client.requests, **result}


def measure(store: ImageStore, images: dict[str, str], registry: DockerRegistry, pack: int, out: TextIO) -> None:
    """``pack`` MiB; 0: a blob for each chunk."""
    folder = Path(tempfile.mkdtemp(prefix="bootd-bench-"))
    try:
        there = ImageStore(folder)
        for tag, image in images.items():
            where = parse_reference(f"http://{registry.host}/bench/pack{pack}:{tag}")

            async def push(
                client: RegistryClient, where: RegistryReference = where, image: str = image
            ) -> dict[str, Any]:
                sent = await Push(store, client, where, Progress(), pack_bytes=max(1, pack * MIB)).run(image)
                return {"bytes": sent.sent_bytes, "packs": sent.sent_packs, "reused": sent.reused_packs}

            tell(out, what="push", image=tag, pack=pack, **asyncio.run(step(where, push)))
        for tag in images:
            where = parse_reference(f"http://{registry.host}/bench/pack{pack}:{tag}")

            async def pull(client: RegistryClient, where: RegistryReference = where) -> dict[str, Any]:
                got = await Pull(there, client, where, Progress()).run()
                return {"bytes": got.fetched_bytes, "chunks": got.fetched_chunks}

            tell(out, what="pull", image=tag, pack=pack, **asyncio.run(step(where, pull)))
        there.close()
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunks", type=int, default=1024, help="of 1 MiB")
    parser.add_argument("--packs", type=int, nargs="+", default=[0, 8, 32, 128], help="MiB; 0: no packs")
    options = parser.parse_args()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bootd-bench-"))
    try:
        store = ImageStore(folder / "store")
        new = frozenset(random.Random(1).sample(range(options.chunks), max(1, options.chunks // 100)))
        images = {"v1": make(store, options.chunks, frozenset()), "v2": make(store, options.chunks, new)}
        with OUT.open("w") as out:
            for pack in options.packs:
                # A registry of its own: none has the blobs of another.
                with DockerRegistry(folder / f"registry{pack}") as registry:
                    measure(store, images, registry, pack, out)
                shutil.rmtree(folder / f"registry{pack}")
            tell(out, what="memory", mebibytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
        store.close()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
