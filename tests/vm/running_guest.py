"""Runs in a machine booted from stage2: makes a system on LVM, and has it run with the agent while it is written.

``python3 running_guest.py AGENT.tar.gz``. Each act ends with a line ``RESULT {...}``; ``ACT NAME`` says that the
next backup is to be ordered; the last line is ``END``.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOLDEN = Path("/golden")
DISK = "/dev/vdb"
TABLE = "label: gpt\nsize=40MiB, type=U\nsize=40MiB\nsize=1400MiB, type=E6D6D379-F507-44C2-A23C-238F2A3DF928\n"
ENVIRONMENT = {**os.environ, "DM_DISABLE_UDEV": "1", "LC_ALL": "C"}
FSTAB = """/dev/lab/root / ext4 errors=remount-ro 0 1
/dev/lab/home /home xfs defaults 0 2
/dev/lab/srv /srv ext4 defaults 0 2
/dev/vdb2 /boot ext4 defaults 0 2
/dev/vdb1 /boot/efi vfat umask=0077 0 1
/dev/lab/swap none swap sw 0 0
"""
START = """
set -e
for name in sys dev; do mount --rbind /$name /golden/$name; done
mount -t proc proc /golden/proc
mount -t tmpfs tmpfs /golden/run
for name in usr bin sbin lib lib64; do test -L /$name || mount --bind /$name /golden/$name; done
cd /golden
pivot_root . mnt
umount -l /mnt
exec /usr/bin/python3 -I -S -B /usr-agent/agent.pyz /etc/bootd-agent/agent.json
"""
SECONDS = 120.0


def run(*words: str, data: bytes = b"") -> str:
    done = subprocess.run(words, input=data, capture_output=True, check=False, env=ENVIRONMENT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.returncode} {done.stdout!r} {done.stderr!r}")
    return done.stdout.decode()


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {SECONDS} s: {what}")
        time.sleep(0.2)


def volumes() -> dict[str, str]:
    """Names of logical volumes and what each is a snapshot of, as LVM tells it."""
    rows = json.loads(run("lvs", "--reportformat", "json", "-o", "lv_name,origin"))["report"][0]["lv"]
    return {row["lv_name"]: row["origin"] for row in rows}


def snapshots() -> dict[str, str]:
    """By UUID: one that is made anew has the name of the one before."""
    rows = json.loads(run("lvs", "--reportformat", "json", "-o", "lv_uuid,origin"))["report"][0]["lv"]
    return {row["lv_uuid"]: row["origin"] for row in rows if row["origin"]}


def make(package: str) -> None:
    for words in (["link", "set", "eth0", "up"], ["addr", "add", "10.0.2.15/24", "dev", "eth0"]):
        run("ip", *words)
    run("ip", "route", "add", "default", "via", "10.0.2.2")
    run("sfdisk", "--quiet", DISK, data=TABLE.encode())
    run("vgcreate", "--yes", "lab", f"{DISK}3")
    for name, size in (("root", "200M"), ("home", "320M"), ("swap", "16M")):
        run("lvcreate", "--yes", "--name", name, "--size", size, "lab")
    run("lvcreate", "--yes", "--type", "thin-pool", "--size", "100M", "--name", "pool", "lab")
    run("lvcreate", "--yes", "--virtualsize", "80M", "--thinpool", "pool", "--name", "srv", "lab")
    run("mkfs.ext4", "-q", "/dev/lab/srv")
    run("mkfs.ext4", "-q", "/dev/lab/root")
    run("mkfs.xfs", "-q", "-f", "/dev/lab/home")
    run("mkswap", "/dev/lab/swap")
    run("mkfs.ext4", "-q", f"{DISK}2")
    run("mkfs.vfat", f"{DISK}1")
    GOLDEN.mkdir()
    for device, place in (
        ("lab/root", ""),
        ("lab/home", "home"),
        ("lab/srv", "srv"),
        ("vdb2", "boot"),
        ("vdb1", "boot/efi"),
    ):
        (GOLDEN / place).mkdir(exist_ok=True)
        run("mount", f"/dev/{device}", str(GOLDEN / place))
    for name in ("dev", "etc", "mnt", "proc", "run", "sys", "usr", "usr-agent", "var"):
        (GOLDEN / name).mkdir()
    for name in ("bin", "sbin", "lib", "lib64"):  # as stage2 has them
        if Path(f"/{name}").is_symlink():
            (GOLDEN / name).symlink_to(Path(f"/{name}").readlink())
        else:
            (GOLDEN / name).mkdir()
    (GOLDEN / "etc/fstab").write_text(FSTAB)
    (GOLDEN / "boot/vmlinuz").write_bytes(os.urandom(100_000))
    (GOLDEN / "boot/efi/loader").write_bytes(os.urandom(10_000))
    (GOLDEN / "srv/thin").write_text("thin\n")
    (GOLDEN / "home/letter").write_text("Dear all\n")
    (GOLDEN / "var/large").write_bytes(os.urandom(16 << 20))
    unpacked = Path("/tmp/package")
    unpacked.mkdir()
    run("tar", "-xzf", package, "-C", str(unpacked))
    shutil.copytree(unpacked / "usr/lib/bootd-agent", GOLDEN / "usr-agent", dirs_exist_ok=True)
    shutil.copytree(unpacked / "etc/bootd-agent", GOLDEN / "etc/bootd-agent")
    (GOLDEN / "etc/bootd-agent/agent.json").chmod(0o600)


def start() -> "subprocess.Popen[bytes]":
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", START]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONUNBUFFERED": "1"})


class Writer:
    """Pairs of files in a folder, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.is_stopping = folder, 0, False
        folder.mkdir()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.is_stopping:
            number = self.count + 1
            for word in ("first", "second"):
                (self.folder / f"{word}-{number}").write_text(str(number))
            self.count = number
            time.sleep(0.05)

    def stop(self) -> int:
        self.is_stopping = True
        self.thread.join()
        return self.count


