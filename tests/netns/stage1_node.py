"""The real agent of stage1: ``python -m tests.netns.stage1_node MAC ADDRESS SERVER FOLDER [SECONDS]``.

Its command line is what the daemon renders for MAC; or SERVER is the whole line, where no daemon is to be asked.
Its network is there already, and nothing is mounted: the program ends where stage1 would mount what it has fetched,
and leaves it as FOLDER/stage2.squashfs. SECONDS replaces the time-out of a try and its pauses, not their number.
"""

import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

from bootd.wire.retry import RetryPolicy
from stage1 import agent
from stage1.cmdline import BootOptions, StaticNetwork
from stage1.network import Interface, Lease


def main(mac: str, address: str, server: str, folder: Path, seconds: float = 0.0) -> int:
    words = server if " " in server else ask(server, mac)
    real_policy = agent.policy_of

    def policy_of(options: BootOptions) -> RetryPolicy:
        policy = real_policy(options)
        return replace(policy, timeout=seconds, longest_delay=seconds) if seconds else policy

    def bring_up(interface: Interface, _static: StaticNetwork | None) -> Lease:
        return Lease(interface.name, address, 24)

    def wait_for_interface(options: BootOptions) -> Interface:
        return Interface("eth0", options.node)

    vars(agent).update(
        RUN=str(folder),
        HANDOVER=str(folder / "node.json"),
        NEW_ROOT=str(folder / "newroot"),
        policy_of=policy_of,
        read_words=lambda: words,
        bring_up=bring_up,
        wait_for_interface=wait_for_interface,
        mount_stage2=lambda image, _options: print(f"would mount {image}", flush=True),
    )
    return agent.main()


def ask(server: str, mac: str) -> str:
    with urllib.request.urlopen(f"http://{server}/boot/stage1/words?mac={mac}", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), float((sys.argv[5:] or ["0"])[0])))
