"""Cycles → estimate with interval; two sides → ratio with interval. Pure functions; the launch is the unit.

Between two launches of one engine J/token varies more than between two cycles of one launch, so cycles are
averaged within their launch and all inference rests on launches. With two or three launches a sample standard
deviation is hardly an estimate at all; it is moderated by an assumed noise floor worth a stated number of
degrees of freedom (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1):3; the same idea as an empirical-Bayes
pooled variance), which keeps a lucky pair of launches from looking exact.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class NoiseFloor:
    """An assumed standard deviation between launches.

    Attributes:
        deviation: relative, 0.01 for 1 %.
        degrees_of_freedom: how many launches' worth of evidence it counts for.
    """

    deviation: float
    degrees_of_freedom: float


# Between the launches in recordings/ and five on H100s; batch size 64 is the noisiest (docs/measurements.md).
FLOOR_JOULES_PER_TOKEN = NoiseFloor(deviation=0.015, degrees_of_freedom=10)
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


def launch_means(launches: Sequence[Sequence[float]]) -> list[float]:
    """Each launch's mean over its cycles; `launches` is ragged, one sequence of cycle values per launch."""
    return [math.fsum(values) / len(values) for values in launches]


def _log_moments(values: Sequence[float]) -> tuple[float, float, int]:
    """Mean and sum of squared deviations of the logarithms, and the degrees of freedom."""
    logs = np.log(np.asarray(values, dtype=float))
    return float(logs.mean()), float(((logs - logs.mean()) ** 2).sum()), len(logs) - 1


def _moderated(sum_of_squares: float, degrees: int, floor: NoiseFloor) -> tuple[float, float]:
    """Moderated standard deviation of a launch (log scale) and its degrees of freedom."""
    total = degrees + floor.degrees_of_freedom
    variance = (sum_of_squares + floor.degrees_of_freedom * floor.deviation**2) / total
    return math.sqrt(variance), total


def estimate(values: Sequence[float], floor: NoiseFloor) -> Estimate:
    """The geometric mean of launches with its interval.

    Args:
        values: one positive value per launch, at least one.
        floor: the assumed noise between launches.
    """
    mean, squares, degrees = _log_moments(values)
    deviation, total = _moderated(squares, degrees, floor)
    half = float(stdtrit(total, 0.5 + CONFIDENCE / 2)) * deviation / math.sqrt(len(values))
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(values))


def ratio(new: Sequence[float], old: Sequence[float], floor: NoiseFloor) -> Estimate:
    """new ÷ old (geometric means over launches) with its interval.

    Variances of the two sides are pooled: both are launches of much the same engine on the same kind of machine.

    Args:
        new, old: one positive value per launch, at least one each.
        floor: the assumed noise between launches.
    """
    new_mean, new_squares, new_degrees = _log_moments(new)
    old_mean, old_squares, old_degrees = _log_moments(old)
    deviation, total = _moderated(new_squares + old_squares, new_degrees + old_degrees, floor)
    half = float(stdtrit(total, 0.5 + CONFIDENCE / 2)) * deviation * math.sqrt(1 / len(new) + 1 / len(old))
    difference = new_mean - old_mean
    return Estimate(math.exp(difference), math.exp(difference - half), math.exp(difference + half), len(new))
