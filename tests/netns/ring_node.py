"""A node for tests: joins the daemon as stage2 does, and runs the real ring member on a file.

``python -m tests.netns.ring_node MAC ADDRESS SERVER TARGET SIZE``. SERVER is HOST:PORT. The boot token is taken
from the boot configuration that the daemon renders for MAC, as firmware would get it. Prints a line for every step.
Exit status: 0 told to finish, 3 cancelled or failed.
"""

import re
import sys
import threading
import urllib.request
from dataclasses import replace
from pathlib import Path

from bootd.member.control import ControlClient
from bootd.member.member import Member
from bootd.member.store import FileStore
from bootd.wire import manifest
from bootd.wire.control import Arrange, Cancel, Disk, Finish, Join, MemberState, Message, Prepare, Report, Wait
from bootd.wire.saved import SavedTable, encode, table_digest, table_regions

HEARTBEAT_SECONDS = 0.5


def main(mac: str, address: str, server: str, target: Path, size: int) -> int:
    client = ControlClient(server, mac, boot_token(server, mac))
    serial = f"TEST-{mac[-2:]}"
    digest = table_digest(size, ends(target, size))
    disk = Disk("vda", size, 512, serial, "", "file", "virtio", False, "", digest)
    client.join(Join(mac, "", "x86_64", "bios", address, "", "ka", 512 << 20, (disk,)))
    messages = client.events()  # once it has joined, as stage2: what was in force for an earlier process is over
    say("joined")
    node = TestNode(client, mac, address, target, size)
    threading.Thread(target=node.beat, daemon=True).start()
    for message in messages:
        code = node.act(message)
        if code is not None:
            return code
    return 3


def ends(target: Path, size: int) -> list[bytes]:
    """What lies at both ends of the target, as stage2 would save it."""
    data = target.read_bytes() if target.exists() else bytes(size)
    return [data[offset : offset + length] for offset, length in table_regions(size)]


def boot_token(server: str, mac: str) -> str:
    """From the iPXE script for this node; a node that is to boot its disk has none."""
    with urllib.request.urlopen(f"http://{server}/boot/boot.ipxe?mac={mac}", timeout=10) as answer:
        script = answer.read().decode()
    found = re.search(r"bootd\.token=([0-9a-f]+)", script)
    if found is None:
        raise SystemExit(f"no token in the boot configuration:\n{script}")
    return found.group(1)


class TestNode:
    """What stage2's agent does, without a disk: plan, member, place, end."""

    __test__ = False

    def __init__(self, client: ControlClient, mac: str, address: str, target: Path, size: int) -> None:
        self._client, self._mac, self._address = client, mac, address
        self._target, self._size = target, size
        self._member: Member | None = None
        self._prepared: Prepare | None = None
        self._trouble = ""
        self._stop = threading.Event()

    def beat(self) -> None:
        """Thread: alive while there is no member that reports for itself."""
        while not self._stop.wait(HEARTBEAT_SECONDS):
            if self._member is None:
                self._client.report(Report(self._mac, "", MemberState.WAITING))

    def act(self, message: Message) -> int | None:
        match message:
            case Wait(reason):
                say(f"waits: {reason}")
            case Prepare() if self._prepared != message:
                self._prepare(message)
            case Arrange() if self._member is not None and self._member.arrange(message):
                say(f"epoch {message.epoch} behind {message.predecessor_node}")
            case Finish():
                return self._finish()
            case Cancel(reason=reason):
                say(f"cancelled: {reason}")
                self._end()
                return 3
        return None

    def _prepare(self, message: Prepare) -> None:
        self._end()
        self._prepared = message
        image = manifest.parse(self._client.fetch_manifest(message.plan.session))
        if image.root != message.plan.image_root:
            raise SystemExit("manifest and plan differ")
        disk, content = message.plan.disk, b"".join(ends(self._target, self._size))
        old = SavedTable(message.plan.session, disk.name, disk.serial, "", disk.size, disk.sector, "", content)
        self._client.save_table(encode(old))
        self._member = Member(
            node=self._mac,
            session=message.plan.session,
            join_token=message.token,
            manifest=image,
            store=FileStore(str(self._target), image.size),
            listen_host=self._address,
            report=self._report,
            is_head=False,
            compare=message.compare,
        )
        port = self._member.start()
        say(f"plan {message.plan.disk.serial}, listens on {port}")

    def _report(self, report: Report) -> None:
        if report.trouble and report.trouble != self._trouble:
            say(f"trouble: {report.trouble}")
        self._trouble = report.trouble
        self._client.report(report)

    def _finish(self) -> int:
        if self._member is None:
            return 3
        last = self._member.snapshot()
        self._end()
        for state in (MemberState.FINISHING, MemberState.REBOOTING):
            self._client.report(replace(last, state=state, rate=0))
        say(f"finished with {last.verified} bytes verified")
        return 0

    def _end(self) -> None:
        if self._member is not None:
            self._member.stop()
            self._member = None


def say(text: str) -> None:
    print(f"node: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5])))
