"""The ratio of two sides and its interval."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import (
    NoiseFloor,
    Spread,
    deviation_interval,
    launch_means,
    launch_value,
    pooled,
    relative_standard_error,
)
from pytest_energy.store.noise import Noise
from pytest_energy.verdict.comparison import (
    Comparison,
    compare,
    compare_pairs,
    estimate,
    exceeds,
)
from pytest_energy.verdict.detectable import detectable, smallest_detected
from pytest_energy.verdict.rule import Terms, Verdict, on_ratio
from pytest_energy.verdict.variation import raised

ENERGY, RATE = Metric.JOULES_PER_TOKEN, Metric.TOKENS_PER_S
FLOOR = NoiseFloor(deviation=0.01, degrees_of_freedom=10, measured=True)
ASSUMED = NoiseFloor(deviation=0.01, degrees_of_freedom=3)
values = st.floats(min_value=1e-3, max_value=1e4)
sides = st.lists(values, min_size=1, max_size=6)


def close(one: Comparison, *other: float) -> bool:
    return all(
        math.isclose(a, b, rel_tol=1e-9)
        for a, b in zip((one.value, one.low, one.high), other, strict=True)
    )


@given(sides, sides)
def test_swapping_sides_inverts_ratio_and_interval(
    candidate: list[float], reference: list[float]
) -> None:
    swapped = compare(reference, candidate, FLOOR)
    assert close(
        compare(candidate, reference, FLOOR), 1 / swapped.value, 1 / swapped.high, 1 / swapped.low
    )


@given(sides, sides, st.floats(min_value=1e-3, max_value=1e3))
def test_scaling_both_sides_changes_nothing(
    candidate: list[float], reference: list[float], factor: float
) -> None:
    one, scaled = (
        compare(candidate, reference, FLOOR),
        compare([v * factor for v in candidate], [v * factor for v in reference], FLOOR),
    )
    assert math.isclose(one.value, scaled.value, rel_tol=1e-9)
    assert math.isclose(one.low, scaled.low, rel_tol=1e-6)


@given(sides, sides)
def test_interval_holds_its_value(candidate: list[float], reference: list[float]) -> None:
    r = compare(candidate, reference, FLOOR)
    assert r.low < r.value < r.high


@given(st.integers(1, 6), st.integers(1, 6))
def test_equal_launches_are_not_taken_for_exact(candidate: int, reference: int) -> None:
    """However alike a few launches happen to be, the floor keeps a part of the width."""
    r = compare([1.0] * candidate, [1.0] * reference, FLOOR)
    assert r.value == 1.0
    assert r.half_width > FLOOR.deviation * math.sqrt(1 / candidate + 1 / reference)


@given(sides, sides)
def test_more_of_the_same_launches_narrow_the_interval(
    candidate: list[float], reference: list[float]
) -> None:
    """Twice the launches with the same spread: the width shrinks, the ratio stays."""
    once, twice = compare(candidate, reference, FLOOR), compare(candidate * 2, reference * 2, FLOOR)
    assert math.isclose(once.value, twice.value, rel_tol=1e-9)
    assert math.log(twice.high / twice.low) < math.log(once.high / once.low)


@pytest.mark.parametrize(("candidate", "reference"), [(1, 3), (3, 3), (5, 3)])
def test_coverage_when_launches_vary_as_assumed(candidate: int, reference: int) -> None:
    generator = np.random.default_rng(1)
    covered = 0
    runs = 3000
    for _ in range(runs):
        a, b = (
            np.exp(generator.normal(0, FLOOR.deviation, count)).tolist()
            for count in (candidate, reference)
        )
        r = compare(a, b, FLOOR)
        covered += r.low <= 1 <= r.high
    assert 0.94 <= covered / runs <= 0.98


@given(sides)
def test_estimate_is_the_geometric_mean(launches: list[float]) -> None:
    expected = math.exp(math.fsum(map(math.log, launches)) / len(launches))
    assert math.isclose(estimate(launches, FLOOR).value, expected, rel_tol=1e-9)


def test_a_launch_is_the_mean_of_its_cycles() -> None:
    assert launch_means([[1.0, 2.0, 3.0], [5.0]]) == [2.0, 5.0]


def test_throughput_is_tokens_over_time() -> None:
    """Of a hundred tokens at 100/s and as many at 300/s, which take 4/3 s; or three times those."""
    assert launch_value(RATE, [100.0, 300.0], ()) == pytest.approx(150.0)
    assert launch_value(RATE, [100.0, 300.0], (100, 300)) == pytest.approx(200.0)
    assert launch_value(ENERGY, [1.0, 3.0], ()) == pytest.approx(2.0)
    assert launch_value(ENERGY, [1.0, 3.0], (100, 300)) == pytest.approx(2.5)


def test_two_cycles_have_an_error_and_one_has_none() -> None:
    """Of 1 and 3 the deviation is √2, so that the error of their mean of 2 is 1, or a half."""
    assert relative_standard_error([1.0, 3.0]) == pytest.approx(0.5)
    assert relative_standard_error([1.0]) == math.inf


def test_an_assumed_floor_brings_no_verdict_nearer() -> None:
    """The sample speaks alone, and an assumption is no less than it says."""
    for spread_out in (0.001, 0.05):
        candidate = [1.0, 1.0 + spread_out, 1.0]
        assumed, own = (compare(candidate, [1.0] * 3, f) for f in (ASSUMED, NoiseFloor(0, 0)))
        assert assumed.spread == own.spread
        for probability in (0.95, 0.9999):
            known = float(stats.norm.ppf(probability)) * ASSUMED.deviation * assumed.root
            assert assumed.bound(probability) == max(own.bound(probability), known)


def test_launches_that_differ_far_more_than_the_measured_noise_speak_alone() -> None:
    ratio = compare([0.8, 1.0, 1.25], [1.0, 1.0, 1.0], FLOOR)
    assert ratio.floor_discarded
    assert ratio.spread.degrees_of_freedom == 4
    assert not compare([0.99, 1.0, 1.01], [1.0, 1.0, 1.0], FLOOR).floor_discarded


@given(st.integers(1, 30), st.integers(1, 100))
def test_all_looks_together_spend_the_levels_and_no_more(budget: int, comparisons: int) -> None:
    terms = Terms(comparisons, budget)
    each = [terms.levels(look) for look in terms.looks()]
    assert len(each) <= 4
    assert terms.looks()[-1] == budget
    assert math.isclose(sum(at.alarm for at in each) * comparisons, 0.01)
    assert math.isclose(sum(at.miss for at in each), 0.05)
    assert all(at.alarm > 0 for at in each)


def test_one_launch_of_several_raises_no_alarm_however_bad() -> None:
    terrible = compare([2.0], [1.0] * 3, FLOOR)
    verdicts = [on_ratio(ENERGY, terrible, 0.03, Terms(budget=n).levels(1)) for n in (5, 1)]
    assert verdicts == [Verdict.INCONCLUSIVE, Verdict.REGRESSED]


@given(st.integers(1, 6), st.integers(3, 6), st.sampled_from([FLOOR, ASSUMED]), st.integers(1, 40))
def test_a_change_as_large_as_it_claims_to_detect_is_detected(
    candidate: int, reference: int, floor: NoiseFloor, comparisons: int
) -> None:
    """At that change 95 % of runs have a ratio above the alarm's bound."""
    levels = Terms(comparisons).levels(candidate)
    unchanged = compare([1.0] * candidate, [1.0] * reference, floor)
    detected = smallest_detected(unchanged, reference, math.log1p(0.03), candidate, levels.alarm)
    unlucky = math.exp(detected - unchanged.bound(0.94))
    ratio = compare([unlucky] * candidate, [1.0] * reference, floor)
    assert on_ratio(ENERGY, ratio, 0.03, levels) is Verdict.REGRESSED


