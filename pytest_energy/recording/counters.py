"""The energy counter between its updates."""

from collections.abc import Sequence

import numpy as np

from pytest_energy.recording.recording import GpuTrace


def mean_power_w(gpus: Sequence[GpuTrace]) -> float | None:
    """Counter power of all GPUs together over their whole traces, W; None where a counter was not updated twice."""
    total_w = 0.0
    for gpu in gpus:
        updates = update_times_ns(gpu)
        if len(updates) < 2:
            return None
        total_w += float(energy_j(gpu, updates[-1:])[0]) / (float(np.ptp(updates)) / 1e9)
    return total_w


def span_ns(gpu: GpuTrace) -> tuple[int, int]:
    return gpu.counter.changed_ns[0], gpu.counter.unchanged_ns[-1]


def update_times_ns(gpu: GpuTrace) -> np.ndarray:
    """When the counter was updated: midway between the last read of the old and the first of the new value."""
    unchanged, changed = np.asarray(gpu.counter.unchanged_ns), np.asarray(gpu.counter.changed_ns)
    return np.asarray(unchanged + (changed - unchanged) // 2)


def energy_j(gpu: GpuTrace, time_ns: Sequence[int] | np.ndarray) -> np.ndarray:
    """The GPU's energy counter at `time_ns`, interpolated between updates; zero at the first update."""
    updates, energy_mj = update_times_ns(gpu), np.asarray(gpu.counter.energy_mj, dtype=np.int64)
    relative_s = (np.asarray(time_ns, dtype=np.int64) - updates[0]) / 1e9
    return np.asarray(
        np.interp(relative_s, (updates - updates[0]) / 1e9, (energy_mj - energy_mj[0]) / 1e3)
    )
