"""The rule on plain values: every precondition, both sides of every bound, every level."""

import math
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import NoiseFloor, Spread
from pytest_energy.verdict.comparison import Comparison, compare, compare_pairs
from pytest_energy.verdict.detectable import smallest_detected
from pytest_energy.verdict.rule import (
    DEFAULT_TOLERANCE,
    FALSE_ALARMS_PER_RUN,
    INTERLEAVED_TOLERANCE,
    MISSED_PER_COMPARISON,
    Case,
    Decision,
    Levels,
    Terms,
    Verdict,
    decide,
    on_ratio,
)

ENERGY, RATE, IDLE = Metric
NOISE = NoiseFloor(0.01, 10, measured=True)
LEVELS = Levels(alarm=0.001, miss=0.02)
DEGREES, DEVIATION, ROOT = 12, 0.01, 0.8
UNCHANGED = Case(ENERGY, 0.03, [0.5] * 3, [0.5] * 3, NOISE)


def ratio(value: float, deviation: float = DEVIATION, assumed: float = 0.0) -> Comparison:
    """Of three launches."""
    return Comparison(value, 3, ROOT, Spread(deviation, DEGREES), assumed)


def bound(probability: float, deviation: float = DEVIATION) -> float:
    return float(stats.t.ppf(probability, DEGREES)) * deviation * ROOT


def test_the_agreed_levels_and_tolerances() -> None:
    assert (FALSE_ALARMS_PER_RUN, MISSED_PER_COMPARISON) == (0.01, 0.05)
    assert DEFAULT_TOLERANCE == {ENERGY: 0.03, RATE: 0.10, IDLE: 0.10}
    assert INTERLEAVED_TOLERANCE == {ENERGY: 0.03, RATE: 0.05, IDLE: 0.10}
    assert [v.name for v in Verdict if v.green] == ["PASS", "IMPROVED"]


@pytest.mark.parametrize(("paired", "default"), [(False, 0.10), (True, 0.05)])
def test_a_test_has_its_own_tolerance_or_the_default(paired: bool, default: float) -> None:
    terms = Terms(paired=paired)
    assert terms.tolerance(RATE, None) == default
    assert terms.tolerance(RATE, 0.2) == 0.2


@pytest.mark.parametrize(
    ("terms", "launches", "looks"),
    [
        (Terms(), 4, [4]),
        (Terms(budget=1), 1, [1]),
        (Terms(budget=2), 1, [1, 2]),
        (Terms(budget=3), 1, [1, 2, 3]),
        (Terms(budget=5), 1, [1, 2, 3, 5]),
        (Terms(budget=5), 7, [1, 2, 3, 7]),
        (Terms(budget=5, paired=True), 1, [3, 5]),
        (Terms(budget=3, paired=True), 1, [3]),
        (Terms(budget=2, paired=True), 1, [2]),
        (Terms(paired=True), 4, [4]),
    ],
)
def test_a_run_looks_after_so_many_launches(terms: Terms, launches: int, looks: list[int]) -> None:
    assert terms.looks(launches) == looks
    assert Terms(budget=3).looks() == [1, 2, 3]


@pytest.mark.parametrize(
    ("terms", "launches", "alarm", "miss", "may_alarm"),
    [
        (Terms(), 1, 0.01, 0.05, True),
        (Terms(4), 3, 0.0025, 0.05, True),
        (Terms(4, 1), 1, 0.0025, 0.05, True),
        (Terms(4, 5), 1, 0.01 * 0.05 / 4, 0.05 * 0.20, False),
        (Terms(4, 5), 2, 0.01 * 0.15 / 4, 0.05 * 0.20, True),
        (Terms(4, 5), 3, 0.01 * 0.30 / 4, 0.05 * 0.25, True),
        (Terms(4, 5), 5, 0.01 * 0.50 / 4, 0.05 * 0.35, True),
        (Terms(4, 3), 3, 0.01 * 0.80 / 4, 0.05 * 0.60, True),
        (Terms(4, 5, paired=True), 3, 0.01 * 0.30 / 4, 0.05 * 0.25, True),
        (Terms(4, 5, paired=True), 5, 0.01 * 0.70 / 4, 0.05 * 0.75, True),
    ],
)
def test_each_look_has_its_share_of_the_levels(
    terms: Terms, launches: int, alarm: float, miss: float, may_alarm: bool
) -> None:
    levels = terms.levels(launches)
    assert (levels.alarm, levels.miss) == pytest.approx((alarm, miss), rel=1e-12)
    assert levels.may_alarm is may_alarm


