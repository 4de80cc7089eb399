"""Disks for tests: loop devices over files with a partition table that sfdisk made."""

import hashlib
import subprocess
from pathlib import Path

MIB = 1 << 20
TEN = """label: dos
label-id: 0x6d9f7a52
1 : size=2M, type=17
2 : size=2M, type=7, bootable
3 : size=2M, type=1b
4 : type=f
5 : size=4M, type=83
6 : size=4M, type=83
7 : size=2M, type=1c
8 : size=2M, type=16
9 : size=2M, type=82
10 : type=83
"""


def add_partitions(device: str) -> None:
    """Let the kernel know what its table says, also one that is without parsers of tables."""
    subprocess.run(["partx", "--delete", device], check=False, capture_output=True)
    subprocess.run(["partx", "--add", device], check=False, capture_output=True)


class LoopDisk:
    """``size`` bytes, with the table of ``script``, if there is one. All else says every 8 bytes whose it is (mark)
    and where; for mark 0 it is a hole."""

    def __init__(self, path: Path, size: int, mark: int, script: str = "") -> None:
        self.path, self.size = path, size
        with path.open("wb") as stream:
            if mark:
                stream.write(b"".join((mark << 40 | block).to_bytes(8, "big") for block in range(size // 8)))
            stream.truncate(size)
        if script:
            command = ["sfdisk", "--quiet", "--wipe", "never", str(path)]
            subprocess.run(command, input=script.encode(), check=True)
        done = subprocess.run(
            ["losetup", "--find", "--show", str(path)], check=True, capture_output=True, text=True
        )
        self.device = done.stdout.strip()
        add_partitions(self.device)

    @property
    def name(self) -> str:
        return self.device.removeprefix("/dev/")

    def content(self) -> bytes:
        """What is on it, with nothing left in caches."""
        for device in sorted(Path("/dev").glob(f"{self.name}*")):
            subprocess.run(["blockdev", "--flushbufs", str(device)], check=False)
        return self.path.read_bytes()

    def digest(self) -> str:
        return hashlib.sha256(self.content()).hexdigest()

    def close(self) -> None:
        subprocess.run(["partx", "--delete", self.device], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", self.device], check=False)
