"""Which label a node boots next: one pure decision, asked whenever a boot configuration is rendered.

Order: a parked node gets the rescue system; then the one-shot label; then what an operator set for this node; then
the label of an open session that still wants it; then that of its kiosk policy; then what its last session left
(``local`` after a clone); then the label of its group; then the default. What an operator says about one node
outranks a session, so ``label set local --node srv`` protects a machine from every session that takes ``any``. So
does ``local`` for a group: it keeps its machines out of such sessions altogether; a session that names them goes
before it.
"""

from collections.abc import Collection
from dataclasses import dataclass

RESCUE = "rescue"
LOCAL = "local"


@dataclass(frozen=True)
class Choice:
    label: str
    why: str  # for people: "one-shot", "session demo", ...


@dataclass(frozen=True)
class BootChoice:
    """What a node boots next, and the token that its kernel command line must carry."""

    mac: str
    label: str
    why: str
    token: str  # "" for a node that is not known: then ``label`` is "local"


def choose_label(
    *,
    parked: str = "",
    once: str = "",
    label: str,
    session: tuple[str, str] | None = None,
    kiosk: tuple[str, str] | None = None,
    automatic: str = "",
    default: str,
    known: Collection[str],
    group: tuple[str, str] | None = None,
) -> Choice:
    """The label to boot, always one of ``known`` (which holds ``local``).

    ``session`` is (label, name) of the open session that wants the node, ``kiosk`` (label, reason) of a policy that
    is due, or None; ``group`` (label, reason) of its group. A label that is not defined
    any more is passed over, and the reason says so.
    """
    candidates = [
        Choice(RESCUE if parked else "", f"parked: {parked}"),
        Choice(once, "one-shot"),
        Choice(label, "set for this node"),
        Choice(session[0] if session else "", f"session {session[1]}" if session else ""),
        Choice(kiosk[0] if kiosk else "", kiosk[1] if kiosk else ""),
        Choice(automatic, "left by its last session"),
        Choice(group[0], group[1]) if group else Choice("", ""),
        Choice(default, "default"),
    ]
    gone: list[str] = []
    for choice in candidates:
        if not choice.label:
            continue
        if choice.label in known:
            missing = f" (label {', '.join(gone)} is not defined)" if gone else ""
            return Choice(choice.label, choice.why + missing)
        gone.append(choice.label)
    return Choice(LOCAL, f"label {', '.join(gone)} is not defined" if gone else "no default")
