"""What other tools' rules would say of the same kind of launches: three a side, six cycles each."""

import math
from collections.abc import Callable

import numpy as np

from benchmarks.simulated_runs import CELLS

LAUNCHES, CYCLES = 3, 6
CHANGES = (-0.03, 0.02, 0.04, 0.06, 0.10, 0.30)
CYCLE_RATIO = 1.6  # cycles within a launch vary so much more (docs/measurements.md)


def cycles(
    generator: np.random.Generator, deviation: float, change: float, count: int, correlated: float
) -> np.ndarray:
    """J/token of the cycles of three launches, `count` times; shape (count, 3, CYCLES).

    Args:
        correlated: autocorrelation of cycles at lag one (AR(1)).
    """
    launches = deviation * generator.standard_normal((count, LAUNCHES, 1))
    steps = generator.standard_normal((count, LAUNCHES, CYCLES))
    for i in range(1, CYCLES):
        steps[:, :, i] = (
            correlated * steps[:, :, i - 1] + math.sqrt(1 - correlated**2) * steps[:, :, i]
        )
    within = CYCLE_RATIO * deviation * (steps - steps.mean(axis=2, keepdims=True))
    return np.exp(launches + within) * (1 + change)


_P_VALUES: dict[int, float] = {}


def asv_differs(candidate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """asv's is_different: Mann-Whitney U on all cycles, p < 0.002.

    Shapes (count, 3, CYCLES) → (count,).
    """
    from asv._stats import mann_whitney_u

    a = candidate.reshape(len(candidate), -1)
    b = reference.reshape(len(reference), -1)
    u = (a[:, :, None] > b[:, None, :]).sum(axis=(1, 2))
    for i, value in enumerate(u):
        if int(value) not in _P_VALUES:  # the p-value depends on U alone
            _P_VALUES[int(value)] = float(mann_whitney_u(a[i].tolist(), b[i].tolist())[1])
    return np.array([_P_VALUES[int(value)] for value in u]) < 0.002


def _means(candidate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return candidate.mean(axis=(1, 2)) / reference.mean(axis=(1, 2))


def _medians(candidate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return np.where(
        asv_differs(candidate, reference),
        np.median(candidate, axis=(1, 2)) / np.median(reference, axis=(1, 2)),
        0.0,
    )


# What each compares (0 for "no difference"), and the factor above which it fails by default.
OTHER_TOOLS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], float]] = {
    "pytest-benchmark mean:5%": (_means, 1.05),
    "asv compare (factor 1.1)": (_medians, 1.10),
    "github-action-benchmark (200 %)": (_means, 2.0),
}


def other_tool(
    name: str, deviation: float, correlated: float, count: int, seed: int
) -> list[dict[str, float]]:
    """The tool at its default, and at the factor of 1 % false alarms per suite of 16 cells."""
    measure, default = OTHER_TOOLS[name]
    generator = np.random.default_rng([seed, int(1e6 * deviation)])

    def ratios(change: float) -> np.ndarray:
        return measure(
            cycles(generator, deviation, change, count, correlated),
            cycles(generator, deviation, 0.0, count, correlated),
        )

    calibration, unchanged = ratios(0.0), ratios(0.0)
    changed = {change: ratios(change) for change in CHANGES}
    per_cell = 1 - 0.99 ** (1 / CELLS)
    rows = []
    for factor in (default, float(max(np.quantile(calibration, 1 - per_cell), 1.0))):
        alarm = 1 - (1 - float((unchanged > factor).mean())) ** CELLS
        caught = {
            f"{change:+.0%}": float((values > factor).mean()) for change, values in changed.items()
        }
        rows.append({"factor": factor, "false_alarm": alarm, **caught})
    return rows