def test_noise_is_pooled_within_groups() -> None:
    spread = pooled([[1.0, 1.02], [2.0, 2.04], [7.0]])
    assert spread is not None
    assert spread.degrees_of_freedom == 2
    assert spread.deviation == pytest.approx(math.log(1.02) / math.sqrt(2))
    assert pooled([[1.0], [2.0]]) is None


def test_the_interval_of_a_deviation_covers_it() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(2000):
        spread = pooled([np.exp(generator.normal(0, 0.01, 6)).tolist()])
        assert spread is not None
        low, high = deviation_interval(spread)
        covered += low <= 0.01 <= high
    assert 0.935 <= covered / 2000 <= 0.965


@given(st.lists(values, min_size=2, max_size=6), st.data())
def test_pairs_swap_and_drift_cancels(reference: list[float], data: st.DataObject) -> None:
    """Swapping sides inverts; a factor that both launches of a pair share changes nothing."""
    candidate = data.draw(st.lists(values, min_size=len(reference), max_size=len(reference)))
    drift = data.draw(
        st.lists(
            st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=len(reference), max_size=len(reference)
        )
    )
    one, swapped = (
        compare_pairs(candidate, reference, FLOOR),
        compare_pairs(reference, candidate, FLOOR),
    )
    assert close(one, 1 / swapped.value, 1 / swapped.high, 1 / swapped.low)
    drifted = compare_pairs(
        [a * f for a, f in zip(candidate, drift, strict=True)],
        [b * f for b, f in zip(reference, drift, strict=True)],
        FLOOR,
    )
    assert close(drifted, one.value, one.low, one.high)


