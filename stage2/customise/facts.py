"""What is known about the node that a tree of files is to become, and what came of it."""

from dataclasses import dataclass, field

from stage2.made import Filesystem

# In the order in which they are done; names for ``Facts.skip`` and for the log.
STEPS = (
    *("hostname", "machine-id", "ssh-keys", "network", "leases", "seeds"),
    *("fstab", "crypttab", "arrays", "volumes", "hooks", "initramfs", "bootloader", "selinux"),
)


@dataclass(frozen=True)
class Facts:
    """``name``: the node's host name, with or without domain. ``mac``: its boot MAC, lower case, with colons."""

    name: str
    mac: str
    firmware: str  # "bios" or "uefi": how this node boots
    drivers: tuple[str, ...] = ()  # kernel modules that drive its hardware; `hardware.drivers_in_use`
    modules: tuple[str, ...] = ()  # more that the operator wants in the initramfs (``--with=MODULE``)
    bootloader: str = "grub"  # or "none": the boot loader is left as it came (``-r``)
    source: tuple[Filesystem, ...] = ()  # the file systems of the machine that the tree was taken from, if known
    skip: frozenset[str] = frozenset()  # names of `STEPS` that are not done
    hooks: str = ""  # folder (outside of the tree) of the operator's scripts; "" = none
    session: str = ""  # for the hooks' environment
    image: str = ""  # likewise
    server: str = ""  # likewise


@dataclass(frozen=True)
class Outcome:
    """What one step did: ``text`` for the log. Files that already were as they should be are not in ``changed``."""

    step: str
    text: str
    changed: tuple[str, ...] = ()  # absolute in the tree


@dataclass(frozen=True)
class Result:
    """``failure``: the step that did not work and why, "" when all of them did. Later steps were not done then."""

    outcomes: tuple[Outcome, ...] = ()
    failure: str = ""
    warnings: tuple[str, ...] = field(default=())  # what an operator should know, and what does not hinder the boot

    @property
    def is_done(self) -> bool:
        return not self.failure


class CustomiseError(Exception):
    """A step cannot be done; the text says why and what to do."""
