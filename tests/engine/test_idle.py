"""An engine at idle, launched in a real process on a simulated driver."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pytest_energy.cell import cell as cells
from pytest_energy.cell.cell import Cell
from pytest_energy.engines.engine import Engine
from pytest_energy.errors import EngineError
from pytest_energy.health import neighbours
from pytest_energy.launch import idle, launch
from pytest_energy.measure import checks
from pytest_energy.measure.measurement import measure
from pytest_energy.meters import zeus_meter
from pytest_energy.recording.recording import Recording
from pytest_energy.settings import LaunchSettings
from tests.driver import UUIDS, SimulatedDriver
from tests.simulated import SimulatedMeter


@pytest.fixture(autouse=True)
def shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "IDLE_SETTLE_S", 0.2)
    monkeypatch.setattr(cells, "IDLE_S", 1.5)
    monkeypatch.setattr(idle, "_ALONE_SETTLE_S", 0.1)
    monkeypatch.setattr(idle, "_ALONE_S", 0.5)
    monkeypatch.setattr(checks, "AVERAGED_NS", 100_000_000)
    monkeypatch.setattr(neighbours, "_BUSY_FOR_S", 0.1)
    monkeypatch.setattr(neighbours, "_MEMORY_FREED_S", 0.1)


def record(cell: Cell, python: str, open_meter: Callable[..., Any], **arguments: Any) -> Recording:
    """One launch of the engine, left idle."""
    settings = LaunchSettings(python, arguments, 20, 20)
    at_idle = replace(cell, batch_size=0)
    ((_, recorded),) = launch.record_launch(
        [at_idle], settings, open_meter, lambda text: None, lambda recorded, cycles: False
    )
    return recorded


def test_the_counter_of_tokens_stands_still_while_energy_and_cpu_time_are_counted(
    cell: Cell, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "visible_uuids", lambda: ("GPU-0",))
    powers = iter([70.0, 98.0])  # before the engine, and with it
    recorded = record(cell, python, lambda uuids, is_ours: SimulatedMeter(next(powers)))
    assert recorded.tokens.tokens == (0, 0)
    first, last = recorded.tokens.time_ns
    assert last - first >= 1.5e9
    assert recorded.load_stopped_ns == last
    assert recorded.idle is not None
    assert recorded.idle.cpu_cores < 0.5
    measured = measure(recorded)
    assert measured.idle_power_w == pytest.approx(98.0, rel=0.02)


def test_the_gpus_without_the_engine_are_read_through_the_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = SimulatedDriver(monkeypatch)
    driver.gpus[UUIDS[0]].power_w = 70.0
    found = idle.power_without_engine_w(
        UUIDS[:1], lambda uuids: zeus_meter.ZeusMeter(uuids, lambda pid: False)
    )
    assert found == {UUIDS[0]: pytest.approx(70.0, rel=0.1)}
    driver.gpus.clear()
    assert (
        idle.power_without_engine_w(
            UUIDS[:1], lambda uuids: zeus_meter.ZeusMeter(uuids, lambda pid: False)
        )
        == {}
    )


def test_a_busy_loop_shows_as_a_core(
    cell: Cell, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = iter([1.0, 2.6])
    monkeypatch.setattr(Engine, "cpu_s", lambda self: next(used))
    recorded = record(cell, python, lambda uuids, is_ours: SimulatedMeter())
    assert recorded.idle is not None
    assert recorded.idle.cpu_cores == pytest.approx(1.6 / 1.5, rel=0.1)


def test_tokens_in_the_window_and_other_processes_are_faults(
    cell: Cell, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = iter([5, 17])
    monkeypatch.setattr(Engine, "generated", lambda self: next(generated))
    measured = measure(record(cell, python, lambda uuids, is_ours: SimulatedMeter()))
    assert [f for f in measured.faults if "not_idle" in f] == [
        "not_idle: the engine generated 12 tokens in 2 s without a request of us"
    ]


def test_an_engine_that_dies_while_it_waits_fails_the_launch(
    cell: Cell, python: str, sessions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = idle.AtIdle._wait

    def killed(self: Any, phase: str, seconds: float) -> None:
        os.kill(sessions[-1], 9)
        settle(self, phase, seconds)

    monkeypatch.setattr(idle.AtIdle, "_wait", killed)
    with pytest.raises(EngineError, match="during count"):
        record(cell, python, lambda uuids, is_ours: SimulatedMeter())
