"""IPMI 2.0 through Debian's ipmitool: RMCP+ is old cryptography that nobody should write anew."""

import asyncio
import os

from bootd.drivers.power.actions import Action, Answer, ControllerError
from bootd.netboot.power import Controller

PROGRAM = "ipmitool"
MAX_OUTPUT = 64 << 10
_WORDS = {
    Action.ON: ("chassis", "power", "on"),
    Action.OFF: ("chassis", "power", "off"),
    Action.SHUTDOWN: ("chassis", "power", "soft"),
    Action.CYCLE: ("chassis", "power", "cycle"),
    Action.RESET: ("chassis", "power", "reset"),
    Action.STATUS: ("chassis", "power", "status"),
    Action.PXE: ("chassis", "bootdev", "pxe"),
}


async def ask(controller: Controller, action: Action, password: str, *, uefi: bool) -> Answer:
    """One action; `ControllerError` when it did not succeed. Cancelling it ends the child.

    The password goes through the environment, which only this user and root can read: not through the arguments.
    """
    words = [*_WORDS[action], *(["options=efiboot"] if action is Action.PXE and uefi else [])]
    where = ["-H", controller.host, "-p", str(controller.port), "-U", controller.user]
    try:
        child = await asyncio.create_subprocess_exec(
            PROGRAM,
            *("-I", "lanplus", "-N", "2", "-R", "2", "-E", *where, *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "IPMI_PASSWORD": password},
        )
    except OSError as error:
        raise ControllerError(f"cannot run {PROGRAM} ({error.strerror}): apt install ipmitool") from None
    try:
        output = await _read(child)
        status = await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    text = (lines[-1] if lines else f"{PROGRAM} ended with {status}").replace(password, "*")
    if status != 0:
        raise ControllerError(text[:300])
    lower = text.lower()
    state = ""
    if action is Action.STATUS:
        if not lower.startswith("chassis power is "):
            raise ControllerError(f"{PROGRAM} says {text[:200]!r}")
        state = "on" if lower.endswith(" on") else "off"
    return Answer(state, text[:300])


async def _read(child: asyncio.subprocess.Process) -> bytes:
    """All that it says, up to a bound."""
    if child.stdout is None:
        return b""
    kept = b""
    while piece := await child.stdout.read(4096):
        kept += piece[: MAX_OUTPUT - len(kept)]
    return kept
