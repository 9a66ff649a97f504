"""Whole cycles → those in steady state. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_energy.measure.cycles import Cycles, boundaries
from pytest_energy.recording.counters import energy_j
from pytest_energy.recording.recording import GpuTrace, Recording

MIN_STEADY_CYCLES = 3  # of a measurement
_TRANSIENT = 0.02  # a first cycle that is further off is still warming up
_MAD_TO_DEVIATION = 1.4826


@dataclass(frozen=True)
class SteadyCycles:
    """One recording and its cycles in steady state.

    Attributes:
        energy_j: shape (GPUs, cycles).
        time_s, tokens: shape (cycles,).
        skipped: whole cycles before the steady state.
        window_ns: start of the first and end of the last cycle (CLOCK_MONOTONIC).
    """

    recording: Recording
    energy_j: np.ndarray
    time_s: np.ndarray
    tokens: np.ndarray
    skipped: int
    window_ns: tuple[int, int]

    @property
    def cycles(self) -> Cycles:
        """Over all GPUs."""
        return Cycles(
            tuple(self.energy_j.sum(axis=0).tolist()),
            tuple(self.time_s.tolist()),
            tuple(self.tokens.tolist()),
        )


def steady_cycles(recording: Recording) -> SteadyCycles | None:
    """The cycles after warm-up and transient; None if there is no whole one."""
    boundaries_ns, tokens, skipped = _steady_boundaries(recording)
    if len(boundaries_ns) < 2:
        return None
    return SteadyCycles(
        recording=recording,
        energy_j=np.array([np.diff(energy_j(gpu, boundaries_ns)) for gpu in recording.gpus]),
        time_s=np.diff(boundaries_ns) / 1e9,
        tokens=np.diff(tokens),
        skipped=skipped,
        window_ns=(int(boundaries_ns[0]), int(boundaries_ns[-1])),
    )


def steady_boundaries_ns(recording: Recording) -> np.ndarray:
    """Start and end of each whole cycle in steady state, shape (cycles + 1,)."""
    return _steady_boundaries(recording)[0]


def steady_from(*series: Sequence[float] | np.ndarray) -> int:
    """How many leading cycles to drop for a steady rest: the most that any series asks for.

    A leading cycle is dropped if it is further from the median of those after it than 2 % and than
    three of their robust standard deviations; half of the cycles at most, and never so many that
    fewer than `MIN_STEADY_CYCLES` remain: an engine whose pace wanders all the time is noisy, not
    warming up. With a handful of cycles a rule that minimises a standard error, such as MSER, would
    cut at random.

    Args:
        series: each of shape (cycles,).
    """
    drop = 0
    for values in series:
        x = np.asarray(values, dtype=float)
        while drop < min(len(x) // 2, len(x) - MIN_STEADY_CYCLES):
            rest = x[drop + 1 :]
            median = float(np.median(rest))
            spread = _MAD_TO_DEVIATION * float(np.median(np.abs(rest - median)))
            if abs(x[drop] - median) <= max(_TRANSIENT * abs(median), 3 * spread):
                break
            drop += 1
    return drop


def samples_in_windows(
    periods: Sequence[SteadyCycles], gpu: int, name: str, settle_ns: int = 0
) -> np.ndarray:
    """A GPU's samples under load, all periods together.

    Args:
        periods: their windows count.
        gpu: its place in the recordings.
        name: of the series.
        settle_ns: how much of each window's start is left out.
    """
    return np.concatenate(
        [
            _select(
                period.recording.gpus[gpu],
                (period.window_ns[0] + settle_ns, period.window_ns[1]),
                name,
            )
            for period in periods
        ]
    )


def _select(gpu: GpuTrace, window_ns: tuple[int, int], name: str) -> np.ndarray:
    time_ns = np.asarray(gpu.samples.time_ns, dtype=np.int64)
    dtype = np.uint64 if name == "throttle_reasons" else float
    values = np.asarray(getattr(gpu.samples, name), dtype=dtype)
    return np.asarray(values[(time_ns >= window_ns[0]) & (time_ns <= window_ns[1])])


def _steady_boundaries(recording: Recording) -> tuple[np.ndarray, np.ndarray, int]:
    """Start and end of each whole cycle in steady state, the tokens until then, cycles skipped."""
    boundaries_ns, tokens = boundaries(recording)
    # A period begins on a hot GPU. Of its few cycles the rule would drop one that strays by chance.
    if len(boundaries_ns) < 2 or recording.co_resident is not None:
        return boundaries_ns, tokens, 0
    total_j = np.sum([np.diff(energy_j(gpu, boundaries_ns)) for gpu in recording.gpus], axis=0)
    cycle_tokens = np.diff(tokens)
    # Energy for as many tokens as the mean cycle has; in cycles that is their own number.
    even_j = total_j * (cycle_tokens.mean() / cycle_tokens)
    skipped = steady_from(even_j, total_j / (np.diff(boundaries_ns) / 1e9))
    return boundaries_ns[skipped:], tokens[skipped:], skipped
