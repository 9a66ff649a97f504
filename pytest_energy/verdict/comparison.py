"""Launches → estimate, and candidate ÷ reference, with intervals. Pure; the launch is the unit.

Between two launches of one engine J/token varies more than between two cycles of one launch, so
cycles are averaged within their launch and all inference rests on launches. docs/statistics.md has
the formulas.

With two or three launches a sample standard deviation is hardly an estimate at all. It is moderated
by the runner's noise floor (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1):3) if that was measured,
with that measurement's degrees of freedom. If launches differ far more than a measured floor allows
(F test), it does not apply to this engine, and the sample speaks alone. An assumed floor is no
evidence: it keeps launches that agree by luck from looking exact, and brings no verdict nearer.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import fdtri, ndtri, stdtrit

from pytest_energy.measure.spread import CONFIDENCE, NoiseFloor, Spread, exp, log_moments

# Probability of discarding a measured floor that holds; rare even in a suite of many cells.
_FLOOR_DISCARDED = 0.001


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % confidence interval, in the value's unit."""

    value: float
    low: float
    high: float
    launches: int

    @property
    def relative_half_width(self) -> float:
        """Half of the interval's width over the value."""
        return (self.high - self.low) / (2 * self.value)


@dataclass(frozen=True)
class Comparison:
    """Candidate ÷ reference, geometric means over launches.

    Attributes:
        value: the ratio.
        launches: of the candidate.
        root: √(1/n + 1/m); times the deviation of a launch, the standard error of the log ratio.
        spread: of a launch.
        assumed: deviation of a launch that no bound goes below; 0 if the noise was measured.
        floor_discarded: whether the launches differed far more than the measured floor allows.
    """

    value: float
    launches: int
    root: float
    spread: Spread
    assumed: float = 0.0
    floor_discarded: bool = False

    @property
    def standard_error(self) -> float:
        """Of the ratio's logarithm."""
        return self.spread.deviation * self.root

    def bound(self, probability: float) -> float:
        """What the log ratio's error stays below with `probability` (one-sided)."""
        return error_bound(self.spread, self.assumed, probability) * self.root

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value * exp(-self.bound(0.5 + CONFIDENCE / 2))

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value * exp(self.bound(0.5 + CONFIDENCE / 2))

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2


def estimate(values: Sequence[float], floor: NoiseFloor) -> Estimate:
    """The geometric mean of launches with its interval.

    Args:
        values: one positive value per launch, at least one.
        floor: the noise between launches.
    """
    mean, squares, degrees = log_moments(values)
    found = moderated(squares, degrees, floor)
    half = error_bound(found.spread, found.assumed, 0.5 + CONFIDENCE / 2) / math.sqrt(len(values))
    return Estimate(exp(mean), exp(mean - half), exp(mean + half), len(values))


def compare(
    candidate: Sequence[float], reference: Sequence[float], floor: NoiseFloor
) -> Comparison:
    """Candidate ÷ reference and how sure it is.

    Variances of both are pooled: they are launches of much the same engine on the same GPU.

    Args:
        candidate, reference: one positive value per launch, at least one each.
        floor: the noise between launches.
    """
    mean, squares, degrees = log_moments(candidate)
    reference_mean, reference_squares, reference_degrees = log_moments(reference)
    found = moderated(squares + reference_squares, degrees + reference_degrees, floor)
    return Comparison(
        value=exp(mean - reference_mean),
        launches=len(candidate),
        root=math.sqrt(1 / len(candidate) + 1 / len(reference)),
        spread=found.spread,
        assumed=found.assumed,
        floor_discarded=found.floor_discarded,
    )


def compare_pairs(
    candidate: Sequence[float], reference: Sequence[float], floor: NoiseFloor
) -> Comparison:
    """Candidate ÷ reference of interleaved launches, pair by pair: slow drift cancels.

    Args:
        candidate, reference: one positive value per pair, at least two, in order.
        floor: the noise of a launch; a pair's ratio varies √2 times as much.
    """
    ratios = [a / b for a, b in zip(candidate, reference, strict=True)]
    mean, squares, degrees = log_moments(ratios)
    of_pairs = dataclasses.replace(floor, deviation=math.sqrt(2) * floor.deviation)
    found = moderated(squares, degrees, of_pairs)
    return Comparison(
        value=exp(mean),
        launches=len(ratios),
        root=math.sqrt(1 / len(ratios)),
        spread=found.spread,
        assumed=found.assumed,
        floor_discarded=found.floor_discarded,
    )


def exceeds(own: Spread, floor: NoiseFloor) -> bool:
    """Whether a spread is larger than a measured floor allows by chance (F test)."""
    allowed = _largest_by_chance(own.degrees_of_freedom, floor.degrees_of_freedom)
    return own.deviation**2 > allowed * floor.deviation**2


@dataclass(frozen=True)
class Moderated:
    """How much a launch varies; `assumed` and `floor_discarded` as in `Comparison`."""

    spread: Spread
    assumed: float = 0.0
    floor_discarded: bool = False


def moderated(sum_of_squares: float, degrees: int, floor: NoiseFloor) -> Moderated:
    """The sample's spread, moderated by the floor if that was measured.

    Args:
        sum_of_squares: of the launches' logarithms about their side's mean.
        degrees: of freedom of that sum.
        floor: the runner's noise.
    """
    own = Spread(math.sqrt(sum_of_squares / degrees), degrees) if degrees else None
    if own and not floor.measured:
        return Moderated(own, assumed=floor.deviation)
    if own and exceeds(own, floor):
        return Moderated(own, floor_discarded=True)
    total = degrees + floor.degrees_of_freedom
    assert total, "neither launches nor a floor say how much a launch varies"
    squares = sum_of_squares + floor.degrees_of_freedom * floor.deviation**2
    return Moderated(Spread(math.sqrt(squares / total), total))


def error_bound(spread: Spread, assumed: float, probability: float) -> float:
    """What a launch's error stays below with `probability` (one-sided).

    By Student's t, which holds however wrong the assumption is; but no less than an assumed
    deviation would give if it were known.
    """
    student = quantile(spread.degrees_of_freedom, probability)
    return max(student * spread.deviation, normal(probability) * assumed)


@functools.lru_cache
def normal(probability: float) -> float:
    """Quantile of the normal distribution."""
    return float(ndtri(probability))


# Few are asked for in a run, and each takes longer than all the rest of a comparison.
@functools.lru_cache(maxsize=1024)
def quantile(degrees: float, probability: float) -> float:
    """Of Student's t with so many degrees of freedom."""
    return float(stdtrit(degrees, probability))


@functools.lru_cache(maxsize=1024)
def _largest_by_chance(degrees: float, of_floor: float) -> float:
    return float(fdtri(degrees, of_floor, 1 - _FLOOR_DISCARDED))
