"""Which machine is behind a MAC: what it tells of itself, whether that is another one than before, and its twins.

A node is keyed by its boot MAC. One MAC may come with several machines (a network dongle that goes from hand to
hand, a card that was moved), one machine with several MACs (a new card), and one UUID with many boards (some
vendors write the same into all). All of it is recognised and told; nothing is merged.
"""

from dataclasses import dataclass, replace
from itertools import islice

from bootd.wire.control import Join

# What firmware says when its maker has filled in nothing; lower case, without blanks and punctuation.
_BLANK = {
    "",
    "na",
    "none",
    "null",
    "unknown",
    "default",
    "defaultstring",
    "invalid",
    "notapplicable",
    "notavailable",
    "notspecified",
    "notprovided",
    "oem",
    "serial",
    "serialnumber",
    "serialnum",
    "systemserialnumber",
    "baseboardserialnumber",
    "boardserialnumber",
    "chassisserialnumber",
    "mbserialnumber",
    "empty",
    "tobefilledbyoem",
    "tobefilledbyoemmore",
    "0123456789",
    "123456789",
    "1234567890",
}
MAX_TWINS = 32  # that are looked at, and told
_BLANK_UUIDS = {"03000200-0400-0500-0006-000700080009", "12345678-1234-5678-90ab-cddeefaabbcc"}


@dataclass(frozen=True)
class Machine:
    """What tells one machine from another; "" or () = it does not say."""

    uuid: str = ""  # SMBIOS type 1
    board: str = ""  # serial of the board, SMBIOS type 2
    system: str = ""  # serial of the whole, SMBIOS type 1
    disks: tuple[str, ...] = ()  # serials and WWNs of what is built in


def machine_of(join: Join) -> Machine:
    """What a node tells of its machine, without what its maker has left blank."""
    uuid = join.uuid.strip().lower()
    blank = uuid in _BLANK_UUIDS or len(set(uuid) - {"-"}) < 2
    disks = {
        identity
        for disk in join.disks
        if disk.transport != "usb" and not disk.removable
        for identity in (disk.serial, disk.wwn)
        if identity
    }
    return Machine(
        "" if blank else uuid,
        _serial(join.hardware.board_serial),
        _serial(join.hardware.product_serial),
        tuple(sorted(disks)),
    )


def difference(old: Machine, new: Machine, *, shared_uuid: bool = False) -> str:
    """Why ``new`` is another machine than ``old``, in a few words; "" when it is the same.

    ``shared_uuid``: other boards have this UUID too, so an equal one proves nothing. A machine that tells no serial
    and no UUID is known by its disks alone: when none of them is there any more, it counts as another one.
    """
    pairs = [("board serial", old.board, new.board), ("system serial", old.system, new.system)]
    other = [
        f"{what} {after}, was {before}" for what, before, after in pairs if before and after and before != after
    ]
    if old.uuid and new.uuid and not _same_uuid(old.uuid, new.uuid):
        other.append(f"UUID {new.uuid}, was {old.uuid}")
    if other:
        return "; ".join(other)
    known = [before for _, before, after in pairs if before and after]
    if old.uuid and new.uuid and not shared_uuid:
        known.append(old.uuid)
    if known or not (old.disks and new.disks) or set(old.disks) & set(new.disks):
        return ""
    return (
        f"none of its disks is known ({', '.join(new.disks)}; was {', '.join(old.disks)}), its board tells nothing"
    )


def another_machine(name: str, how: str) -> str:
    """The refusal that a changed machine is."""
    return f"another machine answers under this MAC: {how}; if that is right: bootd node accept-change {name}"


def merged(old: Machine, new: Machine) -> Machine:
    """``new``, with what only ``old`` has told: firmware that is silent once is not another machine."""
    return replace(
        new,
        uuid=new.uuid or old.uuid,
        board=new.board or old.board,
        system=new.system or old.system,
        disks=new.disks or old.disks,
    )


class Twins:
    """Who else shows the same UUID, serials or disks: an index of the machines that nodes were accepted as.

    A room of boards with one UUID, or one serial, is nothing unusual: no question compares them one by one.
    """

    def __init__(self) -> None:
        self._machines: dict[str, Machine] = {}
        self._by: dict[tuple[str, str], set[str]] = {}

    def put(self, mac: str, machine: Machine | None) -> None:
        """``machine`` is behind ``mac`` from now on; None = nobody knows."""
        for key in _keys(self._machines.pop(mac, Machine())):
            others = self._by.get(key, set())
            others.discard(mac)
            if not others:
                self._by.pop(key, None)
        if machine is not None:
            self._machines[mac] = machine
            for key in _keys(machine):
                self._by.setdefault(key, set()).add(mac)

    def same(self, mac: str) -> list[str]:
        """The other nodes that are the same machine as the node ``mac``."""
        machine = self._machines.get(mac)
        return [] if machine is None else self.like(machine, but=mac)

    def like(self, machine: Machine, *, but: str = "") -> list[str]:
        """The nodes that ``machine`` is, ``but`` one."""
        found: set[str] = set()
        for identity in _identities(machine):
            alike = self._by.get(identity, set())
            if machine.disks:
                alike = alike & set().union(*(self._by.get(("disk", disk), set()) for disk in machine.disks))
            found |= alike
        return [mac for mac in sorted(found - {but})[:MAX_TWINS] if same_machine(machine, self._machines[mac])]

    def sharing_uuid(self, mac: str) -> list[str]:
        """At most `MAX_TWINS` other machines that have the UUID of the node ``mac``, and no order among them."""
        machine = self._machines.get(mac)
        if machine is None or not machine.uuid:
            return []
        everybody = self._by.get(_identities(machine)[0], set())
        others = islice((other for other in everybody if other != mac), 2 * MAX_TWINS)
        return [other for other in others if not same_machine(machine, self._machines[other])][:MAX_TWINS]


def same_machine(one: Machine, other: Machine) -> bool:
    """Whether two nodes are one machine: nothing that both tell differs, they share a disk where both have shown
    any, and a serial; or the UUID and a disk."""
    shared = set(one.disks) & set(other.disks)
    if difference(one, other) or (one.disks and other.disks and not shared):
        return False
    if (one.board and one.board == other.board) or (one.system and one.system == other.system):
        return True
    return bool(one.uuid and other.uuid and shared)


def _identities(machine: Machine) -> list[tuple[str, str]]:
    """What names the machine, the UUID first, if it has one."""
    uuid = min(machine.uuid, _turned(machine.uuid))
    return [pair for pair in (("uuid", uuid), ("board", machine.board), ("system", machine.system)) if pair[1]]


def _keys(machine: Machine) -> list[tuple[str, str]]:
    return [*_identities(machine), *(("disk", disk) for disk in machine.disks)]


def _serial(text: str) -> str:
    plain = "".join(character for character in text.lower() if character.isalnum())
    if plain in _BLANK or len(set(plain)) < 2:
        return ""
    return text.strip()


def _same_uuid(one: str, other: str) -> bool:
    """SMBIOS 2.6 turned the first three fields round: firmware and kernels of both kinds are in the field."""
    return one == other or _turned(one) == other


def _turned(uuid: str) -> str:
    fields = uuid.split("-")
    if len(fields) != 5:
        return uuid
    turned = ["".join(reversed([field[at : at + 2] for at in range(0, len(field), 2)])) for field in fields[:3]]
    return "-".join([*turned, *fields[3:]])
