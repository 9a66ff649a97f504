"""The energy counter between its updates."""

from collections.abc import Sequence

import numpy as np

from pytest_energy.recording.recording import GpuTrace


def mean_power_w(gpus: Sequence[GpuTrace]) -> float | None:
    """Power of all GPUs over their traces, W; None if a counter has fewer than two updates."""
    total_w = 0.0
    for gpu in gpus:
        updates = update_times_ns(gpu)
        if len(updates) < 2:
            return None
        total_w += float(energy_j(gpu, updates[-1:])[0]) / (float(np.ptp(updates)) / 1e9)
    return total_w


def span_ns(gpu: GpuTrace) -> tuple[int, int]:
    """The time that the counter covers."""
    return gpu.counter.changed_ns[0], gpu.counter.unchanged_ns[-1]


def update_times_ns(gpu: GpuTrace) -> np.ndarray:
    """When the counter was updated: midway between the last old and the first new read."""
    unchanged, changed = np.asarray(gpu.counter.unchanged_ns), np.asarray(gpu.counter.changed_ns)
    return np.asarray(unchanged + (changed - unchanged) // 2)


def energy_j(gpu: GpuTrace, time_ns: Sequence[int] | np.ndarray) -> np.ndarray:
    """The energy counter at `time_ns`, J, interpolated between updates; 0 at the first one."""
    updates, energy_mj = update_times_ns(gpu), np.asarray(gpu.counter.energy_mj, dtype=np.int64)
    relative_s = (np.asarray(time_ns, dtype=np.int64) - updates[0]) / 1e9
    return np.asarray(
        np.interp(relative_s, (updates - updates[0]) / 1e9, (energy_mj - energy_mj[0]) / 1e3)
    )
