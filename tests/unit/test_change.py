"""A shift at an unknown time: found where it is, rarely where there is none."""

import numpy as np
import pytest

from pytest_energy.measure.change import Slope, Usual, drift, largest_episode, largest_shift

USUAL = Usual(0.01, 8.0)


def noise(seed: int, count: int, deviation: float = 0.01) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, deviation, count)


def places(count: int, of_cycle: int = 1) -> np.ndarray:
    return np.arange(count) % of_cycle


@pytest.mark.parametrize("count", [4, 9, 24])
def test_a_shift_is_found_where_it_is(count: int) -> None:
    at = count // 2
    y = noise(1, count) + 0.1 * (np.arange(count) >= at)
    found = largest_shift(y, places(count), USUAL)
    assert found is not None
    assert found.at == at
    assert found.size == pytest.approx(0.1, abs=4 * found.error)
    assert found.p < 0.002


def test_what_each_place_of_a_cycle_has_of_its_own_is_no_shift() -> None:
    y = noise(2, 20) + 0.3 * (places(20, 5) == 0)
    found = largest_shift(y, places(20, 5), USUAL, matters=0.02)
    assert found is not None
    assert found.p > 0.05


def test_a_covariate_explains_what_follows_it() -> None:
    pace = noise(3, 24, 0.1)
    y = 0.6 * pace + noise(4, 24)
    slope = Slope(pace, 0.5, 0.2)
    unexplained = largest_shift(y, places(24), USUAL)
    explained = largest_shift(y, places(24), USUAL, slope=slope)
    assert unexplained is not None
    assert explained is not None
    assert explained.error < unexplained.error / 3
    shifted = largest_shift(y + 0.05 * (np.arange(24) >= 10), places(24), USUAL, 0.02, slope)
    assert shifted is not None
    assert shifted.p < 0.002


def test_without_noise_the_usual_one_counts() -> None:
    found = largest_shift(np.r_[0.0, 0.0, 0.0, 0.01], places(4), USUAL)
    assert found is not None
    assert found.error > 0.004
    assert found.p > 0.05


def test_a_shift_within_a_part_is_found() -> None:
    y = np.r_[np.zeros(5), -0.4, np.full(2, -0.69)]
    found = largest_shift(y, places(8), Usual(0.03, 2.0, 0.2), 0.04)
    assert found is not None
    assert found.at == 5
    assert found.p < 0.002


@pytest.mark.parametrize(
    ("ends", "at", "until"),
    [
        ((0, -0.3, -0.7, -0.7, -0.5, 0, 0, 0, 0, 0), 2, 5),
        ((-0.3, -0.7, -0.7, -0.7, -0.5, 0, 0, 0, 0, 0), 1, 5),
        ((0, 0, 0, 0, -0.6, -0.7, -0.7, -0.7, -0.7, -0.2), 4, 9),
    ],
)
def test_an_episode_that_begins_and_ends_within_parts_is_found(
    ends: tuple[float, ...], at: int, until: int
) -> None:
    """If episodes were made of whole parts, the first two would be taken for chance."""
    y = np.array(ends) + noise(7, 10)
    usual = Usual(0.03, 2.0, 0.2)
    found = largest_episode(np.ones(10), y, places(10), usual, 0.04)
    assert found is not None
    assert (found.at, found.until) == (at, until)
    assert found.size == pytest.approx(-0.7, abs=4 * found.error)
    assert found.p < 0.002


@pytest.mark.parametrize(("count", "rho"), [(4, 0.0), (12, 0.0), (12, 0.4), (24, 0.7)])
def test_chance_is_at_most_what_p_says(count: int, rho: float) -> None:
    generator, launches, alarms = np.random.default_rng(5), 400, 0
    for _ in range(launches):
        e = generator.normal(size=count)
        for i in range(1, count):
            e[i] = rho * e[i - 1] + (1 - rho**2) ** 0.5 * e[i]
        of_series = 0.05 * e, places(count), Usual(0.03, 2.0, 0.2), 0.03
        found = largest_shift(*of_series), largest_episode(np.ones(count), *of_series)
        alarms += any(change is not None and change.p < 0.02 for change in found)
    assert alarms <= 0.05 * launches


def test_drift_of_a_ramp() -> None:
    middle = (np.arange(24) + 0.5) / 24
    line = drift(0.02 * middle + noise(6, 24, 0.003), places(24), middle, Usual(0.003, 8.0))
    assert line is not None
    assert line.size == pytest.approx(0.02, abs=3 * line.error)
    assert line.p < 0.01


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_parts_say_nothing(count: int) -> None:
    assert largest_shift(np.zeros(count), places(count), USUAL) is None
    assert largest_episode(np.ones(count), np.zeros(count), places(count), USUAL) is None
