"""Cycles → estimate with interval; two sides → comparison. Pure functions; the launch is the unit.

Between two launches of one engine J/token varies more than between two cycles of one launch, so cycles are
averaged within their launch and all inference rests on launches. docs/statistics.md has the formulas.

With two or three launches a sample standard deviation is hardly an estimate at all; it is moderated by an assumed
noise floor worth a stated number of degrees of freedom (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1):3), which
keeps a lucky pair of launches from looking exact. Where the launches differ far more than the floor allows for,
the floor does not apply to this engine and the sample speaks alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, stdtrit

CONFIDENCE = 0.95
_EXCESS = 0.001  # probability of discarding a floor that holds; rare even in a suite of many cells


@dataclass(frozen=True)
class NoiseFloor:
    """An assumed standard deviation between launches.

    Attributes:
        deviation: relative, 0.01 for 1 %.
        degrees_of_freedom: how many launches' worth of evidence it counts for.
    """

    deviation: float
    degrees_of_freedom: float


# Pooled over the launches in recordings/ (1.0 % and 1.6 %, 20 degrees of freedom; docs/measurements.md), the second
# rounded up, for throughput against a baseline of another day is noisier than within one.
FLOOR_JOULES_PER_TOKEN = NoiseFloor(deviation=0.010, degrees_of_freedom=10)
FLOOR_TOKENS_PER_S = NoiseFloor(deviation=0.030, degrees_of_freedom=10)


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval, in the value's unit."""

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
    """new ÷ old, geometric means over launches.

    Attributes:
        value: the ratio.
        standard_error: of its logarithm.
        degrees_of_freedom: of the standard error.
        launches: on the new side.
        floor_discarded: whether the launches differed far more than the noise floor allows for.
    """

    value: float
    standard_error: float
    degrees_of_freedom: float
    launches: int
    floor_discarded: bool

    def bound(self, probability: float) -> float:
        """How far the logarithm's error stays below, with `probability` (one-sided, Student t)."""
        return float(stdtrit(self.degrees_of_freedom, probability)) * self.standard_error

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value * math.exp(-self.bound(0.5 + CONFIDENCE / 2))

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value * math.exp(self.bound(0.5 + CONFIDENCE / 2))

    @property
    def relative_half_width(self) -> float:
        """Half of the interval's width over the value."""
        return (self.high - self.low) / (2 * self.value)


def launch_means(launches: Sequence[Sequence[float]]) -> list[float]:
    """Each launch's mean over its cycles; `launches` is ragged, one sequence of cycle values per launch."""
    return [math.fsum(values) / len(values) for values in launches]


def _log_moments(values: Sequence[float]) -> tuple[float, float, int]:
    """Mean and sum of squared deviations of the logarithms, and the degrees of freedom."""
    logs = np.log(np.asarray(values, dtype=float))
    return float(logs.mean()), float(((logs - logs.mean()) ** 2).sum()), len(logs) - 1


@dataclass(frozen=True)
class _Spread:
    deviation: float
    degrees_of_freedom: float
    floor_discarded: bool


def _spread(sum_of_squares: float, degrees: int, floor: NoiseFloor) -> _Spread:
    """Standard deviation of a launch (log scale), moderated by the floor unless the sample contradicts it."""
    prior = floor.degrees_of_freedom * floor.deviation**2
    if degrees and (not prior or sum_of_squares / floor.deviation**2 > float(chdtri(degrees, _EXCESS))):
        return _Spread(math.sqrt(sum_of_squares / degrees), degrees, bool(prior))
    total = degrees + floor.degrees_of_freedom
    return _Spread(math.sqrt((sum_of_squares + prior) / total), total, False)


def estimate(values: Sequence[float], floor: NoiseFloor) -> Estimate:
    """The geometric mean of launches with its interval.

    Args:
        values: one positive value per launch, at least one.
        floor: the assumed noise between launches.
    """
    mean, squares, degrees = _log_moments(values)
    spread = _spread(squares, degrees, floor)
    quantile = float(stdtrit(spread.degrees_of_freedom, 0.5 + CONFIDENCE / 2))
    half = quantile * spread.deviation / math.sqrt(len(values))
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(values))


def compare(new: Sequence[float], old: Sequence[float], floor: NoiseFloor) -> Comparison:
    """new ÷ old and how sure it is.

    Variances of the two sides are pooled: both are launches of much the same engine on the same kind of machine.

    Args:
        new, old: one positive value per launch, at least one each.
        floor: the assumed noise between launches.
    """
    new_mean, new_squares, new_degrees = _log_moments(new)
    old_mean, old_squares, old_degrees = _log_moments(old)
    spread = _spread(new_squares + old_squares, new_degrees + old_degrees, floor)
    return Comparison(
        value=math.exp(new_mean - old_mean),
        standard_error=spread.deviation * math.sqrt(1 / len(new) + 1 / len(old)),
        degrees_of_freedom=spread.degrees_of_freedom,
        launches=len(new),
        floor_discarded=spread.floor_discarded,
    )
