"""Recordings in which pace or power changed on the way, for tests."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pytest_energy.measure.cycles import boundaries
from pytest_energy.recording.counters import energy_j
from pytest_energy.recording.recording import GpuTrace, Recording


def slowed(recording: Recording, cycle: float, factor: float = 2.0) -> Recording:
    """Throughput divided by `factor` from so many cycles after the load's start on; power is kept.

    The warm-up is cycle 0. The load goes on for as many tokens, so it takes longer.
    """
    time_ns = np.asarray(recording.tokens.time_ns, dtype=np.int64)
    total = np.cumsum(np.asarray(recording.tokens.tokens, dtype=np.int64))
    _, marks = boundaries(recording)
    tokens = np.interp(cycle, np.arange(len(marks) + 1), np.r_[0, marks])
    from_ns = int(np.interp(tokens, total, time_ns))

    def later(times: tuple[int, ...]) -> tuple[int, ...]:
        t = np.asarray(times, dtype=np.int64)
        late = from_ns + ((t - from_ns) * factor).astype(np.int64)
        return tuple(np.where(t > from_ns, late, t).tolist())

    def stretched(gpu: GpuTrace) -> GpuTrace:
        energy_mj = np.asarray(gpu.counter.energy_mj, dtype=np.int64)
        after = np.asarray(gpu.counter.changed_ns[1:], dtype=np.int64) > from_ns
        spent_mj = np.diff(energy_mj) * np.where(after, factor, 1.0)
        counter = replace(
            gpu.counter,
            unchanged_ns=later(gpu.counter.unchanged_ns),
            changed_ns=later(gpu.counter.changed_ns),
            energy_mj=_counter(energy_mj[0], spent_mj),
        )
        return replace(
            gpu, counter=counter, samples=replace(gpu.samples, time_ns=later(gpu.samples.time_ns))
        )

    return replace(
        recording,
        tokens=replace(recording.tokens, time_ns=later(recording.tokens.time_ns)),
        gpus=tuple(map(stretched, recording.gpus)),
        load_stopped_ns=later((recording.load_stopped_ns,))[0],
    )


def with_power(recording: Recording, watts: Callable[[np.ndarray], np.ndarray]) -> Recording:
    """More power, all GPUs together, by the share of the window (cycles after the warm-up)."""
    ends_ns, _ = boundaries(recording)
    first, last = int(ends_ns[0]), int(ends_ns[-1])

    def share(time_ns: np.ndarray) -> np.ndarray:
        return np.asarray((time_ns - first) / (last - first))

    def more(gpu: GpuTrace) -> GpuTrace:
        updates = np.asarray(gpu.counter.changed_ns, dtype=np.int64)
        fine = np.linspace(updates[0], updates[-1], 20_001)
        extra_w = watts(share(fine)) / len(recording.gpus)
        joules = np.r_[0, np.cumsum((extra_w[1:] + extra_w[:-1]) / 2 * np.diff(fine) / 1e9)]
        extra_mj = (1e3 * np.interp(updates, fine, joules)).astype(np.int64)
        sampled_w = watts(share(np.asarray(gpu.samples.time_ns))) / len(recording.gpus)
        power_mw = np.asarray(gpu.samples.average_power_mw) + (1e3 * sampled_w).astype(np.int64)
        energy_mj = np.asarray(gpu.counter.energy_mj, dtype=np.int64) + extra_mj
        return replace(
            gpu,
            counter=replace(gpu.counter, energy_mj=tuple(energy_mj.tolist())),
            samples=replace(gpu.samples, average_power_mw=tuple(power_mw.tolist())),
        )

    return replace(recording, gpus=tuple(map(more, recording.gpus)))


def with_step_in_power(recording: Recording, watts: float = 50.0, share: float = 0.45) -> Recording:
    """So much more power from that share of the window on."""
    return with_power(recording, lambda at: watts * (at >= share))


def with_ramp_in_power(recording: Recording, rise: float = 0.02) -> Recording:
    """Power that rises by that share of itself over the window, along a straight line."""
    ends_ns = boundaries(recording)[0][[0, -1]]
    spent_j = sum(float(np.ptp(energy_j(gpu, ends_ns))) for gpu in recording.gpus)
    power_w = spent_j / (float(np.ptp(ends_ns)) / 1e9)
    return with_power(recording, lambda at: power_w * rise * np.clip(at, 0, 1))


def _counter(first_mj: int, spent_mj: np.ndarray) -> tuple[int, ...]:
    return tuple((first_mj + np.r_[0, np.cumsum(spent_mj)].astype(np.int64)).tolist())
