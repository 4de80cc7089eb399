"""Software RAID (Linux md) and LVM on the partitions of a fitted scheme: made, and stopped again.

There is no udev in stage2: mdadm and LVM make their names below /dev themselves. LVM is shown the members and
nothing else, so a group of another disk can be neither found nor changed.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from bootd.wire.scheme.fitting import Fitted, FittedGroup
from bootd.wire.scheme.model import FILL
from stage2.made import Array
from stage2.programs import ProgramError, run

Tell = Callable[[str], None]
_CONFIG = (
    "activation{udev_sync=0 udev_rules=0 monitoring=0} devices{obtain_device_list_from_udev=0 use_devicesfile=0}"
)


def array_device(name: str) -> str:
    """Where mdadm puts it."""
    return f"/dev/md/{name}"


def volume_device(group: str, name: str) -> str:
    """Where LVM puts it."""
    return f"/dev/{group}/{name}"


def check_names(fitted: Fitted, disks: Sequence[str]) -> None:
    """No group of this name may be on another disk of the node: two of one name are none at the next boot.

    Asked before anything is written. ``disks``: paths of those that are written. `ProgramError`.
    """
    names = {group.name for group in fitted.groups}
    if not names:
        return
    _load("dm_mod")
    for row in _report("pvs", "vg_name,pv_name", []):
        lies_on = next((disk for disk in disks if _is_part_of(row["pv_name"], disk)), "")
        if row["vg_name"] in names and not lies_on:
            raise ProgramError(
                f"there is a volume group {row['vg_name']} on {row['pv_name']} of this node already: give it"
                " another name in the layout, or take that disk out"
            )


def _is_part_of(device: str, disk: str) -> bool:
    rest = device.removeprefix(disk)
    return rest != device and (rest.removeprefix("p").isdigit() or not rest)


def make_arrays(fitted: Fitted, devices: Sequence[str], made: list[Array], tell: Tell) -> None:
    """Create the arrays; each is in ``made`` as soon as it runs. ``devices``: of `Fitted.partitions`."""
    for one in fitted.arrays:
        _load({"raid4": "raid456", "raid5": "raid456", "raid6": "raid456"}.get(one.array.level, one.array.level))
        array, members = one.array, tuple(devices[index] for index in one.members)
        device = array_device(array.name)
        words = ["mdadm", "--create", device, "--run", "--level", array.level]
        words += ["--raid-devices", str(len(members)), "--metadata", array.metadata]
        run([*words, "--name", array.name, "--homehost", "any", *members])
        made.append(Array(device, array.name, "", array.level, members))
        made[-1] = Array(device, array.name, _array_uuid(device), array.level, members)
        tell(f"Making {array.level} {device} of {', '.join(members)}...OK")


def _load(module: str) -> None:
    """A kernel that has it built in, or no modules at all, says so by its own errors afterwards."""
    run(["modprobe", "--quiet", module], ok=(0, 1))


def _array_uuid(device: str) -> str:
    for line in run(["mdadm", "--detail", "--export", device]).splitlines():
        key, _, value = line.partition("=")
        if key == "MD_UUID":
            return value
    raise ProgramError(f"mdadm does not say the UUID of {device}")


def make_groups(fitted: Fitted, devices: Sequence[str], made: list[str], tell: Tell) -> None:
    """Create the groups and their volumes; each group is in ``made`` as soon as it is there."""
    for group in fitted.groups:
        members = _members(group, devices)
        _lvm(["pvcreate", "--yes", "--zero", "y", *members], members)
        _lvm(["vgcreate", "--yes", group.name, *members], members)
        made.append(group.name)
        tell(f"Making volume group {group.name} of {', '.join(members)}...OK")
        # Those with a size first: what is left is only known then.
        fixed = [one for one in group.volumes if one.volume.size != FILL]
        filling = [one for one in group.volumes if one.volume.size == FILL]
        for one in fixed:
            _make_volume(group.name, one.volume.name, ["--size", f"{one.size}b"], members)
        for number, one in enumerate(filling):
            share = 100 // (len(filling) - number)
            _make_volume(group.name, one.volume.name, ["--extents", f"{share}%FREE"], members)
        for one in group.volumes:
            tell(f"Making volume {volume_device(group.name, one.volume.name)}...OK")


def _members(group: FittedGroup, devices: Sequence[str]) -> list[str]:
    return [*(devices[index] for index in group.partitions), *(array_device(name) for name in group.arrays)]


def _make_volume(group: str, name: str, size: Sequence[str], members: Sequence[str]) -> None:
    words = ["lvcreate", "--yes", "--wipesignatures", "y", "--zero", "y", "--name", name, *size, group]
    _lvm(words, members)


def _lvm(words: Sequence[str], members: Sequence[str]) -> str:
    """A command of LVM that sees only ``members``."""
    program, *rest = words
    return run([program, "--config", f"{_CONFIG} {_only(members)}", *rest])


def _only(members: Sequence[str]) -> str:
    # An array is known to LVM by the kernel's name, too.
    shown = [*members, *(["/dev/md"] if any(one.startswith("/dev/md/") for one in members) else [])]
    rules = [f'"a|^{one}{"" if one != "/dev/md" else "[0-9]+"}$|"' for one in shown]
    return f'devices{{global_filter=[{",".join(rules)},"r|.*|"]}}'


def _report(program: str, columns: str, words: Sequence[str]) -> list[dict[str, Any]]:
    text = run([program, "--config", _CONFIG, "--reportformat", "json", "--options", columns, *words])
    try:
        return list(next(iter(json.loads(text)["report"][0].values())))
    except (ValueError, LookupError, StopIteration, TypeError):
        raise ProgramError(f"{program} did not answer in JSON") from None


def release(arrays: Sequence[Array], groups: Sequence[str]) -> tuple[str, ...]:
    """Stop groups and arrays, so that the disks can be opened alone again. What did not work, in words."""
    trouble = []
    for name in groups:
        try:
            run(["vgchange", "--config", _CONFIG, "--activate", "n", name])
        except ProgramError as error:
            trouble.append(str(error))
    for array in reversed(arrays):
        try:
            run(["mdadm", "--stop", array.device])
        except ProgramError as error:
            trouble.append(str(error))
    return tuple(trouble)
