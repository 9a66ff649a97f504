"""The runner's noise: added up, told apart by engine and GPU, refused when damaged."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import digamma, polygamma

from pytest_energy.cell.cell import Cell
from pytest_energy.errors import NoiseError
from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import ASSUMED_NOISE, Spread
from pytest_energy.store.noise import Noise, NoiseStore
from pytest_energy.store.noise_pooling import moderated
from pytest_energy.verdict.detectable import detectable
from tests.damage import UNREADABLE
from tests.simulated import GPU_NAME, recording

ENERGY = Metric.JOULES_PER_TOKEN


def launches(
    cell: Cell, power_w: Sequence[float], name: str = "a", **environment: Any
) -> list[Measurement]:
    return [
        measure(
            recording(
                cell, launch_id=f"{name}{i}", power_w=power, cycles=12.5, environment=environment
            )
        )
        for i, power in enumerate(power_w)
    ]


def known(folder: Path, cell: Cell) -> Noise:
    return NoiseStore(folder).noise(cell.key, GPU_NAME, ENERGY)


def test_launches_of_several_calls_add_up_and_count_once(cell: Cell, tmp_path: Path) -> None:
    assert NoiseStore(tmp_path).add(launches(cell, [500, 510])) == 2
    assert NoiseStore(tmp_path).add(launches(cell, [500, 510, 505])) == 1
    noise = known(tmp_path, cell)
    assert noise.launches == 3
    assert noise.between is not None
    assert noise.between.degrees_of_freedom == 2
    assert noise.between.deviation == pytest.approx(0.0099, abs=1e-4)


@pytest.mark.parametrize(
    "other",
    [{"vllm": "9"}, {"gpu_uuids": ["GPU-x"]}, {"engine_args_under_test": {"enforce_eager": True}}],
)
def test_only_launches_that_differ_in_nothing_are_compared(
    cell: Cell, tmp_path: Path, other: dict[str, Any]
) -> None:
    NoiseStore(tmp_path).add(
        [*launches(cell, [500, 500]), *launches(cell, [900, 900], "b", **other)]
    )
    noise = known(tmp_path, cell)
    assert noise.between == Spread(pytest.approx(0, abs=1e-9), 2)


def test_gpus_are_told_apart_from_launches(cell: Cell, tmp_path: Path) -> None:
    NoiseStore(tmp_path).add(
        [*launches(cell, [500, 500]), *launches(cell, [550], "b", gpu_uuids=["GPU-x"])]
    )
    noise = known(tmp_path, cell)
    assert noise.gpus == pytest.approx((1 / math.sqrt(1.1), math.sqrt(1.1)), rel=1e-3)


def test_the_floor_is_assumed_until_enough_is_measured(cell: Cell, tmp_path: Path) -> None:
    assert NoiseStore(tmp_path).floor(cell.key, GPU_NAME, ENERGY) == ASSUMED_NOISE[ENERGY]
    NoiseStore(tmp_path).add(launches(cell, [500, 510, 500, 510]))
    few = NoiseStore(tmp_path).floor(cell.key, GPU_NAME, ENERGY)
    assert not few.measured
    assert few.source == "1.00 % assumed, 3 of 10 degrees of freedom measured"
    NoiseStore(tmp_path).add(launches(cell, [500, 510, 500, 510, 500, 510]))
    enough = NoiseStore(tmp_path).floor(cell.key, GPU_NAME, ENERGY)
    assert enough.measured
    assert enough.degrees_of_freedom == 5
    assert "measured on this cell" in enough.source


def test_launches_under_judgement_are_not_counted_twice(cell: Cell, tmp_path: Path) -> None:
    NoiseStore(tmp_path).add(launches(cell, [500, 510] * 4))
    floor = NoiseStore(tmp_path).floor(cell.key, GPU_NAME, ENERGY, judged={"a0", "a1"})
    assert floor.degrees_of_freedom == 5


def test_more_launches_find_smaller_changes() -> None:
    noise = Noise(11, Spread(0.01, 10), None, None)
    found = [detectable(noise, n, alarm=0.00125) for n in (1, 2, 3, 5)]
    assert all(change is not None for change in found)
    assert found == sorted(found, key=lambda change: -(change or 0))
    assert detectable(Noise(1, None, None, None), 3, 0.01) is None


def test_invalid_measurements_are_refused(cell: Cell, tmp_path: Path) -> None:
    bad = measure(recording(cell, faults=["throttled: hot"], cycles=12.5))
    with pytest.raises(NoiseError, match="throttled: hot"):
        NoiseStore(tmp_path).add([*launches(cell, [500]), bad])
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_first_version_is_read(cell: Cell, tmp_path: Path) -> None:
    """As written when interleaved launches were said to take turns."""
    path = NoiseStore(tmp_path).path(cell.key, GPU_NAME)
    NoiseStore(tmp_path).add(launches(cell, [500, 510, 520]))
    content = json.loads(path.read_text())
    first, second, _ = content["cells"][0]["launches"]
    first["engine"] += " interleaved"
    second["engine"] += " interleaved"
    path.write_text(json.dumps(content))
    now = NoiseStore(tmp_path).noise(cell.key, GPU_NAME, ENERGY)
    del content["gpu_name"]
    for launch in (first, second):
        launch["engine"] = launch["engine"].replace(" interleaved", " in turns")
    path.write_text(json.dumps({**content, "schema_version": 1}))
    assert NoiseStore(tmp_path).noise(cell.key, GPU_NAME, ENERGY) == now
    assert NoiseStore(tmp_path).add(launches(cell, [530], "b")) == 1
    assert " in turns" not in path.read_text()
    assert path.read_text().count(" interleaved") == 2


def test_another_schema_version_is_named(cell: Cell, tmp_path: Path) -> None:
    NoiseStore(tmp_path).add(launches(cell, [500, 510]))
    path = NoiseStore(tmp_path).path(cell.key, GPU_NAME)
    path.write_text(path.read_text().replace('"schema_version": 3', '"schema_version": 7'))
    with pytest.raises(NoiseError, match="has schema version 7, but this pytest-energy reads only"):
        NoiseStore(tmp_path).floor(cell.key, GPU_NAME, ENERGY)


@pytest.mark.parametrize(
    "damage",
    [
        *UNREADABLE,
        lambda text: text.replace('"schema_version": 3', '"schema_version": 7'),
        lambda text: text.replace('"tokens_per_s": [', '"tokens_per_s": [-1, '),
        lambda text: text.replace('"tokens_per_s": [', '"tokens_per_s": ["x", '),
        lambda text: text.replace('"launch_id"', '"lunch_id"'),
        lambda text: json.dumps({**json.loads(text), "cells": [1]}),
    ],
)
def test_a_damaged_file_is_named_and_kept(cell: Cell, tmp_path: Path, damage: Any) -> None:
    NoiseStore(tmp_path).add(launches(cell, [500, 510]))
    path = NoiseStore(tmp_path).path(cell.key, GPU_NAME)
    path.write_text(damage(path.read_text()))
    spoiled = path.read_text()
    for use in (
        lambda s: s.floor(cell.key, GPU_NAME, ENERGY),
        lambda s: s.add(launches(cell, [505], "c")),
    ):
        with pytest.raises(NoiseError, match=r"tiny\.json"):
            use(NoiseStore(tmp_path))
    assert path.read_text() == spoiled


def test_a_cell_on_several_gpus_is_not_judged_by_the_noise_of_one(
    cell: Cell, tmp_path: Path
) -> None:
    """Cells of a model are pooled where they are spread over as many GPUs."""
    spread = replace(cell, engine_args=(("max_num_seqs", 8), ("tensor_parallel_size", 2)))
    other = replace(spread, batch_size=2)
    store = NoiseStore(tmp_path)
    store.add([measure(recording(cell, f"one-{i}", 500 + i % 3)) for i in range(12)])
    assert "assumed" in NoiseStore(tmp_path).floor(spread.key, GPU_NAME, ENERGY).source
    store.add([measure(recording(other, f"two-{i}", 500 + 9 * (i % 3))) for i in range(12)])
    found = NoiseStore(tmp_path).floor(spread.key, GPU_NAME, Metric.JOULES_PER_TOKEN)
    assert "as on the model's measured cells" in found.source
    assert found.deviation == pytest.approx(0.015, abs=0.003)


def spreads(*percent: float, degrees: int = 6) -> list[Spread]:
    return [Spread(value / 100, degrees) for value in percent]


def test_cells_that_agree_make_a_deviation_better_known() -> None:
    own, *others = spreads(0.4, 0.45, 0.5, 0.45)
    found = moderated(own, others)
    logs = 2 * np.log([0.004, 0.0045, 0.005, 0.0045]) - digamma(3) + math.log(3)
    weight = 1 / (1 / 10 + 1 / 18)
    variance = (weight * math.exp(logs.mean()) + 6 * own.deviation**2) / (6 + weight)
    assert found.degrees_of_freedom == pytest.approx(6 + weight)
    assert found.deviation**2 == pytest.approx(variance)


def test_cells_that_differ_say_little_of_each_other() -> None:
    """Smyth 2004, section 6.2, by hand: ψ'(d₀/2) = var(ln s²) − ψ'(3)."""
    own, *others = spreads(0.1, 0.4, 1.6, 6.4)
    logs = 2 * np.log([0.001, 0.004, 0.016, 0.064]) - digamma(3) + math.log(3)
    found = moderated(own, others)
    weight = found.degrees_of_freedom - 6
    prior = 1 / (1 / weight - 1 / 18)
    assert float(polygamma(1, prior / 2)) == pytest.approx(logs.var(ddof=1) - polygamma(1, 3))
    scale = math.exp(logs.mean() + digamma(prior / 2) - math.log(prior / 2))
    assert found.deviation**2 == pytest.approx((weight * scale + 6 * 0.001**2) / (6 + weight))
    assert weight < 1


def test_other_cells_never_make_a_noisy_one_quiet() -> None:
    own, *others = spreads(1.0, 0.4, 0.4, 0.4)
    assert moderated(own, others).deviation == own.deviation
    assert moderated(own, []) == own
    exact = moderated(Spread(0.0, 6), spreads(0.0, 0.4))
    assert math.isfinite(exact.deviation)


def test_a_cell_that_was_not_measured_is_assumed_to_be_as_the_others(
    cell: Cell, tmp_path: Path
) -> None:
    """It is no evidence: with few launches it raises no alarm and helps no pass."""
    other = replace(cell, batch_size=2)
    store = NoiseStore(tmp_path)
    store.add(launches(other, [500, 503] * 6, "other"))
    found = store.floor(cell.key, GPU_NAME, ENERGY)
    assert not found.measured
    assert found.deviation == pytest.approx(0.0033, abs=2e-4)
    assert found.source == (
        "0.33 % assumed, as on the model's measured cells, 11 degrees of freedom"
    )
    store.add(launches(cell, [500, 504] * 3))
    own = NoiseStore(tmp_path).floor(cell.key, GPU_NAME, ENERGY)
    assert own.measured
    assert own.source == (
        "0.44 % measured on this cell, 5 degrees of freedom, and 5 on others like it"
    )
