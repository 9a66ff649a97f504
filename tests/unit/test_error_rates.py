"""The gate's error rates, simulated with its own code, are those of docs/statistics.md."""

import math

import pytest

from benchmarks.gate_error_rates import CELLS, Scenario, simulate

RUNS = 250
CHANCE = 3 * math.sqrt(0.01 * 0.99 / RUNS)


@pytest.mark.parametrize("floor", ["measured", "assumed"])
@pytest.mark.parametrize("deviation", [0.007, 0.02, 0.15])
def test_an_unchanged_suite_of_sixteen_raises_no_false_alarm(deviation: float, floor: str) -> None:
    assert simulate(Scenario((deviation,), floor=floor), RUNS, seed=1).false_alarm <= 0.01 + CHANCE


@pytest.mark.parametrize("budget", [3, 5])
def test_an_unchanged_suite_is_seldom_red_and_takes_little_more_than_a_launch(budget: int) -> None:
    rates = simulate(Scenario((0.007,), budget=budget), RUNS, seed=2)
    assert rates.red <= 0.05 + CHANCE
    assert rates.launches < 1.5


@pytest.mark.parametrize(("budget", "wanted"), [(3, 0.94), (5, 0.96)])
def test_four_percent_more_is_detected(budget: int, wanted: float) -> None:
    rates = simulate(Scenario((0.007,), change=0.04, budget=budget), RUNS * CELLS, seed=3, cells=1)
    assert rates.regressed >= wanted - 3 * math.sqrt(wanted * (1 - wanted) / (RUNS * CELLS))
    assert rates.passed < 0.01
