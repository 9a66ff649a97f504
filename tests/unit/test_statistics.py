"""The ratio of two sides and its interval."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_energy.statistics import Comparison, NoiseFloor, compare, estimate, launch_means

FLOOR = NoiseFloor(deviation=0.01, degrees_of_freedom=10)
values = st.floats(min_value=1e-3, max_value=1e4)
sides = st.lists(values, min_size=1, max_size=6)


def close(one: Comparison, *other: float) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip((one.value, one.low, one.high), other, strict=True))


@given(sides, sides)
def test_swapping_sides_inverts_ratio_and_interval(new: list[float], old: list[float]) -> None:
    swapped = compare(old, new, FLOOR)
    assert close(compare(new, old, FLOOR), 1 / swapped.value, 1 / swapped.high, 1 / swapped.low)


@given(sides, sides, st.floats(min_value=1e-3, max_value=1e3))
def test_scaling_both_sides_changes_nothing(new: list[float], old: list[float], factor: float) -> None:
    one, scaled = compare(new, old, FLOOR), compare([v * factor for v in new], [v * factor for v in old], FLOOR)
    assert math.isclose(one.value, scaled.value, rel_tol=1e-9)
    assert math.isclose(one.low, scaled.low, rel_tol=1e-6)


@given(sides, sides)
def test_interval_holds_its_value(new: list[float], old: list[float]) -> None:
    r = compare(new, old, FLOOR)
    assert r.low < r.value < r.high


@given(st.integers(1, 6), st.integers(1, 6))
def test_equal_launches_are_not_taken_for_exact(new: int, old: int) -> None:
    """However alike a few launches happen to be, the floor keeps a part of the width."""
    r = compare([1.0] * new, [1.0] * old, FLOOR)
    assert r.value == 1.0
    assert r.relative_half_width > FLOOR.deviation * math.sqrt(1 / new + 1 / old)


@given(sides, sides)
def test_more_of_the_same_launches_narrow_the_interval(new: list[float], old: list[float]) -> None:
    """Twice the launches with the same spread: the width shrinks, the ratio stays."""
    once, twice = compare(new, old, FLOOR), compare(new * 2, old * 2, FLOOR)
    assert math.isclose(once.value, twice.value, rel_tol=1e-9)
    assert math.log(twice.high / twice.low) < math.log(once.high / once.low)


@pytest.mark.parametrize(("new", "old"), [(1, 3), (3, 3), (5, 3)])
def test_coverage_when_launches_vary_as_assumed(new: int, old: int) -> None:
    generator = np.random.default_rng(1)
    covered = 0
    runs = 3000
    for _ in range(runs):
        a, b = (np.exp(generator.normal(0, FLOOR.deviation, count)).tolist() for count in (new, old))
        r = compare(a, b, FLOOR)
        covered += r.low <= 1 <= r.high
    assert 0.94 <= covered / runs <= 0.98


@given(sides)
def test_estimate_is_the_geometric_mean(launches: list[float]) -> None:
    expected = math.exp(math.fsum(map(math.log, launches)) / len(launches))
    assert math.isclose(estimate(launches, FLOOR).value, expected, rel_tol=1e-9)


def test_a_launch_is_the_mean_of_its_cycles() -> None:
    assert launch_means([[1.0, 2.0, 3.0], [5.0]]) == [2.0, 5.0]
