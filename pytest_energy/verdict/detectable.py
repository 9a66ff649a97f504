"""The smallest change that a gate finds."""

import dataclasses
import math

from pytest_energy.measure.spread import Spread, expm1
from pytest_energy.store.noise import Noise
from pytest_energy.verdict.comparison import Comparison, Levels
from pytest_energy.verdict.rule import Rule

BASELINE_LAUNCHES = 3  # of the comparison that `detectable` is stated for
DETECTABLE_WITH = (1, 2, 3, 5)


def smallest_detected(
    ratio: Comparison,
    old_launches: int | None,
    limit: float,
    budget: int,
    at: Levels,
    power: float = 0.95,
) -> float:
    """The true change (log scale) that a run calls worse with probability `power`, if it goes on to its last look.

    Args:
        ratio: what is known after the look that ended the run.
        old_launches: on the old side, where it stays as it is; None where each new launch brings another old one.
        limit: as for `decide`.
        budget: launches on the new side at the last look.
        at: the last look's levels.
    """
    more, root = (
        budget - ratio.launches,
        math.sqrt(1 / budget + (1 / old_launches if old_launches else 0)),
    )
    last = dataclasses.replace(
        ratio,
        launches=budget,
        root=root,
        spread=dataclasses.replace(
            ratio.spread, degrees_of_freedom=ratio.spread.degrees_of_freedom + more
        ),
        alarm_spread=dataclasses.replace(
            ratio.alarm_spread, degrees_of_freedom=ratio.alarm_spread.degrees_of_freedom + more
        ),
    )
    return max(limit, last.alarm_bound(1 - at.alarm)) + last.bound(power)


def detectable(noise: Noise, launches: int, comparisons: int) -> float | None:
    """The smallest change (relative) that so many launches call significant in 95 % of cases, against a baseline of three.

    Any tolerance above it can be used. None without a deviation.
    """
    if noise.between is None:
        return None
    spread = Spread(
        noise.between.deviation, noise.between.degrees_of_freedom + launches + BASELINE_LAUNCHES - 2
    )
    ratio = Comparison(
        1.0, launches, math.sqrt(1 / launches + 1 / BASELINE_LAUNCHES), spread, spread
    )
    at = Rule(comparisons).levels(launches)
    return expm1(smallest_detected(ratio, BASELINE_LAUNCHES, 0.0, launches, at))
