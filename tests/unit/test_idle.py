"""An engine at idle: its cell, what is measured of it, and what makes that invalid. Pure."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.errors import RecordingError
from pytest_energy.measure.measurement import measure
from pytest_energy.recording import recording_file, schema
from pytest_energy.recording.recording import GpuTrace, PrefixCache, Recording
from tests import simulated
from tests.simulated import idle_recording


@pytest.fixture
def idle(cell: Cell) -> Cell:
    return replace(cell, batch_size=0)


def changed(recorded: Recording, **series: Any) -> Recording:
    """With other samples of its GPU."""
    gpu = recorded.gpus[0]
    return replace(recorded, gpus=(replace(gpu, samples=replace(gpu.samples, **series)),))


def test_it_shares_the_launch_of_the_cells_under_load_and_not_their_key(
    cell: Cell, idle: Cell
) -> None:
    assert idle.launch_args == cell.launch_args
    assert idle.name == "tiny idle"
    assert idle.key != cell.key
    other_prompts = replace(idle, workload=replace(idle.workload, input_tokens=32))
    assert other_prompts.key.workload == idle.key.workload


def test_its_power_is_energy_over_time_and_no_figure_of_tokens_is_made(idle: Cell) -> None:
    measured = measure(idle_recording(idle, power_w=98.0))
    assert measured.valid, measured.faults
    assert measured.idle_power_w == pytest.approx(98.0)
    assert measured.cycles is not None
    assert measured.cycles.time_s == pytest.approx([3.0] * 10)
    assert measured.static_power_w is None
    assert measured.step_times is None


def unsteady(recorded: Recording) -> Recording:
    """A GPU that draws twice as much for the last five seconds."""
    gpu = recorded.gpus[0]
    quiet, busy = gpu.counter.energy_mj[:-60], gpu.counter.energy_mj[-60:]
    more = (mj + (mj - quiet[-1]) for mj in busy)
    louder: GpuTrace = replace(gpu, counter=replace(gpu.counter, energy_mj=(*quiet, *more)))
    return replace(recorded, gpus=(louder,))


@pytest.mark.parametrize(
    ("fault", "recorded"),
    [
        ("not_idle: the engine generated 7 tokens in 30 s", {"tokens": 7}),
        ("too_short: 29.0 s at idle, 30 s needed", {"seconds": 29.0}),
        ("foreign_process: pid 1", {"faults": ["foreign_process: pid 1"]}),
    ],
)
def test_what_makes_it_invalid(idle: Cell, fault: str, recorded: dict[str, Any]) -> None:
    measured = measure(idle_recording(idle, **recorded))
    assert not measured.valid
    assert measured.faults[0].startswith(fault)


def test_a_recording_of_it_that_counts_prompts_is_damaged(idle: Cell) -> None:
    content = schema.to_json(replace(idle_recording(idle), prefix_cache=PrefixCache(64, 48)))
    with pytest.raises(RecordingError, match="an engine at idle has no prompts"):
        schema.from_json(content)


@pytest.mark.parametrize("kept", [slice(160), slice(100, None)])
def test_a_counter_that_does_not_cover_the_window_makes_it_invalid(idle: Cell, kept: slice) -> None:
    sound = idle_recording(idle)
    gpu = sound.gpus[0]
    covered = replace(
        gpu.counter,
        unchanged_ns=gpu.counter.unchanged_ns[kept],
        changed_ns=gpu.counter.changed_ns[kept],
        energy_mj=gpu.counter.energy_mj[kept],
    )
    measured = measure(replace(sound, gpus=(replace(gpu, counter=covered),)))
    assert not measured.valid
    (fault,) = measured.faults
    assert re.match(r"too_short: the GPU's energy is known for \d+\.\d of 30\.0 s at idle", fault)


def test_changing_power_throttling_and_readings_that_contradict_make_it_invalid(
    idle: Cell,
) -> None:
    sound = idle_recording(idle)
    count = len(sound.gpus[0].samples.time_ns)
    for wrong, fault in (
        (unsteady(sound), "unsteady: power at idle was 100 to 2"),
        (changed(sound, throttle_reasons=(0x40,) * count), "throttled: "),
        (changed(sound, average_power_mw=(60_000,) * count), "counter_disagrees: "),
        (changed(sound, average_power_mw=()), "power_unsampled: "),
        (replace(sound, gpus=()), "no_counter: "),
    ):
        assert any(line.startswith(fault) for line in measure(wrong).faults), fault


def test_a_gpu_that_a_waiting_engine_keeps_busy_is_no_fault(idle: Cell) -> None:
    """It is what is gated."""
    recorded = idle_recording(idle)
    count = len(recorded.gpus[0].samples.time_ns)
    assert measure(changed(recorded, utilization_percent=(100,) * count)).valid
    assert measure(changed(recorded, utilization_percent=(0,) * count)).valid


def test_a_recording_of_it_is_read_back(idle: Cell, tmp_path: Path) -> None:
    recorded = idle_recording(idle)
    recording_file.write(recorded, tmp_path / "a.json.gz")
    assert recording_file.read(tmp_path / "a.json.gz") == recorded


def test_recordings_that_are_of_both_kinds_are_refused(cell: Cell, idle: Cell) -> None:
    loaded, at_idle = (schema.to_json(made) for made in (
        simulated.recording(cell), idle_recording(idle)
    ))  # fmt: skip
    for wrong in (
        {**loaded, "idle": at_idle["idle"]},
        {**at_idle, "idle": None},
        {**at_idle, "tokens": loaded["tokens"]},
        {**at_idle, "key": {**at_idle["key"], "workload": loaded["key"]["workload"]}},
        {**loaded, "key": {**loaded["key"], "batch_size": 0}},
        {**at_idle, "period": 1},
    ):
        with pytest.raises(RecordingError, match="damaged or not a recording"):
            schema.from_json(wrong)


def test_version_5_knew_no_idle_engines(cell: Cell) -> None:
    recorded = simulated.recording(cell)
    content = {**schema.to_json(recorded), "schema_version": 5}
    del content["idle"]
    assert schema.from_json(content) == recorded