EVERYTHING_FAILS = replace(
    UNCHANGED,
    candidate=[0.5],
    reference=[0.5],
    faults=["a fault"],
    slow={"max_itl_ms": "slow", "max_ttft_ms": "late"},
    not_comparable=["other hardware"],
    missing=["no baseline"],
)


@pytest.mark.parametrize(
    ("mended", "verdict", "reasons"),
    [
        ({}, Verdict.INVALID, ("a fault",)),
        (
            {"faults": ()},
            Verdict.INCONCLUSIVE,
            ("slow; late; at least 3 launches are needed to decide",),
        ),
        ({"slow": {}}, Verdict.NOT_COMPARABLE, ("other hardware",)),
        ({"not_comparable": ()}, Verdict.NO_BASELINE, ("no baseline",)),
        (
            {"missing": ()},
            Verdict.INCONCLUSIVE,
            ("a verdict needs 3 pairs of launches, 1 so far",),
        ),
    ],
)
def test_the_first_precondition_that_fails_is_the_verdict(
    mended: dict[str, Any], verdict: Verdict, reasons: tuple[str, ...]
) -> None:
    """Each row mends what decided the row before."""
    order = ["faults", "slow", "not_comparable", "missing"]
    case = EVERYTHING_FAILS
    for name in order[: order.index(next(iter(mended))) + 1] if mended else ():
        case = replace(case, **{name: {} if name == "slow" else ()})
    decision = decide(case, Terms(budget=5, paired=True))
    assert decision == Decision(verdict, verdict, reasons)


@pytest.mark.parametrize(
    ("launches", "budget", "reference", "verdict"),
    [
        (1, 5, [0.5] * 3, Verdict.INCONCLUSIVE),
        (2, 5, [0.5] * 3, Verdict.INCONCLUSIVE),
        (3, 5, [0.5] * 3, Verdict.REGRESSED),
        (2, 2, [0.5] * 3, Verdict.REGRESSED),
        (1, None, [0.5] * 3, Verdict.REGRESSED),
        (1, 5, [], Verdict.NO_BASELINE),
    ],
)
def test_a_latency_over_its_limit_takes_three_launches_if_there_can_be_three(
    launches: int, budget: int | None, reference: list[float], verdict: Verdict
) -> None:
    case = replace(
        UNCHANGED,
        candidate=[0.5] * launches,
        reference=reference,
        slow={"max_itl_ms": "slow"},
        missing=() if reference else ["no baseline"],
    )
    assert decide(case, Terms(budget=budget)).verdict is verdict


def test_three_pairs_are_enough_and_launches_that_are_not_paired_need_none() -> None:
    two = replace(UNCHANGED, candidate=[0.5] * 2, reference=[0.5] * 2)
    assert decide(two, Terms(paired=True)).ratio is None
    assert decide(UNCHANGED, Terms(paired=True)).ratio is not None
    assert decide(two, Terms()).ratio is not None


@pytest.mark.parametrize("metric", Metric)
def test_a_loss_regresses_and_a_gain_improves(metric: Metric) -> None:
    worse = 1 / 1.2 if metric is RATE else 1.2
    assert on_ratio(metric, ratio(worse), 0.05, LEVELS) is Verdict.REGRESSED
    assert on_ratio(metric, ratio(1 / worse), 0.05, LEVELS) is Verdict.IMPROVED
    assert on_ratio(metric, ratio(1.0), 0.05, LEVELS) is Verdict.PASS


