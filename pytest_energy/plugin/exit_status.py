"""An exit status for each verdict, for scripts that act on it (--energy-exit-status verdict)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

# In their order of precedence; pytest's own end at 5, its plugins' do not begin at 10.
STATUSES: Mapping[str, int] = {
    "regressed": 10,
    "invalid": 11,
    "not comparable": 12,
    "no baseline": 13,
    "inconclusive": 14,
}


class VerdictStatus:
    """A plugin: where nothing but verdicts failed tests, their status replaces pytest's 1."""

    def __init__(self) -> None:
        self._verdicts: set[str] = set()
        self._others_failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note why a test failed."""
        if report.failed:
            rows = getattr(report, "energy_rows", ())
            verdicts = {row["verdict"] for row in rows if not row["green"]}
            self._verdicts |= verdicts
            self._others_failed |= not verdicts

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Replace the status; an interrupted run keeps its own."""
        if session.exitstatus == pytest.ExitCode.TESTS_FAILED and not self._others_failed:
            failed = [status for verdict, status in STATUSES.items() if verdict in self._verdicts]
            session.exitstatus = min(failed, default=pytest.ExitCode.TESTS_FAILED)
