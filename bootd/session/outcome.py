"""The end of a session in words: a verdict with a reason for every node, and the exit code for scripts."""

from collections.abc import Callable, Collection, Mapping, Sequence

from bootd.errors import Exit
from bootd.session import bindings
from bootd.session.effects import Outcome, Verdict
from bootd.session.member import Member
from bootd.session.states import SessionState, Standing


def judge(
    session: str,
    *,
    state: SessionState,
    reason: str,
    members: Mapping[str, Member],
    wanted: Collection[str],
    name: Callable[[str], str],
) -> Outcome:
    """How the session stands for every node that joined it or was named for it, in the order of their names."""
    verdicts = [_verdict(member, name) for member in members.values() if member.counts]
    absent = Standing.ABSENT.value
    verdicts += [Verdict(mac, name(mac), False, absent, "it never joined") for mac in wanted if mac not in members]
    verdicts.sort(key=lambda verdict: (verdict.name, verdict.node))
    code = exit_code(state, verdicts)
    return Outcome(session, state.value, reason, code, tuple(verdicts))


def exit_code(state: SessionState, verdicts: Sequence[Verdict]) -> Exit:
    """OK when every node is cloned, PARTLY when some are, REFUSED when all were refused, else ERROR."""
    cloned = sum(verdict.ok for verdict in verdicts)
    refused = sum(verdict.standing == Standing.REFUSED.value for verdict in verdicts)
    if state is SessionState.DONE and cloned == len(verdicts):
        return Exit.OK
    if cloned:
        return Exit.PARTLY
    return Exit.REFUSED if verdicts and refused == len(verdicts) else Exit.ERROR


def _verdict(member: Member, name: Callable[[str], str]) -> Verdict:
    ok = member.standing is Standing.DONE
    reason = member.reason or f"still {member.standing.value}"
    binding = bindings.of(member.disk, member.further, begun=member.is_written) if member.disk is not None else None
    return Verdict(member.node.mac, name(member.node.mac), ok, member.standing.value, reason, binding)
