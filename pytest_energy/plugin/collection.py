"""Which cells the collected tests gate: their markers, one test per cell, and the session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_energy.errors import UsageError
from pytest_energy.plugin import attached, conflicts
from pytest_energy.plugin.state import CELL, FIXTURES, RUN, fixtures_of

if TYPE_CHECKING:
    from pytest_energy.plugin.marker import Marked
    from pytest_energy.session import Question


def _marked(node: Any) -> Marked:
    from pytest_energy.plugin.marker import Marked

    arguments: dict[str, Any] = {}
    positional: list[Any] = []
    for mark in reversed(list(node.iter_markers("energy"))):  # the closest comes last and wins
        positional += mark.args
        arguments.update(mark.kwargs)
    return Marked.from_arguments(positional, arguments)


def parametrize(metafunc: pytest.Metafunc) -> None:
    """One test per batch size of the marker."""
    try:
        sizes = _marked(metafunc.definition).batch_sizes
    except UsageError as error:
        message = f"{metafunc.definition.nodeid}: {error}"
        raise pytest.fail.Exception(message, pytrace=False) from None  # else it is shown twice
    ids = [f"bs{size}" for size in sizes]
    metafunc.parametrize("energy_batch_size", sizes, ids=ids, indirect=True)


def give_cells(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Give each gated test its cell; returns these tests.

    Raises:
        pytest.UsageError: a marker asks for something impossible, or two tests gate one cell.
    """
    gated = [item for item in items if fixtures_of(item)]
    taken: dict[tuple[str, str], pytest.Item] = {}
    for item in gated:
        _give_cell(item, taken)
    return gated


def _give_cell(item: pytest.Item, taken: dict[tuple[str, str], pytest.Item]) -> None:
    settings = item.config.stash[RUN].settings
    try:
        marked = _marked(item)
        batch_size = item.callspec.params["energy_batch_size"]  # type: ignore[attr-defined]
        engine = settings.engine or marked.engine or settings.default_engine
        cell = marked.cell(batch_size, item.path.parent, item.config.rootpath, engine=engine)
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
            raise pytest.UsageError(
                f"{item.nodeid} and {other.nodeid} gate the same cell ({cell.name}) with the same "
                f"fixture ({fixture}), and one of them would decide for both.\n"
                "Delete one, or give them different workloads or engine_args."
            )


def open_session(
    config: pytest.Config, gated: Sequence[pytest.Item], selected: Sequence[pytest.Item]
) -> None:
    """Open the session of the gated tests that are still selected.

    Args:
        config: of the run.
        gated: all gated tests.
        selected: the tests that will run.

    Raises:
        pytest.UsageError: a folder cannot be used, or a running server is asked for several models.
    """
    run, remaining = config.stash[RUN], set(selected)
    mine = [item for item in gated if item in remaining]
    whole_folders = not any("::" in given or given.endswith(".py") for given in config.args)
    run.selected_in_full = whole_folders and len(mine) == len(gated)
    if not gated:
        return
    conflicts.refuse_folders(run.settings)
    from pytest_energy.plugin import benchmark
    from pytest_energy.plugin.terminal import ProgressLine
    from pytest_energy.session import Session

    benchmark.undo_skips(mine)
    open_meter = config.hook.pytest_energy_open_meter
    run.session = Session(
        settings=run.settings,
        questions=[question(item, fixture) for item in mine for fixture in fixtures_of(item)],
        open_meter=lambda uuids, is_ours: open_meter(gpu_uuids=uuids, is_engine_process=is_ours),
        progress=ProgressLine(config),
    )
    attached.refuse_several_models(
        run.settings.launch.url, {item.stash[CELL].model.name for item in mine}
    )


def question(item: pytest.Item, fixture: str) -> Question:
    """What one fixture of a test asks."""
    from pytest_energy.measure.metric import Metric
    from pytest_energy.session import Question
    from pytest_energy.verdict.judgement import Limits

    marked, metric = _marked(item), Metric(FIXTURES[fixture])
    of_energy = metric is Metric.JOULES_PER_TOKEN
    limits = Limits(
        marked.tolerance if of_energy else marked.throughput_tolerance,
        marked.max_power_w,
        marked.max_ttft_ms,
        marked.max_itl_ms,
    )
    return Question(item.stash[CELL], metric, limits)
