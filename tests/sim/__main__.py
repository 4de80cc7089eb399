"""``python -m tests.sim``: many seeds side by side, or one with its whole trace.

python -m tests.sim --seeds 10000          # make sim
python -m tests.sim --seed 4711 --trace    # replay what a failure has printed
"""

import argparse
import sys
import time
from collections import Counter
from multiprocessing import Pool

from tests.sim.ringsim import Run, is_large, scenario


def examine(seed: int) -> tuple[int, list[str], list[str], Counter[str]]:
    """The seed, what is wrong, the trace if anything is, and how often each verdict was given."""
    run = Run(scenario(seed))
    wrong = run.go()
    verdicts = Counter(verdict.standing for verdict in run.outcome.verdicts) if run.outcome else Counter[str]()
    return seed, wrong, describe(run, wrong) if wrong else [], verdicts


def describe(run: Run, wrong: list[str]) -> list[str]:
    """What a reader needs to understand a failure, and the command that replays it."""
    troubled = [
        f"  {node.mac} {node.trouble.text}" for node in run.nodes.values() if node.trouble.text != "healthy"
    ]
    return [
        f"seed {run.plan.seed}: {run.plan.text}",
        *troubled[:40],
        *list(run.world.trace)[-60:],
        *[f"WRONG: {line}" for line in wrong[:10]],
        f"replay: python -m tests.sim --seed {run.plan.seed} --trace",
    ]


def run_many(first: int, count: int, workers: int | None = None) -> tuple[list[list[str]], Counter[str]]:
    """Seeds ``first`` to ``first + count - 1``: descriptions of those that ended wrong, and all verdicts."""
    failures: list[list[str]] = []
    verdicts: Counter[str] = Counter()
    large = [seed for seed in range(first, first + count) if is_large(seed)]  # these take longest: first
    small = [seed for seed in range(first, first + count) if not is_large(seed)]
    with Pool(workers) as pool:
        for _, wrong, text, found in pool.imap_unordered(examine, large + small, chunksize=1):
            verdicts += found
            if wrong:
                failures.append(text)
    return failures, verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description="RingSim")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print everything that happens in it")
    options = parser.parse_args()
    if options.seed is not None:
        run = Run(scenario(options.seed), is_loud=options.trace)
        wrong = run.go()
        print("\n".join([*run.world.trace] if options.trace else []))
        for verdict in run.outcome.verdicts if run.outcome else ():
            print(verdict.node, verdict.standing, verdict.reason)
        print(f"seed {options.seed}: {run.plan.text}: {'; '.join(wrong) or 'good'}")
        return bool(wrong)
    started = time.monotonic()
    failures, verdicts = run_many(options.first, options.seeds)
    for text in failures[:5]:
        print("\n".join(text), end="\n\n")
    spread = ", ".join(f"{count} {name}" for name, count in verdicts.most_common())
    seconds = time.monotonic() - started
    print(f"sim: {options.seeds} seeds, {len(failures)} wrong, {seconds:.0f} s; nodes: {spread}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
