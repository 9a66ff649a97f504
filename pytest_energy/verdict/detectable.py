"""The smallest change that a gate detects, whatever the deviation between launches really is."""

import math

from scipy.special import chdtri

from pytest_energy.measure.spread import Spread, expm1
from pytest_energy.store.noise import Noise
from pytest_energy.verdict.comparison import Comparison, error_bound, normal, quantile

POWER = 0.95  # probability with which a detectable change is called regressed
TRUST = 0.95  # share of estimated deviations for which that holds
REFERENCE_LAUNCHES = 3  # of the comparison that `detectable` is stated for
DETECTABLE_WITH = (1, 2, 3, 5)  # launches


def smallest_detected(
    ratio: Comparison, reference_launches: int | None, limit: float, last_look: int, alarm: float
) -> float:
    """The true change (log scale) that a run calls regressed in 95 % of cases at its last look.

    Args:
        ratio: what is known after the look that ended the run.
        reference_launches: if they stay as they are; None if each launch brings another of them.
        limit: the smallest change for the worse that matters, on the same scale.
        last_look: launches of the candidate by then.
        alarm: probability of a false alarm at that look.
    """
    more = last_look - ratio.launches
    root = math.sqrt(1 / last_look + (1 / reference_launches if reference_launches else 0))
    return _detected(ratio.spread, ratio.assumed, more, root, limit, alarm)


def detectable(noise: Noise, launches: int, alarm: float) -> float | None:
    """The smallest change (relative) that so many launches detect in 95 % of cases.

    Against a reference of three launches and with no tolerance, so that any tolerance above it can
    be used. None without a deviation.

    Args:
        noise: between launches.
        launches: of the candidate.
        alarm: probability of a false alarm.
    """
    if noise.between is None:
        return None
    more = launches + REFERENCE_LAUNCHES - 2
    root = math.sqrt(1 / launches + 1 / REFERENCE_LAUNCHES)
    return expm1(_detected(noise.between, 0.0, more, root, 0.0, alarm))


def _detected(
    known: Spread, assumed: float, more: int, root: float, limit: float, alarm: float
) -> float:
    """What rises above the alarm's bound, or the limit, in 95 % of cases.

    The deviation is known by an estimate alone. It is taken at its one-sided 95 % confidence limit,
    as in a tolerance factor, so that the claim holds in 95 % of estimates. What rises is the ratio
    less a bound that is itself estimated anew: both errors count.

    Args:
        known: the estimate.
        assumed: deviation that it may have, and that no bound goes below.
        more: degrees of freedom that will be added.
        root: √(1/n + 1/m) of the comparison.
        limit: the smallest change that matters.
        alarm: probability of a false alarm.
    """
    degrees = known.degrees_of_freedom
    largest = max(assumed, known.deviation * math.sqrt(degrees / float(chdtri(degrees, TRUST))))
    squares = degrees * known.deviation**2 + more * largest**2
    then = Spread(math.sqrt(squares / (degrees + more)), degrees + more)
    chance = error_bound(then, assumed, 1 - alarm) * root
    of_bound = quantile(then.degrees_of_freedom, 1 - alarm) * _standard_error(then, largest, more)
    return max(limit, chance) + normal(POWER) * math.hypot(largest, of_bound) * root


def _standard_error(then: Spread, true: float, more: int) -> float:
    """Of an estimated deviation, of whose degrees of freedom `more` are to come (delta method)."""
    if not then.deviation:
        return 0.0
    return true**2 * math.sqrt(more / 2) / (then.degrees_of_freedom * then.deviation)
