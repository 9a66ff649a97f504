"""The smallest change that a gate detects."""

import math

from pytest_energy.measure.spread import Spread, expm1
from pytest_energy.store.noise import Noise
from pytest_energy.verdict.comparison import Comparison, quantile

POWER = 0.95  # probability with which a detectable change is called regressed
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
    spreads = _with_more(ratio.spread, more), _with_more(ratio.alarm_spread, more)
    return _detected(*spreads, last_look, reference_launches, limit, alarm)


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
    spread = _with_more(noise.between, launches + REFERENCE_LAUNCHES - 2)
    return expm1(_detected(spread, spread, launches, REFERENCE_LAUNCHES, 0.0, alarm))


def _detected(
    spread: Spread,
    alarm_spread: Spread,
    launches: int,
    reference_launches: int | None,
    limit: float,
    alarm: float,
) -> float:
    """What rises above the alarm's bound, or the limit, in 95 % of cases."""
    root = math.sqrt(1 / launches + (1 / reference_launches if reference_launches else 0))
    chance = quantile(alarm_spread, 1 - alarm) * alarm_spread.deviation * root
    return max(limit, chance) + quantile(spread, POWER) * (spread.deviation * root)


def _with_more(spread: Spread, launches: int) -> Spread:
    """The spread if so many more launches show the same."""
    return Spread(spread.deviation, spread.degrees_of_freedom + launches)
