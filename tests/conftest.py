"""Rules for the whole suite: root-only tiers say why they are skipped; under CI no test may be skipped."""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

# Whoever started the tests in the background may have had SIGINT ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT_TIERS = ("netns", "vm", "nspawn")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below one of them carries its tier's mark, and needs root."""
    here = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(here).parts[0]
        if tier in ROOT_TIERS:
            item.add_marker(getattr(pytest.mark, tier))
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason=f"the {tier} tier makes network namespaces: run as root"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI=true a skipped test is a failed one: a green run has run everything."""
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {report.longrepr}"
    return report
