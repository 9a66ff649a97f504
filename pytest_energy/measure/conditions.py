"""What the GPU was like under load, and what it draws while hot and without load. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_energy.measure.spread import mean_of_known
from pytest_energy.measure.window import Window, samples_in
from pytest_energy.recording.counters import energy_j, span_ns, update_times_ns
from pytest_energy.recording.recording import SW_POWER_CAP, GpuTrace, Recording

STATIC_POWER_UNCERTAINTY_W = 20.0  # docs/reports.md: how the hot idle power was found to vary
_STATIC_SETTLE_S = 0.15  # after the load stops: counter lag, last kernels
_STATIC_MIN_S = 0.35
_STATIC_CLOCK = 0.90  # of the clock under load: below it the GPU has begun to idle


@dataclass(frozen=True)
class Conditions:
    """What the GPU was like under load; means over all GPUs, None if not sampled.

    Attributes:
        sm_clock_mhz: median SM clock.
        temperature_c: median temperature.
        power_cap_share: share of samples in which the software power cap acted.
    """

    sm_clock_mhz: float | None
    temperature_c: float | None
    power_cap_share: float | None


def conditions(windows: Sequence[Window]) -> Conditions:
    """The conditions of a launch, all its windows together."""
    gpus = range(len(windows[0].recording.gpus)) if windows else ()

    def mean(name: str, of: Callable[[np.ndarray], float]) -> float | None:
        samples = [samples_in(windows, index, name) for index in gpus]
        known = all(len(values) for values in samples) and len(samples) > 0
        return float(np.mean([of(values) for values in samples])) if known else None

    return Conditions(
        sm_clock_mhz=mean("sm_clock_mhz", np.median),
        temperature_c=mean("temperature_c", np.median),
        power_cap_share=mean(
            "throttle_reasons", lambda values: float((values & np.uint64(SW_POWER_CAP) > 0).mean())
        ),
    )


def static_power_w(periods: Sequence[Recording], under_load: Conditions) -> float | None:
    """Power of the hot GPUs just after the load stopped, while their clocks were still up.

    The mean over the periods that show it; None if none does.
    """
    clock_mhz = under_load.sm_clock_mhz
    if clock_mhz is None:
        return None
    return mean_of_known(_hot_idle_power_w(period, clock_mhz) for period in periods)


def _hot_idle_power_w(recording: Recording, clock_mhz: float) -> float | None:
    """Of all GPUs, until the clock sank."""
    total_w = 0.0
    for gpu in recording.gpus:
        power_w = power_after_load_w(recording, gpu, _STATIC_CLOCK * clock_mhz)
        if power_w is None or not gpu.samples.sm_clock_mhz:
            return None
        total_w += power_w
    return total_w


def power_after_load_w(recording: Recording, gpu: GpuTrace, clock_mhz: float = 0.0) -> float | None:
    """Counter power of a GPU shortly after the load; None if the trace ends too soon.

    Args:
        recording: that the trace is of.
        gpu: the trace.
        clock_mhz: only until the clock sank below this.
    """
    start_ns = recording.load_stopped_ns + int(_STATIC_SETTLE_S * 1e9)
    end_ns = _clock_sank_ns(gpu, start_ns, clock_mhz)
    # Between updates only: one that spans the load's end would bring energy of the load along.
    updates = update_times_ns(gpu)
    inside = updates[(np.asarray(gpu.counter.unchanged_ns) >= start_ns) & (updates <= end_ns)]
    if len(inside) < 2 or inside[-1] - inside[0] < _STATIC_MIN_S * 1e9:
        return None
    spent_j = float(np.diff(energy_j(gpu, inside[[0, -1]]))[0])
    return spent_j / (float(inside[-1] - inside[0]) / 1e9)


def _clock_sank_ns(gpu: GpuTrace, start_ns: int, below_mhz: float) -> int:
    """When the clock was first so low after `start_ns`; the counter's end if it never was."""
    end_ns = span_ns(gpu)[1]
    for time_ns, clock in zip(gpu.samples.time_ns, gpu.samples.sm_clock_mhz, strict=False):
        if time_ns > start_ns and clock < below_mhz:
            return min(end_ns, time_ns)
    return end_ns
