"""What the steps of customise share: the tree, the programs in it, the facts, and what was found out so far."""

from collections.abc import Callable
from dataclasses import dataclass, field

from stage2.customise.facts import Facts
from stage2.customise.running import Chroot, Tell
from stage2.customise.tree import Tree
from stage2.made import SWAP, Filesystem, Made


@dataclass
class Work:
    """``is_own``: the tree has been customised for this very node before, so its keys and ids are its own."""

    tree: Tree
    chroot: Chroot
    made: Made
    facts: Facts
    tell: Tell
    is_own: bool = False
    replaced: dict[str, str] = field(default_factory=dict)  # names of devices in the old fstab -> UUID=…
    changed: list[str] = field(default_factory=list)  # of the step that runs
    warnings: list[str] = field(default_factory=list)

    def rewrite(self, path: str, transform: Callable[[str], str]) -> bool:
        """Write what ``transform`` makes of a file's text, if there is such a file; whether that was a change."""
        text = self.tree.read(path)
        return text is not None and self.write(path, transform(text))

    def write(self, path: str, text: str, mode: int = 0o644) -> bool:
        if not self.tree.write(path, text, mode):
            return False
        self.changed.append(path)
        return True

    def remove(self, *paths: str) -> None:
        self.changed += [path for path in paths if self.tree.remove(path)]

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self.tell(f"customise: note: {text}")

    def program(self, *names: str) -> str:
        """The path of the first of these programs that the tree has; "" for none."""
        for name in names:
            for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
                if self.tree.is_program(f"{folder}/{name}"):
                    return f"{folder}/{name}"
        return ""

    def filesystem(self, mount: str) -> Filesystem | None:
        return next((one for one in self.made.filesystems if one.mount == mount), None)

    @property
    def root(self) -> str:
        """``UUID=…`` of the root file system."""
        one = self.filesystem("/")
        return f"UUID={one.uuid}" if one else ""

    @property
    def swap(self) -> str:
        """``UUID=…`` of the first swap space; "" for none."""
        return next((f"UUID={one.uuid}" for one in self.made.filesystems if one.kind == SWAP), "")
