"""Sums of engines' losses with weights that add up to nothing, and their ratios. Pure.

An engine's loss is the mean over its launches of ln(J/token), or of -ln(tokens/s). The variance is
pooled over all engines and moderated as in a comparison of two (comparison.py).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import ndtr, stdtr

from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import CONFIDENCE, NoiseFloor
from pytest_energy.verdict.comparison import Moderated, error_bound, moderated

Weights = Mapping[int, float]


@dataclass(frozen=True)
class Share:
    """One contrast over another with its 95 % interval; without ends if the other may be zero."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Losses:
    """The launches of engines, which are numbered.

    Attributes:
        counts: launches of each engine.
        means: losses of each engine, log scale.
        found: how much a launch varies.
    """

    counts: Mapping[int, int]
    means: Mapping[int, float]
    found: Moderated

    def value(self, weights: Weights) -> float:
        """The contrast, log scale."""
        return math.fsum(weight * self.means[i] for i, weight in weights.items())

    def root(self, weights: Weights) -> float:
        """Times a launch's deviation, its standard error."""
        return math.sqrt(self._covariance(weights, weights))

    def chance(self, weights: Weights, above: float = 0.0) -> float:
        """The one-sided probability of a contrast as large as this if it were `above`."""
        excess, root = self.value(weights) - above, self.root(weights)
        of_t = float(stdtr(self.found.spread.degrees_of_freedom, -_over(excess, self._error(root))))
        if not self.found.assumed:
            return of_t
        return max(of_t, float(ndtr(-_over(excess, self.found.assumed * root))))

    def share(self, part: Weights, whole: Weights) -> Share:
        """One contrast over another (Fieller 1954, J. R. Stat. Soc. B 16:175)."""
        a, b = self.value(part), self.value(whole)
        bound = error_bound(self.found.spread, self.found.assumed, 0.5 + CONFIDENCE / 2) ** 2
        both = a * b - bound * self._covariance(part, whole)
        of_whole = b * b - bound * self._covariance(whole, whole)
        of_part = a * a - bound * self._covariance(part, part)
        value = a / b if b else math.nan
        if of_whole <= 0:
            return Share(value, -math.inf, math.inf)
        half = math.sqrt(max(0.0, both * both - of_whole * of_part))
        return Share(value, (both - half) / of_whole, (both + half) / of_whole)

    def _error(self, root: float) -> float:
        return self.found.spread.deviation * root

    def _covariance(self, one: Weights, other: Weights) -> float:
        return math.fsum(one[i] * other[i] / self.counts[i] for i in one.keys() & other.keys())


def losses(metric: Metric, launches: Mapping[int, Sequence[float]], noise: NoiseFloor) -> Losses:
    """Of engines with at least one launch each, and two of one at least or a measured noise.

    Args:
        metric: whose.
        launches: of each engine, one positive value per launch.
        noise: of the runner.
    """
    counts, means, squares = {}, {}, 0.0
    for i, values in launches.items():
        of_engine = [loss_of(metric, value) for value in values]
        counts[i] = len(of_engine)
        means[i] = math.fsum(of_engine) / len(of_engine)
        squares += math.fsum((x - means[i]) ** 2 for x in of_engine)
    return Losses(counts, means, moderated(squares, sum(counts.values()) - len(counts), noise))


@functools.lru_cache(maxsize=4096)
def loss_of(metric: Metric, value: float) -> float:
    """A launch's J/token or tokens/s on the log scale on which more is worse."""
    return math.log(value) if metric.is_cost else -math.log(value)


def relative(metric: Metric, loss: float) -> float:
    """A loss as the relative change that a tolerance is given as."""
    return math.expm1(loss) if metric.is_cost else -math.expm1(-loss)


def difference(one: int, other: int) -> dict[int, float]:
    """The contrast of two engines, one less the other."""
    return {one: 1.0, other: -1.0} if one != other else {}


def combined(*terms: tuple[float, Weights]) -> dict[int, float]:
    """A sum of contrasts."""
    found: dict[int, float] = {}
    for factor, weights in terms:
        for i, weight in weights.items():
            found[i] = found.get(i, 0.0) + factor * weight
    return found


def _over(excess: float, error: float) -> float:
    """A quotient; infinite, with the sign of the excess, without an error."""
    return excess / error if error else math.copysign(math.inf, excess) if excess else 0.0
