"""Which cells the collected tests gate: their markers, one test per cell, and the session."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_energy.errors import UsageError
from pytest_energy.plugin import attached, conflicts
from pytest_energy.plugin.arguments import ARGUMENTS
from pytest_energy.plugin.state import CELL, FIXTURES, IDLE, RUN, fixtures_of, test_id

if TYPE_CHECKING:
    from pytest_energy.plugin.marker import Marked
    from pytest_energy.told import Question

REFUSED = "energy_refused"  # why an xdist worker has refused the run, in what it sends at its end
_MEASURES: pytest.StashKey[bool] = pytest.StashKey()  # of what is marked: a test below measures
# What is wrong with markers, and the first test that it is wrong with.
_BAD_MARKERS: pytest.StashKey[dict[str, str]] = pytest.StashKey()

_TWO = "Delete one, or give them different workloads or engine_args."
_REPEATED = (
    "They are one test, parametrized or repeated (pytest-repeat), and a run measures a cell once.\n"
    "Repeat launches instead: --energy-launches N"
)


def _marked(node: Any) -> Marked:
    from pytest_energy.plugin.marker import Marked

    arguments: dict[str, Any] = {}
    positional: list[Any] = []
    for mark in reversed(list(node.iter_markers("energy"))):  # the closest comes last and wins
        positional += mark.args
        arguments.update(mark.kwargs)
    return Marked.from_arguments(positional, arguments)


def parametrize(metafunc: pytest.Metafunc) -> None:
    """One test per batch size of the marker; of an engine at idle one."""
    for node, _ in metafunc.definition.iter_markers_with_node("energy"):
        node.stash[_MEASURES] = True
    try:
        sizes = _marked(metafunc.definition).batch_sizes
    except UsageError as error:
        # Raised here it would be an error of the file's collection, which ends no worker of xdist.
        bad = metafunc.config.stash.setdefault(_BAD_MARKERS, {})
        bad.setdefault(str(error), metafunc.definition.nodeid)
        return
    if fixtures_of(metafunc) == [IDLE]:
        return
    ids = [f"bs{size}" for size in sizes]
    metafunc.parametrize("energy_batch_size", sizes, ids=ids, indirect=True)


@contextlib.contextmanager
def refusals(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Let a refusal end the run; a worker of xdist, which passes none on, runs no test instead.

    Raises:
        pytest.UsageError: what was refused, if this is no worker.
    """
    try:
        yield
    except pytest.UsageError as error:
        if not hasattr(config, "workerinput"):
            raise
        config.workeroutput[REFUSED] = str(error)  # type: ignore[attr-defined]
        items.clear()


