"""The steps of customise, in order, each logged."""

from collections.abc import Callable

from stage2.customise.facts import Facts, Result
from stage2.made import Made


def customise(root: str, made: Made, facts: Facts, tell: Callable[[str], None]) -> Result:
    """Make the tree below ``root`` this node's own and bootable; ``made`` is mounted there by the caller.

    ``tell`` gets every line for the log. Nothing is raised for what is wrong with the tree or its tools: that is
    ``Result.failure``. Every step may be done again and then changes nothing. No mount stays behind.
    """
    raise NotImplementedError
