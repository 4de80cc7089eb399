"""``make fuzz``: mutated frames, conversations, manifests and control messages, a million of them, on all cores.

``python -m tests.property.wire_fuzz --count N --seed S``. Each case is drawn from its own seed, so a failing one is
printed as the command that plays it again alone (``--seed S --only NUMBER``). A case fails when anything else than
`PeerProtocolError` leaves the wire, when a promise of `wire_subjects` breaks, or after `CASE_SECONDS`. Cases run in
processes of their own whose address space is limited and whose peak memory is measured: its growth after the first
cases must stay below `MAX_GROWTH`.
"""

import argparse
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from bootd.wire.errors import PeerProtocolError
from tests.property.wire_member import SUBJECTS, Subject

ROOT = Path(__file__).parents[2]
CASE_SECONDS = 30.0  # one case takes some 30 microseconds; this one never ends
RUN_SECONDS = 900.0
MAX_GROWTH = 32 << 20  # bytes of peak memory beyond that of the first cases
ADDRESS_SPACE = 512 << 20  # bytes on top of what the interpreter has mapped
FIRST = 2000  # cases of a process after which memory is measured from
MAX_WORKERS = 16
_ORDER: tuple[Subject, ...] = tuple(subject for subject, share in SUBJECTS for _ in range(share))


class CaseFailed(Exception):  # noqa: N818 - the case is what failed
    """The text says which, how, and how to see it again."""


@dataclass
class Result:
    """Of one process, or of all: cases, those whose input was understood, seconds of CPU, growth in bytes."""

    cases: int = 0
    accepted: int = 0
    cpu: float = 0.0
    growth: int = 0


def subject_of(number: int) -> Subject:
    """Every subject has its share of any row of consecutive numbers."""
    return _ORDER[number % len(_ORDER)]


def play(seed: int, number: int, random: Random | None = None) -> bool:
    """One case; True when its input was understood. `CaseFailed` names it. ``random`` is seeded anew."""
    subject = subject_of(number)
    random = random or Random()
    random.seed((seed << 40) | number)
    try:
        return subject(random)
    except PeerProtocolError:
        return False
    except Exception as error:
        raise CaseFailed(
            f"case {number} of seed {seed}, {subject.__name__}: {type(error).__name__}: {str(error)[:300]}\n"
            f"{''.join(traceback.format_tb(error.__traceback__)[-3:])}"
            f"again: python -m tests.property.wire_fuzz --seed {seed} --only {number}"
        ) from error


def play_share(seed: int, count: int, first: int, step: int) -> Result:
    """Every ``step``-th case from ``first`` to ``count``, in this process."""
    result, base, random = Result(), 0, Random()
    for done, number in enumerate(range(first, count, step)):
        signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
        result.accepted += play(seed, number, random)
        if done == FIRST:
            base = _peak()
    signal.setitimer(signal.ITIMER_REAL, 0)
    result.cases = len(range(first, count, step))
    result.cpu = time.process_time()
    result.growth = _peak() - base if base else 0
    return result


def run(count: int, seed: int, workers: int) -> Result:
    """``count`` cases in ``workers`` processes; `CaseFailed` with the first that failed."""
    command = [sys.executable, "-m", "tests.property.wire_fuzz", "--seed", str(seed), "--count", str(count)]
    shares = [
        subprocess.Popen(
            [*command, "--share", f"{number}/{workers}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(workers)
    ]
    try:
        outputs = [share.communicate(timeout=RUN_SECONDS)[0] for share in shares]
    finally:
        for share in shares:
            share.kill()
            share.wait()
    for share, output in zip(shares, outputs, strict=True):
        if share.returncode:
            raise CaseFailed(f"seed {seed}: {output[-3000:]}")
    parts = [Result(**json.loads(output)) for output in outputs]
    return Result(
        sum(part.cases for part in parts),
        sum(part.accepted for part in parts),
        sum(part.cpu for part in parts),
        max(part.growth for part in parts),
    )


def _peak() -> int:
    """Bytes: the most that this process has ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _endless(number: int, frame: object) -> None:
    raise TimeoutError(f"not done after {CASE_SECONDS:.0f} s")


def _main_of_share(seed: int, count: int, share: str) -> int:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE, mapped + ADDRESS_SPACE))
    signal.signal(signal.SIGALRM, _endless)
    first, _, step = share.partition("/")
    try:
        result = play_share(seed, count, int(first), int(step))
    except CaseFailed as error:
        print(error)
        return 1
    print(json.dumps(asdict(result)))
    return 0


def main() -> int:
    options = parse()
    if options.share:
        return _main_of_share(options.seed, options.count, options.share)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    if options.only is not None:
        understood = play(seed, options.only)
        print(f"case {options.only} of seed {seed}: {'understood' if understood else 'refused'}")
        return 0
    began = time.monotonic()
    try:
        result = run(options.count, seed, options.workers)
    except CaseFailed as error:
        print(error, file=sys.stderr)
        return 1
    seconds = time.monotonic() - began
    kinds = Counter(subject.__name__ for subject in _ORDER)
    print(
        f"{result.cases} cases of seed {seed}: {result.accepted} understood, the others refused; "
        f"{seconds:.1f} s, {result.cases / result.cpu:.0f}/s per core, load {os.getloadavg()[0]:.1f}; "
        f"peak memory grew by {result.growth / 1e6:.1f} MB\n"
        f"of each {len(_ORDER)}: {', '.join(f'{count} {name}' for name, count in kinds.items())}"
    )
    if result.growth > MAX_GROWTH:
        print(f"more than {MAX_GROWTH} bytes", file=sys.stderr)
        return 1
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.property.wire_fuzz", description="Hostile input.")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, help="default: a new one, which is printed")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, MAX_WORKERS))
    parser.add_argument("--only", type=int, metavar="NUMBER", help="play one case")
    parser.add_argument("--share", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