def test_coverage_of_pairs_when_launches_vary_as_measured() -> None:
    generator = np.random.default_rng(5)
    covered, runs = 0, 3000
    for _ in range(runs):
        day = np.exp(generator.normal(0, 0.05, 3))
        a, b = (np.exp(generator.normal(0, FLOOR.deviation, 3)) * day for _ in range(2))
        r = compare_pairs(a.tolist(), b.tolist(), FLOOR)
        covered += r.low <= 1 <= r.high
    assert 0.94 <= covered / runs <= 0.985


@given(floor=st.floats(0.001, 0.05), own=st.floats(0.001, 0.5), measured=st.booleans())
def test_a_raised_floor_is_never_lower(floor: float, own: float, measured: bool) -> None:
    before = NoiseFloor(floor, 10 if measured else 3, measured=measured)
    after = raised(before, Spread(own, 3))
    assert after.deviation >= floor
    assert after.measured == measured
    if not measured:
        assert after.deviation == max(floor, own)
        assert after.degrees_of_freedom == 3


def test_a_measured_floor_gives_way_to_a_significant_excess_alone() -> None:
    """F(0.999; 3, 10) = 12.55: an excess of more than 3.54 times the deviation."""
    floor = NoiseFloor(0.01, 10, measured=True)
    assert raised(floor, None) is floor
    assert raised(floor, Spread(0.035, 3)) is floor
    assert raised(floor, Spread(0.036, 3)) == NoiseFloor(0.036, 3, measured=True)


def test_a_sample_is_moderated_by_the_noise() -> None:
    """Smyth 2004: pooled variance of the launches and the noise, weighted by degrees of freedom."""
    candidate, reference = [1.01, 1.0, 0.99], [1.0, 1.02]
    found = compare(candidate, reference, FLOOR)
    squares = sum(
        float(((np.log(side) - np.log(side).mean()) ** 2).sum()) for side in (candidate, reference)
    )
    assert found.assumed == 0
    assert found.spread.degrees_of_freedom == 13
    assert found.spread.deviation == pytest.approx(math.sqrt((squares + 10 * 0.01**2) / 13))
    assert found.root == pytest.approx(math.sqrt(1 / 3 + 1 / 2))
    assert found.launches == 3
    assert not found.floor_discarded
    assert found.value == pytest.approx(np.exp(np.log(candidate).mean() - np.log(reference).mean()))
    half = float(stats.t.ppf(0.975, 13)) * found.spread.deviation * found.root
    assert (found.low, found.high) == pytest.approx(
        (found.value * math.exp(-half), found.value * math.exp(half))
    )
    assert found.half_width == pytest.approx(found.value * math.sinh(half))


def test_an_assumption_speaks_alone_if_launches_cannot() -> None:
    single = compare([1.1], [1.0], ASSUMED)
    assert single.spread == Spread(0.01, 3)


def test_pairs_vary_by_the_noise_of_two_launches() -> None:
    found = compare_pairs([1.1, 1.1, 1.1], [1.0, 1.0, 1.0], FLOOR)
    assert found.value == pytest.approx(1.1)
    assert found.launches == 3
    assert found.root == pytest.approx(math.sqrt(1 / 3))
    assert found.spread.degrees_of_freedom == 12
    assert found.spread.deviation == pytest.approx(math.sqrt(10 * 2 * 0.01**2 / 12))
    assert found.assumed == 0
    assert not found.floor_discarded
    assumed = compare_pairs([1.1, 1.1, 1.1], [1.0, 1.0, 1.0], ASSUMED)
    assert assumed.spread == Spread(0.0, 2)
    assert assumed.assumed == pytest.approx(math.sqrt(2) * 0.01)
    far = compare_pairs([1.0, 1.3, 1.6], [1.0, 1.0, 1.0], FLOOR)
    assert far.floor_discarded
    assert far.spread.degrees_of_freedom == 2
    with pytest.raises(ValueError, match="shorter"):
        compare_pairs([1.0] * 3, [1.0] * 2, FLOOR)


def test_a_measured_noise_is_discarded_at_one_in_a_thousand() -> None:
    allowed = float(stats.f.ppf(0.999, 3, 10)) ** 0.5 * FLOOR.deviation
    assert not exceeds(Spread(0.9999 * allowed, 3), FLOOR)
    assert exceeds(Spread(1.0001 * allowed, 3), FLOOR)
    assert not exceeds(Spread(0.0, 3), NoiseFloor(0.0, 10, measured=True))
    with pytest.raises(
        AssertionError, match=r"^neither launches nor a floor say how much a launch varies"
    ):
        compare([1.0], [1.0], NoiseFloor(0.0, 0))


