"""What a deploy would do to each node: one card per node, for ``bootd plan`` and the question of ``bootd deploy``.

Plain values for JSON: sizes in bytes. The choice is `locks.choose_unlocked`, the same that a session makes.
"""

from collections.abc import Sequence
from typing import Any

from bootd.session.locks import Held, choose_unlocked
from bootd.session.selector import Refusal, Selector
from bootd.wire.control import Disk, Lock
from bootd.wire.locks import describe


def card(
    mac: str,
    name: str,
    disks: Sequence[Disk] | None,
    held: Sequence[Held],
    selector: Selector,
    *,
    size: int,
    sector: int,
    inherited: Sequence[Lock] = (),
    veto: str = "",
) -> dict[str, Any]:
    """The card of one node. ``disks`` None = it has not shown them; ``size``, ``sector``: of the image, in bytes.

    ``refusal`` is "" or why nothing would be written; ``disk`` is what would be overwritten, or None.
    ``inherited``: locks of other nodes that hold here too; ``veto``: why it is refused whatever its disks are.
    """
    entry: dict[str, Any] = {
        "node": mac,
        "name": name,
        "disk": None,
        "write": 0,
        "refusal": "",
        "note": "",
        "locks": [view_lock(one) for one in held],
        "disks": [view_disk(disk) for disk in disks or ()],
    }
    if veto:
        entry["refusal"], entry["note"] = veto, f"would be refused: {veto}"
        return entry
    if disks is None:
        entry["note"] = "not seen yet: its disk is chosen when it joins"
        return entry
    locks = [*(one.lock for one in held), *inherited]
    choice = choose_unlocked(disks, selector, size, locks, sector)
    if isinstance(choice, Refusal):
        entry["refusal"], entry["note"] = choice.reason, f"would be refused: {choice.reason}"
    else:
        entry["disk"], entry["write"] = view_disk(choice), size
    return entry


def view_disk(disk: Disk) -> dict[str, Any]:
    """A disk, and what is on it now."""
    return {
        "name": disk.name,
        "size": disk.size,
        "sector": disk.sector,
        "serial": disk.serial,
        "wwn": disk.wwn,
        "model": disk.model,
        "transport": disk.transport,
        "excluded": disk.excluded or None,
        "filesystem": disk.filesystem,
        "partitions": [
            {
                "number": part.number,
                "size": part.size,
                "partuuid": part.partuuid,
                "filesystem": part.filesystem,
                "label": part.label,
            }
            for part in disk.partitions
        ],
    }


def view_lock(held: Held) -> dict[str, Any]:
    """A lock. ``expires``: seconds since the epoch, null = for good."""
    lock = held.lock
    return {
        "place": held.place,
        "what": describe(lock),
        "disk": lock.disk,
        "partition": lock.partition,
        "partuuid": lock.partuuid,
        "owner": lock.owner,
        "reason": lock.reason,
        "expires": held.expires or None,
    }
