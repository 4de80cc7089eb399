"""Syncs: sets, rules, turns, ends."""

from dataclasses import replace

import pytest

from bootd.config import parse
from bootd.errors import Exit, OperatorError
from bootd.session.sync import (
    ANSWER,
    SILENCE,
    UNIQUE,
    Options,
    Run,
    Syncs,
    SyncSet,
    Task,
    order_of,
    outcome,
    problem,
    rules_of,
)
from bootd.wire.control import SyncReport, SyncState

SET = SyncSet("lab", "/srv/lab")


def run_of(count: int, cap: int, id_: str = "r") -> Run:
    run = Run(id_, SET, Options(cap=cap), "root")
    for number in range(count):
        mac = f"52:54:00:00:00:{number:02x}"
        run.tasks[mac] = Task(mac, f"n{number}", f"{id_}{number}", order_of(SET, run.options, f"{id_}{number}"))
    return run


def tell(syncs: Syncs, task: Task, state: SyncState, now: float = 0.0, reason: str = "") -> Task | None:
    return syncs.report(SyncReport(task.mac, task.id, state, reason=reason), now)


def begin(syncs: Syncs) -> list[Task]:
    due = syncs.due()
    for task in due:
        task.state, task.heard = "sent", 0.0
    return due


def test_no_more_at_once_than_the_cap_and_one_run_at_a_time_for_a_node() -> None:
    syncs = Syncs()
    first, second = run_of(5, 2), run_of(5, 256, "s")
    syncs.add(first)
    syncs.add(second)
    at_work = begin(syncs)
    assert [task.id for task in at_work] == ["r0", "r1", "s2", "s3", "s4"]
    assert begin(syncs) == []
    tell(syncs, at_work[0], SyncState.DONE)
    assert [task.id for task in begin(syncs)] == ["s0"], "node 2 is at work for the other run"
    everybody = [*first.tasks.values(), *second.tasks.values()]
    for _ in range(20):
        assert sum(task.state == "sent" for task in first.tasks.values()) <= 2
        macs = [task.mac for task in everybody if task.state == "sent"]
        assert len(macs) == len(set(macs))
        for task in everybody:
            if task.state == "sent":
                tell(syncs, task, SyncState.DONE)
                break
        begin(syncs)
    assert first.is_over
    assert second.is_over
    assert outcome(first) is Exit.OK


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["done", "done"], Exit.OK),
        (["done", "failed"], Exit.PARTLY),
        (["partial", "failed"], Exit.PARTLY),
        (["refused", "refused"], Exit.REFUSED),
        (["refused", "failed"], Exit.ERROR),
        (["lost", "stopped"], Exit.ERROR),
    ],
)
def test_exit_codes(states: list[str], code: Exit) -> None:
    run = run_of(2, 1)
    for task, state in zip(run.tasks.values(), states, strict=True):
        task.state = state
    assert outcome(run) is code


def test_who_says_nothing_is_lost_and_its_late_report_is_not_wanted() -> None:
    syncs = Syncs()
    syncs.add(run_of(2, 2))
    one, two = begin(syncs)
    tell(syncs, one, SyncState.RUNNING, now=1.0)
    assert syncs.tick(ANSWER) == []
    assert syncs.tick(ANSWER + 0.1) == [two]
    assert syncs.tick(1.0 + SILENCE + 0.1) == [one]
    assert tell(syncs, one, SyncState.DONE) is None
    assert one.state == "lost"


def test_a_report_counts_for_its_own_node_only() -> None:
    syncs = Syncs()
    syncs.add(run_of(2, 2))
    one, two = begin(syncs)
    assert syncs.report(SyncReport(two.mac, one.id, SyncState.DONE), 0.0) is None
    assert one.state == "sent"


def test_stopping() -> None:
    syncs = Syncs()
    run = run_of(3, 1)
    syncs.add(run)
    (one,) = begin(syncs)
    assert syncs.stop(run) == [one]
    assert [task.state for task in run.tasks.values()] == ["sent", "stopped", "stopped"]
    assert begin(syncs) == []


def test_rules() -> None:
    rules = rules_of(replace(SET, exclude=("/var/log/*",), include=("/var/log/keep",)), ["etc/own[1]"])
    assert rules[0] == "- /etc/own\\[1]"
    assert {f"- {path}" for path in UNIQUE} <= set(rules)
    assert rules.index("- /etc/hostname") < rules.index("+ /var/log/keep") < rules.index("- /var/log/*")
    assert "- /proc/*" in rules
    below = rules_of(replace(SET, target="/etc/"))
    assert {"- /hostname", "- /ssh/ssh_host_*"} <= set(below)
    assert not any("random-seed" in rule or "proc" in rule for rule in below)
    home = rules_of(replace(SET, target="/home"))
    assert home == ("- lost+found/",)
    assert "- /etc/hostname" not in rules_of(replace(SET, default_unique=False))
    assert "- /etc/hostname" not in rules_of(SET, collect=True)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(SET, source="srv"),
        replace(SET, target="/srv/../etc"),
        replace(SET, source="/srv/%HOME%"),
        replace(SET, source="/srv/x\n[other]\npath=/"),
        replace(SET, source="/srv/x\\"),
        replace(SET, exclude=("a\n+ b",)),
        replace(SET, unique=("etc/x",)),
        replace(SET, marker="/etc/passwd"),
        replace(SET, marker="../x"),
    ],
)
def test_sets_that_are_none(wrong: SyncSet) -> None:
    assert problem(SET) == ""
    assert problem(wrong).startswith("lab: ")


def test_the_settings() -> None:
    settings = parse(
        '[[sync.set]]\nname = "lab"\nexclude = ["/var/log/*"]\n[[sync.set]]\nname = "home"\ntarget = "/home"'
    )
    assert settings.sync_sets["lab"].source == "/var/lib/bootd/sync/lab"
    assert settings.sync_sets["home"].target == "/home"
    for text in (
        '[[sync.set]]\nname = "a"\n[[sync.set]]\nname = "a"',
        '[[sync.set]]\nname = "a"\ntarget = "home"',
        '[[sync.set]]\nname = "a"\nmax_delete = 101',
        '[[sync.set]]\nname = "../a"',
        '[sync]\noverlay = "x"',
        '[[sync.set]]\nname = "a"\ndisk = "bad"',
    ):
        with pytest.raises(OperatorError) as caught:
            parse(text)
        assert caught.value.code is Exit.CONFIG
