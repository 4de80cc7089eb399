"""What a lease on disk costs: ``python -m tests.bench.leases [FOLDER]``, one JSON line per way.

``each``: a commit per lease, as a client alone has it. ``together``: as many clients at once as a boot storm has,
through the writer; ``slowest`` is how long the last of them waited.
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from bootd.drivers.dhcp.store import LeaseStore, LeaseWriter
from bootd.netboot.addresses.table import Binding, State

EACH, TOGETHER = 200, 1000


def binding(number: int) -> Binding:
    return Binding(number, f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}", State.BOUND, 1e9 + number)


def each(folder: Path) -> dict[str, object]:
    store = LeaseStore(folder / "each.db")
    times = []
    for number in range(EACH):
        begun = time.perf_counter()
        store.write([binding(number)])
        times.append(time.perf_counter() - begun)
    store.close()
    times.sort()
    return {
        "way": "each",
        "leases": EACH,
        "per_second": round(EACH / sum(times)),
        "median_ms": round(times[EACH // 2] * 1000, 2),
        "slowest_ms": round(times[-1] * 1000, 2),
    }


async def together(folder: Path) -> dict[str, object]:
    store = LeaseStore(folder / "together.db")
    writer = LeaseWriter(store)
    task = asyncio.create_task(writer.run())
    finished = asyncio.Event()
    times: list[float] = []

    def done(begun: float) -> None:
        times.append(time.perf_counter() - begun)
        if len(times) == TOGETHER:
            finished.set()

    start = time.perf_counter()
    for number in range(TOGETHER):
        begun = time.perf_counter()
        writer.submit([binding(number)], lambda begun=begun: done(begun))  # type: ignore[misc]
        if number % 10 == 9:  # datagrams come one after the other
            await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await finished.wait()
    seconds = time.perf_counter() - start
    task.cancel()
    writer.close()
    store.close()
    return {
        "way": "together",
        "leases": TOGETHER,
        "per_second": round(TOGETHER / seconds),
        "commits": writer.commits,
        "slowest_ms": round(max(times) * 1000, 2),
    }


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        print(json.dumps(each(Path(folder))))
        print(json.dumps(asyncio.run(together(Path(folder)))))


if __name__ == "__main__":
    main()
