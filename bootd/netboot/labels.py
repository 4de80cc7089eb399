"""Boot menu entries, defined once and rendered for every loader (see render.py)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from bootd.netboot.passwords import problem as password_problem

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}\Z")


class LabelKind(Enum):
    LOCAL = "local"  # start the node's own disk
    STAGE = "stage"  # bootd's kernel and stage1, with `append` on the command line
    KERNEL = "kernel"  # an operator's own kernel and initrd from the virtual tree


@dataclass(frozen=True)
class Label:
    name: str
    kind: LabelKind
    title: str = ""
    append: str = ""
    kernel: str = ""  # path in the virtual tree, for KERNEL
    initrd: str = ""
    password: tuple[str, ...] = ()  # hashes (see passwords.py); who sits at the machine must know it
    hide: bool = False  # in no menu: only a policy boots it
    partition: int = 0  # its operating system lies there: in the menus of nodes where that is verified; 0 = in all
    system: str = ""  # for STAGE: boot this imported system in place of bootd's own stage2


_TITLE_FORBIDDEN = frozenset("$`\\\"'{}|&;<>#^")  # each is syntax to one of the loaders
_PATH = re.compile(r"(?!.*\.\.)[A-Za-z0-9_.+~-]+(/[A-Za-z0-9_.+~-]+)*\Z")
MAX_TITLE = 60  # characters: one line of a text console with its number before it
MAX_APPEND = 1500  # the kernel takes 2048 characters in all; bootd adds its own words


def problem(label: Label) -> str:
    """Why ``label`` cannot be written into every loader's configuration, or "".

    Titles: printable ASCII without the characters that a loader would interpret. Command lines: one line, without
    what iPXE expands or splits at (``${``, ``&&``, ``||``, ``;`` as a word) and GRUB's single quote.
    """
    if not NAME.match(label.name):
        return f"name {label.name!r}: use letters, digits, '_', '-', '.'"
    if len(label.title) > MAX_TITLE:
        return f"title is longer than {MAX_TITLE} characters"
    for character in label.title:
        if not " " <= character <= "~" or character in _TITLE_FORBIDDEN:
            return f"title: {character!r} means something to a boot loader"
    if len(label.append) > MAX_APPEND:
        return f"append is longer than {MAX_APPEND} characters"
    for character in label.append:
        if not " " <= character <= "~" or character in "'`":
            return f"append: {character!r} cannot be given to every boot loader"
    if "${" in label.append:
        return "append: '${' would be expanded by iPXE"
    for word in label.append.split():
        if word in ("&&", "||", ";") or word.startswith("#"):
            return f"append: {word!r} would end the command in a boot loader"
    for key, path in (("kernel", label.kernel), ("initrd", label.initrd)):
        if path and not _PATH.match(path.lstrip("/")):
            return f"{key}: {path!r} is not a plain path in the boot folder"
    if label.kind is LabelKind.KERNEL and not label.kernel:
        return "kernel is missing"
    if label.system and (label.kind is not LabelKind.STAGE or not NAME.match(label.system)):
        return f"system {label.system!r}: a name as `bootd stage list` shows it, and kind stage"
    return password_problem(label.password)


_NETWORK = "interface:auto,network:dhcp"

# The labels of the seeds, word for word where it matters: `automatic=` and the method word after `rescue`.
BUILT_IN: tuple[Label, ...] = (
    Label("local", LabelKind.LOCAL, "Boot from the local disk"),
    Label("kamethod", LabelKind.STAGE, "Clone (ka)", f"automatic=method:ka,{_NETWORK} rescue kamethod"),
    Label(
        "dolly",
        LabelKind.STAGE,
        "Clone (dolly)",
        f"automatic=method:dolly,dolly_timeout:120,{_NETWORK} rescue dollymethod",
    ),
    Label(
        "dollyC",
        LabelKind.STAGE,
        "Clone (dolly+)",
        f"automatic=method:dolly,dolly_timeout:120,{_NETWORK} rescue dollyCmethod",
    ),
    Label("http", LabelKind.STAGE, "Clone (stage2 over HTTP)", f"automatic=method:http,{_NETWORK} rescue kamethod"),
    Label("rescue", LabelKind.STAGE, "Rescue system", f"automatic=method:http,{_NETWORK} rescue"),
)


def foreign_labels(labels: Mapping[str, Label]) -> frozenset[str]:
    """Names of those that start an operator's own kernel or system, of which bootd hears no more."""
    return frozenset(name for name, label in labels.items() if label.kind is LabelKind.KERNEL or label.system)
