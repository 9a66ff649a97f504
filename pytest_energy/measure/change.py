"""Whether a series keeps its level: a shift at an unknown time, an episode, and drift. Pure.

A launch is cut into *parts*: each cycle into equally many, of equal tokens. Parts at the same place
of different cycles do the same work, so each place has a level of its own, and what may change is a
common term:

    y[i] = level[place[i]] + shift · (at ≤ i < until) + slope · x[i] + error

`x` is a covariate. The slope has a prior, as a pseudo observation. A shift lasts to the end, an
episode (the epidemic alternative: Levin, Kline 1985, Stat. Med. 4:469) does not. Both begin and
end with a part or within one, or else the parts at their ends would look like noise. The largest
over all times is a maximal t (Worsley 1979, JASA 74:365). Three departures from the textbook:

- A few parts know little of their own variance, so it is moderated by that of other launches
  (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3:3): s² = (d₀s₀² + RSS) / (d₀ + d), with d₀ + d
  degrees of freedom.
- What is asked is not whether the shift is zero, which no machine's is, but whether it is larger
  than one that matters (McCarthy, Smyth 2009, Bioinformatics 25:765): t = (|shift| − matters) / se.
- Successive errors may be alike. The variance is multiplied by (1 + ρ) / (1 − ρ), that of the mean
  of an AR(1), with ρ of the residuals, pulled towards what is usual (Bayley, Hammersley 1946).

The p of the largest is bounded by the sum over the times (Bonferroni).
"""

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

_SHARES = 1 / 3, 2 / 3  # of a part that a shift begins within
_SHORTEST = 2  # parts that an episode reaches into: one alone may be a pause, and moves no mean
_MOST_TIMES = 60  # that an episode may begin or end at: pairs of them are many
_MOST_ALIKE = 0.8  # ρ; beyond it the variance of a mean of some twenty parts is anybody's guess
_USUAL_COUNTS = 10  # parts that the usual autocorrelation counts for


@dataclass(frozen=True)
class Usual:
    """What is usual of a series' errors, from other launches.

    Attributes:
        deviation: their standard deviation in this launch's parts (log scale, 0.01 for 1 %).
        degrees_of_freedom: that it counts for.
        autocorrelation: ρ between parts that follow each other; None for errors that are known not
            to be alike positively, whose variance is left as it is.
    """

    deviation: float
    degrees_of_freedom: float
    autocorrelation: float | None = None


@dataclass(frozen=True)
class Slope:
    """A covariate and what is known of its slope: of power on pace, both logarithms."""

    x: np.ndarray
    mean: float
    deviation: float


@dataclass(frozen=True)
class Shift:
    """The most significant shift, or episode, of a series.

    Attributes:
        at: the part that it begins with, 1 to parts − 1.
        until: the part after it; the number of parts if it lasts.
        size: within it less outside (log scale).
        error: standard error of the size.
        p: at most the probability that one as large, beyond what matters, comes by chance at any
            time of a launch whose level shifts by no more than matters.
    """

    at: int
    until: int
    size: float
    error: float
    p: float


@dataclass(frozen=True)
class Drift:
    """A straight line through a series.

    Attributes:
        size: its rise over the window (log scale).
        error: standard error of the size.
        p: of no drift, two-sided.
    """

    size: float
    error: float
    p: float


def largest_shift(
    y: np.ndarray, place: np.ndarray, usual: Usual, matters: float = 0.0, slope: Slope | None = None
) -> Shift | None:
    """The most significant shift; None for fewer than two parts at any place.

    Args:
        y: the series, shape (parts,).
        place: of each part in its cycle, 0 to places − 1, shape (parts,).
        usual: of its errors.
        matters: the smallest size that matters.
        slope: of a covariate; None for none.
    """
    at, columns = _steps(len(y))
    until = np.full(len(at), len(y))
    return _largest(y, place, usual, (at, until, columns), np.full(len(at), matters), slope)


def largest_episode(
    seconds: np.ndarray,
    y: np.ndarray,
    place: np.ndarray,
    usual: Usual,
    matters: float = 0.0,
    slope: Slope | None = None,
) -> Shift | None:
    """The most significant episode, which ends in the last part at the latest; None for too few.

    Args:
        seconds: that each part took, shape (parts,).
        y, place, usual, slope: as for `largest_shift`.
        matters: the smallest change of the series' mean that matters.
    """
    if len(y) <= _SHORTEST:
        return None
    at, until, columns = _episodes(len(y))
    share = columns @ seconds / seconds.sum()
    least = matters / np.minimum(share, 1 - share)
    return _largest(y, place, usual, (at, until, columns), least, slope)


def _largest(
    y: np.ndarray,
    place: np.ndarray,
    usual: Usual,
    times: tuple[np.ndarray, np.ndarray, np.ndarray],
    matters: np.ndarray,
    slope: Slope | None,
) -> Shift | None:
    """The most significant of changes, each with its first part, the part after it and column."""
    at, until, columns = times
    fitted = _regress(y, place, columns, usual, slope)
    if fitted is None:
        return None
    size, error, degrees, possible = fitted
    t = np.maximum(0.0, np.abs(size) - matters) / error
    p = np.where(t > 0, 2 * stdtr(degrees, -t), 1.0)
    best = int(np.argmin(np.where(possible, p - 1e-9 * t, math.inf)))
    return Shift(
        at=int(at[best]),
        until=int(until[best]),
        size=float(size[best]),
        error=float(error[best]),
        p=min(1.0, float(p[best]) * int(possible.sum())),
    )


