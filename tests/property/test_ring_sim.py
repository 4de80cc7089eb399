"""2,000 seeded rings on a virtual clock; `make sim` runs 10,000. See tests/sim."""

from tests.sim.__main__ import run_many
from tests.sim.ringsim import Run, scenario


def test_every_disk_is_the_source_or_its_node_is_named_with_a_true_reason() -> None:
    failures, verdicts = run_many(0, 2000)
    assert not failures, "\n".join("\n".join(text) for text in failures[:3])
    assert verdicts["done"] > 5000  # most nodes are healthy, and healthy nodes are cloned
    assert verdicts["lost"] > 100
    assert verdicts["failed"] > 100


def test_seed_gives_the_same_run_each_time() -> None:
    traces = []
    for _ in range(2):
        run = Run(scenario(24), is_loud=True)
        run.go()
        traces.append(list(run.world.trace))
    assert traces[0] == traces[1]
    assert len(traces[0]) > 50
