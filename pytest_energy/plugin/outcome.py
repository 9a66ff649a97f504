"""What a run comes to as a whole: an exit status for each verdict, and the outputs of a CI step."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
_NOTHING_JUDGED = pytest.ExitCode.NO_TESTS_COLLECTED


class Outcome:
    """A plugin: the verdict of a run is the first of STATUSES that failed one of its tests.

    If a status for verdicts was asked for, a run whose tests were skipped does not pass.

    Args:
        run: whose outcome it is.
        outputs: file that takes a step's outputs (GITHUB_OUTPUT); None outside of GitHub, and
            without --energy-report.
    """

    def __init__(self, run: Run, outputs: Path | None) -> None:
        self._run, self._outputs = run, outputs
        self._verdicts: set[str] = set()
        self._others_failed = False
        self._unjudged: dict[str, str] = {}  # tests, and why

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note why a test failed, or was not judged."""
        if hasattr(report, "energy_found") and not report.energy_found and not report.failed:
            self._unjudged.setdefault(report.nodeid, "")
            if report.skipped:
                self._unjudged[report.nodeid] = _why_skipped(report)
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
        if session.exitstatus == pytest.ExitCode.OK and self._says_nothing():
            session.exitstatus = _NOTHING_JUDGED
        verdict = next((name for name in STATUSES if name in self._verdicts), None)
        failed = session.exitstatus == pytest.ExitCode.TESTS_FAILED
        sets_status = self._run.settings.verdict_status
        if sets_status and failed and verdict is not None and not self._others_failed:
            session.exitstatus = STATUSES[verdict]
        if self._outputs is not None:
            passed = session.exitstatus == pytest.ExitCode.OK and self._run.of_metrics
            self._write(verdict or ("pass" if passed else "none"), int(session.exitstatus))
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int) -> None:
        """Say why a run in which nothing failed does not pass."""
        if exitstatus == pytest.ExitCode.OK and self._says_nothing():
            from pytest_energy.report.table import wrapped
            from pytest_energy.report.words import count

            why = "; ".join(sorted(set(filter(None, self._unjudged.values()))))  # whatever worker
            terminalreporter.ensure_newline()
            terminalreporter.write_line(
                wrapped(
                    f"no verdict: {count(len(self._unjudged), 'energy test')} selected, none "
                    f"judged{f' (skipped: {why})' if why else ''}. A gate that judges nothing "
                    f"does not pass: exit status {int(_NOTHING_JUDGED)}."
                ),
                red=True,
            )
            terminalreporter.write_line("Let them run, or select others by their names: -k NAME")

    def _says_nothing(self) -> bool:
        """Whether a verdict was asked for, energy tests had their turn, and none was judged."""
        settings = self._run.settings
        asked = settings.verdict_status and not settings.noise
        return asked and bool(self._unjudged) and not self._run.of_metrics

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


def _why_skipped(report: pytest.TestReport) -> str:
    """The reason that a mark, pytest.skip or an expected failure gives."""
    longrepr = report.longrepr
    text = str(longrepr[2]) if isinstance(longrepr, tuple) else str(getattr(report, "wasxfail", ""))
    return text.removeprefix("Skipped: ").partition("\n")[0]