@pytest.mark.parametrize(("sign", "clear"), [(1, Verdict.REGRESSED), (-1, Verdict.IMPROVED)])
def test_a_change_is_clear_beyond_what_chance_makes(sign: int, clear: Verdict) -> None:
    chance = bound(1 - LEVELS.alarm)
    beyond, within = (math.exp(sign * chance * factor) for factor in (1.001, 0.999))
    assert on_ratio(ENERGY, ratio(beyond), 0.02, LEVELS) is clear
    assert on_ratio(ENERGY, ratio(within), 0.02, LEVELS) is not clear


def test_an_assumed_noise_brings_no_verdict_nearer() -> None:
    """It counts as if it were known, but only if that is more than the launches show."""
    alarm = math.exp(1.001 * bound(1 - LEVELS.alarm))
    below = math.exp(math.log1p(0.03) - 1.001 * bound(1 - LEVELS.miss))
    for value, clear in ((alarm, Verdict.REGRESSED), (below, Verdict.PASS)):
        small, large = (ratio(value, assumed=deviation) for deviation in (0.005, 0.02))
        assert on_ratio(ENERGY, small, 0.02 if value == alarm else 0.03, LEVELS) is clear
        assert on_ratio(ENERGY, large, 0.02, LEVELS) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("value", "tolerance"), [(1.5, 0.5), (2.0, 1.0)])
def test_a_change_as_large_as_the_tolerance_reaches_it(value: float, tolerance: float) -> None:
    exact = ratio(value, deviation=0.0)
    assert on_ratio(ENERGY, exact, tolerance, LEVELS) is Verdict.REGRESSED
    assert on_ratio(ENERGY, exact, 1.001 * tolerance, LEVELS) is Verdict.PASS
    assert on_ratio(ENERGY, ratio(1 / value, 0.0), tolerance, LEVELS) is Verdict.IMPROVED
    assert on_ratio(ENERGY, ratio(1 / value, 0.0), 1.001 * tolerance, LEVELS) is Verdict.PASS
    silent = replace(LEVELS, may_alarm=False)
    assert on_ratio(ENERGY, exact, tolerance, silent) is Verdict.INCONCLUSIVE


def test_a_throughput_that_falls_by_the_tolerance_reaches_it() -> None:
    halved = ratio(0.5, deviation=0.0)
    assert on_ratio(RATE, halved, 0.5, LEVELS) is Verdict.REGRESSED
    assert on_ratio(RATE, halved, 0.501, LEVELS) is Verdict.PASS


def test_no_change_at_all_is_neither_a_loss_nor_a_gain() -> None:
    assert on_ratio(ENERGY, ratio(1.0, 0.0), 0.0, LEVELS) is Verdict.INCONCLUSIVE


def test_a_pass_is_a_loss_that_stays_below_the_tolerance_with_what_is_hidden() -> None:
    limit, hidden = math.log1p(0.03), bound(1 - LEVELS.miss)
    below, above = (math.exp(limit - hidden * factor) for factor in (1.001, 0.999))
    assert on_ratio(ENERGY, ratio(below), 0.03, LEVELS) is Verdict.PASS
    assert on_ratio(ENERGY, ratio(above), 0.03, LEVELS) is Verdict.INCONCLUSIVE


def test_a_look_that_may_not_alarm_leaves_a_clear_change_open() -> None:
    silent = replace(LEVELS, may_alarm=False)
    assert on_ratio(ENERGY, ratio(2.0), 0.03, silent) is Verdict.INCONCLUSIVE
    assert on_ratio(ENERGY, ratio(0.5), 0.03, silent) is Verdict.PASS


def test_a_decision_shows_what_it_rests_on() -> None:
    terms = Terms(4, 5)
    decision = decide(UNCHANGED, terms)
    compared = compare(UNCHANGED.candidate, UNCHANGED.reference, NOISE)
    detected = smallest_detected(compared, 3, math.log1p(0.03), 5, terms.levels(5).alarm)
    assert decision.verdict is decision.by_comparison is Verdict.PASS
    assert decision.reasons == ()
    assert decision.ratio == compared
    assert decision.levels == terms.levels(3)
    assert decision.smallest_detected == pytest.approx(math.expm1(detected), rel=1e-12)


