"""`--energy-report`: collects what the tests found, also from xdist's workers, and has the report written when all have run."""

import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_energy.report.explanation import Explanation
from pytest_energy.report.rows import Row
from pytest_energy.safety import redact
from pytest_energy.settings import Settings

if TYPE_CHECKING:
    from pytest_energy.cell.cell import Cell
    from pytest_energy.report.results import Results
    from pytest_energy.session import Session
    from pytest_energy.verdict.judgement import Judgement

_ENTRIES: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()


def add(
    item: pytest.Item,
    session: "Session",
    cell: "Cell",
    judgement: "Judgement",
    row: Row,
    said: Explanation,
) -> None:
    """Keep a judged test for the report, as plain values that travel between processes."""
    from pytest_energy.report import collect, results, sides

    launches = judgement.candidate.launches if judgement.candidate else ()
    reference = judgement.reference
    gpu_name = reference.gpu_name if reference else ""
    if launches:
        gpu_name = launches[0].environment.gpu_name
    launch_ids = [m.launch_id for m in launches]
    launch_ids += [kept.launch_id for kept in (reference.launches if reference else ())]
    floors = sides.floors_of(session.noise_store, cell.key, gpu_name, launch_ids)
    entry = collect.entry_of(judgement, cell.key, floors, said)
    top = Path(os.environ.get("GITHUB_WORKSPACE") or item.config.rootpath)
    place = {
        "test": item.nodeid,
        "file": Path(os.path.relpath(item.path, top)).as_posix(),
        "line": (item.reportinfo()[1] or 0) + 1,
        "verdict": row.verdict,
        "green": row.green,
        "periods": row.periods,
    }
    item.stash.setdefault(_ENTRIES, []).append({**results.to_plain(entry), **place})


class ReportPlugin:
    """Registered where a report was asked for.

    Args:
        settings: of the run; `settings.report` is the folder.
        header: the settings in force, in words.
    """

    def __init__(self, settings: Settings, header: str) -> None:
        # Where the interpreter lies that nobody named is nobody's business.
        self._settings, self._header = (
            settings,
            header.replace(redact.home(sys.executable), Path(sys.executable).name),
        )
        self._entries: list[dict[str, Any]] = []
        self._lines: list[str] = []
        self._failure: str | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Carry the entries with the test's report."""
        report = yield
        if report.when == "call":
            report.energy_entries = item.stash.get(_ENTRIES, [])  # type: ignore[attr-defined]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect them, in the process that writes the report."""
        self._entries.extend(getattr(report, "energy_entries", ()))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the report; where that fails the verdicts stand, and the run fails."""
        config = session.config
        if hasattr(config, "workerinput") or config.option.collectonly:
            return
        if not self._entries and not config.getoption("energy_report"):
            return  # of the ini file's making, and not about this run
        try:
            self._write(int(exitstatus))
        except OSError as error:
            what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            self._failure = (
                f"the energy report was not written: {what}.\nThe verdicts above stand. Make room or give another folder with "
                "--energy-report DIR; recordings can be reported without measuring again: pytest-energy report RECORDINGS -o DIR"
            )
            if exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _write(self, exit_status: int) -> None:
        from pytest_energy.report import publish

        assert self._settings.report is not None
        results = self._results(exit_status)
        recordings = (
            *self._settings.replay,
            *self._settings.reference_replay,
            *filter(None, [self._settings.record]),
        )
        written = publish.publish(results, self._settings.report, recordings)
        self._lines.append(
            f"energy report: {', '.join(os.path.relpath(path) for path in written if path.suffix != '.svg')}"
        )
        step_summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if step_summary:
            with Path(step_summary).open("a", encoding="utf-8") as file:
                file.write((self._settings.report / "report.md").read_text(encoding="utf-8") + "\n")
        if os.environ.get("GITHUB_ACTIONS") == "true":
            self._lines += [
                publish.annotation(entry)
                for entry in results.entries
                if entry.verdict == "regressed"
            ]

    def _results(self, exit_status: int) -> "Results":
        from pytest_energy.report import collect, history, results

        run = collect.run("replay" if self._settings.replay else "live", self._header, exit_status)
        entries = tuple(results.from_plain(entry) for entry in self._entries)
        return results.Results(
            results.SCHEMA_VERSION,
            (run,),
            entries,
            history.history_of(self._settings.baselines, entries),
        )

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where the report is; on GitHub annotate the regressions."""
        terminalreporter.ensure_newline()
        for line in self._lines:
            terminalreporter.write_line(line)
        if self._failure is not None:
            terminalreporter.write_line(self._failure, red=True)

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Without a terminal reporter a failure is told all the same."""
        if self._failure is not None and not config.pluginmanager.has_plugin("terminalreporter"):
            print(self._failure, file=sys.stderr)
