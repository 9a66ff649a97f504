"""A control chart of one engine's launches on one GPU: whether the GPU is still what it was.

Each launch is a point: the mean, over its cells, of the log ratio of J/token to the cell's mean
over the launches before it. From the ninth point on a point is tested against those before it, on a
self-starting chart (Hawkins 1987, The Statistician 36, 299-315; Quesenberry 1991, Journal of
Quality Technology 23, 213-224): the point's Student t, with the degrees of freedom of the band so
far, as the standard normal deviate of the same probability. Such deviates are independent of each
other however few points the band is made of, so its own error costs no false alarms. They meet a
Shewhart limit, for a step, and a two-sided CUSUM (Page 1954, Biometrika 41, 100-115), for a drift.
A single launch may be odd by chance, so two in a row must pass the first, and the second takes no
deviate for more than three (after Lucas and Crosier 1982, Communications in Statistics 11,
2669-2687). benchmarks/chart_error_rates.py simulates how often both together are wrong.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from scipy.special import ndtri, stdtr, stdtrit

from pytest_energy.measure.spread import CONFIDENCE

MIN_POINTS = 8  # of a band, before a further point is tested, or compared with
_SHEWHART = 3.5  # deviates
# Of the CUSUM, in deviates: it seeks a shift of one.
_ALLOWANCE, _DECISION, _MOST_AT_ONCE = 0.5, 13.0, 3.0
# Log ratio. Launches that happen to agree better make no narrower band: what leaves it would change
# no verdict.
_LEAST_DEVIATION = 0.001
_LARGEST_DEVIATE = 8.0  # further out a probability may be 0
_STEP_LAUNCHES = 8  # on each side of a change of the machine


class Point(NamedTuple):
    """A launch: when it was made (ISO 8601, UTC), and log J/token by cell."""

    date: str
    cells: Mapping[str, float]


@dataclass(frozen=True)
class Alarm:
    """A point that left the band.

    Attributes:
        date: of its launch.
        departure: log ratio to the band's mean, over two launches; of a drift, since it began.
        drift: whether the CUSUM found it.
    """

    date: str
    departure: float
    drift: bool


@dataclass(frozen=True)
class Chart:
    """Where a chart stands.

    Attributes:
        points: since the beginning, or since the last alarm.
        alarm: the last one; None if there was none.
    """

    points: int
    alarm: Alarm | None = None

    @property
    def is_out(self) -> bool:
        """Whether the last alarm has not yet been followed by a new band."""
        return self.alarm is not None and self.points < MIN_POINTS


@dataclass(frozen=True)
class _Cusum:
    """Sums of deviates above and below the allowance, and of the departures since each was 0."""

    up: tuple[float, ...] = ()
    down: tuple[float, ...] = ()
    high: float = 0.0
    low: float = 0.0

    def after(self, deviate: float, departure: float) -> "_Cusum":
        size = max(-_MOST_AT_ONCE, min(deviate, _MOST_AT_ONCE))
        high = max(0.0, self.high + size - _ALLOWANCE)
        low = max(0.0, self.low - size - _ALLOWANCE)
        up = (*self.up, departure) if high else ()
        down = (*self.down, departure) if low else ()
        return replace(self, up=up, down=down, high=high, low=low)

    @property
    def drift(self) -> float | None:
        """The mean departure since a drift began; None without one."""
        for total, departures in ((self.high, self.up), (self.low, self.down)):
            if total > _DECISION:
                return math.fsum(departures) / len(departures)
        return None


def chart(points: Sequence[Point]) -> Chart:
    """The chart of launches of one engine on one unchanged machine, the oldest first."""
    found = list(alarms(points))
    if not found:
        return Chart(len(points))
    number, alarm = found[-1]
    return Chart(len(points) - 1 - number, alarm)


def alarms(points: Sequence[Point]) -> Iterator[tuple[int, Alarm]]:
    """Each point that leaves its band, by its number; after it a new band begins."""
    band: list[Point] = []
    odd: list[tuple[Point, float, float]] = []  # the last one, if it passes Shewhart's limit
    cusum = _Cusum()
    for number, point in enumerate(points):
        tested = _deviate(band, point)
        if tested is None:
            band.append(point)
            continue
        deviate, departure = tested
        cusum = cusum.after(deviate, departure)
        alarm = None
        is_odd = abs(deviate) > _SHEWHART
        if is_odd and odd and odd[0][1] * deviate > 0:
            alarm = Alarm(point.date, (odd[0][2] + departure) / 2, drift=False)
        elif cusum.drift is not None:
            alarm = Alarm(point.date, cusum.drift, drift=True)
        if alarm is not None:
            yield number, alarm
            band, odd, cusum = [], [], _Cusum()
            continue
        band += [earlier for earlier, _, _ in odd]
        odd = [(point, deviate, departure)] if is_odd else []
        band += [] if is_odd else [point]


def _deviate(band: Sequence[Point], point: Point) -> tuple[float, float] | None:
    """A point's standard normal deviate and log ratio; None if too few share cells with it."""
    earlier = [p.cells for p in band if not point.cells.keys().isdisjoint(p.cells)]
    if len(earlier) < MIN_POINTS:
        return None
    means = _cell_means(earlier, point.cells)
    departure = _statistic(point.cells, means)
    statistics = [_statistic(cells, means) for cells in earlier]
    count, mean = len(statistics), math.fsum(statistics) / len(statistics)
    squares = math.fsum((y - mean) ** 2 for y in statistics)
    deviation = max(math.sqrt(squares / (count - 1)), _LEAST_DEVIATION)
    t = (departure - mean) / (deviation * math.sqrt(1 + 1 / count))
    # By the lower tail, whose probability has all its digits.
    size = min(-float(ndtri(stdtr(count - 1, -abs(t)))), _LARGEST_DEVIATE)
    return math.copysign(size, t), departure - mean


