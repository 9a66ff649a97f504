"""How many launches would decide: right in nine of ten cases, over cells of all sorts."""

import math

import numpy as np
import pytest

from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import ASSUMED_NOISE, NoiseFloor
from pytest_energy.verdict.comparison import compare
from pytest_energy.verdict.planning import Plan, launches_of_baseline, plan
from pytest_energy.verdict.reasons import planned
from pytest_energy.verdict.rule import Case, Terms, Verdict, decide

ENERGY = Metric.JOULES_PER_TOKEN
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
        launches = launches_of_baseline(LIMIT, noise, terms)
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
        launches_of_baseline(LIMIT, NoiseFloor(deviation, 30, measured=True), Terms(8))
        for deviation in (0.003, 0.005, 0.007, 0.0075, 0.02)
    ]
    assert needed[0] == 3
    assert needed[-1] is None
    known = [launches for launches in needed if launches is not None]
    assert known == sorted(known)
    assert launches_of_baseline(LIMIT, ASSUMED_NOISE[ENERGY], Terms(8)) is None


def test_pairs_have_no_baseline() -> None:
    pairs = case([0.51, 0.515, 0.512], [0.5] * 3)
    found = decide(pairs, Terms(8, 3, paired=True))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.ratio is not None
    of_pairs = plan(pairs, found.ratio, Terms(8, 3, paired=True))
    assert of_pairs.stored is of_pairs.baseline is None
    assert not of_pairs.baseline_is_short


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
