"""Runs in a machine booted from stage2: makes layouts on its disks through the gate; shows what tools say of them.

``python3 layout_guest.py CASES``: a JSON list of {"name", "scheme", "serials", "firmware", "twice"}. Each case ends
with a line ``RESULT {...}``; the last line is ``END``.
"""

import base64
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bootd.wire.control import Plan
from bootd.wire.scheme import encoding
from bootd.wire.scheme.describing import describe
from bootd.wire.scheme.fitting import Fitted, fit
from stage2 import formatting, mounting, stacking
from stage2.gate import RefusedError, open_targets
from stage2.inventory import take
from stage2.made import Made

ROOT = "/mnt/made"


def say(text: str) -> None:
    print(text, flush=True)


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.returncode} {done.stdout} {done.stderr}")
    return done.stdout


def plan_of(serials: list[str]) -> Plan:
    """What the server would have made of this node's inventory just now."""
    disks = take()
    found = [next(disk for disk in disks if disk.serial == serial) for serial in serials]
    eligible = len([disk for disk in disks if not disk.excluded])
    return Plan("room", "52:54:00:00:00:01", "0" * 64, 0, 1 << 20, found[0], eligible, further=tuple(found[1:]))


def make(case: dict[str, Any]) -> Made:
    scheme = encoding.decode(base64.b64decode(case["scheme"]))
    targets = open_targets(plan_of(case["serials"]), take)
    fitted = fit(scheme, [target.disk for target in targets], case["firmware"])
    if not isinstance(fitted, Fitted):
        raise TypeError(fitted.reason)
    return formatting.make(fitted, targets, say)


def judge(case: dict[str, Any]) -> dict[str, Any]:
    """Make it, twice where asked: what a disk holds of the last time must not be in the way of the next."""
    if case["twice"]:
        before = make(case)
        stacking.release(before.arrays, before.groups)
    made = make(case)
    result: dict[str, Any] = {
        "filesystems": [[one.kind, one.uuid, one.label, one.mount, one.partuuid] for one in made.filesystems],
        "boot": [device.removeprefix("/dev/") for device in made.disks],
        "esp": bool(made.esp),
    }
    mounting.mount(made, ROOT, say)
    for one in made.mounted:
        Path(f"{ROOT}{one.mount}", "a file").write_text(one.mount)
    result["mounted"] = [
        run("findmnt", "--noheadings", "--output", "FSTYPE,UUID", "--mountpoint", f"{ROOT}{one.mount}".rstrip("/"))
        for one in made.mounted
    ]
    result["blkid"] = [run("blkid", "--probe", "--output", "export", one.device) for one in made.filesystems]
    result["arrays"] = [run("mdadm", "--detail", "--export", array.device) for array in made.arrays]
    result["uuids"] = [array.uuid for array in made.arrays]
    if made.groups:
        text = run("lvs", "--reportformat", "json", "--units", "m", "--nosuffix", "-o", "vg_name,lv_name,lv_size")
        result["volumes"] = json.loads(text)["report"][0]["lv"]
    lines = [
        f"UUID={one.uuid} {one.mount or 'none'} {one.kind} {one.options or 'defaults'}" for one in made.filesystems
    ]
    described = describe(ask, [f"/dev/{name}" for name in names(case["serials"])[:1]], "\n".join(lines))
    result["described"] = {"layout": encoding.as_object(described.scheme), "notes": described.notes}
    mounting.unmount(made, ROOT)
    result["checked"] = [check(one.kind, one.device) for one in made.filesystems]
    result["trouble"] = list(stacking.release(made.arrays, made.groups))
    result["again"] = again(made)
    result["tables"] = [
        json.loads(run("sfdisk", "--json", f"/dev/{name}"))["partitiontable"]["partitions"]
        for name in names(case["serials"])
    ]
    return result


def ask(words: Sequence[str]) -> str:
    return subprocess.run(list(words), capture_output=True, text=True, check=False).stdout


def check(kind: str, device: str) -> str:
    words = {"ext4": ["e2fsck", "-f", "-n"], "xfs": ["xfs_repair", "-n"], "vfat": ["fsck.vfat", "-n"]}.get(kind)
    return run(*words, device)[-200:] if words else ""


def again(made: Made) -> list[str]:
    """As the next boot would find it: assembled by what lies on the disks alone, mounted by UUID."""
    if made.arrays:
        run("mdadm", "--assemble", "--scan")
    if made.groups:
        run("vgchange", "--activate", "y", *made.groups)
    found = []
    for one in made.mounted:
        device = one.device if made.groups else run("blkid", "--uuid", one.uuid).strip()
        run("mount", "-o", "ro", "-t", one.kind, device, ROOT)
        found.append(Path(ROOT, "a file").read_text())
        run("umount", ROOT)
    for group in made.groups:
        run("vgchange", "--activate", "n", group)
    if made.arrays:
        run("mdadm", "--stop", "--scan")
    return found


def names(serials: list[str]) -> list[str]:
    return [next(disk.name for disk in take() if disk.serial == serial) for serial in serials]


def refusal(case: dict[str, Any]) -> dict[str, Any]:
    """What the gate says when a further disk is not the plan's any more; nothing may have been written."""
    plan = plan_of(case["serials"])
    before = [digest(name) for name in names(case["serials"])]
    with Path(f"/dev/{plan.further[0].name}").open("r+b") as stream:  # another table than the plan was made for
        stream.seek(510)
        stream.write(b"\x55\xaa")
    said = ""
    try:
        open_targets(plan, take)
    except RefusedError as error:
        said = str(error)
    with Path(f"/dev/{plan.further[0].name}").open("r+b") as stream:
        stream.seek(510)
        stream.write(bytes(2))
    os.close(os.open(f"/dev/{plan.disk.name}", os.O_RDWR | os.O_EXCL))  # the first disk was let go
    return {"refused": said, "unchanged": before == [digest(name) for name in names(case["serials"])]}


def digest(name: str) -> str:
    return run("sha256sum", f"/dev/{name}").split()[0]


def main() -> None:
    os.environ["DM_DISABLE_UDEV"] = "1"  # there is none: LVM makes the names of its volumes itself
    for case in json.loads(Path(sys.argv[1]).read_text()):
        try:
            result = refusal(case) if case["name"] == "refusal" else judge(case)
        except Exception:
            result = {"error": traceback.format_exc()}
        say("RESULT " + json.dumps({"name": case["name"], **result}))
    say("END")


main()
