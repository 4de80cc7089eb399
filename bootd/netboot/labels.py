"""Boot menu entries, defined once and rendered for every loader (see render.py)."""

import re
from dataclasses import dataclass
from enum import Enum

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
