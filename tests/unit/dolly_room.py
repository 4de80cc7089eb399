"""`bootd dolly` as real processes on loopback: addresses of their own, for two ports that never change."""

import itertools
import json
import os
import subprocess
import sys
import threading
from typing import Any

BOOTD = [sys.executable, "-c", "from bootd.cli.main import main; main()", "dolly"]
SECONDS = 20.0
_rooms = itertools.count(1)


def fresh_base() -> str:
    """The beginning of addresses that nobody else uses: a number is missing at the end."""
    return f"127.{64 + os.getpid() % 128}.{(os.getpid() // 128 * 37 + next(_rooms)) % 250 + 1}."


class Program:
    """`bootd dolly` with its output; `end` it."""

    def __init__(self, *words: str, is_piped: bool = False) -> None:
        given = subprocess.PIPE if is_piped else subprocess.DEVNULL
        self.popen = subprocess.Popen([*BOOTD, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=given)
        self.told = b""
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        stream = self.popen.stderr
        while stream is not None and (piece := stream.read1(65536)):  # type: ignore[attr-defined]
            with self._changed:
                self.told += piece
                self._changed.notify_all()
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def wait_for(self, text: str) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: text.encode() in self.told or not self._open, SECONDS)
        assert found, (text, self.told)
        assert text.encode() in self.told, (text, self.told)

    def wait(self) -> int:
        """Exit code."""
        code = self.popen.wait(SECONDS)
        self._thread.join(SECONDS)
        return code

    def report(self) -> dict[str, Any]:
        stream = self.popen.stdout
        value: dict[str, Any] = json.loads(stream.read() if stream is not None else b"")
        return value

    def feed(self, data: bytes | None) -> None:
        """To its standard input; None is the end."""
        stream = self.popen.stdin
        if stream is not None and data is not None:
            stream.write(data)
            stream.flush()
        elif stream is not None:
            stream.close()

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(SECONDS)
        self._thread.join(SECONDS)
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream is not None:
                stream.close()


class Programs(list[Program]):
    """All of one test."""

    def start(self, *words: str) -> Program:
        program = Program(*words)
        self.append(program)
        return program

    def piped(self, *words: str) -> Program:
        """One whose standard input is `Program.feed`."""
        program = Program(*words, is_piped=True)
        self.append(program)
        return program

    def client(self, address: str, *words: str) -> Program:
        """A client that listens already."""
        program = self.start("-v", "--json", "--listen", address, *words)
        program.wait_for("Accepting...")
        return program

    def end(self) -> None:
        for program in self:
            program.end()
