"""What the terminal shows: the settings in force, the progress line and the summary."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_energy.errors import EnergyError
from pytest_energy.plugin.state import fixtures_of
from pytest_energy.safety import redact
from pytest_energy.settings import LaunchSettings, Settings

if TYPE_CHECKING:
    from pytest_energy.plugin.state import Run

_LOG_EVERY_S = 30.0
_LAUNCH = re.compile(r"(?:launch|pair) \d+")
_INTERLEAVED = {
    "auto": "periods, or by launches if the engines do not fit on the GPU together",
    "periods": "periods",
    "launches": "launches",
}


def header(settings: Settings, here: Path, why: str = "") -> str:
    """The settings in force, in one line; paths relative to `here`.

    Args:
        settings, here: as said.
        why: engines are interleaved although the user did not ask for it.
    """

    def short(path: Path) -> str:
        return os.path.relpath(path, here)

    stored = "baselines in"
    if settings.noise:
        stored = "noise ADDED to"
    elif settings.update:
        stored = "baselines UPDATED in"
    replayed = [
        ", ".join(map(short, paths))
        for paths in (settings.replay, settings.reference_replay)
        if paths
    ]
    source = (
        f"replay of {' against '.join(replayed)}" if replayed else f"live, {_live(settings, why)}"
    )
    kept = f", recordings kept in {short(settings.record)}" if settings.record else ""
    return f"{source}, {stored} {short(settings.baselines)}{kept}"


def _live(settings: Settings, why: str) -> str:
    if settings.launch.url is not None:
        return f"the server at {settings.launch.url}"
    exactly = settings.exactly or settings.launches == 1
    count = f"{'' if exactly else 'up to '}{settings.launches}"
    if settings.paired:
        assert settings.reference is not None
        # What the cells ask for is not known to xdist's controller.
        if settings.interleave == "auto":
            why = why or "unless the reference may stand in for baselines"
        because = f" ({why})" if why else ""
        return (
            f"{count} pairs of launches, interleaved by {_INTERLEAVED[settings.interleave]}"
            f"{because}: {_engine(settings.launch)} against {_engine(settings.reference)}"
        )
    noun = "launch" if settings.launches == 1 else "launches"
    if settings.update and not exactly:
        noun += " (as many as the noise asks for)"
    launched = f"{count} {noun} of {_engine(settings.launch)}"
    if not settings.reference_first:
        return launched
    by = _engine(settings.reference) if settings.reference else "their vLLM, installed"
    return f"{launched}, compared on a GPU without baselines with launches of {by}"


def _engine(launch: LaunchSettings) -> str:
    arguments = ", ".join(f"{k}={v}" for k, v in launch.engine_args_under_test.items())
    return redact.home(launch.python) + (f" with {arguments}" if arguments else "")


class ProgressLine:
    """Shows what a cell is doing: one line in place on a terminal, a line each 30 s elsewhere.

    Elsewhere what a launch does for the first time is shown at once.

    Args:
        config: of the run.
        clock: monotonic, in seconds.
    """

    def __init__(self, config: pytest.Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock, self._begun_s = config, clock, clock()
        self._shown_s, self._shown = -math.inf, set[tuple[str, ...]]()

    def __call__(self, text: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        if capture is None:
            return self._show(reporter, text)
        with capture.global_and_fixture_disabled():
            self._show(reporter, text)

    def _show(self, reporter: Any, text: str) -> None:
        now_s = self._clock()
        line = f"energy {now_s - self._begun_s:4.0f} s  {text}"
        if reporter.isatty:
            width = shutil.get_terminal_size().columns - 1
            reporter.rewrite(line[:width], erase=True)  # a longer one could not be rewritten
            return
        what = text.partition(",")[0]
        doing = what.rpartition(": ")[2], *_LAUNCH.findall(what)
        if doing not in self._shown or now_s >= self._shown_s + _LOG_EVERY_S:
            reporter.ensure_newline()
            reporter.write_line(line)
            reporter.flush()
            self._shown_s = now_s
            self._shown.add(doing)


class Summary:
    """A plugin: collects what the tests found and shows it as a table at the end."""

    def __init__(self, run: Run) -> None:
        self._run, self._shown = run, False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect, in the process that reports; a test's last report has all that it found."""
        if hasattr(report, "energy_found"):
            from pytest_energy.safety import plainly

            plainly.show(sys.__stdout__)  # for what a locale lacks, as its failure is shown, too
            key = report.nodeid, getattr(report, "worker_id", "")
            self._run.found[key] = report.energy_found

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest-benchmark writes its files
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Pass cycles on, and show the table even if another plugin's output failed."""
        config = session.config
        if not hasattr(config, "workerinput") and self._run.found:
            from pytest_energy.plugin import benchmark

            tests = self._run.found.values()
            benchmark.add(config, [[found["benchmark"] for found in of_test] for of_test in tests])
        try:
            return (yield)
        finally:
            reporter = config.pluginmanager.get_plugin("terminalreporter")
            if reporter is not None and not hasattr(config, "workerinput"):
                self._show(reporter)

    def pytest_report_collectionfinish(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> list[str]:
        """The settings in force; or say so if the options ask for what no selected test does."""
        if any(map(fixtures_of, items)):
            shown = config.get_verbosity() >= 0 and not config.getoption("no_header")
            return [f"energy: {self._run.header}"] if shown else []
        settings, reporter = self._run.settings, config.pluginmanager.get_plugin("terminalreporter")
        asked = [
            option
            for option, given in (
                ("--energy-noise", settings.noise),
                ("--energy-update", settings.update),
                ("--energy-replay DIR", settings.replay),
            )
            if given
        ]
        failed = reporter is not None and "error" in reporter.stats
        if not asked or failed:
            return []
        return [
            "energy: no selected test uses the energy or throughput fixture, so nothing is "
            f"{'measured' if settings.noise else 'judged'}.",
            f"Name the folder of your suite, or another -k: pytest suites {' '.join(asked)}",
        ]

    @pytest.hookimpl(wrapper=True, trylast=True)  # last, so that it is seen
    def pytest_terminal_summary(self, terminalreporter: Any) -> Generator[None, None, None]:
        """The table, the noise that was measured, and baselines that no test uses."""
        try:
            return (yield)
        finally:
            self._show(terminalreporter)

    def _show(self, reporter: Any) -> None:
        """All of it, once."""
        if self._shown:
            return
        self._shown = True
        found = [of_metric["row"] for of_metric in self._run.of_metrics]
        if found:
            self._show_rows(reporter, found)
        if self._run.noise:
            self._show_noise(reporter)
        if self._run.selected_in_full:
            self._show_unused(reporter)
        for line in self._run.warnings:
            reporter.write_line(f"warning: {line}", yellow=True)

    def _show_rows(self, reporter: Any, found: Sequence[dict[str, Any]]) -> None:
        from pytest_energy.report import noise_table, rows, table
        from pytest_energy.report.rows import Row

        parsed = [Row(**row) for row in found]
        reporter.ensure_newline()
        reporter.section("energy", sep="=")
        for line, markup in table.table(parsed):
            reporter.write_line(line, **markup)
        for lines in (
            rows.ran_lines,
            rows.latency_lines,
            rows.prefix_cache_lines,
            rows.expert_lines,
            rows.idle_lines,
            rows.period_lines,
            noise_table.noise_lines,
            rows.remark_lines,
        ):
            for line in lines(parsed):
                reporter.write_line(table.wrapped(line))
        for line, unequal in rows.gpu_lines(parsed):
            reporter.write_line(table.wrapped(line), yellow=unequal)
        if any(row.verdict in ("created", "changed") for row in parsed):
            store = os.path.relpath(self._run.settings.baselines)
            reporter.write_line(f"baselines written below {store}: review and commit them")
        for row in parsed:
            if row.warning:
                reporter.write_line(f"warning: {row.warning}", yellow=True)

    def _show_noise(self, reporter: Any) -> None:
        from pytest_energy.report import host, noise_table

        assert self._run.session is not None
        reporter.section("noise between launches", sep="=")
        for line in noise_table.noise_table(self._run.noise, self._run.session.comparisons):
            reporter.write_line(line)
        for cell in {cell.name: cell for cell, _, _ in self._run.noise}.values():
            reasons, ways = host.host_bound(self._run.session.evidence(cell).measurements)
            if reasons:
                todo = [] if self._run.settings.replay else ways  # another load is not recorded
                reporter.write_line(f"{cell.name}: {'; '.join(reasons + todo)}")

    def _show_unused(self, reporter: Any) -> None:
        if self._run.session is None:
            return
        from pytest_energy.report import rows

        try:
            unused = self._run.session.unused_baselines()
        except EnergyError:
            return  # the tests that met the damaged file have reported it
        for line in rows.unused(unused):
            reporter.write_line(line, yellow=True)
