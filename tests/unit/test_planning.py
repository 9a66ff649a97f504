"""How many launches would decide: right in nine of ten cases, over cells of all sorts."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import ASSUMED_NOISE, NoiseFloor
from pytest_energy.verdict.comparison import compare, compare_pairs
from pytest_energy.verdict.planning import Plan, launches_of_baseline, plan
from pytest_energy.verdict.reasons import planned
from pytest_energy.verdict.rule import Case, Terms, Verdict, decide

ENERGY, RATE = Metric.JOULES_PER_TOKEN, Metric.TOKENS_PER_S
LIMIT = math.log1p(0.03)
NOISE = NoiseFloor(0.01, 10, measured=True)


def case(candidate: list[float], reference: list[float], noise: NoiseFloor = NOISE) -> Case:
    return Case(ENERGY, 0.03, candidate, reference, noise)


def drawn(generator: np.random.Generator, mean: float, deviation: float, n: int) -> list[float]:
    return np.exp(generator.normal(mean, deviation, n)).tolist()


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize(("baseline", "budget"), [(3, 1), (3, 3), (5, 5)])
def test_so_many_launches_decide_in_nine_of_ten_cases(
    baseline: int, budget: int, measured: bool
) -> None:
    """Of runs that are inconclusive, gone on with to the launches that were planned.

    Cells vary by 0.2 to 2 % between launches, evenly on a log scale, and candidates differ from
    their baseline by −3 to +6 %.
    """
    generator = np.random.default_rng([baseline, budget, measured])
    inconclusive = decided = planned_for = 0
    for _ in range(1500):
        deviation = math.exp(generator.uniform(math.log(0.002), math.log(0.02)))
        reference = drawn(generator, 0.0, deviation, baseline)
        candidate = drawn(generator, generator.uniform(-0.03, 0.06), deviation, 20)
        estimate = deviation * math.sqrt(generator.chisquare(10) / 10)
        noise = NoiseFloor(estimate, 10, measured=True) if measured else ASSUMED_NOISE[ENERGY]
        terms = Terms(8, budget)
        for look in terms.looks():
            looked = case(candidate[:look], reference, noise)
            found = decide(looked, terms)
            if found.verdict is not Verdict.INCONCLUSIVE:
                break
        if found.verdict is not Verdict.INCONCLUSIVE or found.ratio is None:
            continue
        inconclusive += 1
        launches = plan(looked, found.ratio, terms).candidate
        if launches is None:
            continue
        planned_for += 1
        more = Terms(8, launches)
        verdicts = [
            decide(case(candidate[:look], reference, noise), more).verdict
            for look in more.looks()
            if look > budget
        ]
        decided += any(verdict is not Verdict.INCONCLUSIVE for verdict in verdicts)
    assert inconclusive > 100
    assert decided >= 0.9 * planned_for - 2 * math.sqrt(0.09 * planned_for)
    assert measured or planned_for > 5


def test_against_such_a_baseline_one_launch_passes_in_nine_of_ten_cases() -> None:
    generator = np.random.default_rng(1)
    passed = planned_for = 0
    for _ in range(4000):
        deviation = math.exp(generator.uniform(math.log(0.002), math.log(0.02)))
        estimate = deviation * math.sqrt(generator.chisquare(10) / 10)
        noise = NoiseFloor(estimate, 10, measured=True)
        terms = Terms(8, 5)
        launches = launches_of_baseline(LIMIT, noise, 5)
        if launches is None or launches == 3:
            continue
        planned_for += 1
        reference = drawn(generator, 0.0, deviation, launches)
        one = case(drawn(generator, 0.0, deviation, 1), reference, noise)
        passed += decide(one, terms).verdict is Verdict.PASS
    assert planned_for > 100
    assert passed >= 0.9 * planned_for - 2 * math.sqrt(0.09 * planned_for)


def test_noisier_cells_need_larger_baselines_and_some_are_out_of_reach() -> None:
    needed = [
        launches_of_baseline(LIMIT, NoiseFloor(deviation, 30, measured=True))
        for deviation in (0.003, 0.005, 0.007, 0.0075, 0.02)
    ]
    assert needed[0] == 3
    assert needed[-1] is None
    known = [launches for launches in needed if launches is not None]
    assert known == sorted(known)
    assert launches_of_baseline(LIMIT, ASSUMED_NOISE[ENERGY]) is None


def test_pairs_have_no_baseline() -> None:
    pairs = case([0.505, 0.515, 0.51], [0.5] * 3)
    found = decide(pairs, Terms(8, 3, paired=True))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.ratio is not None
    of_pairs = plan(pairs, found.ratio, Terms(8, 3, paired=True))
    assert of_pairs.made == 3
    assert of_pairs.stored is of_pairs.baseline is None
    assert not of_pairs.baseline_is_short


# How far one launch, and the mean of a baseline of `n`, may differ if a launch varies by d = 1 that
# is all but known: √(1 + 1/n). One launch passes if a loss as large as the tolerance lies further
# than z(0.99) = 2.326 of them, which is the first look's miss level of 1 % in runs of five; and in
# nine of ten cases if there is room for z(0.9) = 1.282 of launches besides. In runs of one launch
# the level is 5 % and z(0.95) = 1.645.
@pytest.mark.parametrize("launches", [4, 5, 9, 20])
@pytest.mark.parametrize(("budget", "room"), [(None, 3.608), (5, 3.608), (2, 3.608), (1, 2.926)])
def test_a_baseline_is_as_large_as_a_known_noise_asks(
    launches: int, budget: int | None, room: float
) -> None:
    limit = room * math.sqrt(1 + 1 / (launches - 0.5))
    known = NoiseFloor(1.0, 1e9, measured=True)
    assert launches_of_baseline(limit, known, budget) == launches


def test_launches_of_the_baseline_tell_how_noisy_it_is() -> None:
    """Simulated: the noise is hardly known, and a launch more or less makes 1.5 % of passes."""
    generator = np.random.default_rng(2)
    deviation, degrees, draws = 0.00296, 2, 300_000
    true = deviation * np.sqrt(degrees / generator.chisquare(degrees, draws))

    def passes(launches: int) -> float:
        baseline = true[:, None] * generator.standard_normal((draws, launches))
        squares = ((baseline.T - baseline.mean(axis=1)) ** 2).sum(axis=0)
        together = degrees + launches - 1
        found = np.sqrt((degrees * deviation**2 + squares) / together * (1 + 1 / launches))
        worse = true * generator.standard_normal(draws) - baseline.mean(axis=1)
        return float((worse + stats.t.ppf(0.99, together) * found < LIMIT).mean())

    assert launches_of_baseline(LIMIT, NoiseFloor(deviation, degrees, measured=True)) == 4
    assert passes(3) < 0.895
    assert passes(4) > 0.905


@pytest.mark.parametrize(
    ("degrees", "losing", "deviation", "made", "reference", "terms", "launches"),
    [
        (1000, 0.038426, 0.016257, 3, 5, Terms(8), 6),
        (1000, 0.0, 0.016849, 3, None, Terms(8, 3, paired=True), 7),
        (2, 0.038426, 0.007981, 1, 3, Terms(8, 1), 3),
        (3, 0.038426, 0.003251, 1, 1, Terms(8), 3),
    ],
)
def test_the_least_launches_that_decide_in_nine_of_ten_simulated_cases(
    degrees: int,
    losing: float,
    deviation: float,
    made: int,
    reference: int | None,
    terms: Terms,
    launches: int,
) -> None:
    """Launches drawn around a truth that is only known by those made, which are all alike."""
    generator = np.random.default_rng(3)
    draws = 200_000
    known = degrees + made - 1 + (reference - 1 if reference else 0)
    deviation_of = deviation * (1.0 if reference else math.sqrt(2))
    true = deviation_of * np.sqrt(degrees / generator.chisquare(known, draws))
    middle = losing + true / math.sqrt(made) * generator.standard_normal(draws)

    def decided(then: int) -> float:
        more = middle + true * generator.standard_normal((then - made, draws))
        all_launches = np.concatenate([np.full((made, draws), losing), more])
        worse = all_launches.mean(axis=0)
        squares = degrees * deviation_of**2 + ((all_launches - worse) ** 2).sum(axis=0)
        together = known + then - made
        errors = np.sqrt(squares / together * (1 / then + (1 / reference if reference else 0)))
        run = Terms(terms.comparisons, terms.budget and then, terms.paired).levels(then)
        miss, alarm = (stats.t.ppf(1 - level, together) for level in (run.miss, run.alarm))
        passed = worse + miss * errors < LIMIT
        return float((passed | ((worse >= LIMIT) & (worse > alarm * errors))).mean())

    noise = NoiseFloor(deviation, degrees, measured=True)
    looked = case([math.exp(losing)] * made, [1.0] * (reference or made), noise)
    compared = compare if reference else compare_pairs
    ratio = compared(looked.candidate, looked.reference, noise)
    assert plan(looked, ratio, terms).candidate == launches
    assert decided(launches - 1) < 0.9 < decided(launches)


def test_a_plan_is_for_a_run_that_ends_with_it_whenever_this_one_would_have() -> None:
    looked = case([0.5], [0.5] * 5, NoiseFloor(0.0125, 1000, measured=True))
    ratio = compare(looked.candidate, looked.reference, looked.noise)
    assert {plan(looked, ratio, Terms(8, budget)).candidate for budget in (1, 5, 9)} == {9}


def largest(needed: Callable[[float], int | None]) -> int | None:
    """What is needed for the largest deviation for which anything serves."""
    low, high = 1e-4, 0.5
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if needed(middle) is None else (middle, high)
    return needed(low)


def test_up_to_twenty_launches_are_planned() -> None:
    def of_baseline(deviation: float) -> int | None:
        return launches_of_baseline(LIMIT, NoiseFloor(deviation, 30, measured=True))

    def of_candidate(deviation: float) -> int | None:
        looked = case([0.5] * 3, [0.5] * 5, NoiseFloor(deviation, 1000, measured=True))
        ratio = compare(looked.candidate, looked.reference, looked.noise)
        return plan(looked, ratio, Terms(8, 3)).candidate

    assert largest(of_baseline) == largest(of_candidate) == 20


@pytest.mark.parametrize(("metric", "launches"), [(ENERGY, 5), (RATE, 7)])
def test_a_plan_is_by_the_tolerance_of_its_metric(metric: Metric, launches: int) -> None:
    """40 % more J/token are a loss of ln 1.4 = 0.336, and 40 % less tokens/s one of 0.511.

    As above for runs of one launch, deviations of 0.1045 and 0.163 ask for 4.7 and 6.8 launches.
    """
    noise = NoiseFloor({ENERGY: 0.1045, RATE: 0.163}[metric], 1e9, measured=True)
    looked = Case(metric, 0.4, [0.5], [0.5] * 3, noise)
    ratio = compare(looked.candidate, looked.reference, noise)
    found = plan(looked, ratio, Terms(8, 1))
    assert (found.made, found.stored, found.baseline) == (1, 3, launches)


def test_launches_that_agree_to_the_last_digit_are_planned_for() -> None:
    exact = case([0.5 * 1.02], [0.5] * 3, NoiseFloor(0.0, 10, measured=True))
    ratio = compare(exact.candidate, exact.reference, exact.noise)
    assert plan(exact, ratio, Terms(8, 1)).candidate == 2


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Plan(3, 6, 3, 3), "in 9 of 10 cases 3 more launches of the candidate would decide"),
        (
            Plan(3, 4, 3, 7),
            "in 9 of 10 cases 1 more launch of the candidate would decide, and against a baseline "
            "of 7 launches (it has 3) one launch of an unchanged engine passes",
        ),
        (
            Plan(5, None, 3, 7),
            "no number of launches of the candidate up to 20 would decide: the baseline is short; "
            "against a baseline of 7 launches (it has 3) one launch of an unchanged engine passes "
            "in 9 of 10 cases",
        ),
        (
            Plan(5, None, 5, 4),
            "no number of launches of the candidate up to 20 would decide: the change is too close "
            "to the tolerance",
        ),
        (Plan(5, None, 5, None), "no number of launches of the candidate up to 20 would decide"),
        (Plan(3, 5), "in 9 of 10 cases 2 more pairs of launches would decide"),
        (Plan(3, 4), "in 9 of 10 cases 1 more pair of launches would decide"),
        (Plan(3, None), "no number of pairs of launches up to 20 would decide"),
    ],
)
def test_what_would_decide_in_words(found: Plan, words: str) -> None:
    assert planned(found) == words
