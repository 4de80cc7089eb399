"""The real agent of stage1 in a namespace: ``python -m tests.netns.stage1_node MAC ADDRESS SERVER FOLDER``.

Its command line is what the daemon renders for MAC. Its network is there already, and nothing is mounted: the
program ends where stage1 would mount what it has fetched, and leaves it as FOLDER/stage2.squashfs.
"""

import sys
import urllib.request
from pathlib import Path

from stage1 import agent
from stage1.cmdline import BootOptions, StaticNetwork
from stage1.network import Interface, Lease


def main(mac: str, address: str, server: str, folder: Path) -> int:
    with urllib.request.urlopen(f"http://{server}/boot/stage1/words?mac={mac}", timeout=10) as answer:
        words = answer.read().decode()

    def bring_up(interface: Interface, _static: StaticNetwork | None) -> Lease:
        return Lease(interface.name, address, 24)

    def wait_for_interface(options: BootOptions) -> Interface:
        return Interface("eth0", options.node)

    vars(agent).update(
        RUN=str(folder),
        HANDOVER=str(folder / "node.json"),
        NEW_ROOT=str(folder / "newroot"),
        read_words=lambda: words,
        bring_up=bring_up,
        wait_for_interface=wait_for_interface,
        mount_stage2=lambda image, _options: print(f"would mount {image}", flush=True),
    )
    return agent.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])))
