"""The operator's own scripts, run in the tree one after another in the order of their names."""

import os
import re

from stage2.customise.facts import CustomiseError
from stage2.customise.work import Work

SECONDS = 600.0  # for one script
MAX_HOOKS = 100
PLACE = "bootd/hooks"  # below the tree's /run
# run-parts(8) passes over the rest too: editors' backups, packages' leftovers, hidden files.
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.(sh|py|pl))?\Z")


def run_all(work: Work) -> str:
    """Each executable file of the folder; the first that fails ends it."""
    if not work.facts.hooks:
        return "there are none"
    names = listed(work.facts.hooks)
    for name in names:
        work.tell(f"customise: hook {name}")
        work.chroot.run(
            [f"/run/{PLACE}/{name}"],
            SECONDS,
            name=name,
            binds={PLACE: work.facts.hooks},
            environment=environment(work),
        )
    return f"{len(names)} done: {', '.join(names)}" if names else "no executable script is there"


def listed(folder: str) -> list[str]:
    """Names of the scripts of a folder, in order. `CustomiseError` when it cannot be read or has too many."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CustomiseError(f"{folder} cannot be read: {error.strerror}") from None
    found = [name for name in names if _NAME.match(name) and _is_script(f"{folder}/{name}")]
    if len(found) > MAX_HOOKS:
        raise CustomiseError(f"{folder} has {len(found)} scripts, at most {MAX_HOOKS} are run")
    return found


def environment(work: Work) -> dict[str, str]:
    """``BOOTD_*``: all that a script may want to know."""
    facts, made = work.facts, work.made
    return {
        "BOOTD_NODE": facts.name,
        "BOOTD_MAC": facts.mac,
        "BOOTD_FIRMWARE": facts.firmware,
        "BOOTD_SESSION": facts.session,
        "BOOTD_IMAGE": facts.image,
        "BOOTD_SERVER": facts.server,
        "BOOTD_DISKS": " ".join(made.disks),
        "BOOTD_ROOT_UUID": work.root.removeprefix("UUID="),
        "BOOTD_AGAIN": "1" if work.is_own else "",
    }


def _is_script(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
