"""Cycles and launches → means and how much they vary. Pure functions."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri

from pytest_energy.measure.metric import Metric

CONFIDENCE = 0.95
_LARGEST = 500.0  # e to this power is 1e217; what is multiplied by it stays a float


def exp(logarithm: float) -> float:
    """e to that power, or a number beyond any use if it is too large for a float."""
    return math.exp(min(logarithm, _LARGEST))


def expm1(logarithm: float) -> float:
    """A log ratio as a relative change; a number beyond any use if it is too large for a float."""
    return math.expm1(min(logarithm, _LARGEST))


@dataclass(frozen=True)
class NoiseFloor:
    """The standard deviation between launches that a runner is known, or assumed, to have.

    Attributes:
        deviation: relative, 0.01 for 1 %.
        degrees_of_freedom: of its measurement; of an assumption, how many it counts for in a pass.
        measured: whether it was measured on this kind of runner.
        kind: how it is known, in a word or two; empty if nobody asks.
        detail: where from, as what follows `kind` in a sentence.
    """

    deviation: float
    degrees_of_freedom: float
    measured: bool = False
    kind: str = dataclasses.field(default="", compare=False)
    detail: str = dataclasses.field(default="", compare=False)

    @property
    def source(self) -> str:
        """In a few words, how much and where from: "0.69 % measured on this cell"."""
        return f"{100 * self.deviation:.2f} % {self.kind}{self.detail}" if self.kind else ""


# Pooled over the launches in recordings/ (1.0 % and 1.6 %; docs/measurements.md). The second is
# rounded up: throughput against a baseline of another day is noisier than within one.
ASSUMED_NOISE: Mapping[Metric, NoiseFloor] = {
    Metric.JOULES_PER_TOKEN: NoiseFloor(deviation=0.010, degrees_of_freedom=3),
    Metric.TOKENS_PER_S: NoiseFloor(deviation=0.030, degrees_of_freedom=3),
    # 1.6 % between the launches in recordings/ that loaded and paused an engine (9 degrees of
    # freedom, 2 s each); rounded up.
    Metric.IDLE_POWER_W: NoiseFloor(deviation=0.020, degrees_of_freedom=3),
}


@dataclass(frozen=True)
class Spread:
    """How much launches vary: a standard deviation (log scale) and its degrees of freedom."""

    deviation: float
    degrees_of_freedom: float


def launch_means(
    launches: Sequence[Sequence[float]], weights: Sequence[Sequence[float]] = ()
) -> list[float]:
    """Each launch's energy over tokens: the mean of its cycles' J/token, weighted by their tokens.

    Args:
        launches: ragged, one sequence of cycle values per launch.
        weights: the same with the cycles' tokens, an empty sequence for a launch whose cycles hold
            equally many; empty if all do.
    """
    return [
        math.fsum(value * tokens for value, tokens in zip(values, of, strict=True)) / math.fsum(of)
        if of
        else math.fsum(values) / len(values)
        for values, of in itertools.zip_longest(launches, weights, fillvalue=())
    ]


def launch_rates(
    launches: Sequence[Sequence[float]], weights: Sequence[Sequence[float]] = ()
) -> list[float]:
    """Each launch's rate, tokens over time: the harmonic mean of its cycles' tokens/s, weighted.

    Args:
        launches, weights: as for `launch_means`.
    """
    return [
        math.fsum(of) / math.fsum(tokens / rate for rate, tokens in zip(rates, of, strict=True))
        if of
        else len(rates) / math.fsum(1 / rate for rate in rates)
        for rates, of in itertools.zip_longest(launches, weights, fillvalue=())
    ]


def launch_value(metric: Metric, values: Sequence[float], weights: Sequence[float]) -> float:
    """One launch's figure from those of its cycles, and their tokens (or nothing)."""
    of_metric = launch_means if metric.is_cost else launch_rates
    return of_metric([values], [weights])[0]


def log_moments(values: Sequence[float]) -> tuple[float, float, int]:
    """Mean and sum of squared deviations of the logarithms, and the degrees of freedom."""
    logs = [math.log(value) for value in values]
    mean = math.fsum(logs) / len(logs)
    return mean, math.fsum((x - mean) ** 2 for x in logs), len(logs) - 1


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values, at least one."""
    return exp(log_moments(values)[0])


def pooled(groups: Sequence[Sequence[float]]) -> Spread | None:
    """The deviation between launches within groups of unchanged ones, pooled.

    None if no group holds two.

    Args:
        groups: one positive value per launch, a sequence per group.
    """
    moments = [log_moments(group) for group in groups if group]
    degrees = sum(d for _, _, d in moments)
    if not degrees:
        return None
    return Spread(math.sqrt(math.fsum(s for _, s, _ in moments) / degrees), degrees)


def deviation_interval(spread: Spread) -> tuple[float, float]:
    """95 % confidence interval of a standard deviation (χ²)."""
    tail = (1 - CONFIDENCE) / 2
    squares = spread.degrees_of_freedom * spread.deviation**2
    low, high = (
        math.sqrt(squares / float(chdtri(spread.degrees_of_freedom, p))) for p in (tail, 1 - tail)
    )
    return low, high


def relative_standard_error(values: Sequence[float], weights: Sequence[float] = ()) -> float:
    """Of a launch's mean over its cycles; infinite for fewer than two.

    If cycles hold different numbers of tokens, the mean is a ratio of sums, energy over tokens, and
    its error that of the ratio estimator, linearised: of the deviations of each cycle's energy from
    the ratio times its tokens (Cochran 1977, Sampling Techniques, 3rd edition, theorem 2.5, for an
    infinite population).

    Args:
        values: J/token of each cycle.
        weights: tokens of each; empty if they are equal.
    """
    count = len(values)
    if count < 2:
        return math.inf
    x = np.asarray(values, dtype=float)
    if not weights:
        return float(x.std(ddof=1) / (math.sqrt(count) * x.mean()))
    tokens = np.asarray(weights, dtype=float)
    energy = x * tokens
    deviations = energy - energy.sum() / tokens.sum() * tokens
    return float(math.sqrt(float((deviations**2).sum()) / ((count - 1) * count)) / energy.mean())
