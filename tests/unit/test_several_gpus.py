"""An engine on several GPUs: their energy counts together, and their order says nothing."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.key import CellKey, WorkloadKey
from pytest_energy.cell.model import Model
from pytest_energy.measure import spread
from pytest_energy.measure.conditions import STATIC_POWER_UNCERTAINTY_W
from pytest_energy.measure.measurement import (
    Measurement,
    mean_gpu_power_w,
    measure,
)
from pytest_energy.measure.metric import UNDER_LOAD, Metric
from pytest_energy.recording import recording_file
from pytest_energy.recording.fingerprint import differing_engines
from pytest_energy.report import collect, explanation, gpu_shares, markdown, page, results, rows
from pytest_energy.report.gallery import Gallery
from pytest_energy.report.results import Results
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.baselines import Store
from pytest_energy.verdict import judge, rule
from pytest_energy.verdict.rule import Terms
from tests import simulated
from tests.conftest import ROOT
from tests.reports import made

EVEN = {"GPU-aaaaaaaa-1": 0.5, "GPU-bbbbbbbb-2": 0.5}
UNEVEN = {"GPU-aaaaaaaa-1": 0.45, "GPU-bbbbbbbb-2": 0.55}
BACKWARDS = dict(reversed(UNEVEN.items()))


def launches(
    cell: Cell, shares: dict[str, float], power_w: float = 1000.0, count: int = 3, **changes: Any
) -> list[Measurement]:
    return [
        measure(
            simulated.recording(
                cell, f"{power_w:.0f}-{i}", power_w, 1000 + i, power_shares=shares, **changes
            )
        )
        for i in range(count)
    ]


def test_energy_is_the_sum_of_the_counters(cell: Cell) -> None:
    one, two = launches(cell, {simulated.UUID: 1.0})[0], launches(cell, UNEVEN)[0]
    assert two.joules_per_token == pytest.approx(one.joules_per_token, rel=1e-3)
    assert two.power_w == pytest.approx(1000, rel=1e-3)
    assert two.gpu_power_w == pytest.approx(
        {"GPU-aaaaaaaa-1": 450.0, "GPU-bbbbbbbb-2": 550.0}, rel=1e-3
    )
    assert sum(two.gpu_power_w.values()) == pytest.approx(two.power_w)
    assert two.static_power_w == pytest.approx(2 * 120, rel=1e-2)


def test_one_faulty_gpu_makes_the_measurement_invalid(cell: Cell) -> None:
    recorded = simulated.recording(cell, power_shares=EVEN)
    healthy, other = recorded.gpus
    throttled = replace(
        other, samples=replace(other.samples, throttle_reasons=(0x40,) * len(other.samples.time_ns))
    )
    assert measure(replace(recorded, gpus=(healthy, throttled))).faults == (
        "throttled: GPU-bbbbbbbb-2: hardware thermal slowdown",
    )
    stuck = replace(
        other, counter=replace(other.counter, energy_mj=(5,) * len(other.counter.energy_mj))
    )
    assert any(
        "GPU-bbbbbbbb-2" in fault
        for fault in measure(replace(recorded, gpus=(healthy, stuck))).faults
    )


def test_shares_and_their_imbalance_are_told(cell: Cell) -> None:
    even, uneven = (
        gpu_shares.gpu_shares(mean_gpu_power_w(launches(cell, shares))) for shares in (EVEN, UNEVEN)
    )
    assert even == "GPU-aaaaaaaa 50.0 % (500 W), GPU-bbbbbbbb 50.0 % (500 W)"
    assert uneven == (
        "GPU-aaaaaaaa 45.0 % (450 W), GPU-bbbbbbbb 55.0 % (550 W); "
        "IMBALANCE: GPU-bbbbbbbb uses 22.2 % more energy than GPU-aaaaaaaa"
    )
    assert gpu_shares.gpu_shares(mean_gpu_power_w(launches(cell, {simulated.UUID: 1.0}))) == ""
    assert (
        mean_gpu_power_w([])
        == mean_gpu_power_w(
            [*launches(cell, EVEN, count=1), *launches(cell, {"GPU-c": 0.5, "GPU-d": 0.5})]
        )
        == {}
    )


@given(st.lists(st.floats(1, 1e4), min_size=2, max_size=8))
def test_imbalance_is_the_most_over_the_least(powers: list[float]) -> None:
    by_gpu = {f"GPU-{i}": power for i, power in enumerate(powers)}
    found = gpu_shares.imbalance(by_gpu)
    assert found is not None
    assert found == pytest.approx(max(powers) / min(powers) - 1)
    assert ("IMBALANCE" in gpu_shares.gpu_shares(by_gpu)) == (found > 0.10)


def test_the_row_of_jpt_alone_tells_the_shares(cell: Cell) -> None:
    new, old = launches(cell, UNEVEN), Baseline.of(launches(cell, UNEVEN, 990.0))
    energy, rate = (rows.row(cell, judge.judge(metric, new, old)) for metric in UNDER_LOAD)
    assert rows.gpu_lines([energy, rate]) == [
        (f"tiny bs=8 64/250, energy by GPU: {energy.gpus}", True)
    ]
    assert "IMBALANCE" in energy.gpus
    assert (energy.green, rate.green) == (
        rows.row(cell, judge.judge(Metric.JOULES_PER_TOKEN, launches(cell, EVEN), old)).green,
        True,
    )
    assert float(energy.properties()["gpu_imbalance"]) == pytest.approx(0.222, abs=1e-3)
    assert "gpu_imbalance" not in rate.properties()
    even = rows.row(cell, judge.judge(Metric.JOULES_PER_TOKEN, launches(cell, EVEN), old))
    assert [unequal for _, unequal in rows.gpu_lines([even])] == [False]


def test_the_same_gpus_in_another_order_are_the_same_gpus(cell: Cell, tmp_path: Path) -> None:
    first, second = launches(cell, UNEVEN), launches(cell, BACKWARDS, 1001.0)
    assert first[0].environment.gpu_uuids != second[0].environment.gpu_uuids
    assert differing_engines([m.environment for m in (*first, *second)]) is None
    store = Store(tmp_path)
    store.update([first[0], first[1], second[2]], {})
    found = Store(tmp_path).find(cell.key, simulated.GPU_NAME, tuple(sorted(UNEVEN, reverse=True)))
    assert found is not None
    assert judge.judge(Metric.JOULES_PER_TOKEN, second, found).verdict is rule.Verdict.PASS
    # Interleaved, too, with the reference engine in place of a baseline.
    paired = judge.judge(
        Metric.JOULES_PER_TOKEN, second, Baseline.of(first), terms=Terms(paired=True)
    )
    assert paired.verdict is not rule.Verdict.NOT_COMPARABLE
    others = launches(cell, {"GPU-aaaaaaaa-1": 0.5, "GPU-cccccccc-3": 0.5})
    assert (differing_engines([first[0].environment, others[0].environment]) or "").startswith(
        "gpu_uuids ("
    )
    assert (
        Store(tmp_path).find(cell.key, simulated.GPU_NAME, others[0].environment.gpu_uuids) is None
    )


def test_the_static_power_of_each_gpu_is_uncertain(cell: Cell) -> None:
    def width_w(shares: dict[str, float]) -> float:
        slower = [
            measure(simulated.recording(cell, f"slow-{i}", 900.0, 700 + i, power_shares=shares))
            for i in range(3)
        ]
        found = judge.judge(
            Metric.JOULES_PER_TOKEN, slower, Baseline.of(launches(cell, shares))
        ).split
        assert found is not None
        return found.static_high - found.static_low

    one, two = width_w({simulated.UUID: 1.0}), width_w(EVEN)
    assert two == pytest.approx(2 * one)
    assert one == pytest.approx(2 * STATIC_POWER_UNCERTAINTY_W * (1 / 701 - 1 / 1001), rel=1e-2)


def test_a_cells_name_tells_how_it_is_spread_and_what_drafts_its_tokens() -> None:
    key = CellKey("m", None, "offline", {}, WorkloadKey(512, 256, 0), 8)
    assert key.name == "m bs=8 512/256"
    one = replace(key, engine="server", engine_args={"tensor_parallel_size": 1})
    assert one.name == "m server bs=8 512/256"
    arguments = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "quantization": "fp8"}
    assert replace(key, engine_args=arguments).name == "m fp8 tp=4 pp=2 bs=8 512/256"
    arguments = {"speculative_config": {"method": "eagle3", "num_speculative_tokens": 3}}
    assert replace(key, engine_args=arguments).name == "m eagle3 bs=8 512/256"


def test_a_report_shows_each_gpus_share(cell: Cell) -> None:
    judged = judge.judge(
        Metric.JOULES_PER_TOKEN, launches(cell, UNEVEN), Baseline.of(launches(cell, UNEVEN, 990.0))
    )
    said = explanation.explain(cell.name, judged, "pytest", replayed=True)
    entry = collect.entry_of(
        judged,
        cell.key,
        {metric: spread.ASSUMED_NOISE[metric] for metric in UNDER_LOAD},
        said,
    )
    assert entry.candidate is not None
    assert entry.reference is not None
    for launch in entry.candidate.launches:
        assert launch.gpu_power_w == pytest.approx(
            {"GPU-aaaaaaaa-1": 450.0, "GPU-bbbbbbbb-2": 550.0}, rel=1e-3
        )
    assert [launch.gpu_power_w for launch in entry.reference.launches] == [{}] * 3
    found = Results(results.SCHEMA_VERSION, (made.RUN,), (entry,))
    assert results.from_plain(results.to_plain(entry)) == entry
    line = (
        "energy by GPU: GPU-aaaaaaaa 45.0 % (450 W), GPU-bbbbbbbb 55.0 % (550 W); "
        "IMBALANCE: GPU-bbbbbbbb uses 22.2 % more energy"
    )
    assert line in markdown.page(found)
    assert line in page.page(found, Gallery(None, (), 0))
    assert "energy by GPU" not in markdown.page(made.of(made.entry()))


def test_a_recording_of_several_gpus_comes_back(cell: Cell, tmp_path: Path) -> None:
    recorded = simulated.recording(cell, power_shares=BACKWARDS)
    recording_file.write(recorded, tmp_path / "a.json.gz")
    assert recording_file.read(tmp_path / "a.json.gz") == recorded


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.1-405b", 405_853_388_800),
    ],
)
def test_the_architectures_have_the_published_numbers_of_parameters(
    name: str, parameters: int
) -> None:
    c = json.loads((ROOT / "suites" / "models" / name / "config.json").read_text())
    width, head = c["hidden_size"], c["hidden_size"] // c["num_attention_heads"]
    attention = 2 * width * head * (c["num_attention_heads"] + c["num_key_value_heads"])
    layer = attention + 3 * width * c["intermediate_size"] + 2 * width
    assert c["num_hidden_layers"] * layer + 2 * c["vocab_size"] * width + width == parameters
    assert c["rope_scaling"] == {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    assert Model.from_folder(ROOT / "suites" / "models" / name).vocabulary_size == 128_256
    assert math.log2(head) == 7
