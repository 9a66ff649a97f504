"""Results and traces of recordings: the measurement's figures and the documented intervals."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pytest_energy.cell.cell import Cell
from pytest_energy.measure import measurement
from pytest_energy.measure.metric import Metric
from pytest_energy.recording import recording_file
from pytest_energy.recording.recording import CoResident, PrefixCache
from pytest_energy.report import collect, explanation, groups, results, sides, summary, trace
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.noise import NoiseStore
from pytest_energy.verdict import judge
from pytest_energy.verdict.rule import Terms
from tests import simulated
from tests.conftest import ROOT

RECORDINGS = ROOT / "recordings" / "h200-sxm-141gb"


def written(folder: Path, cell: Cell, powers_w: list[float], version: str = "1.0") -> Path:
    for i, power_w in enumerate(powers_w):
        made = simulated.recording(
            cell, f"{version}-{i}", power_w, 1000.0, environment={"vllm": version}
        )
        recording_file.write(made, folder / version / made.launch_id / "cell.json.gz")
    return folder / version


def test_power_of_three_launches_has_students_interval(cell: Cell, tmp_path: Path) -> None:
    powers_w = [500.0, 505.0, 512.0]
    side = collect.compared(
        collect.read([written(tmp_path, cell, powers_w)]), NoiseStore(tmp_path)
    )[0].candidate
    assert side is not None
    logs = np.log(powers_w)
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    assert (side.power_w.low, side.power_w.high) == pytest.approx(
        (math.exp(low), math.exp(high)), rel=1e-4
    )
    assert side.power_w.value == pytest.approx(np.mean(powers_w), rel=1e-6)


def test_power_of_one_launch_has_the_interval_that_it_cannot_exceed(
    cell: Cell, tmp_path: Path
) -> None:
    """1 % of J/token and 3 % of tokens/s are assumed."""
    side = collect.compared(collect.read([written(tmp_path, cell, [500.0])]), NoiseStore(tmp_path))[
        0
    ].candidate
    assert side is not None
    half = float(stats.t.ppf(0.975, 3)) * 0.04
    assert side.power_w.high / side.power_w.value == pytest.approx(math.exp(half), rel=1e-5)


def test_less_from_the_prefix_cache_is_the_work_that_a_token_costs_more(
    cell: Cell, tmp_path: Path
) -> None:
    for label, power_w, cached in (("old", 500.0, 48), ("new", 600.0, 0)):
        for launch_id in (f"{label}-{i}" for i in range(3)):
            version = {"vllm": label}
            made = simulated.recording(cell, launch_id, power_w, cycles=12.5, environment=version)
            counted = replace(made, prefix_cache=PrefixCache(64, cached))
            recording_file.write(counted, tmp_path / label / launch_id / "cell.json.gz")
    read = collect.read([tmp_path / "old", tmp_path / "new"])
    entry, _ = collect.compared(read, NoiseStore(tmp_path))
    assert entry.changed is not None
    cause, _ = entry.changed.in_words.split("; ")
    assert cause == "more work (the prefix cache served 0 % of prompt tokens, reference 75 %)"
    assert summary.reading(entry) == ""


def test_a_recording_given_twice_counts_once_and_order_names_the_reference(
    cell: Cell, tmp_path: Path
) -> None:
    old, new = (
        written(tmp_path, cell, [power_w] * 3, version)
        for power_w, version in ((500.0, "1.0"), (550.0, "2.0"))
    )
    entries = collect.compared(collect.read([new, old, new]), NoiseStore(tmp_path))
    assert [
        (entry.reference.vllm, entry.candidate.vllm)
        for entry in entries
        if entry.reference and entry.candidate
    ] == [("2.0", "1.0")] * 2
    assert all(
        len(side.launches) == 3
        for entry in entries
        for side in (entry.reference, entry.candidate)
        if side
    )
    assert entries[0].ratio is not None
    assert entries[0].ratio.value == pytest.approx(500 / 550, rel=1e-4)


def test_what_changed_and_the_split_are_the_gates(cell: Cell, tmp_path: Path) -> None:
    old, new = (
        written(tmp_path, cell, [power_w] * 3, version)
        for power_w, version in ((500.0, "1.0"), (550.0, "2.0"))
    )
    energy = collect.compared(collect.read([old, new]), NoiseStore(tmp_path))[0]
    assert energy.changed is not None
    assert energy.changed.differences == {"vllm": "1.0 → 2.0"}
    assert energy.split is not None
    assert energy.split.reading == "dynamic"


@pytest.mark.parametrize(
    "file",
    sorted((RECORDINGS / "vllm-0.25.1").rglob("*bs8-*.gz"))
    + sorted((RECORDINGS / "vllm-0.25.1-eager").rglob("*.gz")),
)
def test_a_trace_shows_the_cycles_that_were_measured(file: Path) -> None:
    recorded = recording_file.read(file)
    measured, drawn = measurement.measure(recorded), trace.trace(recorded)
    assert drawn is not None
    assert measured.cycles is not None
    assert drawn.cycle_power_w == pytest.approx(measured.cycles.power_w, rel=1e-6)
    assert [end - start for start, end in drawn.cycles_s] == pytest.approx(
        measured.cycles.time_s, rel=1e-6
    )
    # What the counter says between its updates is what it says over all of them.
    spans = np.diff([drawn.time_s[0], *drawn.time_s[1:]])
    under_load = [
        i
        for i in range(1, len(drawn.time_s))
        if drawn.cycles_s[0][0] < drawn.time_s[i] < drawn.cycles_s[-1][1]
    ]
    mean_w = sum(drawn.power_w[i] * spans[i - 1] for i in under_load) / sum(
        spans[i - 1] for i in under_load
    )
    assert mean_w == pytest.approx(measured.power_w, rel=0.03)


def test_a_faulty_recording_has_no_trace(cell: Cell) -> None:
    assert trace.trace(simulated.recording(cell)) is not None
    assert trace.trace(simulated.recording(cell, faults=["throttled: hot"])) is None


def test_traces_are_found_by_cell_and_launch_whatever_the_files_are_called(
    cell: Cell, tmp_path: Path
) -> None:
    folder = written(tmp_path, cell, [500.0, 600.0])
    key = cell.key.canonical
    (folder / "1.0-1").rename(folder / "renamed")
    found = trace.find(
        [folder, tmp_path / "nowhere"], [(key, "1.0-1"), (key, "1.0-0"), (key, "none")]
    )
    assert [t.launch_id for t in found] == ["1.0-1", "1.0-0"]
    assert found[0].cycle_power_w == pytest.approx([600.0] * len(found[0].cycle_power_w), rel=1e-3)


def test_what_says_nothing_is_left_out_and_costs_no_verdict(cell: Cell, tmp_path: Path) -> None:
    """A counter that stands still after the load, and a gate that would catch nothing."""
    old, new = (
        written(tmp_path, cell, [500.0, power_w, 500.0], version)
        for power_w, version in ((500.0, "1.0"), (5e4, "2.0"))
    )
    launches = [
        [measurement.measure(recording_file.read(file)) for file in recording_file.find(folder)]
        for folder in (old, new)
    ]
    still = [replace(m, static_power_w=0.0) for m in launches[1]]
    judgement = judge.judge(
        Metric.JOULES_PER_TOKEN, still, Baseline.of(launches[0]), terms=Terms(comparisons=10**6)
    )
    assert judgement.smallest_detected is not None
    blind = replace(judgement, smallest_detected=math.inf)
    floors = sides.floors_of(NoiseStore(tmp_path), cell.key, "simulated GPU", [])
    entry = collect.entry_of(
        blind,
        cell.key,
        floors,
        explanation.explain(cell.name, blind, "pytest a.py", replayed=False),
    )
    assert entry.detects is None
    assert entry.candidate is not None
    assert {launch.static_power_w for launch in entry.candidate.launches} == {None}


def test_periods_of_a_launch_are_one_launch_and_their_traces_are_drawn() -> None:
    folder = ROOT / "recordings" / "h100-sxm-80gb" / "vllm-0.25.1-against-itself" / "candidate"
    launches = {
        (periods[0].key.batch_size, periods[0].launch_id): periods
        for periods in recording_file.read_launches([folder])
    }
    assert max(map(len, launches.values())) > 1
    for entry in collect.compared(collect.read([folder]), NoiseStore(folder)):
        assert entry.candidate is not None
        for launch in entry.candidate.launches:
            measured = measurement.measure(*launches[entry.cell.batch_size, launch.launch_id])
            assert (launch.power_w, launch.tokens_per_s) == (
                measured.power_w,
                measured.tokens_per_s,
            )
    assert all(
        trace.trace(period) is not None for periods in launches.values() for period in periods
    )


def test_launches_with_a_co_resident_engine_are_not_compared_with_others(
    cell: Cell, tmp_path: Path
) -> None:
    alone = written(tmp_path, cell, [500.0] * 3, "1.0")
    for file in recording_file.find(written(tmp_path, cell, [510.0] * 3, "2.0")):
        made = recording_file.read(file)
        recording_file.write(
            replace(made, co_resident=CoResident("other", 10.0, 0, True, 0.1)), file
        )
    entries = collect.compared(collect.read([alone, tmp_path / "2.0"]), NoiseStore(tmp_path))
    assert [(entry.candidate.vllm, entry.reference) for entry in entries if entry.candidate] == [
        ("1.0", None)
    ] * 2 + [("2.0", None)] * 2
    found = groups.groups(
        results.Results(results.SCHEMA_VERSION, (collect.run("recordings", ""),), entries)
    )
    assert ["a second engine co-resident" in group.detail for group in found] == [False, True]
