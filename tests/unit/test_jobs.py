"""Commands on nodes as the daemon keeps them, in virtual time."""

import pytest

from bootd.errors import Exit, OperatorError
from bootd.session import jobs
from bootd.session.jobs import ANSWER, SILENCE, Job, Jobs, view_job
from bootd.wire.jobs import Output, Piece
from tests.unit.session_room import mac

NODES = ((mac(1), "lab1"), (mac(2), "lab2"))


def make(all_jobs: Jobs | None = None, id_: str = "j1", now: float = 0.0) -> tuple[Jobs, Job]:
    all_jobs = all_jobs or Jobs()
    return all_jobs, all_jobs.create(id_, "root", ("uptime",), seconds=60, nodes=NODES, now=now)


def said(node: int, number: int, *texts: str, job: str = "j1", **values: object) -> Output:
    return Output(mac(node), job, number, tuple(Piece("out", text) for text in texts), **values)  # type: ignore[arg-type]


def test_output_and_ends() -> None:
    all_jobs, job = make()
    all_jobs.output(said(1, 1, "a\n"), 1.0)
    all_jobs.output(said(1, 1, "a\n"), 1.1)  # its answer was lost
    all_jobs.output(said(1, 2, "b\n", ended=True), 1.2)
    view = view_job(job, 0, 100)
    assert [piece["text"] for piece in view["output"]] == ["a\n", "b\n"]
    assert [(node["name"], node["state"], node["code"]) for node in view["nodes"]] == [
        ("lab1", "ended", 0),
        ("lab2", "sent", None),
    ]
    assert (view["ended"], view["code"], view["last"]) == (False, None, 2)
    assert [piece["number"] for piece in view_job(job, 1, 100)["output"]] == [2]
    assert view_job(job, 0, 1)["output"][0]["text"] == "a\n"
    assert all_jobs.output(said(1, 3, "late"), 2.0) is None, "it has ended"
    assert all_jobs.output(said(3, 1, "stranger"), 2.0) is None
    assert all_jobs.output(said(1, 1, "x", job="j2"), 2.0) is None


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ((0, 0), Exit.OK),
        ((0, 1), Exit.PARTLY),
        ((1, 127), Exit.ERROR),
        ((0, None), Exit.PARTLY),
        ((None, None), Exit.REFUSED),
        ((1, None), Exit.ERROR),
    ],
)
def test_exit_codes(ends: tuple[int | None, int | None], code: Exit) -> None:
    all_jobs, job = make()
    for number, end in enumerate(ends, 1):
        if end is None:
            job.tasks[mac(number)].state = "refused"
        else:
            all_jobs.output(said(number, 1, ended=True, code=end), 1.0)
    assert job.is_over
    assert view_job(job, 0, 0)["code"] == code


def test_ended_by_the_time_limit_is_no_success() -> None:
    """A command that takes SIGTERM for a reason to end with 0."""
    all_jobs, job = make()
    for number in (1, 2):
        all_jobs.output(said(number, 1, ended=True, code=0, reason="time limit" if number == 1 else ""), 1.0)
    assert jobs.outcome(job) is Exit.PARTLY


def test_silence() -> None:
    all_jobs, job = make()
    all_jobs.output(said(1, 1), 5.0)
    assert all_jobs.tick(ANSWER) == []
    (lost,) = all_jobs.tick(ANSWER + 0.1)
    assert (lost[1].name, lost[1].reason) == ("lab2", "it did not answer")
    assert all_jobs.tick(5.0 + SILENCE) == []
    (lost,) = all_jobs.tick(5.1 + SILENCE)
    assert (lost[1].name, lost[1].reason) == ("lab1", "silent for 20 s")
    assert all_jobs.output(said(1, 2, "late"), 30.0) is None
    assert jobs.outcome(job) is Exit.ERROR


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "KEPT_TEXT", 10)
    all_jobs, job = make()
    for number in range(1, 6):
        all_jobs.output(said(1, number, "abc"), 1.0)
    view = view_job(job, 0, 100)
    assert (len(view["output"]), view["forgotten"], view["last"]) == (3, 2, 5)
    for number in range(2, jobs.MOST_RUNNING + 1):
        make(all_jobs, f"j{number}")
    with pytest.raises(OperatorError) as caught:
        make(all_jobs, "more")
    assert caught.value.code is Exit.BUSY
    all_jobs.tick(100.0)
    for number in range(100, 100 + jobs.KEPT_JOBS):
        make(all_jobs, f"j{number}", now=number * 1000.0)
        all_jobs.tick(number * 1000.0 + 500)
    with pytest.raises(OperatorError, match="no job"):
        all_jobs.find("j1")


@pytest.mark.parametrize(
    ("command", "seconds"),
    [
        ((), 60),
        (("",), 60),
        (("x" * 9000,), 60),
        (("x",) * 300, 60),
        (("a\0b",), 60),
        (("true",), 0),
        (("true",), 86401),
    ],
)
def test_what_is_no_command(command: tuple[str, ...], seconds: int) -> None:
    with pytest.raises(OperatorError):
        Jobs().create("j", "root", command, seconds=seconds, nodes=NODES, now=0.0)