def _steps(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The parts that a shift can begin with, and its column; shapes (times,), (times, parts).

    It begins with a part or within one, which then has a share of it.
    """
    whole = np.tri(count, dtype=float).T[1:]
    at = np.arange(1, count)
    within = [whole[1:] + share * np.eye(count)[1:-1] for share in _SHARES]
    return np.r_[at, np.tile(at[:-1], len(_SHARES))], np.concatenate([whole, *within])


@functools.lru_cache(maxsize=4)  # for power and pace, and launches of one cell
def _episodes(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First parts, the parts after, and columns; shapes (episodes,) twice, (episodes, parts).

    It begins and ends with a part or within one, the first and the last part among them. A part of
    which it has less than half is not counted as one of its own; one at least is.
    """
    times = np.r_[0 : count : 1 + count // _MOST_TIMES, count]
    at, until = (pair.ravel() for pair in np.meshgrid(times, times, indexing="ij"))
    chosen = (until - at >= _SHORTEST) & (until - at < count)
    at, until = at[chosen], until[chosen]
    number = np.arange(count)
    whole = ((number >= at[:, None]) & (number < until[:, None])).astype(float)
    found = []
    for before, after in itertools.product((0.0, *_SHARES), repeat=2):
        column = whole - before * (number == at[:, None]) - after * (number == until[:, None] - 1)
        own = at + (before > 0.5), until - (after > 0.5)
        possible = (own[0] < own[1]) & (column[:, 0] < 1) & (column[:, -1] < 1)
        found.append(tuple(values[possible] for values in (*own, column)))
    first, after_last, columns = zip(*found, strict=True)
    return np.concatenate(first), np.concatenate(after_last), np.concatenate(columns)


def drift(
    y: np.ndarray,
    place: np.ndarray,
    middle: np.ndarray,
    usual: Usual,
    slope: Slope | None = None,
) -> Drift | None:
    """The straight line through a series; None for fewer than two parts at any place.

    Args:
        y, place, usual, slope: as for `largest_shift`.
        middle: of each part, as a share of the window, shape (parts,).
    """
    fitted = _regress(y, place, middle[None, :], usual, slope)
    if fitted is None:
        return None
    size, error, degrees, _ = fitted
    p = 2 * stdtr(degrees, -abs(size[0]) / error[0])
    return Drift(float(size[0]), float(error[0]), float(p))


def _regress(
    y: np.ndarray, place: np.ndarray, columns: np.ndarray, usual: Usual, slope: Slope | None
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray] | None:
    """Each column's coefficient and standard error beside the levels and the covariate.

    Returns:
        Coefficients and errors, shapes (columns,), degrees of freedom, and which columns the levels
        leave anything of.
    """
    count, places = len(y), int(place.max()) + 1 if len(y) else 0
    own = count - places - 1
    if own < 1:
        return None
    at_place = place[None, :] == np.arange(places)[:, None]
    per_place = at_place / at_place.sum(axis=1, keepdims=True)

    def centred(values: np.ndarray) -> np.ndarray:
        return np.asarray(values - (values @ per_place.T) @ at_place)

    u, x, weight = centred(columns), np.zeros(count), 1.0
    z = centred(y)
    if slope is not None:
        x = centred(slope.x)
        z = z - slope.mean * x
        weight = (usual.deviation / slope.deviation) ** 2
    uu, ux, uz = (u * u).sum(axis=1), u @ x, u @ z
    xx, xz, zz = float(x @ x) + weight, float(x @ z), float(z @ z)
    possible = uu > 1e-9
    determinant = np.where(possible, uu * xx - ux**2, 1.0)
    size = (xx * uz - ux * xz) / determinant
    excess = (uu * xz - ux * uz) / determinant  # of the slope over its mean
    squares = np.maximum(0.0, zz - size * uz - excess * xz)
    degrees = usual.degrees_of_freedom + own
    variance = (usual.degrees_of_freedom * usual.deviation**2 + squares) / degrees
    if usual.autocorrelation is not None:
        residuals = z[None, :] - size[:, None] * u - excess[:, None] * x
        variance = variance * _inflation(residuals, usual.autocorrelation)
    return size, np.sqrt(variance * xx / determinant), degrees, possible


def _inflation(residuals: np.ndarray, usual: float) -> np.ndarray:
    """(1 + ρ) / (1 − ρ) of each row, at least 1; shape (rows,)."""
    count = residuals.shape[1]
    squares = np.maximum((residuals**2).sum(axis=1), 1e-30)
    lagged = (residuals[:, 1:] * residuals[:, :-1]).sum(axis=1) / squares
    # That of independent errors is about −1/n, less half as much for the fitted step.
    alike = (count * lagged + 1.5 + _USUAL_COUNTS * usual) / (count + _USUAL_COUNTS)
    rho = np.clip(alike, 0.0, _MOST_ALIKE)
    return np.asarray((1 + rho) / (1 - rho))
