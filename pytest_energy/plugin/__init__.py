"""pytest hooks, options, marker and fixtures; everything else is done elsewhere and imported when first needed."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_energy.errors import EnergyError, UsageError
from pytest_energy.plugin import options
from pytest_energy.safety import redact

if TYPE_CHECKING:
    from pytest_energy.cell.cell import Cell
    from pytest_energy.measure.metric import Metric
    from pytest_energy.meters.zeus_meter import Meter
    from pytest_energy.plugin.marker import Marked
    from pytest_energy.session import Question, Session
    from pytest_energy.settings import Settings
    from pytest_energy.store.noise import Noise
    from pytest_energy.verdict.judgement import Judgement

FIXTURES = {"energy": "joules_per_token", "throughput": "tokens_per_s"}
_PARENTS_GPUS = "energy_parents_gpus"
_SESSION: pytest.StashKey[Session] = pytest.StashKey()
_SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()
_CELL: pytest.StashKey[Cell] = pytest.StashKey()
_ROWS: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()
_ITEM_ROWS: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()
_NOISE: pytest.StashKey[list[tuple[Cell, Metric, Noise]]] = pytest.StashKey()
_SELECTED_IN_FULL: pytest.StashKey[bool] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options and their ini equivalents."""
    options.add(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Hooks that other plugins and conftest files may implement."""
    from pytest_energy.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Check the options and declare the marker."""
    from pytest_energy.plugin.marker import ARGUMENTS

    config.addinivalue_line(
        "markers",
        f"energy({', '.join(ARGUMENTS)}): what the energy and throughput fixtures measure.",
    )
    config.stash[_ROWS] = []
    config.stash[_NOISE] = []
    config.pluginmanager.register(_RowCollector(config.stash[_ROWS]))
    config.stash[_SETTINGS] = settings = options.settings_of(config)
    if settings.report is not None:
        from pytest_energy.plugin.report_files import ReportPlugin
        from pytest_energy.report import publish

        try:
            publish.refuse_if_impossible(settings.report)
        except EnergyError as error:
            raise pytest.UsageError(f"--energy-report: {error}") from None
        config.pluginmanager.register(
            ReportPlugin(
                settings,
                options.header(settings, config.invocation_params.dir).removeprefix("energy: "),
            )
        )


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let other runs have the GPUs, also where this process goes on."""
    session = config.stash.get(_SESSION, None)
    if session is not None:
        session.close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker which GPUs its parent sees, so that it knows whether it was given some of its own."""
    node.workerinput[_PARENTS_GPUS] = os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.hookimpl(trylast=True)
def pytest_energy_open_meter(
    gpu_uuids: Sequence[str], is_engine_process: Callable[[int], bool]
) -> Meter:
    """The meter of real GPUs."""
    from pytest_energy.meters.zeus_meter import ZeusMeter

    return ZeusMeter(gpu_uuids, is_engine_process)


def pytest_report_header(config: pytest.Config) -> str:
    """The settings in force."""
    return options.header(config.stash[_SETTINGS], config.invocation_params.dir)


def _is_gated(fixture_names: Sequence[str]) -> bool:
    return any(name in fixture_names for name in FIXTURES)


def _marked(node: Any) -> Marked:
    from pytest_energy.plugin.marker import Marked

    arguments: dict[str, Any] = {}
    positional: list[Any] = []
    for mark in reversed(list(node.iter_markers("energy"))):  # the closest comes last and wins
        positional += mark.args
        arguments.update(mark.kwargs)
    return Marked.from_arguments(positional, arguments)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per batch size."""
    if _is_gated(metafunc.fixturenames):
        try:
            sizes = _marked(metafunc.definition).batch_sizes
        except UsageError as error:
            pytest.fail(f"{metafunc.definition.nodeid}: {error}", pytrace=False)
        metafunc.parametrize(
            "energy_batch_size", sizes, ids=[f"bs{size}" for size in sizes], indirect=True
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, object]:
    """Give every gated test its cell, refuse two for one cell, and keep pytest-benchmark from skipping them."""
    gated = [item for item in items if _is_gated(getattr(item, "fixturenames", ()))]
    taken: dict[tuple[str, str], pytest.Item] = {}
    for item in gated:
        _give_cell(item, taken)
    result = yield
    selected, all_gated = set(items), set(gated)
    config.stash[_SELECTED_IN_FULL] = all(item in selected for item in gated) and not any(
        "::" in argument or argument.endswith(".py") for argument in config.args
    )
    if gated:
        from pytest_energy.plugin import benchmark
        from pytest_energy.session import Session

        benchmark.undo_skips([item for item in gated if item in selected])
        open_meter = config.hook.pytest_energy_open_meter
        energy_session = Session(
            settings=config.stash[_SETTINGS],
            questions=[
                _question(item, fixture)
                for item in items
                if item in all_gated
                for fixture in FIXTURES
                if fixture in getattr(item, "fixturenames", ())
            ],
            open_meter=lambda uuids, is_ours: open_meter(
                gpu_uuids=uuids, is_engine_process=is_ours
            ),
            progress=_ProgressLine(config),
        )
        config.stash[_SESSION] = energy_session
        _refuse_several_models(
            config.stash[_SETTINGS].launch.url,
            {item.stash[_CELL].model.name for item in items if item in all_gated},
        )
    return result


def _refuse_several_models(url: str | None, models: set[str]) -> None:
    """A running server serves one model, which would be measured under every name."""
    if url is not None and len(models) > 1:
        raise pytest.UsageError(
            f"the server at {url} serves one model, and the selected tests name {len(models)}: {', '.join(sorted(models))}.\n"
            "Select those of the model that it serves: -k NAME"
        )


def _give_cell(item: pytest.Item, taken: dict[tuple[str, str], pytest.Item]) -> None:
    try:
        marked = _marked(item)
        batch_size = item.callspec.params["energy_batch_size"]  # type: ignore[attr-defined]
        settings = item.config.stash[_SETTINGS]
        engine = settings.engine or marked.engine or settings.default_engine
        item.stash[_CELL] = cell = marked.cell(
            batch_size, item.path.parent, item.config.rootpath, engine=engine
        )
    except UsageError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from None
    for fixture in FIXTURES:
        if fixture in getattr(item, "fixturenames", ()):
            other = taken.setdefault((fixture, cell.key.canonical), item)
            if other is not item:
                raise pytest.UsageError(
                    f"{item.nodeid} and {other.nodeid} gate the same cell ({cell.name}) with the same fixture ({fixture}).\n"
                    "One of them would decide for both: delete one, or let their workload or engine_args differ."
                )


def _question(item: pytest.Item, fixture: str) -> Question:
    from pytest_energy.measure.metric import Metric
    from pytest_energy.session import Question
    from pytest_energy.verdict.judgement import Limits

    marked, metric = _marked(item), Metric(FIXTURES[fixture])
    tolerance = (
        marked.tolerance if metric is Metric.JOULES_PER_TOKEN else marked.throughput_tolerance
    )
    limits = Limits(tolerance, marked.max_power_w, marked.max_ttft_ms, marked.max_itl_ms)
    return Question(item.stash[_CELL], metric, limits)


def _rerun(item: pytest.Item) -> str:
    """The command that measures this test again, with the options in force that say what is measured."""
    settings, here = item.config.stash[_SETTINGS], item.config.invocation_params.dir
    node = "::".join([os.path.relpath(item.path, here), *item.nodeid.split("::")[1:]])
    words = ["pytest", node]
    if settings.launch.python != sys.executable and settings.launch.url is None:
        words += ["--energy-python", settings.launch.python]
    if settings.launch.url is not None:
        words += [
            "--energy-url",
            settings.launch.url,
            *(word for gpu in settings.launch.gpu_uuids for word in ("--energy-gpu", gpu)),
        ]
    elif settings.engine is not None:
        words += ["--energy-engine", settings.engine]
    for name, value in settings.launch.engine_args_under_test.items():
        words += ["--energy-engine-arg", f"{name}={json.dumps(value)}"]
    if settings.reference is not None:
        words += ["--energy-reference-python", settings.reference.python]
        for name, value in settings.reference.engine_args_under_test.items():
            words += ["--energy-reference-engine-arg", f"{name}={json.dumps(value)}"]
        if settings.interleave != "auto":
            words += ["--energy-interleave", settings.interleave]
    if item.config.getoption("energy_baselines"):
        words += ["--energy-baselines", item.config.getoption("energy_baselines")]
    return shlex.join(map(redact.home, words))  # our options expand ~


class Gated:
    """What the `energy` and `throughput` fixtures give: one metric of one cell, measured when first asked for.

    A test that ends without having called `check` is checked all the same.
    """

    def __init__(self, request: pytest.FixtureRequest, fixture: str) -> None:
        self._item, self._fixture = request.node, fixture
        self._judgement: Judgement | None = None
        self._checked = False

    @property
    def judgement(self) -> Judgement:
        """All that was found out (pytest_energy.verdict.judgement.Judgement)."""
        if self._judgement is None:
            self._refuse_workers()
            try:
                self._judgement = self._session.judge(_question(self._item, self._fixture))
            except EnergyError as error:
                pytest.fail(str(error), pytrace=False)
        return self._judgement

    @property
    def _session(self) -> Session:
        session: Session = self._item.config.stash[_SESSION]
        return session

    def _refuse_workers(self) -> None:
        config, own = self._item.config, os.environ.get("CUDA_VISIBLE_DEVICES")
        worker = getattr(config, "workerinput", None)
        if (
            worker is None
            or config.stash[_SETTINGS].replay
            or (own is not None and own != worker.get(_PARENTS_GPUS))
        ):
            return
        pytest.fail(
            "live measurements do not work under pytest-xdist where workers share GPUs: they would measure each other.\n"
            "Run with -n 0, or give each worker GPUs of its own: let conftest.py set CUDA_VISIBLE_DEVICES in it.",
            pytrace=False,
        )

    @property
    def joules_per_token(self) -> float | None:
        """Energy per generated token, J; None where nothing valid was measured."""
        candidate = self.judgement.candidate
        return candidate.joules_per_token.value if candidate else None

    @property
    def power_w(self) -> float | None:
        """Mean power under load, W; None where nothing valid was measured."""
        candidate = self.judgement.candidate
        return candidate.power_w if candidate else None

    @property
    def tokens_per_s(self) -> float | None:
        """Generated tokens per second; None where nothing valid was measured."""
        candidate = self.judgement.candidate
        return candidate.tokens_per_s.value if candidate else None

    @property
    def verdict(self) -> str:
        """One of the seven verdicts, as the summary table shows it."""
        return self.judgement.verdict.value

    def check(self) -> None:
        """Fail the test unless its verdict is pass or improved; under --energy-update, store the baseline instead."""
        if self._checked:
            return
        if self._session.settings.noise:
            return self._add_noise()
        from pytest_energy.plugin import benchmark, report_files
        from pytest_energy.report import explanation, rows

        judgement, item = self.judgement, self._item
        self._checked = True
        session, cell, update = self._session, item.stash[_CELL], None
        refusal = None
        if session.settings.update:
            try:
                update = session.update(cell)
            except (EnergyError, OSError) as error:
                refusal = f"the baseline of {cell.name} was not updated: {error}"
        row = rows.row(cell, judgement, update, session.settings.inconclusive_fails)
        said = explanation.explain(
            cell.name, judgement, _rerun(item), bool(session.settings.replay)
        )
        explained = "" if judgement.verdict.green else explanation.failure(judgement, said)
        if update is None and row.green and not judgement.verdict.green:
            # Told in the summary: as a Python warning it would fail where warnings are errors.
            row = replace(row, warning=explained)
        item.user_properties.extend(row.properties().items())
        item.stash.setdefault(_ITEM_ROWS, []).append(row.as_dict())
        benchmark.add(item, session.evidence(cell), row)
        if session.settings.report is not None:
            report_files.add(item, session, cell, judgement, row, said)
        if refusal is not None:
            pytest.fail(refusal, pytrace=False)
        if not row.green:
            pytest.fail(explained, pytrace=False)

    def _add_noise(self) -> None:
        """Add the cell's launches to the runner's noise; nothing is judged."""
        from pytest_energy.measure.metric import Metric

        self._checked = True
        self._refuse_workers()
        session, cell, metric = (
            self._session,
            self._item.stash[_CELL],
            Metric(FIXTURES[self._fixture]),
        )
        try:
            session.add_noise(cell)
            self._item.config.stash[_NOISE].append((cell, metric, session.noise(cell, metric)))
        except (EnergyError, OSError) as error:
            pytest.fail(f"the noise of {cell.name} was not stored: {error}", pytrace=False)


@pytest.fixture
def energy(request: pytest.FixtureRequest, energy_batch_size: int) -> Gated:
    """Gates J/token: the cell's energy per generated token against its baseline."""
    return Gated(request, "energy")


@pytest.fixture
def throughput(request: pytest.FixtureRequest, energy_batch_size: int) -> Gated:
    """Gates tokens/s; shares its measurement with `energy`."""
    return Gated(request, "throughput")


@pytest.fixture
def energy_batch_size(request: pytest.FixtureRequest) -> int:
    """The batch size of this test, one of the marker's batch_sizes."""
    return int(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Check what the test's body has not checked, inside the test, so that the failure stands there."""
    result = yield
    failures = []
    for name in FIXTURES:
        gated = pyfuncitem.funcargs.get(name)
        if isinstance(gated, Gated):
            try:
                gated.check()
            except pytest.fail.Exception as failure:  # the other metric shall be told, too
                failures.append(str(failure))
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Carry the table's rows with the report, also between xdist's processes."""
    report = yield
    if report.when == "call":
        report.energy_rows = item.stash.get(_ITEM_ROWS, [])  # type: ignore[attr-defined]
    return report


class _RowCollector:
    """Collects rows from reports, in the process that shows the summary."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._rows.extend(getattr(report, "energy_rows", ()))


@pytest.hookimpl(trylast=True)  # last, where it is seen
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table, and baselines that nothing uses any more."""
    collected = config.stash[_ROWS]
    if collected:
        from pytest_energy.report import noise_table, rows
        from pytest_energy.report.rows import Row

        parsed = [Row(**row) for row in collected]
        terminalreporter.ensure_newline()
        terminalreporter.section("energy", sep="=")
        for line, row in rows.table(parsed):
            terminalreporter.write_line(line, **(rows.colour(row) if row else {"bold": True}))
        for line in (
            *rows.latency_lines(parsed),
            *rows.period_lines(parsed),
            *noise_table.noise_lines(parsed),
        ):
            terminalreporter.write_line(line)
        for line, unequal in rows.gpu_lines(parsed):
            terminalreporter.write_line(line, yellow=unequal)
        for row in parsed:
            if row.warning:
                terminalreporter.write_line(f"warning: {row.warning}", yellow=True)
    session = config.stash.get(_SESSION, None)
    if session is not None and config.stash[_NOISE]:
        from pytest_energy.report import noise_table

        terminalreporter.section("noise between launches", sep="=")
        measured = config.stash[_NOISE]
        for line in noise_table.noise_table(measured, session.comparisons):
            terminalreporter.write_line(line)
    if session is not None and config.stash.get(_SELECTED_IN_FULL, False):
        from pytest_energy.report import rows

        try:
            for line in rows.unused(session.unused_baselines()):
                terminalreporter.write_line(line, yellow=True)
        except EnergyError:
            pass  # the tests that met the damaged file have said so


class _ProgressLine:
    """Tells what a cell is doing: in place on a terminal, one line per phase elsewhere."""

    def __init__(self, config: pytest.Config) -> None:
        self._config, self._phase, self._started = config, "", time.monotonic()

    def __call__(self, text: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        phase = text.split(",", maxsplit=1)[0]
        elapsed = f"{time.monotonic() - self._started:4.0f} s"
        if capture is None:
            return self._show(reporter, text, phase, elapsed)
        with capture.global_and_fixture_disabled():
            self._show(reporter, text, phase, elapsed)

    def _show(self, reporter: Any, text: str, phase: str, elapsed: str) -> None:
        if reporter.isatty:
            reporter.rewrite(f"energy {elapsed}  {text}", erase=True)
        elif phase != self._phase:
            reporter.ensure_newline()
            reporter.write_line(f"energy {elapsed}  {phase}")
            reporter.flush()
        self._phase = phase
