"""Programs of Debian that work on disks: run with a limit of time, their own words in the error."""

import os
import subprocess
from collections.abc import Sequence

SECONDS = 120.0


class ProgramError(Exception):
    """A program is missing, took too long, or failed; the text says which, and what it said."""


def run(words: Sequence[str], *, seconds: float = SECONDS, ok: Sequence[int] = (0,)) -> str:
    """Standard output. The program has no terminal, asks nothing, speaks English. `ProgramError`."""
    # mdadm, without udev: make the names below /dev/md yourself, and do not wait for it.
    environment = {**os.environ, "LC_ALL": "C", "MDADM_NO_UDEV": "1", "DM_DISABLE_UDEV": "1"}
    try:
        done = subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=seconds,
            env=environment,
        )
    except FileNotFoundError:
        raise ProgramError(f"{words[0]} is not in this stage2") from None
    except subprocess.TimeoutExpired:
        raise ProgramError(f"{words[0]} took more than {seconds:.0f} seconds: {' '.join(words)}") from None
    except OSError as error:
        raise ProgramError(f"{words[0]}: {error.strerror or error}") from None
    if done.returncode not in ok:
        said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace").splitlines()
        raise ProgramError(f"{words[0]} failed: {' '.join(said[-3:]) if said else done.returncode}"[:800])
    return done.stdout.decode(errors="replace")
