"""`--energy-report`: collects what the tests found and writes the report when all have run."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_energy.errors import EnergyError
from pytest_energy.plugin.state import CELL, ENTRIES, session_of
from pytest_energy.report import publish
from pytest_energy.report.explanation import Explanation
from pytest_energy.report.rows import Row
from pytest_energy.safety import redact
from pytest_energy.settings import Settings

if TYPE_CHECKING:
    from pytest_energy.report.results import Results
    from pytest_energy.verdict.judgement import Judgement


def add(item: pytest.Item, judgement: "Judgement", row: Row, explanation: Explanation) -> None:
    """Keep a judged test for the report, as plain values that travel between processes."""
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
    entry = collect.entry_of(judgement, cell.key, floors, explanation)
    top = Path(os.environ.get("GITHUB_WORKSPACE") or item.config.rootpath)
    place = {
        "test": item.nodeid,
        "file": Path(os.path.relpath(item.path, top)).as_posix(),
        "line": (item.reportinfo()[1] or 0) + 1,
        "verdict": row.verdict,
        "green": row.green,
        "periods": row.periods,
    }
    item.stash.setdefault(ENTRIES, []).append({**results.to_plain(entry), **place})


class ReportPlugin:
    """A plugin, registered if a report was asked for.

    Args:
        settings: of the run.
        folder: for the report.
        header: the settings in force, in words.

    Raises:
        pytest.UsageError: the report could not be made or written.
    """

    def __init__(self, settings: Settings, folder: Path, header: str) -> None:
        try:
            publish.refuse_if_impossible(folder)
        except EnergyError as error:
            raise pytest.UsageError(f"--energy-report: {error}") from None
        self._settings, self._folder = settings, folder
        # The path of an interpreter that nobody named is private.
        own, name = redact.home(sys.executable), Path(sys.executable).name
        self._header = header.replace(own, name)
        self._entries: list[dict[str, Any]] = []
        self._lines: list[str] = []
        self._failure: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect entries, in the process that writes the report."""
        self._entries.extend(getattr(report, "energy_entries", ()))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the report; if that fails the verdicts stand, and the run fails."""
        config = session.config
        if hasattr(config, "workerinput") or config.option.collectonly:
            return
        if not self._entries and not config.getoption("energy_report"):
            return  # the ini file asked for it, but this run judged nothing
        try:
            self._lines += self._write(int(exitstatus))
        except OSError as error:
            what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            self._failure = (
                f"the energy report was not written: {what}.\nThe verdicts above stand. Free some "
                "space, or give another folder: --energy-report DIR\nRecordings can be reported "
                "without measuring again: pytest-energy report RECORDINGS -o DIR"
            )
            if exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _write(self, exit_status: int) -> Iterator[str]:
        """Write the report and GitHub's job summary; the lines to show for them."""
        results = self._results(exit_status)
        settings = self._settings
        recordings = [*settings.replay, *settings.reference_replay]
        if settings.record:
            recordings.append(settings.record)
        written = publish.publish(results, self._folder, recordings)
        shown = [os.path.relpath(path) for path in written if path.suffix != ".svg"]
        yield f"energy report: {', '.join(shown)}"
        step_summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if step_summary:
            with Path(step_summary).open("a", encoding="utf-8") as file:
                file.write((self._folder / "report.md").read_text(encoding="utf-8") + "\n")
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for entry in results.entries:
                if entry.verdict == "regressed":
                    yield publish.annotation(entry)

    def _results(self, exit_status: int) -> "Results":
        from pytest_energy.report import collect, history, results

        run = collect.run("replay" if self._settings.replay else "live", self._header, exit_status)
        entries = tuple(results.from_plain(entry) for entry in self._entries)
        changes = history.history_of(self._settings.baselines, entries)
        return results.Results(results.SCHEMA_VERSION, (run,), entries, changes)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where the report is; on GitHub annotate the regressions."""
        terminalreporter.ensure_newline()
        for line in self._lines:
            terminalreporter.write_line(line)
        if self._failure is not None:
            terminalreporter.write_line(self._failure, red=True)

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Without a terminal reporter a failure is reported on stderr."""
        if self._failure is not None and not config.pluginmanager.has_plugin("terminalreporter"):
            print(self._failure, file=sys.stderr)
