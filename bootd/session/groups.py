"""Groups of machines: those of bootd.toml, and those that operators make. Who is in them, and what they boot."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bootd.errors import Exit, OperatorError
from bootd.session.effects import GroupRecord
from bootd.session.hosts import ANY, MAX_HOSTS, normal_mac, parse, plain_name

MAX_GROUPS = 1024
LOCAL = "local"


@dataclass(frozen=True)
class ConfiguredGroup:
    """A ``[[group]]``. ``hosts`` is a host set: of names, which may be given to machines later, and of groups."""

    name: str
    hosts: str
    label: str = ""


@dataclass(frozen=True)
class GroupLabel:
    """What a machine boots by its groups. ``others``: groups with another label, which was passed over."""

    label: str
    group: str
    others: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        others = f" (not that of {', '.join(self.others)})" if self.others else ""
        return f"group {self.group}{others}"


class Groups:
    """All groups. Those of the configuration go first, in its order; then those of operators, by name.

    ``find`` gives the MAC of a name, or raises `OperatorError`; ``version`` changes whenever it may say otherwise.
    """

    def __init__(
        self, configured: Sequence[ConfiguredGroup], find: Callable[[str], str], version: Callable[[], int]
    ) -> None:
        self._configured = {group.name: group for group in configured}
        self._own: dict[str, GroupRecord] = {}
        self._find, self._version = find, version
        self._changes = 0
        self._known: tuple[tuple[int, int], dict[str, tuple[str, ...]]] | None = None

    def names(self) -> list[str]:
        return [*self._configured, *sorted(self._own.keys() - self._configured.keys())]

    def is_configured(self, name: str) -> bool:
        return name in self._configured

    def restore(self, record: GroupRecord) -> None:
        self._own[record.name] = record
        self._changes += 1

    def label(self, name: str) -> str:
        """By an operator, else by the configuration; "" = none."""
        own = self._own.get(name)
        configured = self._configured.get(name)
        return (own.label if own is not None else "") or (configured.label if configured is not None else "")

    def members(self, name: str) -> frozenset[str]:
        """The MACs in a group; `OperatorError` for a group that there is not, or a name in it that nobody has."""
        macs, missing = self._resolve(name)
        if missing:
            raise OperatorError(
                f"group {name} names {', '.join(missing[:5])}, which no node is called",
                "name it: bootd node name MAC NAME, or mend the [[group]]",
                Exit.USAGE,
            )
        return macs

    def known_members(self, name: str) -> tuple[frozenset[str], tuple[str, ...]]:
        """The MACs in a group, and the names in it that nobody has yet."""
        return self._resolve(name)

    def of(self, mac: str) -> tuple[str, ...]:
        """The groups that a machine is in, in order of precedence."""
        state = (self._version(), self._changes)
        if self._known is None or self._known[0] != state:
            found: dict[str, tuple[str, ...]] = {}
            for name in self.names():
                for member in self._resolve(name)[0]:
                    found[member] = (*found.get(member, ()), name)
            self._known = (state, found)
        return self._known[1].get(mac, ())

    def choose_label(self, mac: str) -> GroupLabel | None:
        """Of several groups with a label ``local`` wins, for it protects; else the first."""
        having = [(name, label) for name in self.of(mac) if (label := self.label(name))]
        if not having:
            return None
        name, label = next((one for one in having if one[1] == LOCAL), having[0])
        return GroupLabel(label, name, tuple(other for other, its in having if its != label))

    # --- orders --------------------------------------------------------------------------------------------

    def add(self, name: str, macs: Iterable[str]) -> GroupRecord:
        """``macs`` are in the group from now on; it is made if need be."""
        own = self._changeable(name, is_new=True)
        members = own.macs | frozenset(macs)
        if len(members) > MAX_HOSTS:
            raise OperatorError(f"group {name} would have {len(members)} nodes", "make several", Exit.USAGE)
        return self._put(GroupRecord(name, own.label, members))

    def drop(self, name: str, macs: Iterable[str]) -> GroupRecord:
        """``macs`` are no longer in the group."""
        own = self._changeable(name, is_new=False)
        return self._put(GroupRecord(name, own.label, own.macs - frozenset(macs)))

    def set_label(self, name: str, label: str) -> GroupRecord:
        """``label`` "" = back to what the configuration says. Also for a group of the configuration."""
        self._check(name)
        own = self._own.get(name, GroupRecord(name, "", frozenset()))
        return self._put(GroupRecord(name, label, own.macs))

    def remove(self, name: str) -> None:
        """Forget a group of operators."""
        self._changeable(name, is_new=False)
        del self._own[name]
        self._changes += 1

    def leave(self, mac: str) -> list[GroupRecord]:
        """A machine is forgotten: it is in no group of operators any more."""
        found = [record for record in self._own.values() if mac in record.macs]
        return [self._put(GroupRecord(one.name, one.label, one.macs - {mac})) for one in found]

    def _put(self, record: GroupRecord) -> GroupRecord:
        self._own[record.name] = record
        self._changes += 1
        return record

    def _changeable(self, name: str, *, is_new: bool) -> GroupRecord:
        if name in self._configured:
            raise OperatorError(f"group {name} is in bootd.toml", "change its [[group]] there", Exit.USAGE)
        own = self._own.get(name)
        if own is not None:
            return own
        if not is_new:
            self._check(name)
        if not plain_name(name) or normal_mac(name) or name.lower() == ANY:
            raise OperatorError(f"{name!r} is not a group name", "use letters, digits and '-'", Exit.USAGE)
        if len(self._own) >= MAX_GROUPS:
            raise OperatorError(f"{MAX_GROUPS} groups", "remove one: bootd group remove NAME", Exit.USAGE)
        return GroupRecord(name, "", frozenset())

    def _check(self, name: str) -> None:
        if name not in self._configured and name not in self._own:
            known = ", ".join(self.names()[:20]) or "none"
            raise OperatorError(f"no group is called {name!r}; known: {known}", "see bootd group list", Exit.USAGE)

    def _resolve(self, name: str, path: tuple[str, ...] = ()) -> tuple[frozenset[str], tuple[str, ...]]:
        self._check(name)
        if name in path:
            raise OperatorError(f"group {name} contains itself", "mend the [[group]]", Exit.USAGE)
        if name not in self._configured:
            return self._own[name].macs, ()
        written = parse(self._configured[name].hosts)
        missing: dict[str, None] = {}
        sides: list[set[str]] = []
        for names in (written.names or (), written.without):
            macs: set[str] = set()
            for item in names:
                if item.startswith("@"):
                    inner, unknown = self._resolve(item[1:], (*path, name))
                    macs |= inner
                    missing.update(dict.fromkeys(unknown))
                    continue
                try:
                    macs.add(self._find(item))
                except OperatorError:
                    missing[item] = None
            sides.append(macs)
        return frozenset(sides[0] - sides[1]), tuple(missing)


def problem(groups: Sequence[ConfiguredGroup]) -> str:
    """What is wrong with the ``[[group]]`` of a configuration, in one sentence; "" when nothing is."""
    known = {group.name: group for group in groups}
    for group in groups:
        if not plain_name(group.name) or normal_mac(group.name) or group.name.lower() == ANY:
            return f"{group.name!r} is not a group name: use letters, digits and '-'"
        if [other.name for other in groups].count(group.name) > 1:
            return f"two [[group]] are called {group.name}"
        try:
            written = parse(group.hosts)
        except OperatorError as error:
            return f"group {group.name}: {error.message}"
        if written.names is None:
            return f"group {group.name}: any is no group; it is everybody"
    for group in groups:
        for inner in _inside(group, known, ()):
            if inner not in known:
                return f"group {group.name}: there is no [[group]] {inner}"
            if inner == group.name:
                return f"group {group.name} contains itself"
    return ""


def _inside(group: ConfiguredGroup, known: dict[str, ConfiguredGroup], path: tuple[str, ...]) -> Iterable[str]:
    """The groups that ``group`` is made of, at any depth."""
    written = parse(group.hosts)
    for item in (*(written.names or ()), *written.without):
        if item.startswith("@"):
            yield item[1:]
            if item[1:] in known and item[1:] not in path:
                yield from _inside(known[item[1:]], known, (*path, item[1:]))
