"""How many launches would decide what is open. Pure.

The numbers hold in nine of ten cases, over cells of all sorts: tests/unit/test_planning.py
simulates it.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import chdtri, ndtr

from pytest_energy.measure.spread import NoiseFloor, Spread
from pytest_energy.settings import DEFAULT_LAUNCHES, MIN_LAUNCHES
from pytest_energy.verdict.comparison import Comparison, normal, quantile
from pytest_energy.verdict.rule import Case, Terms, loss, tolerated

PROBABILITY = 0.9
MOST_LAUNCHES = 20  # more are as good as none
_POINTS = 20
_LEAST_DEVIATION = 1e-9  # of launches that agree to the last digit


@dataclass(frozen=True)
class Plan:
    """The least launches that would decide; None if no number up to 20 would.

    Attributes:
        made: launches, or pairs, of the candidate so far.
        candidate: in all, those made included.
        stored: launches of the baseline; None for interleaved engines.
        baseline: of a new one, against which one launch of an unchanged engine passes.
    """

    made: int
    candidate: int | None
    stored: int | None = None
    baseline: int | None = None

    @property
    def baseline_is_short(self) -> bool:
        """Whether a larger baseline would serve."""
        return bool(self.stored and self.baseline and self.baseline > self.stored)


def plan(case: Case, ratio: Comparison, terms: Terms) -> Plan:
    """What would decide a case that is inconclusive.

    Args:
        case: what was judged.
        ratio: of its launches.
        terms: of the run; a replay is continued by a replay.
    """
    candidate = _launches_of_candidate(case, ratio, terms)
    if terms.paired:
        return Plan(ratio.launches, candidate)
    tolerance = tolerated(case.metric, case.tolerance)
    baseline = launches_of_baseline(tolerance, case.noise, terms.budget)
    return Plan(ratio.launches, candidate, len(case.reference), baseline)


def launches_of_baseline(limit: float, noise: NoiseFloor, budget: int | None = None) -> int | None:
    """The least launches of a baseline against which one launch of an unchanged engine passes.

    None if the noise was not measured: nothing then tells beforehand how launches will vary.

    Args:
        limit: the tolerance as a loss.
        noise: of the runner.
        budget: launches at most of the run that judges by the baseline; None for the default.
    """
    if not noise.measured:
        return None
    miss = Terms(budget=budget or DEFAULT_LAUNCHES).levels(1).miss
    known = Spread(noise.deviation, noise.degrees_of_freedom)
    true = _deviations(known)
    for launches in range(MIN_LAUNCHES, MOST_LAUNCHES + 1):
        root = math.sqrt(1 + 1 / launches)
        hidden = _bounds(known, launches - 1, true, miss)
        if float(ndtr((limit / root - hidden) / true).mean()) >= PROBABILITY:
            return launches
    return None


def _launches_of_candidate(case: Case, ratio: Comparison, terms: Terms) -> int | None:
    """By how far the mean of the launches made may still move, wherever the truth lies."""
    made, worse = ratio.launches, loss(case.metric, ratio)
    limit = tolerated(case.metric, case.tolerance)
    true = _deviations(ratio.spread)
    for launches in range(made + 1, MOST_LAUNCHES + 1):
        levels = replace(terms, budget=terms.budget and launches).levels(launches)
        root = math.sqrt(1 / launches + (0.0 if terms.paired else 1 / len(case.reference)))
        hidden, by_chance = (
            root
            * np.maximum(
                _bounds(ratio.spread, launches - made, true, level),
                normal(1 - level) * ratio.assumed,
            )
            for level in (levels.miss, levels.alarm)
        )
        moves = true * math.sqrt(1 / made - 1 / launches)
        passes = ndtr((limit - hidden - worse) / moves)
        fails = ndtr((worse - np.maximum(limit, by_chance)) / moves)
        if float((passes + fails).mean()) >= PROBABILITY:
            return launches
    return None


def _deviations(known: Spread) -> np.ndarray:
    """Equally likely true deviations, given an estimate; shape (points,)."""
    shares = (np.arange(_POINTS) + 0.5) / _POINTS
    degrees = known.degrees_of_freedom
    ratios: np.ndarray = np.sqrt(degrees / chdtri(degrees, shares))
    return max(known.deviation, _LEAST_DEVIATION) * ratios


def _bounds(known: Spread, more: int, true: np.ndarray, level: float) -> np.ndarray:
    """What a launch's error will stay below, once `more` degrees of freedom show the truth."""
    degrees = known.degrees_of_freedom + more
    squares = known.degrees_of_freedom * known.deviation**2 + more * true**2
    return quantile(degrees, 1 - level) * np.sqrt(squares / degrees)
