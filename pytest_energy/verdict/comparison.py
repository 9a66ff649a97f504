"""Cycles → estimate with interval; two sides → comparison; when to stop. Pure functions; the launch is the unit.

Between two launches of one engine J/token varies more than between two cycles of one launch, so cycles are
averaged within their launch and all inference rests on launches. docs/statistics.md has the formulas.

With two or three launches a sample standard deviation is hardly an estimate at all. It is moderated by the runner's
noise floor (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1):3): measured, with the degrees of freedom of that
measurement, or assumed. An assumed floor may shorten the way to a pass; it never helps to raise an alarm. Where
launches differ far more than a measured floor allows for (F test), it does not apply to this engine and the sample
speaks alone.
"""

import dataclasses
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import fdtri, stdtrit

from pytest_energy.measure.spread import CONFIDENCE, NoiseFloor, Spread, exp, log_moments

_EXCESS = 0.001  # probability of discarding a measured floor that holds; rare even in a suite of many cells


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
        launches: on the new side.
        root: √(1/n + 1/m); times the deviation of a launch it is the standard error of the ratio's logarithm.
        spread: of a launch, for intervals and passes.
        alarm_spread: of a launch, for alarms: without an assumed floor's degrees of freedom.
        floor_discarded: whether the launches differed far more than the measured noise floor allows for.
    """

    value: float
    launches: int
    root: float
    spread: Spread
    alarm_spread: Spread
    floor_discarded: bool = False

    @property
    def standard_error(self) -> float:
        """Of the ratio's logarithm."""
        return self.spread.deviation * self.root

    def bound(self, probability: float) -> float:
        """How far the logarithm's error stays below, with `probability` (one-sided, Student t)."""
        return float(stdtrit(self.spread.degrees_of_freedom, probability)) * self.standard_error

    def alarm_bound(self, probability: float) -> float:
        """The same for alarms, which no assumption may bring nearer."""
        return (
            float(stdtrit(self.alarm_spread.degrees_of_freedom, probability))
            * self.alarm_spread.deviation
            * self.root
        )

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value * exp(-self.bound(0.5 + CONFIDENCE / 2))

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value * exp(self.bound(0.5 + CONFIDENCE / 2))

    @property
    def relative_half_width(self) -> float:
        """Half of the interval's width over the value."""
        return (self.high - self.low) / (2 * self.value)


class Outcome(enum.Enum):
    """What a comparison says of "worse by the limit or more"."""

    WORSE = "worse"
    BETTER = "better"
    WITHIN = "within"
    OPEN = "open"


@dataclass(frozen=True)
class Levels:
    """Error levels of one look.

    Attributes:
        alarm: probability of calling an unchanged engine worse, for one comparison at this look.
        miss: probability of calling a change as large as the limit within it, at this look.
        may_alarm: whether this look may decide for worse or better; with more launches to come, a single one may not.
    """

    alarm: float
    miss: float
    may_alarm: bool = True


# What of the levels the looks before the last one spend, by number of launches; the last one spends the rest. A sum
# of levels bounds the error of all looks together, whatever their dependence (Bonferroni).
_ALARM_SPENT = {1: 0.05, 2: 0.15, 3: 0.30}
_MISS_SPENT = {1: 0.20, 2: 0.20, 3: 0.25}


def looks(budget: int, first: int = 1) -> list[int]:
    """After how many launches a run of at most `budget` launches judges: 1, 2, 3 and the budget, none before `first`."""
    return sorted({n for n in (*_ALARM_SPENT, budget) if first <= n <= budget})


def levels(
    look: int, budget: int, comparisons: int, alarm: float, miss: float, first: int = 1
) -> Levels:
    """The levels of the look after `look` launches.

    Args:
        look: one of `looks(budget, first)`.
        budget: launches at most.
        comparisons: that share `alarm`.
        alarm: of all comparisons and looks together.
        miss: of all looks of one comparison together.
        first: the first look.
    """
    if look == budget:
        spent = [n for n in looks(budget, first) if n < budget]
        share = (
            1 - math.fsum(_ALARM_SPENT[n] for n in spent),
            1 - math.fsum(_MISS_SPENT[n] for n in spent),
        )
    else:
        share = _ALARM_SPENT[look], _MISS_SPENT[look]
    return Levels(
        alarm * share[0] / comparisons, miss * share[1], may_alarm=look > 1 or budget == 1
    )


