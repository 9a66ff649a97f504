"""The cache of reference launches, which runs of one machine share."""

import datetime
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from pytest_energy.cell.cell import Cell
from pytest_energy.engines.installed import Installed
from pytest_energy.recording.recording import Recording
from pytest_energy.report import gpu_chart
from pytest_energy.store.gpu_cache import MOST_LAUNCHES, GpuCache
from tests.simulated import recording

NOW = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)
ENGINE = Installed("3.12.3", {"vllm": "0.0.1"}, from_folder=False, vllm_variables={})


def kept(cell: Cell, number: int) -> Recording:
    return recording(
        cell,
        launch_id=f"20261128T{number:02}0000-123456",
        cycles=12.5,
        environment={
            "date": f"2026-11-28T{number:02}:00:00+00:00",
            "python": ENGINE.python,
            "packages": ENGINE.packages,
            "vllm_variables": {},
        },
    )


def test_runs_that_add_and_read_at_once_lose_no_launch_and_read_no_part_of_one(
    cell: Cell, tmp_path: Path
) -> None:
    """Locks are on open folders, so threads are as good as processes."""
    other = replace(cell, batch_size=2 * cell.batch_size)
    cache = GpuCache(tmp_path / "gpus", NOW)
    launches = [kept(of, number) for number in range(10) for of in (cell, other)]
    on = launches[0].environment

    def use(made: Recording) -> list[str]:
        GpuCache(cache.folder, NOW).add(made)
        return [found.measured.launch_id for found in cache.find(cell.key, on, ENGINE, {})]

    with ThreadPoolExecutor(4) as runs:
        found = list(runs.map(use, launches))
    assert all(ids == sorted(ids, reverse=True) for ids in found)
    lines = cache.launches(on.gpus).lines
    assert {(line.launch_id, line.cell) for line in lines} == {
        (made.launch_id, made.key.slug) for made in launches
    }
    for of in (cell, other):
        newest = [f"20261128T{number:02}0000-123456" for number in range(9, 9 - MOST_LAUNCHES, -1)]
        left = cache.find(of.key, on, ENGINE, {})
        assert [kept.measured.launch_id for kept in left] == newest


def test_a_clock_that_is_behind_for_a_while_costs_no_line_of_the_chart(
    cell: Cell, tmp_path: Path
) -> None:
    before, meanwhile = kept(cell, 1), kept(cell, 2)
    early = replace(meanwhile.environment, date="2020-01-01T00:00:00+00:00")
    GpuCache(tmp_path, NOW).add(before)
    behind = GpuCache(tmp_path, datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    behind.add(replace(meanwhile, environment=early))
    gpus = before.environment.gpus
    assert [of.launch_id for of in behind.launches(gpus).lines] == [meanwhile.launch_id]
    assert {of.launch_id for of in GpuCache(tmp_path, NOW).launches(gpus).lines} == {
        before.launch_id, meanwhile.launch_id
    }  # fmt: skip


def test_launches_count_only_while_the_chart_of_their_gpu_can_be_read(
    cell: Cell, tmp_path: Path
) -> None:
    """Else a GPU whose alarm is lost with a line would be taken to be in its band."""
    cache, first, second = GpuCache(tmp_path, NOW), kept(cell, 1), kept(cell, 2)
    on = first.environment

    def found() -> list[str]:
        return [of.measured.launch_id for of in cache.find(cell.key, on, ENGINE, {})]

    cache.add(first)
    (chart,) = tmp_path.glob("*/launches.jsonl")
    sound = chart.read_text()
    assert found() == [first.launch_id]
    chart.write_text(sound + "{damaged\n")
    assert found() == []
    assert gpu_chart.state(cache.launches(on.gpus)).startswith(
        "not known to be in its band: 1 damaged line in launches.jsonl"
    )
    cache.add(second)
    assert found() == [second.launch_id, first.launch_id]
    chart.unlink()
    assert found() == []
