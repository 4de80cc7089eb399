"""The console of a Debian that was cloned: log in, and ask it something."""

from tests.lab import debian_tree
from tests.lab.machine import Machine

SECONDS = 120.0  # for an answer of a machine without a processor of its own


def log_in(machine: Machine, host: str, seconds: float) -> None:
    """From power-on to a plain shell of root on ``host``."""
    machine.wait_for(rf"{host} login:", seconds, "login")
    machine.type(f"{debian_tree.USER}\n")
    machine.wait_for("Password:", SECONDS, "password")
    machine.type(f"{debian_tree.PASSWORD}\n")
    machine.wait_for(rf"root@{host}:~# \Z", SECONDS, "shell")
    machine.type("exec sh\n")  # bash puts control sequences around what is typed
    machine.wait_for(r"[\r\n]# \Z", SECONDS, "plain shell")


def asked(machine: Machine, command: str) -> str:
    """What a command says; the next prompt is awaited, so that nothing is typed before it."""
    said = machine.run(command, SECONDS, command)
    machine.wait_for(r"# \Z", SECONDS, "prompt")
    return said
