"""Worker processes: their input, their end, their last words; heads and their deaths."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bootd.drivers.heads import Heads
from bootd.drivers.workers import NICENESS, Backoff, Worker
from bootd.session.effects import StartHead

ECHO = "import sys; sys.stderr.write('got ' + sys.stdin.readline()); sys.stderr.flush(); sys.stdin.read()"
DEAF = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.write(2, b'x\\n'); time.sleep(60)"


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_it_gets_its_line_and_ends_when_its_input_closes() -> None:
    async def run() -> None:
        worker = Worker("w", python(ECHO), b"order")
        await worker.start()
        assert worker.running
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, worker.pid) == min(own + NICENESS, 19)  # it gives way to the daemon
        await worker.stop()
        assert not worker.running
        assert await worker.wait() == "ended with status 0: got order"

    asyncio.run(run())


def test_it_is_killed_when_it_does_not_listen() -> None:
    async def run() -> None:
        worker = Worker("w", python(DEAF))
        await worker.start()
        await until(lambda: worker.last_line)
        await worker.stop(0.2)
        assert await worker.wait() == "killed by signal 9: x"

    asyncio.run(run())


def test_its_last_line_is_its_reason_however_long() -> None:
    async def run() -> None:
        program = "import sys; sys.stderr.write('y' * 100000 + '\\nthe reason'); sys.exit(5)"
        worker = Worker("w", python(program))
        await worker.start()
        assert await worker.wait() == "ended with status 5: the reason"
        await worker.stop()

    asyncio.run(run())


def test_a_program_that_does_not_exist() -> None:
    async def run() -> None:
        with pytest.raises(OSError, match="nonesuch"):
            await Worker("w", ["/nonesuch"]).start()
        ends: list[tuple[str, str]] = []
        heads = Heads("s:1", "h", lambda session, reason: ends.append((session, reason)), ["/nonesuch"])
        heads.start(StartHead("5e", "head-5e", "/image", "aa", "bb"))
        await until(lambda: ends)
        assert ends[0][0] == "5e"
        assert "cannot be started" in ends[0][1]
        await heads.close()

    asyncio.run(run())


def test_heads_get_their_settings_and_their_death_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        ends: list[tuple[str, str]] = []
        out = tmp_path / "settings"
        program = f"import sys; open({str(out)!r}, 'w').write(sys.stdin.readline()); sys.exit(7)"
        heads = Heads("10.0.0.1:7467", "10.0.0.1", lambda *end: ends.append(end), python(program))
        heads.start(StartHead("5e", "head-5e", "/image", "aa", "bb"))
        await until(lambda: ends)
        assert ends == [("5e", "ended with status 7")]
        assert json.loads(out.read_text()) == {
            "server": "10.0.0.1:7467",
            "node": "head-5e",
            "token": "bb",
            "session": "5e",
            "join_token": "aa",
            "source": "/image",
            "host": "10.0.0.1",
        }
        await heads.close()

    asyncio.run(run())


def test_a_head_that_is_stopped_is_no_death() -> None:
    async def run() -> None:
        ends: list[tuple[str, str]] = []
        heads = Heads("s:1", "h", lambda *end: ends.append(end), python(ECHO))
        for session in ("1", "2"):
            heads.start(StartHead(session, f"head-{session}", "/image", "aa", "bb"))
        await until(lambda: len(heads.pids) == 2)
        pids = heads.pids
        heads.stop("1")
        await heads.close()
        assert ends == []
        for pid in pids.values():
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    asyncio.run(run())


def test_back_off_doubles_to_its_bound_and_begins_anew_after_a_healthy_run() -> None:
    backoff = Backoff(first=1, most=5, healthy=30)
    assert [backoff.after_run_of(0.1) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert backoff.after_run_of(31) == 1
    assert backoff.after_run_of(0) == 2
