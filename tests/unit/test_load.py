"""When a load's recording is looked at, on an engine and a clock that the test moves."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.workload import Workload
from pytest_energy.engines.engine import Engine, Steps
from pytest_energy.launch import load
from pytest_energy.launch.load import Load

STEPS_PER_CYCLE = 250
STEP_S = 0.01


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


class SteadyEngine:
    """Reports five steps at a time, each as long as the others."""

    def __init__(self, clock: Clock, batch_size: int) -> None:
        self._clock, self._batch_size = clock, batch_size

    def take_steps(self) -> Steps:
        times = [round((self._clock.now_s + STEP_S * n) * 1e9) for n in range(1, 6)]
        self._clock.now_s += 5 * STEP_S
        return Steps(tuple(times), (self._batch_size,) * 5, (0,) * 5)


@pytest.fixture
def loaded(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A load of cycles that take 2.5 s, and what is shown of it."""
    clock, shown = Clock(), list[str]()
    monkeypatch.setattr(load, "time", clock)
    engine = cast(Engine, SteadyEngine(clock, cell.batch_size))
    plan = cell.workload.plan(cell.batch_size, ())
    return SimpleNamespace(load=Load(engine, cell, plan, shown.append), clock=clock, shown=shown)


def looks(loaded: Any, looks_per_cycle: int, until_s: float) -> list[tuple[int, float]]:
    """Whole cycles and time, in cycles, of each look."""
    start, found = loaded.clock.now_s, list[tuple[int, float]]()
    cycle_s = STEPS_PER_CYCLE * STEP_S

    def is_enough(cycles: int) -> bool:
        found.append((cycles, round((loaded.clock.now_s - start) / cycle_s, 2)))
        return bool(loaded.clock.now_s - start >= until_s)

    loaded.load.drive(is_enough, looks_per_cycle)
    return found


def test_the_first_look_is_after_two_cycles_and_others_follow_twice_a_cycle(loaded: Any) -> None:
    found = looks(loaded, 2, until_s=8.0)
    assert found[0] == (2, 2.0)
    assert (2, 2.5) in found


def test_a_cycle_is_looked_at_as_soon_as_its_energy_must_have_been_counted(loaded: Any) -> None:
    """Half a cycle of the 70B is 10 s of two GPUs: the next look does not wait for it."""
    counted = [at for cycles, at in looks(loaded, 1, until_s=11.0) if cycles >= 3]
    # The meter has seen the counter's next update 0.65 s, 0.26 cycles, after a cycle's end.
    assert 3.28 in counted
    assert 4.28 in counted


def test_short_cycles_are_not_looked_at_more_often_than_the_meter_reads(loaded: Any) -> None:
    loaded.load.cell = replace(loaded.load.cell, workload=Workload(64, 1))
    loaded.load.plan = loaded.load.cell.workload.plan(loaded.load.cell.batch_size, ())
    assert len(looks(loaded, 2, until_s=6.0)) <= 6.0 / 0.5 + 1


def test_what_is_shown_names_phase_cycles_and_pace(loaded: Any) -> None:
    looks(loaded, 2, until_s=6.0)
    assert loaded.shown[1].startswith("tiny bs=8 64/250: warming up, 0.4 cycles, ")
    assert loaded.shown[-1].startswith("tiny bs=8 64/250: measuring, 2.")
    assert loaded.shown[-1].endswith(" cycles, 800 tokens/s")


def test_a_brief_load_ends_by_itself(loaded: Any) -> None:
    loaded.load.drive_briefly()
    assert 0 < sum(loaded.load.counter.tokens) <= 8 * 1.1 / STEP_S