def test_an_estimate_has_students_interval() -> None:
    found = estimate([1.0, 1.1], FLOOR)
    squares = 2 * (math.log(1.1) / 2) ** 2
    assert math.sqrt(squares) > math.sqrt(float(stats.f.ppf(0.999, 1, 10))) * FLOOR.deviation
    half = float(stats.t.ppf(0.975, 1)) * math.sqrt(squares) / math.sqrt(2)
    assert found.launches == 2
    assert (found.low, found.value, found.high) == pytest.approx(
        tuple(math.sqrt(1.1) * math.exp(side * half) for side in (-1, 0, 1))
    )
    assert found.relative_half_width == pytest.approx(math.sinh(half))
    alike = estimate([1.0, 1.0], ASSUMED)
    assert alike.high == pytest.approx(math.exp(float(stats.norm.ppf(0.975)) * 0.01 / math.sqrt(2)))


def detected(deviation: float, degrees: int, more: int, root: float, alarm: float) -> float:
    """The bound of an alarm, and what lies above it in 95 % of cases: both at the limit of σ."""
    largest = deviation * math.sqrt(degrees / float(stats.chi2.ppf(0.05, degrees)))
    total = degrees + more
    then = math.sqrt((degrees * deviation**2 + more * largest**2) / total)
    t = float(stats.t.ppf(1 - alarm, total))
    of_bound = t * largest**2 * math.sqrt(2 * more) / (2 * total * then)
    return root * (t * then + float(stats.norm.ppf(0.95)) * math.hypot(largest, of_bound))


def test_what_is_detected_is_reckoned_for_the_last_look() -> None:
    """Two launches of five are made: three more degrees of freedom, a smaller error."""
    found = Comparison(1.0, 2, 0.9, Spread(0.01, 12))
    root = math.sqrt(1 / 5 + 1 / 3)
    expected = detected(0.01, 12, 3, root, 0.001)
    assert smallest_detected(found, 3, 0.0, 5, 0.001) == pytest.approx(expected)
    chance = smallest_detected(found, 3, 0.2, 5, 0.001) - 0.2
    assert smallest_detected(found, 3, 0.3, 5, 0.001) == pytest.approx(0.3 + chance)
    of_pairs = smallest_detected(found, None, 0.0, 5, 0.001)
    assert of_pairs == pytest.approx(expected * math.sqrt(1 / 5) / root)


def test_launches_that_agree_by_luck_detect_no_more_than_is_assumed() -> None:
    found = Comparison(1.0, 3, 0.9, Spread(0.0, 4), assumed=0.01)
    known = sum(float(stats.norm.ppf(p)) for p in (0.999, 0.95)) * 0.01 * math.sqrt(1 / 3 + 1 / 3)
    assert smallest_detected(found, 3, 0.0, 3, 0.001) == pytest.approx(known)


def test_what_a_measured_noise_can_detect() -> None:
    """Three launches of the reference; their degrees of freedom and the candidate's count."""
    noise = Noise(11, Spread(0.01, 10), None, None)
    loss = detected(0.01, 10, 3, math.sqrt(1 / 2 + 1 / 3), 0.005)
    assert detectable(noise, 2, 0.005) == pytest.approx(math.expm1(loss))
    assert detectable(Noise(1, None, None, None), 2, 0.005) is None


@pytest.mark.parametrize("degrees", [5, 10, 30])
@pytest.mark.parametrize("launches", [1, 3])
def test_what_a_noise_study_claims_to_detect_is_detected(degrees: int, launches: int) -> None:
    """In 95 of 100 studies the change that is printed is called regressed in 95 % of cases.

    Studies of a true deviation of 1 %, each with 20,000 comparisons against three launches.
    """
    generator = np.random.default_rng(degrees + launches)
    more, root, alarm = launches + 1, math.sqrt(1 / launches + 1 / 3), 0.01 / 32
    squares = 0.01**2 * generator.chisquare(more, 20_000)
    error = 0.01 * root * generator.standard_normal(20_000)
    studies, hold = 400, 0
    for share in generator.chisquare(degrees, studies) / degrees:
        variance = 0.01**2 * float(share)
        claim = detectable(
            Noise(9, Spread(math.sqrt(variance), degrees), None, None), launches, alarm
        )
        assert claim is not None
        deviation = np.sqrt((squares + degrees * variance) / (degrees + more))
        by_chance = float(stats.t.ppf(1 - alarm, degrees + more)) * deviation * root
        hold += bool((math.log1p(claim) + error > by_chance).mean() >= 0.95)
    assert hold / studies >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / studies)
