"""Commands on nodes as the daemon keeps them, in virtual time."""

import pytest

from bootd.errors import Exit, OperatorError
from bootd.session import commands
from bootd.session.commands import ANSWER, SILENCE, Command, Commands, view_command
from bootd.wire.commands import Output, Piece
from tests.unit.session_room import mac

NODES = ((mac(1), "lab1"), (mac(2), "lab2"))


def make(kept: Commands | None = None, id_: str = "j1", now: float = 0.0) -> tuple[Commands, Command]:
    kept = kept or Commands()
    return kept, kept.create(id_, "root", ("uptime",), seconds=60, nodes=NODES, now=now)


def said(node: int, number: int, *texts: str, command: str = "j1", **values: object) -> Output:
    return Output(mac(node), command, number, tuple(Piece("out", text) for text in texts), **values)  # type: ignore[arg-type]


def test_output_and_ends() -> None:
    kept, command = make()
    kept.output(said(1, 1, "a\n"), 1.0)
    kept.output(said(1, 1, "a\n"), 1.1)  # its answer was lost
    kept.output(said(1, 2, "b\n", ended=True), 1.2)
    view = view_command(command, 0, 100)
    assert [piece["text"] for piece in view["output"]] == ["a\n", "b\n"]
    assert [(node["name"], node["state"], node["code"]) for node in view["nodes"]] == [
        ("lab1", "ended", 0),
        ("lab2", "sent", None),
    ]
    assert (view["ended"], view["code"], view["last"]) == (False, None, 2)
    assert [piece["number"] for piece in view_command(command, 1, 100)["output"]] == [2]
    assert view_command(command, 0, 1)["output"][0]["text"] == "a\n"
    assert kept.output(said(1, 3, "late"), 2.0) is None, "it has ended"
    assert kept.output(said(3, 1, "stranger"), 2.0) is None
    assert kept.output(said(1, 1, "x", command="j2"), 2.0) is None


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
    kept, command = make()
    for number, end in enumerate(ends, 1):
        if end is None:
            command.tasks[mac(number)].state = "refused"
        else:
            kept.output(said(number, 1, ended=True, code=end), 1.0)
    assert command.is_over
    assert view_command(command, 0, 0)["code"] == code


def test_ended_by_the_time_limit_is_no_success() -> None:
    """A command that takes SIGTERM for a reason to end with 0."""
    kept, command = make()
    for number in (1, 2):
        kept.output(said(number, 1, ended=True, code=0, reason="time limit" if number == 1 else ""), 1.0)
    assert commands.outcome(command) is Exit.PARTLY


def test_silence() -> None:
    kept, command = make()
    kept.output(said(1, 1), 5.0)
    assert kept.tick(ANSWER) == []
    (lost,) = kept.tick(ANSWER + 0.1)
    assert (lost[1].name, lost[1].reason) == ("lab2", "it did not answer")
    assert kept.tick(5.0 + SILENCE) == []
    (lost,) = kept.tick(5.1 + SILENCE)
    assert (lost[1].name, lost[1].reason) == ("lab1", "silent for 20 s")
    assert kept.output(said(1, 2, "late"), 30.0) is None
    assert commands.outcome(command) is Exit.ERROR


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "KEPT_TEXT", 10)
    kept, command = make()
    for number in range(1, 6):
        kept.output(said(1, number, "abc"), 1.0)
    view = view_command(command, 0, 100)
    assert (len(view["output"]), view["forgotten"], view["last"]) == (3, 2, 5)
    for number in range(2, commands.MOST_RUNNING + 1):
        make(kept, f"j{number}")
    with pytest.raises(OperatorError) as caught:
        make(kept, "more")
    assert caught.value.code is Exit.BUSY
    kept.tick(100.0)
    for number in range(100, 100 + commands.KEPT):
        make(kept, f"j{number}", now=number * 1000.0)
        kept.tick(number * 1000.0 + 500)
    with pytest.raises(OperatorError, match="no command"):
        kept.find("j1")


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
        Commands().create("j", "root", command, seconds=seconds, nodes=NODES, now=0.0)
