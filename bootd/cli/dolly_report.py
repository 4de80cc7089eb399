"""How a run of ``bootd dolly`` ended: for programs, and for people."""

from collections.abc import Callable, Sequence
from typing import Any

from bootd.dolly.config import Config
from bootd.dolly.lines import LIMITS, hosts_table
from bootd.drivers.dolly.head import FileReport as HeadFile
from bootd.drivers.dolly.session import FileReport as ClientFile
from bootd.errors import Exit

Tell = Callable[[str], None]


def head_report(config: Config, reports: Sequence[HeadFile]) -> dict[str, Any]:
    """JSON of the head's side. A host counts when its branch has confirmed every file."""
    whole = _whole(config, reports)
    code = Exit.OK if len(whole) == len(config.clients) else Exit.PARTLY if whole else Exit.ERROR
    return {
        "role": "head",
        "wire": "dolly 0.5x",
        "limits": LIMITS,
        "code": int(code),
        "files": [
            {
                "infile": report.infile,
                "outfile": report.outfile,
                "bytes": report.sent,
                "blake3": report.blake3,
                "seconds": round(report.seconds, 3),
                "reason": report.reason,
                "branches": [
                    {"hosts": list(verdict.hosts), "confirmed": verdict.is_confirmed, "reason": verdict.reason}
                    for verdict in report.verdicts
                ],
            }
            for report in reports
        ],
        "hosts": [{"name": name, "confirmed": name in whole} for name in config.clients],
    }


def tell_head(config: Config, reports: Sequence[HeadFile], tell: Tell) -> None:
    for report in reports:
        if report.blake3:
            tell(f"{report.infile}: {report.sent} bytes sent, BLAKE3 {report.blake3}")
        for verdict in report.verdicts:
            if not verdict.is_confirmed:
                tell(f"*** ERROR *** not confirmed: {', '.join(verdict.hosts)}: {verdict.reason}")
    whole = _whole(config, reports)
    if len(whole) == len(config.clients):
        tell("Clients done.")
        return
    if config.is_plus:
        for line in hosts_table(config, [name for name in config.clients if name not in whole]):
            tell(line)
    tell(
        f"{len(whole)} of {len(config.clients)} clients have confirmed. Dolly's wire has one answer for a branch: "
        "a host of one that failed may be whole all the same, its own output says it."
    )


def client_report(reports: Sequence[ClientFile]) -> dict[str, Any]:
    """JSON of a client's side."""
    is_whole = bool(reports) and all(report.is_whole for report in reports)
    is_lonely = any(report.lost for report in reports)
    code = Exit.ERROR if not is_whole else Exit.PARTLY if is_lonely else Exit.OK
    return {
        "role": "client",
        "wire": "dolly 0.5x",
        "limits": LIMITS,
        "code": int(code),
        "files": [
            {
                "outfile": report.outfile,
                "bytes": report.received,
                "total": report.total,
                "blake3": report.blake3,
                "seconds": round(report.seconds, 3),
                "whole": report.is_whole,
                "reason": report.reason,
                "lost": list(report.lost),
            }
            for report in reports
        ],
    }


def tell_client(reports: Sequence[ClientFile], tell: Tell) -> None:
    for report in reports:
        of = "" if report.total is None else f" of {report.total}"
        digest = f", BLAKE3 {report.blake3}" if report.blake3 else ""
        tell(
            f"{report.outfile}: {report.received}{of} bytes{digest}: {'whole' if report.is_whole else 'NOT WHOLE'}"
        )
        if report.reason:
            tell(f"*** ERROR *** {report.reason}")
        for text in report.lost:
            tell(f"*** ERROR *** passed on, but not confirmed: {text}")


def _whole(config: Config, reports: Sequence[HeadFile]) -> list[str]:
    """Hosts whose branch has confirmed all there was to send."""
    wanted = max(1, len(config.files))
    if len(reports) < wanted:
        return []
    found = [
        {host for verdict in report.verdicts if verdict.is_confirmed for host in verdict.hosts}
        for report in reports
    ]
    return [name for name in config.clients if all(name in hosts for hosts in found)]
