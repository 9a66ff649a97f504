"""What a run comes to as a whole: an exit status for each verdict, and the outputs of a CI step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

# In their order of precedence; pytest's own end at 5.
STATUSES: Mapping[str, int] = {
    "regressed": 10,
    "invalid": 11,
    "not comparable": 12,
    "no baseline": 13,
    "inconclusive": 14,
}


class Outcome:
    """A plugin: the verdict of a run is the first of STATUSES that failed one of its tests.

    Args:
        sets_status: whether the verdict's status replaces pytest's 1 (--energy-exit-status).
        outputs: file that takes a step's outputs (GITHUB_OUTPUT); None outside of GitHub, and
            without --energy-report.
        report: folder of the report, which is one of the outputs.
    """

    def __init__(self, sets_status: bool, outputs: Path | None, report: Path | None) -> None:
        self._sets_status, self._outputs, self._report = sets_status, outputs, report
        self._verdicts: set[str] = set()
        self._others_failed = False
        self._changes: list[float] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what a test found, and why it failed."""
        rows: list[dict[str, Any]] = getattr(report, "energy_rows", [])
        self._changes += [
            row["change"]
            for row in rows
            if row["metric"] == "joules_per_token" and row["change"] is not None
        ]
        if report.failed:
            verdicts = {row["verdict"] for row in rows if not row["green"]}
            self._verdicts |= verdicts
            self._others_failed |= not verdicts

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Replace the status, unless the run was interrupted, and write the outputs."""
        verdict = next((name for name in STATUSES if name in self._verdicts), None)
        failed = session.exitstatus == pytest.ExitCode.TESTS_FAILED
        if self._sets_status and failed and verdict is not None and not self._others_failed:
            session.exitstatus = STATUSES[verdict]
        if self._outputs is not None:
            passed = session.exitstatus == pytest.ExitCode.OK
            self._write(verdict or ("pass" if passed else "none"), int(session.exitstatus))

    def _write(self, verdict: str, status: int) -> None:
        worst = f"{max(self._changes):+.1%}" if self._changes else ""
        values = {
            "verdict": verdict,
            "worst-change": worst,
            "report": self._report,
            "status": status,
        }
        assert self._outputs is not None
        with self._outputs.open("a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in values.items())
