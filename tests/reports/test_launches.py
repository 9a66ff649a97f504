"""The table of launches, and what is said of single ones."""

from dataclasses import replace

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.model import Model
from pytest_energy.cell.workload import Workload
from pytest_energy.measure.measurement import measure
from pytest_energy.measure.spread import ASSUMED_NOISE
from pytest_energy.recording import recording_file
from pytest_energy.report import launches
from pytest_energy.report.sides import side_of_baseline, side_of_launches
from pytest_energy.store.baseline import Baseline
from tests.conftest import ROOT
from tests.disturbed import slowed, with_ramp_in_power, with_step_in_power
from tests.reports import made
from tests.simulated import recording

CELL = Cell(Model("/models/tiny", "tiny"), 8, Workload(64, 250), "dummy")


def test_each_launch_has_its_drift_with_an_error_and_its_steps() -> None:
    drifting = measure(with_ramp_in_power(recording(CELL, cycles=12.5), 0.02))
    candidate = side_of_launches([drifting], ASSUMED_NOISE)
    reference = side_of_baseline(Baseline.of([drifting]), ASSUMED_NOISE)
    results = made.of(
        made.entry(candidate=candidate, reference=reference),
        made.entry(candidate=candidate, reference=reference, metric="tokens_per_s"),
    )
    stored, measured = launches.lines(results)
    assert len(stored.figures) == len(measured.figures) == len(launches.COLUMNS) - 3
    shown = dict(zip(launches.COLUMNS[3:], measured.figures, strict=True))
    assert shown["cycles"] == "11"
    assert shown["drift of power"].startswith("+2.0 ± ")
    assert shown["drift of tokens/s"].startswith("+0.0 ± ")
    assert shown["ms a step"] == "8"
    assert shown["outside graphs"] == "0 %"
    assert stored.figures[4:] == ("-",) * 6


def test_a_dropped_cycle_is_shown() -> None:
    quick = recording(CELL, tokens_per_s=2000.0, cycles=9.2)
    m = measure(slowed(slowed(quick, 0.0), 2.0, 0.5))
    results = made.of(made.entry(candidate=side_of_launches([m], ASSUMED_NOISE), reference=None))
    (line,) = launches.lines(results)
    assert "7 (1 dropped)" in line.figures
    assert (
        "launch launch-1: its first cycle after the warm-up is left out (harmless: nothing to do)"
        in launches.remarks([m], [])
    )


def test_a_drift_that_makes_a_launch_doubtful_is_not_called_harmless() -> None:
    """vLLM 0.5.4, at batch size 256 bound by its host, whose pace rose by a third."""
    place = "recordings/h200-sxm-141gb/gpu-1b5d3c5f/releases/0.5.4"
    found = recording_file.read_launches([ROOT / place])
    (m,) = (measure(*periods) for periods in found if periods[0].key.batch_size == 256)
    (remark,) = launches.remarks([m], [])
    assert "tokens/s drifted by +56.5 % ± 19.5 % over 55 s, and its J/token with it" in remark
    assert remark.endswith(": another launch tells whether it stays so (--energy-launches)")


def test_only_what_is_to_be_known_is_remarked() -> None:
    quiet = measure(recording(CELL, cycles=12.5))
    ramp = measure(with_ramp_in_power(recording(CELL, cycles=12.5), 0.02))
    disturbed = measure(with_step_in_power(recording(CELL, "launch-2", cycles=12.5), 80.0))
    assert launches.remarks([quiet], []) == []
    (drift,) = launches.remarks([ramp], [])
    assert drift.startswith("launch launch-1: power at equal pace drifted by +2.0 % ± ")
    assert drift.endswith(" s (harmless: nothing to do)")
    settings = {"engine_settings": {"block_size": "unknown"}}
    unsized = replace(quiet, environment=replace(quiet.environment, **settings))
    (remark,) = launches.remarks([unsized], [])
    assert "launch-1: the server does not report the size of its KV cache" in remark
    of_module = replace(quiet, environment=replace(quiet.environment, energy_scope="module"))
    (remark,) = launches.remarks([of_module], [])
    assert (
        remark == "launch launch-1: energy and power are of the whole module: GPU, CPU and memory"
    )
    (left_out,) = launches.remarks([], [disturbed])
    assert left_out.startswith("left out: launch launch-2: unsteady: tokens/s changed by ")
