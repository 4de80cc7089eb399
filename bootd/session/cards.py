"""What a deploy would do to each node: one card per node, for ``bootd plan`` and the question of ``bootd deploy``.

Plain values for JSON: sizes in bytes. The choice is `parts.choose_target`, the same that a session makes.
"""

from collections.abc import Sequence
from typing import Any

from bootd.session import trees
from bootd.session.effects import FilesOrder, LayoutOrder, PartOrder
from bootd.session.locks import Held
from bootd.session.parts import choose_target
from bootd.session.selector import Refusal, Selector
from bootd.wire.control import Disk, Join, Partition
from bootd.wire.locks import describe
from bootd.wire.targets import partition_name


def card(
    mac: str,
    name: str,
    join: Join | None,
    held: Sequence[Held],
    selector: Selector,
    *,
    size: int,
    sector: int,
    orders: Sequence[PartOrder] = (),
    needs: Sequence[str] = (),
    layout: LayoutOrder | None = None,
    files: FilesOrder | None = None,
    inherited: Sequence[Held] = (),
    veto: str = "",
    further: Sequence[Selector] = (),
) -> dict[str, Any]:
    """The card of one node. ``join`` None = not seen yet; ``size``, ``sector``: of the image, in bytes.

    ``refusal`` is "" or why nothing would be written; ``disk`` is what would be overwritten, or None: all of it,
    or only ``parts``, in their order; ``further``: the other disks of a layout, likewise (selectors, then disks).
    ``inherited``: locks of other nodes that hold here too; ``veto``: why it is refused whatever its disks are.
    """
    disks = join.disks if join is not None else None
    entry: dict[str, Any] = {
        "node": mac,
        "name": name,
        "disk": None,
        "further": [],
        "parts": [],
        "layout": layout.source if layout is not None else files.layout if files is not None else None,
        "makes": [],
        "write": 0,
        "refusal": "",
        "note": "",
        "locks": [view_lock(one) for one in (*held, *inherited)],
        "disks": [view_disk(disk) for disk in disks or ()],
    }
    if veto:
        entry["refusal"], entry["note"] = veto, f"would be refused: {veto}"
        return entry
    if join is None:
        entry["note"] = "not seen yet: its disk is chosen when it joins"
        return entry
    locks = [one.lock for one in (*held, *inherited)]
    choice = choose_target(
        join,
        selector,
        size,
        locks,
        sector=sector,
        orders=orders,
        needs=needs,
        layout=layout,
        files=files,
        further=further,
    )
    if isinstance(choice, Refusal):
        entry["refusal"], entry["note"] = choice.reason, f"would be refused: {choice.reason}"
    else:
        entry["disk"], entry["write"] = view_disk(choice.disk), size
        entry["further"] = [view_disk(disk) for disk in choice.further]
        if files is not None and not isinstance(found := trees.fitted(files, choice.disks, join.firmware), Refusal):
            entry["makes"] = trees.view(found)
        entry["parts"] = [
            {
                **view_partition(target.partition),
                "name": partition_name(choice.disk.name, target.partition.number),
                "image": order.image or order.source,
                "write": target.size,
            }
            for target, order in zip(choice.parts, orders, strict=True)
        ]
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
        "partitions": [view_partition(part) for part in disk.partitions],
    }


def view_partition(part: Partition) -> dict[str, Any]:
    """A partition; ``start`` null = not known."""
    return {
        "number": part.number,
        "start": part.start or None,
        "size": part.size,
        "type": part.type,
        "partuuid": part.partuuid,
        "filesystem": part.filesystem,
        "label": part.label,
        "used": part.used or None,
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