def give_cells(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Give each gated test its cell; returns these tests.

    Raises:
        pytest.UsageError: a marker asks for something impossible or is on a test without our
            fixtures, or two tests gate one cell.
    """
    bad = items[0].config.stash.get(_BAD_MARKERS, {}) if items else {}
    if bad:
        raise pytest.UsageError("\n".join(f"{test}: {error}" for error, test in bad.items()))
    gated = [item for item in items if fixtures_of(item)]
    for item in items:
        if not fixtures_of(item):
            _refuse_marker(item)
    taken: dict[tuple[str, str], pytest.Item] = {}
    for item in gated:
        _give_cell(item, taken)
    return gated


def _refuse_marker(item: pytest.Item) -> None:
    """Refuse a marker that measures nothing: its test would be green whatever the engine does.

    A marked module or class may hold other tests beside those that measure. A marker without our
    arguments is another plugin's.
    """
    for node, mark in item.iter_markers_with_node("energy"):
        ours = mark.kwargs.keys() & ARGUMENTS.keys()
        if ours and (node is item or _measures_nothing(node)):
            raise pytest.UsageError(
                f"{item.nodeid}: it has the energy marker and none of the fixtures energy, "
                "throughput and idle_power of pytest-energy, so nothing would be measured.\n"
                f"Give it one: def {item.name.partition('[')[0]}(energy). Or remove the marker"
                + ("." if node is item else f" of {node.nodeid}.")
            )


def _measures_nothing(node: Any) -> bool:
    """Whether no test of a module or class has our fixtures, as far as it was collected.

    Of a module only functions are, and classes that are asked for, if the command line names tests.
    """
    if node.stash.get(_MEASURES, False) or not isinstance(node, pytest.Module | pytest.Class):
        return False
    names_tests = any("::" in given for given in node.config.args)
    return not names_tests or not any(isinstance(held, type) for held in vars(node.obj).values())


def _give_cell(item: pytest.Item, taken: dict[tuple[str, str], pytest.Item]) -> None:
    settings = item.config.stash[RUN].settings
    at_idle = IDLE in fixtures_of(item)
    if at_idle and len(fixtures_of(item)) > 1:
        raise pytest.UsageError(
            f"{item.nodeid}: idle_power gates an engine without requests, energy and throughput "
            "gate it under load.\nGive idle_power a test of its own."
        )
    if not at_idle and not hasattr(item, "callspec"):
        raise pytest.UsageError(
            f"{item.nodeid}: a method of unittest.TestCase cannot have one test per batch size.\n"
            "Write the test as a function, or as a method of an ordinary class."
        )
    try:
        marked = _marked(item)
        parameters = {} if at_idle else item.callspec.params  # type: ignore[attr-defined]
        batch_size = 0 if at_idle else parameters["energy_batch_size"]
        engine = settings.engine or marked.engine or settings.default_engine
        folders = item.path.parent, *_roots(item)
        cell = marked.cell(batch_size, *folders, engine=engine)
    except UsageError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from None
    except OSError as error:
        raise pytest.UsageError(
            f"{item.nodeid}: {error.filename!s:.200}: {error.strerror}.\n"
            "The marker's model and prompts must be names of what can be read here."
        ) from None
    item.stash[CELL] = cell
    for fixture in fixtures_of(item):
        other = taken.setdefault((fixture, cell.key.canonical), item)
        if other is not item:
            repeated = getattr(item, "function", item) is getattr(other, "function", other)
            raise pytest.UsageError(
                f"{item.nodeid} and {other.nodeid} gate the same cell ({cell.name}) with the same "
                f"fixture ({fixture}), and one of them would decide for both.\n"
                + (_REPEATED if repeated else _TWO)
            )


def _roots(item: pytest.Item) -> list[Path]:
    """Where models and prompts are looked up that are not beside the test."""
    from pytest_energy.plugin import project

    root, of_tests = item.config.rootpath, project.folder(item.config)
    return [root, of_tests] if item.path.is_relative_to(root) and root != of_tests else [of_tests]


def open_session(
    config: pytest.Config, gated: Sequence[pytest.Item], selected: Sequence[pytest.Item]
) -> None:
    """Open the session of the gated tests that are still selected.

    Args:
        config: of the run.
        gated: all gated tests.
        selected: the tests that will run.

    Raises:
        pytest.UsageError: a path or interpreter cannot be used, settings or store are another
            project's, a running server is asked for several models, or the status shall tell a
            verdict of other tests.
    """
    run, remaining = config.stash[RUN], set(selected)
    mine = [item for item in gated if item in remaining]
    whole_folders = not any("::" in given or given.endswith(".py") for given in config.args)
    run.selected_in_full = whole_folders and len(mine) == len(gated)
    if selected and not mine and config.getoption("energy_exit_status") == "verdict":
        raise pytest.UsageError(
            "no selected test uses the energy, throughput or idle_power fixture, so there would be "
            "no verdict.\nName the folder of your suite, or select some of its tests: -k bs8"
        )
    if not gated:
        return
    from pytest_energy.plugin import benchmark, project
    from pytest_energy.plugin.terminal import ProgressLine, header
    from pytest_energy.session import Session

    project.refuse(config, run.settings)
    conflicts.refuse_paths(config, run.settings)
    benchmark.undo_skips(mine)
    open_meter = config.hook.pytest_energy_open_meter
    try:
        run.session = Session(
            settings=run.settings,
            questions=[question(item, fixture) for item in mine for fixture in fixtures_of(item)],
            open_meter=lambda gpus, is_ours: open_meter(gpu_uuids=gpus, is_engine_process=is_ours),
            progress=ProgressLine(config),
        )
    except UsageError as error:
        raise pytest.UsageError(f"--energy-reference-python: {error}") from None
    run.settings = run.session.settings
    run.header = header(run.settings, config.invocation_params.dir, run.session.why_interleaved)
    attached.refuse_several_models(
        run.settings.launch.url, {item.stash[CELL].model.name for item in mine}
    )


def question(item: pytest.Item, fixture: str) -> Question:
    """What one fixture of a test asks."""
    from pytest_energy.measure.metric import Metric
    from pytest_energy.told import Question
    from pytest_energy.verdict.judgement import Limits

    marked, metric = _marked(item), Metric(FIXTURES[fixture])
    if metric is Metric.IDLE_POWER_W:
        limits = Limits(marked.idle_tolerance, marked.max_power_w)
        return Question(test_id(item), item.stash[CELL], metric, limits)
    of_energy = metric is Metric.JOULES_PER_TOKEN
    limits = Limits(
        marked.tolerance if of_energy else marked.throughput_tolerance,
        marked.max_power_w,
        marked.max_ttft_ms,
        marked.max_itl_ms,
    )
    return Question(test_id(item), item.stash[CELL], metric, limits)
