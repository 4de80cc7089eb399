"""Customise: a tree of files that was unpacked onto this node's disks becomes a machine of its own that boots.

`customise` does all of it; the modules beside it are one concern each. Texts are rewritten by pure functions; the
tree is touched through `tree.Tree` and `chroot.Chroot` only, because it is somebody else's input.
"""

from stage2.customise.apply import customise
from stage2.customise.facts import STEPS, CustomiseError, Facts, Outcome, Result

__all__ = ["STEPS", "CustomiseError", "Facts", "Outcome", "Result", "customise"]