def tell(name: str, value: dict[str, Any]) -> None:
    print("RESULT " + json.dumps({"name": name, **value}), flush=True)


def killed(agent: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
    """Killed while its snapshots are there; begun again, it removes them and reads all of it. Writers go on."""
    writers = [Writer(GOLDEN / "var/pairs"), Writer(GOLDEN / "home/pairs")]
    print("ACT killed", flush=True)
    until(lambda: len(snapshots()) == 3, "there are three snapshots")
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    left = snapshots()
    mounted = Path("/proc/self/mountinfo").read_text()
    agent = start()
    until(lambda: len(snapshots()) == 3 and not set(left) & set(snapshots()), "there are new ones")
    until(lambda: not snapshots(), "there are none any more")
    tell(
        "killed",
        {"left": left, "seen": "bootd-backup" in mounted, "written": [writer.stop() for writer in writers]},
    )
    return agent


def overflown(agent: "subprocess.Popen[bytes]") -> None:
    """More is overwritten than the snapshot can keep: while the agent is held, so that it has not been read."""
    free = int(run("vgs", "--noheadings", "--nosuffix", "--units", "m", "-o", "vg_free", "lab").split(".")[0])
    run("lvcreate", "--yes", "--name", "filler", "--size", f"{free - 120}M", "lab")
    print("ACT overflown", flush=True)
    until(lambda: len(snapshots()) == 3, "there are three snapshots")
    agent.send_signal(signal.SIGSTOP)
    for number in range(4):
        (GOLDEN / f"var/more-{number}").write_bytes(os.urandom(20 << 20))
        run("sync", "-f", str(GOLDEN))
    agent.send_signal(signal.SIGCONT)
    until(lambda: not snapshots(), "they are removed")
    for number in range(4):
        (GOLDEN / f"var/more-{number}").unlink()
    tell("overflown", {"free": free})


def refused(agent: "subprocess.Popen[bytes]") -> None:
    """No room for a snapshot; nothing is made."""
    free = int(run("vgs", "--noheadings", "--nosuffix", "--units", "m", "-o", "vg_free", "lab").split(".")[0])
    run("lvextend", "--size", f"+{free}M", "lab/filler")
    before = volumes()
    print("ACT refused", flush=True)
    sys.stdin.readline()
    tell("refused", {"unchanged": volumes() == before})
    agent.send_signal(signal.SIGTERM)
    tell("ended", {"status": agent.wait(60)})


def main() -> None:
    make(sys.argv[1])
    agent = killed(start())
    overflown(agent)
    refused(agent)


if __name__ == "__main__":
    try:
        main()
    except Exception:  # whatever it is, the host must see it
        traceback.print_exc()
    print("END", flush=True)