def _cell_means(launches: Sequence[Mapping[str, float]], wanted: Iterable[str]) -> dict[str, float]:
    """Mean log J/token of those wanted cells that a launch holds."""
    found = {cell: [cells[cell] for cells in launches if cell in cells] for cell in wanted}
    return {cell: math.fsum(of) / len(of) for cell, of in found.items() if of}


def _statistic(cells: Mapping[str, float], means: Mapping[str, float]) -> float:
    """The mean log ratio over the cells that have a mean."""
    ratios = [value - means[cell] for cell, value in cells.items() if cell in means]
    return math.fsum(ratios) / len(ratios)


@dataclass(frozen=True)
class Step:
    """How J/token of an engine changed with the machine.

    Attributes:
        ratio: after / before, over the cells that both hold.
        low, high: its 95 % interval; None if there was one launch on each side.
        before, after: launches.
    """

    ratio: float
    low: float | None
    high: float | None
    before: int
    after: int


def step(before: Sequence[Point], after: Sequence[Point]) -> Step | None:
    """The step from the last launches before a change to the first after; None without one cell
    that both hold.
    """
    sides = [p.cells for p in before[-_STEP_LAUNCHES:]], [p.cells for p in after[:_STEP_LAUNCHES]]
    shared = set.intersection(*(set().union(*side) for side in sides))
    if not shared:
        return None
    squares, count = 0.0, 0
    levels, errors, numbers = [], [], []
    for side in sides:
        means = _cell_means(side, sorted(shared))
        statistics = [_statistic(cells, means) for cells in side if not shared.isdisjoint(cells)]
        squares += math.fsum(y**2 for y in statistics)
        count += len(statistics) - 1
        levels.append(math.fsum(means.values()) / len(means))
        errors.append(1 / len(statistics))
        numbers.append(len(statistics))
    change = levels[1] - levels[0]
    if not count:
        return Step(math.exp(change), None, None, *numbers)
    error = math.sqrt(squares / count * math.fsum(errors))
    half = float(stdtrit(count, (1 + CONFIDENCE) / 2)) * error
    return Step(math.exp(change), math.exp(change - half), math.exp(change + half), *numbers)
