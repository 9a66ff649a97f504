"""What a run comes to as a whole: an exit status for each verdict, and the outputs of a CI step."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_energy.safety.files import in_words

if TYPE_CHECKING:
    from pytest_energy.plugin.state import Run

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
        run: whose outcome it is.
        outputs: file that takes a step's outputs (GITHUB_OUTPUT); None outside of GitHub, and
            without --energy-report.
    """

    def __init__(self, run: Run, outputs: Path | None) -> None:
        self._run, self._outputs = run, outputs
        self._verdicts: set[str] = set()
        self._others_failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note why a test failed."""
        if report.failed and self._run.settings.update:
            self._others_failed = True  # what fails an update is no verdict
        elif report.failed:
            found = getattr(report, "energy_found", ()) if report.when == "call" else ()
            rows = [of_metric["row"] for of_metric in found]
            verdicts = {row["verdict"] for row in rows if not row["green"]}
            self._verdicts |= verdicts
            self._others_failed |= not verdicts

    @pytest.hookimpl(wrapper=True)  # around the report's, which fails the run if it is not written
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Replace the status, unless the run was interrupted, and write the outputs."""
        result = yield
        verdict = next((name for name in STATUSES if name in self._verdicts), None)
        failed = session.exitstatus == pytest.ExitCode.TESTS_FAILED
        sets_status = self._run.settings.verdict_status
        if sets_status and failed and verdict is not None and not self._others_failed:
            session.exitstatus = STATUSES[verdict]
        if self._outputs is not None:
            passed = session.exitstatus == pytest.ExitCode.OK and self._run.of_metrics
            self._write(verdict or ("pass" if passed else "none"), int(session.exitstatus))
        return result

    def _write(self, verdict: str, status: int) -> None:
        rows = [of_metric["row"] for of_metric in self._run.of_metrics]
        changes = [
            row["change"]
            for row in rows
            if row["metric"] == "joules_per_token" and row["change"] is not None
        ]
        values = {
            "verdict": verdict,
            "worst-change": f"{max(changes):+.1%}" if changes else "",
            "report": self._run.settings.report,
            "status": status,
        }
        assert self._outputs is not None
        try:
            with self._outputs.open("a", encoding="utf-8") as file:
                file.writelines(f"{name}={value}\n" for name, value in values.items())
        except OSError as error:
            self._run.warnings.append(
                f"the step's outputs were not written (GITHUB_OUTPUT): {in_words(error)}"
            )
