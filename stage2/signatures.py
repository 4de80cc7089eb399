"""What lies on a disk or partition, by ``blkid --probe``: lsblk tells it only where udev has written it down, and
stage2 has no udev. Without this, a RAID member or a BitLocker volume would look like an empty disk.
"""

import subprocess
from collections.abc import Callable, Mapping
from typing import Any

SECONDS = 20.0  # a dying disk may hold blkid up
SEVERAL = "several signatures"  # what blkid cannot tell: two systems have left their marks
_NOTHING, _SEVERAL = 2, 8  # exit codes, blkid(8)
# lsblk's column, and blkid's name for the same.
_NAMES = {"fstype": "TYPE", "label": "LABEL", "partuuid": "PART_ENTRY_UUID", "parttype": "PART_ENTRY_TYPE"}

Probe = Callable[[str], Mapping[str, str]]


def probe(path: str) -> dict[str, str]:
    """Tags of the device at ``path``; {} when there is nothing, or blkid does not answer."""
    command = ["blkid", "--probe", "--output", "export", path]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if done.returncode == _SEVERAL:
        return {"TYPE": SEVERAL}
    return parse(done.stdout.decode("utf-8", "replace")) if done.returncode != _NOTHING else {}


def parse(text: str) -> dict[str, str]:
    """``NAME=value`` on a line each; a backslash stands before what a shell would take apart."""
    tags = {}
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if separator:
            tags[name] = _unescaped(value)
    return tags


def _unescaped(value: str) -> str:
    result, escaped = [], False
    for character in value:
        if character == "\\" and not escaped:
            escaped = True
            continue
        result.append(character)
        escaped = False
    return "".join(result)


def complete(device: dict[str, Any], dev_root: str = "/dev", ask: Probe = probe) -> None:
    """Fill in what lsblk left open of ``device`` (an object of its JSON) and of the partitions below it."""
    if device.get("type") in ("disk", "part", "loop") and int(device.get("size") or 0):
        tags: Mapping[str, str] = {}
        if any(not device.get(column) for column in ("fstype", "partuuid")):
            tags = ask(f"{dev_root}/{device['kname']}")
        for column, name in _NAMES.items():
            if not device.get(column) and tags.get(name):
                device[column] = tags[name]
    for child in device.get("children") or ():
        complete(child, dev_root, ask)