def test_pairs_are_compared_pair_by_pair() -> None:
    """A reference that drifts with its candidate is no noise, and each launch brings another."""
    case = replace(UNCHANGED, candidate=[0.5, 0.6, 0.7], reference=[0.5, 0.6, 0.7])
    terms = Terms(4, 5, paired=True)
    decision = decide(case, terms)
    assert decision.ratio == compare_pairs(case.candidate, case.reference, NOISE)
    detected = smallest_detected(decision.ratio, None, math.log1p(0.03), 5, terms.levels(5).alarm)
    assert decision.smallest_detected == pytest.approx(math.expm1(detected), rel=1e-12)


def test_a_gate_that_misses_a_factor_of_two_does_not_pass() -> None:
    loud = replace(UNCHANGED, tolerance=0.4, noise=NoiseFloor(0.03, 10, measured=True))
    passing = decide(loud, Terms(comparisons=10))
    assert passing.verdict is Verdict.PASS
    assert not passing.blind
    blind = decide(replace(loud, tolerance=1.1), Terms(comparisons=10))
    assert blind.verdict is blind.by_comparison is Verdict.INCONCLUSIVE
    assert blind.blind


def test_a_gate_is_blind_beyond_a_factor_of_two() -> None:
    """Beside a wide tolerance the bound of chance is nothing: what else is detected is fixed."""

    def decided(tolerance: float) -> Decision:
        return decide(replace(UNCHANGED, tolerance=tolerance), Terms(budget=3))

    detected = decided(0.5).smallest_detected
    assert detected is not None
    at_the_bound = 2 * 1.5 / (1 + detected) - 1
    for tolerance, blind in ((at_the_bound - 1e-6, False), (at_the_bound + 1e-6, True)):
        assert decided(tolerance).blind is blind
        assert decided(tolerance).verdict is (Verdict.INCONCLUSIVE if blind else Verdict.PASS)


def test_a_gate_that_detects_a_doubling_is_not_blind() -> None:
    """Without any noise it detects what its tolerance is."""
    exact = replace(UNCHANGED, tolerance=1.0, noise=NoiseFloor(0.0, 10, measured=True))
    decision = decide(exact, Terms())
    assert decision.smallest_detected == 1.0
    assert decision.verdict is Verdict.PASS
    assert not decision.blind


@pytest.mark.parametrize(("budget", "blind"), [(None, False), (5, False), (1, True)])
def test_a_replay_is_as_blind_as_the_run_it_may_be_of(budget: int | None, blind: bool) -> None:
    """One launch and no noise: five launches can show a doubling among 32, and one cannot."""
    case = replace(
        UNCHANGED,
        candidate=[0.5],
        reference=[0.49, 0.5, 0.51],
        tolerance=0.25,
        noise=NoiseFloor(0.01, 3),
    )
    decision = decide(case, Terms(32, budget))
    assert decision.blind is blind
    assert decision.verdict is (Verdict.INCONCLUSIVE if blind else Verdict.PASS)


def test_a_blind_gate_that_fires_all_the_same_has_fired() -> None:
    loud = replace(UNCHANGED, candidate=[5.0] * 3, tolerance=1.1)
    assert decide(loud, Terms()).verdict is Verdict.REGRESSED


@pytest.mark.parametrize(
    ("candidate", "by_comparison"), [(0.5, Verdict.PASS), (0.7, Verdict.REGRESSED)]
)
def test_a_broken_limit_regresses_whatever_the_comparison_says(
    candidate: float, by_comparison: Verdict
) -> None:
    case = replace(
        UNCHANGED,
        candidate=[candidate] * 3,
        over_budget={"max_power_w": "over budget"},
        slow={"max_itl_ms": "slow"},
    )
    decision = decide(case, Terms())
    assert decision.verdict is Verdict.REGRESSED
    assert decision.by_comparison is by_comparison
    assert decision.reasons == ("over budget", "slow")
