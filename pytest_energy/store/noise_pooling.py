"""What other cells of a model say about the noise of one: they are alike, but not the same. Pure.

The variances of cells are taken as draws around a common one, and each is moderated towards it. By
how many degrees of freedom the others count follows from how much the cells' variances scatter
beyond what chance makes (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1):3, section 6.2): cells that
differ count for little, cells that agree for up to ten.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import digamma, polygamma

from pytest_energy.measure.spread import Spread

_MOST_DEGREES = 10.0  # of the others: few cells cannot show that one more is like them
_LEAST_VARIANCE = 1e-18  # launches that agree to the last digit; its logarithm is finite


def moderated(own: Spread, others: Sequence[Spread]) -> Spread:
    """A cell's deviation, moderated by the model's other cells.

    They make it no smaller: a cell noisier than the others, whatever they say, would raise false
    alarms and hide losses. They may make it larger, and better known.

    Args:
        own: measured on the cell.
        others: measured on the model's other cells.
    """
    if not others:
        return own
    common = typical([own, *others])
    measured = math.fsum(cell.degrees_of_freedom for cell in others)
    weight = 1 / (1 / common.degrees_of_freedom + 1 / measured)
    degrees = weight + own.degrees_of_freedom
    squares = weight * common.deviation**2 + own.degrees_of_freedom * own.deviation**2
    return Spread(max(own.deviation, math.sqrt(squares / degrees)), degrees)


def typical(cells: Sequence[Spread]) -> Spread:
    """What to expect of a cell like these: Smyth's s₀, and d₀ up to ten.

    Without a bound d₀ would be infinite if chance explains how the cells differ.
    """
    half = np.array([cell.degrees_of_freedom / 2 for cell in cells])
    variances = np.maximum([cell.deviation**2 for cell in cells], _LEAST_VARIANCE)
    logs = np.log(variances) - digamma(half) + np.log(half)
    scatter = float(logs.var(ddof=1) - polygamma(1, half).mean()) if len(cells) > 1 else 0.0
    if scatter <= 0:
        return Spread(math.exp(float(logs.mean()) / 2), _MOST_DEGREES)
    prior = _inverse_trigamma(scatter)
    logarithm = float(logs.mean() + digamma(prior) - math.log(prior))
    return Spread(math.exp(logarithm / 2), min(2 * prior, _MOST_DEGREES))


def _inverse_trigamma(value: float) -> float:
    """By Newton's method, which rises to the root from below (Smyth 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-8 * x:
            break
    return x
