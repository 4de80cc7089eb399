"""Which machine is behind a MAC: what it tells of itself, whether that is another one than before, and its twins.

A node is keyed by its boot MAC. One MAC may come with several machines (a network dongle that goes from hand to
hand, a card that was moved), one machine with several MACs (a new card), and one UUID with many boards (some
vendors write the same into all). All of it is recognised and told; nothing is merged.
"""

from dataclasses import dataclass, replace

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
_BLANK_UUIDS = {"03000200-0400-0500-0006-000700080009", "12345678-1234-5678-90ab-cddeefaabbcc"}


@dataclass(frozen=True)
class Machine:
    """What tells one machine from another; "" or () = it does not say."""

    uuid: str = ""  # SMBIOS type 1
    board: str = ""  # serial of the board, SMBIOS type 2
    system: str = ""  # serial of the whole, SMBIOS type 1
    disks: tuple[str, ...] = ()  # serials and WWNs of what is built in


@dataclass(frozen=True)
class Twin:
    """Another node that shows the same. ``is_same``: it is the same machine; else only ``shared`` is equal."""

    mac: str
    is_same: bool
    shared: str  # "UUID" or "serial"


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
    """Who else shows the same UUID or serials: an index of the machines that nodes were accepted as."""

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

    def shares_uuid(self, mac: str) -> bool:
        """Whether another machine than that of the node ``mac`` has its UUID."""
        return any(twin.shared == "UUID" and not twin.is_same for twin in self.of(mac))

    def of(self, mac: str) -> list[Twin]:
        """The twins of a node, by MAC."""
        machine = self._machines.get(mac)
        return [] if machine is None else self.like(machine, but=mac)

    def like(self, machine: Machine, *, but: str = "") -> list[Twin]:
        """The nodes that show what ``machine`` shows, ``but`` one."""
        found: dict[str, str] = {}
        for key in _keys(machine):
            for other in self._by.get(key, ()):
                if other != but:
                    found.setdefault(other, "UUID" if key[0] == "uuid" else "serial")
        return [
            Twin(mac, same_machine(machine, self._machines[mac]), shared) for mac, shared in sorted(found.items())
        ]


def same_machine(one: Machine, other: Machine) -> bool:
    """Whether two nodes are one machine: nothing that both tell differs, they share a disk where both have shown
    any, and a serial; or the UUID and a disk."""
    shared = set(one.disks) & set(other.disks)
    if difference(one, other) or (one.disks and other.disks and not shared):
        return False
    if (one.board and one.board == other.board) or (one.system and one.system == other.system):
        return True
    return bool(one.uuid and other.uuid and shared)


def _keys(machine: Machine) -> list[tuple[str, str]]:
    pairs = (
        ("uuid", min(machine.uuid, _turned(machine.uuid))),
        ("board", machine.board),
        ("system", machine.system),
    )
    return [pair for pair in pairs if pair[1]]


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
