"""Recording → its window: the whole cycles that are measured, and the samples in them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pytest_energy.measure.cycles import Cycles, boundaries
from pytest_energy.recording.counters import energy_j
from pytest_energy.recording.recording import GpuTrace, Recording

MIN_CYCLES = 3  # of a measurement


@dataclass(frozen=True)
class Window:
    """One recording and its whole cycles after the warm-up.

    Attributes:
        energy_j: shape (GPUs, cycles).
        ends_ns: start of the first and end of each cycle (CLOCK_MONOTONIC), shape (cycles + 1,).
        tokens: generated until then, shape (cycles + 1,).
    """

    recording: Recording
    energy_j: np.ndarray
    ends_ns: np.ndarray
    tokens: np.ndarray

    @property
    def time_s(self) -> np.ndarray:
        """Of each cycle, shape (cycles,)."""
        return np.asarray(np.diff(self.ends_ns) / 1e9)

    @property
    def cycles(self) -> Cycles:
        """Over all GPUs."""
        return Cycles(
            tuple(self.energy_j.sum(axis=0).tolist()),
            tuple(self.time_s.tolist()),
            tuple(np.diff(self.tokens).tolist()),
        )

    @property
    def span_ns(self) -> tuple[int, int]:
        """Start of the first and end of the last cycle."""
        return int(self.ends_ns[0]), int(self.ends_ns[-1])

    def after(self, cycles: int) -> "Window":
        """The same without so many leading cycles."""
        return replace(
            self,
            energy_j=self.energy_j[:, cycles:],
            ends_ns=self.ends_ns[cycles:],
            tokens=self.tokens[cycles:],
        )


def window_of(recording: Recording) -> Window | None:
    """The window of a recording; None if it holds no whole cycle after the warm-up."""
    ends_ns, tokens = boundaries(recording)
    if len(ends_ns) < 2:
        return None
    energy = np.array([np.diff(energy_j(gpu, ends_ns)) for gpu in recording.gpus])
    return Window(recording, energy, ends_ns, tokens)


def samples_in(windows: Sequence[Window], gpu: int, name: str, settle_ns: int = 0) -> np.ndarray:
    """A GPU's samples under load, all windows together; empty if they are not known.

    Args:
        gpu: its place in the recordings.
        name: of the series.
        settle_ns: how much of each window's start is left out.
    """
    return np.concatenate(
        [
            _select(
                window.recording.gpus[gpu],
                (window.span_ns[0] + settle_ns, window.span_ns[1]),
                name,
            )
            for window in windows
        ]
    )


def _select(gpu: GpuTrace, span_ns: tuple[int, int], name: str) -> np.ndarray:
    time_ns = np.asarray(gpu.samples.time_ns, dtype=np.int64)
    dtype = np.uint64 if name == "throttle_reasons" else float
    values = np.asarray(getattr(gpu.samples, name), dtype=dtype)
    if not len(values):
        return values
    return np.asarray(values[(time_ns >= span_ns[0]) & (time_ns <= span_ns[1])])
