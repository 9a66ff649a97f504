"""`--energy-report`: collects what the tests found and writes the report when all have run."""

import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_energy.errors import EnergyError
from pytest_energy.plugin.state import CELL, Run, session_of, test_id
from pytest_energy.report import github, publish
from pytest_energy.report.explanation import Explanation
from pytest_energy.report.rows import Row
from pytest_energy.safety import redact
from pytest_energy.safety.files import in_words

if TYPE_CHECKING:
    from pytest_energy.report.results import Results
    from pytest_energy.verdict.judgement import Judgement


def entry(
    item: pytest.Item, judgement: "Judgement", row: Row, explanation: Explanation
) -> dict[str, Any]:
    """A judged test for the report, as plain values that travel between processes."""
    from pytest_energy.report import collect, results, sides

    cell, reference = item.stash[CELL], judgement.reference
    launches = judgement.candidate.launches if judgement.candidate else ()
    gpu_name = reference.gpu_name if reference else ""
    if launches:
        gpu_name = launches[0].environment.gpu_name
    compared = [m.launch_id for m in launches]
    compared += [kept.launch_id for kept in (reference.launches if reference else ())]
    noise_store = session_of(item.config).noise_store
    floors = sides.floors_of(noise_store, cell.key, gpu_name, compared)
    made = collect.entry_of(judgement, cell.key, floors, explanation)
    top = Path(os.environ.get("GITHUB_WORKSPACE") or item.config.rootpath)
    place = {
        "test": test_id(item),
        "file": Path(os.path.relpath(item.path, top)).as_posix(),
        "line": (item.reportinfo()[1] or 0) + 1,
        "verdict": row.verdict,
        "green": row.green,
        "periods": row.periods,
    }
    return {**results.to_plain(made), **place}


class ReportPlugin:
    """A plugin, registered if a report was asked for.

    Args:
        run: whose tests are reported.
        folder: for the report.

    Raises:
        pytest.UsageError: the report could not be made or written.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        try:
            publish.refuse_if_impossible(folder)
        except EnergyError as error:
            raise pytest.UsageError(f"--energy-report: {error}") from None
        self._run, self._folder = run, folder
        self._lines: list[str] = []
        self._failure: str | None = None

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int
    ) -> Generator[None, None, None]:
        """Write the report, even if other outputs fail."""
        try:
            return (yield)
        finally:
            config = session.config
            ours = not hasattr(config, "workerinput") and not config.option.collectonly
            # If the ini file asks for it, only of runs that judged something.
            if ours and (self._run.of_metrics or config.getoption("energy_report")):
                self._publish(session, int(exitstatus))

    def _publish(self, session: pytest.Session, exit_status: int) -> None:
        """Write the report; if that fails the verdicts stand, and the run fails."""
        settings = self._run.settings
        recordings = [*settings.replay, *settings.reference_replay]
        if settings.record:
            recordings.append(settings.record)
        try:
            results = self._results(exit_status)
            self._tell_github(results)
            written = publish.publish(results, self._folder, recordings)
        except Exception as error:  # whatever it is, another plugin's output may still be written
            what, remedy = f"{type(error).__name__}: {error}", ""
            if isinstance(error, OSError):
                what = in_words(error)
                remedy = "Free some space, or give another folder: --energy-report DIR\n"
            self._failure = (
                f"the energy report was not written: {what}.\nThe verdicts stand. {remedy}"
                "Recordings can be reported without measuring again: "
                "pytest-energy report RECORDINGS -o DIR"
            )
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
            return
        shown = [os.path.relpath(path) for path in written if path.suffix != ".svg"]
        self._lines.insert(0, f"energy report: {', '.join(shown)}")

    def _tell_github(self, results: "Results") -> None:
        """Add to the job summary and annotate regressions; whether that works decides nothing."""
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary:
            complaint = github.add_to_summary(results, Path(summary))
            self._run.warnings += [complaint] if complaint else []
        if os.environ.get("GITHUB_ACTIONS") == "true":
            self._lines += github.annotations(results.entries)

    def _results(self, exit_status: int) -> "Results":
        from pytest_energy.report import collect, history, results

        settings = self._run.settings
        # The path of an interpreter that nobody named is private.
        own, name = redact.home(sys.executable), Path(sys.executable).name
        header = self._run.header.replace(own, name)
        run = collect.run("replay" if settings.replay else "live", header, exit_status)
        entries = tuple(results.from_plain(found["entry"]) for found in self._run.of_metrics)
        changes = history.history_of(settings.baselines, entries)
        return results.Results(results.SCHEMA_VERSION, (run,), entries, changes)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Generator[None, None, None]:
        """Say where the report is; on GitHub annotate the regressions."""
        try:
            return (yield)
        finally:
            self._show(terminalreporter)

    def _show(self, terminalreporter: Any) -> None:
        terminalreporter.ensure_newline()
        for line in self._lines:
            terminalreporter.write_line(line)
        if self._failure is not None:
            terminalreporter.write_line(self._failure, red=True)

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Without a terminal reporter a failure is reported on stderr."""
        if self._failure is not None and not config.pluginmanager.has_plugin("terminalreporter"):
            print(self._failure, file=sys.stderr)
