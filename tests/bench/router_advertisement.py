"""How long iPXE waits for an IPv6 router: ``python -m tests.bench.router_advertisement BOOT_DIR`` (root).

One virtual UEFI machine at a time, addresses from bootd, with and without its router advertisement. One JSON line
each: seconds from iPXE's start to its script, and from power-on to stage1. BOOT_DIR: see ``bootd stage build``.
"""

import json
import sys
import tempfile
from pathlib import Path

from tests.lab.arrival import Dhcp, follow, powered_on
from tests.lab.lab import STAGE_LABEL
from tests.lab.machine import Firmware, Specification
from tests.lab.story import Step

STEPS = (
    Step("iPXE", r"iPXE initialising devices", 90),
    Step("script", r"boot\.ipxe|autoexec", 60),
    Step("stage1", r"bootd-stage1: start", 120),
)


def measure(boot: Path, advertised: bool) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        disk = folder / "disk.raw"
        disk.write_bytes(bytes(1 << 20))
        node = Specification("node1", Firmware.UEFI, "52:54:00:b0:07:09", disk, "ADVERTISED")
        settings = {"dhcp": {"router_advertisement": advertised}}
        with powered_on(folder, node, boot, label=STAGE_LABEL, dhcp=Dhcp.OURS, settings=settings) as machine:
            reached = follow(machine, STEPS)
    return {
        "router_advertisement": advertised,
        "ipxe_to_script_seconds": round(reached["script"] - reached["iPXE"], 1),
        "power_on_to_stage1_seconds": round(reached["stage1"], 1),
    }


if __name__ == "__main__":
    for advertised in (True, False):
        print(json.dumps(measure(Path(sys.argv[1]).resolve(), advertised)), flush=True)