def decide(ratio: Comparison, worse: float, limit: float, at: Levels) -> Outcome:
    """Judge a log ratio.

    Args:
        ratio: the comparison.
        worse: its logarithm, turned so that more is worse.
        limit: the smallest change for the worse that matters, on the same scale.
        at: the look's levels.
    """
    by_chance = ratio.alarm_bound(1 - at.alarm)
    if at.may_alarm and worse >= limit and worse > by_chance:
        return Outcome.WORSE
    if at.may_alarm and -worse >= limit and -worse > by_chance:
        return Outcome.BETTER
    return Outcome.WITHIN if worse + ratio.bound(1 - at.miss) < limit else Outcome.OPEN


def spread_of(
    sum_of_squares: float, degrees: int, floor: NoiseFloor
) -> tuple[Spread, Spread, bool]:
    """How much a launch varies: for passes, for alarms, and whether a measured floor was discarded.

    Args:
        sum_of_squares: of the launches' logarithms about their side's mean.
        degrees: of freedom of that sum.
        floor: the runner's noise.
    """
    own = Spread(math.sqrt(sum_of_squares / degrees), degrees) if degrees else None
    if own and floor.measured:
        allowed = float(fdtri(degrees, floor.degrees_of_freedom, 1 - _EXCESS))
        if own.deviation**2 > allowed * floor.deviation**2:
            return own, own, True
    total = degrees + floor.degrees_of_freedom
    moderated = (
        Spread(
            math.sqrt((sum_of_squares + floor.degrees_of_freedom * floor.deviation**2) / total),
            total,
        )
        if total
        else own
    )
    assert moderated is not None, "neither launches nor a floor tell how much a launch varies"
    if floor.measured or own is None:
        return moderated, moderated, False
    # An assumption keeps launches that agree by luck from looking exact, and is no evidence beyond that.
    return moderated, Spread(max(own.deviation, floor.deviation), degrees), False


def raised(floor: NoiseFloor, own: Spread | None) -> NoiseFloor:
    """The noise floor, or what launches show of their own uncertainty where that is more.

    An assumed floor gives way at once; a measured one only where the excess is no chance (F test).

    Args:
        floor: the runner's noise between launches.
        own: the deviation of a launch, as its turns show it; None where they show nothing.
    """
    if own is None or own.deviation <= floor.deviation:
        return floor
    source = f"{own.deviation:.2%} by the turns of these launches, {own.degrees_of_freedom:.0f} degrees of freedom"
    if not floor.measured:
        return dataclasses.replace(floor, deviation=own.deviation, source=source)
    allowed = float(fdtri(own.degrees_of_freedom, floor.degrees_of_freedom, 1 - _EXCESS))
    if own.deviation**2 <= allowed * floor.deviation**2:
        return floor
    return NoiseFloor(own.deviation, own.degrees_of_freedom, measured=True, source=source)


def estimate(values: Sequence[float], floor: NoiseFloor) -> Estimate:
    """The geometric mean of launches with its interval.

    Args:
        values: one positive value per launch, at least one.
        floor: the assumed noise between launches.
    """
    mean, squares, degrees = log_moments(values)
    spread, _, _ = spread_of(squares, degrees, floor)
    quantile = float(stdtrit(spread.degrees_of_freedom, 0.5 + CONFIDENCE / 2))
    half = quantile * spread.deviation / math.sqrt(len(values))
    return Estimate(exp(mean), exp(mean - half), exp(mean + half), len(values))


def compare(new: Sequence[float], old: Sequence[float], floor: NoiseFloor) -> Comparison:
    """new ÷ old and how sure it is.

    Variances of the two sides are pooled: both are launches of much the same engine on the same kind of machine.

    Args:
        new, old: one positive value per launch, at least one each.
        floor: the assumed noise between launches.
    """
    new_mean, new_squares, new_degrees = log_moments(new)
    old_mean, old_squares, old_degrees = log_moments(old)
    spread, alarm_spread, discarded = spread_of(
        new_squares + old_squares, new_degrees + old_degrees, floor
    )
    return Comparison(
        value=exp(new_mean - old_mean),
        launches=len(new),
        root=math.sqrt(1 / len(new) + 1 / len(old)),
        spread=spread,
        alarm_spread=alarm_spread,
        floor_discarded=discarded,
    )


def compare_pairs(new: Sequence[float], old: Sequence[float], floor: NoiseFloor) -> Comparison:
    """new ÷ old of launches made in turns, pair by pair: what drifts slower than a pair takes cancels.

    Args:
        new, old: one positive value per pair, at least two, in order.
        floor: the noise of a launch; a pair's ratio varies √2 times as much.
    """
    mean, squares, degrees = log_moments([a / b for a, b in zip(new, old, strict=True)])
    of_pairs = dataclasses.replace(floor, deviation=math.sqrt(2) * floor.deviation)
    spread, alarm_spread, discarded = spread_of(squares, degrees, of_pairs)
    return Comparison(exp(mean), len(new), math.sqrt(1 / len(new)), spread, alarm_spread, discarded)
