"""`loop_node` for trees of files, in a mount namespace of its own: ``python -m tests.netns.files_node FOLDER …``.

FOLDER takes the place of stage2's /run/bootd. The caches of this machine stay as they are: others work on it.
"""

import os
import sys

from stage2 import files, unpacking
from tests.namespaces import APART
from tests.netns import loop_node


def main(folder: str, *words: str) -> int:
    vars(files)["FOLDER"] = folder
    unpacking.DROP_CACHES = "/dev/null"
    return loop_node.main(*words)


if __name__ == "__main__":
    if os.environ.get("BOOTD_TEST_NAMESPACE") is None:
        command = [*APART, sys.executable, "-m", "tests.netns.files_node"]
        os.environ["BOOTD_TEST_NAMESPACE"] = "1"
        os.execvp("unshare", [*command, *sys.argv[1:]])  # noqa: S606 - this very process goes on as the node
    sys.exit(main(*sys.argv[1:]))
