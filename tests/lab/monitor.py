"""QEMU's machine protocol, as much as a reboot needs.

QEMU runs with ``-action reboot=shutdown,shutdown=pause``: when the guest resets, the machine stands still until
`Monitor.resume`, so that its disk can be compared before the cloned system starts and writes to it.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable

ARGUMENTS = ("-action", "reboot=shutdown,shutdown=pause")


class Monitor:
    """One end of a socket pair; QEMU has the other, by descriptor number."""

    def __init__(self, on_reset: Callable[[], None]) -> None:
        """``on_reset`` is called from the monitor's thread when the guest has asked for a reset and stands."""
        self._on_reset = on_reset
        self._ours, self._theirs = socket.socketpair()
        self._hold = True
        self._lock = threading.Lock()

    @property
    def descriptor(self) -> int:
        """To be inherited by QEMU."""
        return self._theirs.fileno()

    def arguments(self) -> list[str]:
        return [*ARGUMENTS, "-chardev", f"socket,id=monitor,fd={self.descriptor}", "-qmp", "chardev:monitor"]

    def start(self) -> None:
        """After QEMU was started with `arguments`."""
        self._theirs.close()
        threading.Thread(target=self._read, name="monitor", daemon=True).start()
        self._send("qmp_capabilities")

    def resume(self, *, hold: bool) -> None:
        """Let the machine go through the reset that it asked for; with ``hold`` it stands at the next one again."""
        self._hold = hold
        # As long as the action is "shutdown", QEMU takes our own reset for a shutdown too.
        self._send("set-action", reboot="reset")
        self._send("system_reset")

    def close(self) -> None:
        # The reader's makefile keeps the descriptor until it sees the end; shutdown is what makes it see that.
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        self._ours.close()

    def _send(self, command: str, **arguments: str) -> None:
        message = {"execute": command, "arguments": arguments} if arguments else {"execute": command}
        with self._lock:
            try:
                self._ours.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                return  # QEMU has ended; its console says so

    def _read(self) -> None:
        asked = False
        try:
            with self._ours.makefile("rb") as stream:
                for line in stream:
                    message = json.loads(line)
                    event = message.get("event")
                    if event == "SHUTDOWN":
                        asked = bool(message["data"].get("guest"))
                    elif event == "STOP" and asked:
                        asked = False
                        self._on_reset()
                    elif event == "RESET" and message["data"].get("reason") == "host-qmp-system-reset":
                        if self._hold:
                            self._send("set-action", reboot="shutdown")
                        self._send("cont")
        except (OSError, ValueError):
            return  # closed, or cut off in the middle of a line by QEMU's end
