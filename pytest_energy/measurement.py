"""Recording → steady state → whole cycles → Measurement. Pure: the same recording gives the same numbers.

    tokens     0 ······ C ······ 2C ······ 3C ······ 4C ······ 5C ··  stop      C = batch_size × output_tokens
               │ warm-up │ cycle 1 │ cycle 2 │ cycle 3 │ cycle 4 │          │ hot, no load │
    energy          E(t₁)     E(t₂)     E(t₃)     E(t₄)     E(t₅)             static power

A cycle's end points fall between counter updates, so the energy there is interpolated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_energy.recording import GpuTrace, Recording

MIN_CYCLES = 3
_TRANSIENT = 0.02  # a first cycle further off than this is still warming up
_MAD_TO_DEVIATION = 1.4826
_AGREEMENT = 0.03  # counter energy against the integral of average power
_FULL_BATCH = 0.90  # of the tokens that a step yields when every slot generates
_BUSY_PERCENT = 5  # median utilization under load; an eager engine at batch size 8 keeps an H200 busy 45 % of the time
_MIN_POWER_SAMPLES = 5
_STATIC_SETTLE_S = 0.15  # after the load stops: counter lag, last kernels
_STATIC_MIN_S = 0.35
_STATIC_CLOCK = 0.90  # of the clock under load: below it the GPU has begun to rest
STATIC_POWER_UNCERTAINTY_W = 20.0  # docs/architecture.md: how the hot idle power was found to vary

# nvmlClocksEventReason* bits.
SW_POWER_CAP = 0x4
_THERMAL_OR_HARDWARE = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


@dataclass(frozen=True)
class Cycles:
    """Whole cycles in steady state, all of shape (cycles,)."""

    energy_j: tuple[float, ...]
    time_s: tuple[float, ...]
    tokens: int

    @property
    def joules_per_token(self) -> tuple[float, ...]:
        """Energy of each cycle over its tokens."""
        return tuple(energy / self.tokens for energy in self.energy_j)

    @property
    def power_w(self) -> tuple[float, ...]:
        """Mean power in each cycle."""
        return tuple(energy / time for energy, time in zip(self.energy_j, self.time_s, strict=True))

    @property
    def tokens_per_s(self) -> tuple[float, ...]:
        """Tokens generated per second in each cycle."""
        return tuple(self.tokens / time for time in self.time_s)


@dataclass(frozen=True)
class Conditions:
    """What the GPU was like under load; means over all GPUs, None where not sampled.

    Attributes:
        sm_clock_mhz: median SM clock.
        temperature_c: median temperature.
        power_cap_share: share of samples in which the software power cap acted.
    """

    sm_clock_mhz: float | None
    temperature_c: float | None
    power_cap_share: float | None


@dataclass(frozen=True)
class Measurement:
    """One cell of one launch.

    Attributes:
        key, launch_id, environment: as in the recording.
        cycles: in steady state; None where the recording holds too few whole cycles.
        gpu_energy_j: energy of each GPU over those cycles, by UUID.
        static_power_w: power of the hot GPUs just after the load stopped, clocks still up; None where not seen.
        cpu_power_w: mean CPU package power over the cycles; None where RAPL was not readable.
        skipped_cycles: cycles before the steady state.
        faults: why the measurement must not be judged, as "code: detail"; empty when it is valid.
    """

    key: Mapping[str, Any]
    launch_id: str
    environment: Mapping[str, Any]
    cycles: Cycles | None
    gpu_energy_j: Mapping[str, float]
    conditions: Conditions
    static_power_w: float | None
    cpu_power_w: float | None
    skipped_cycles: int
    faults: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether the measurement may be judged or become a baseline."""
        return not self.faults and self.cycles is not None

    @property
    def joules_per_token(self) -> float:
        """Energy over tokens of all cycles."""
        assert self.cycles is not None
        return sum(self.cycles.energy_j) / (self.cycles.tokens * len(self.cycles.energy_j))

    @property
    def power_w(self) -> float:
        """Mean power over all cycles."""
        assert self.cycles is not None
        return sum(self.cycles.energy_j) / sum(self.cycles.time_s)

    @property
    def tokens_per_s(self) -> float:
        """Tokens generated per second over all cycles."""
        assert self.cycles is not None
        return self.cycles.tokens * len(self.cycles.time_s) / sum(self.cycles.time_s)


def first_invalid(measurements: Sequence[Measurement]) -> str | None:
    """The first of them that must not be kept, and why; None where all are valid."""
    for measurement in measurements:
        if not measurement.valid:
            return f"launch {measurement.launch_id} is invalid: {'; '.join(measurement.faults)}"
    return None


def measure(recording: Recording) -> Measurement:
    """Everything the gate needs of one recording."""
    workload, batch_size = recording.key["workload"], int(recording.key["batch_size"])
    cycle_tokens = batch_size * int(workload["output_tokens"])
    faults = [*recording.faults, *(fault for gpu in recording.gpus for fault in gpu.faults)]
    boundaries_ns = _cycle_boundaries_ns(recording, cycle_tokens)
    faults += _counter_faults(recording)
    cycles, skipped, gpu_energy_j = None, 0, {}
    window_ns = None
    if len(boundaries_ns) >= 2 and not any(fault.startswith(("no_counter", "counter_")) for fault in faults):
        per_gpu = [np.diff(_energy_j(gpu, boundaries_ns)) for gpu in recording.gpus]
        energy_j, time_s = np.sum(per_gpu, axis=0), np.diff(boundaries_ns) / 1e9
        skipped = steady_from(energy_j / cycle_tokens, energy_j / time_s)
        if len(time_s) - skipped >= MIN_CYCLES:
            cycles = Cycles(tuple(energy_j[skipped:].tolist()), tuple(time_s[skipped:].tolist()), cycle_tokens)
            gpu_energy_j = {gpu.uuid: float(e[skipped:].sum()) for gpu, e in zip(recording.gpus, per_gpu, strict=True)}
            window_ns = (boundaries_ns[skipped], boundaries_ns[-1])
    if cycles is None and not faults:
        whole = max(0, len(boundaries_ns) - 1)
        faults.append(f"too_short: {whole} whole cycles after warm-up, {skipped} of them before the steady state, {MIN_CYCLES} needed")
    if window_ns is not None:
        faults += _window_faults(recording, window_ns, batch_size)
    needed = batch_size * (int(workload["input_tokens"]) + int(workload["output_tokens"]))
    if 0 < recording.kv_cache_tokens < needed:
        faults.append(f"kv_cache_too_small: it holds {recording.kv_cache_tokens} tokens, the batch needs {needed}")
    conditions = _conditions(recording, window_ns)
    return Measurement(
        key=recording.key,
        launch_id=recording.launch_id,
        environment=recording.environment,
        cycles=cycles,
        gpu_energy_j=gpu_energy_j,
        conditions=conditions,
        static_power_w=_static_power_w(recording, conditions),
        cpu_power_w=_cpu_power_w(recording, window_ns),
        skipped_cycles=skipped,
        faults=tuple(dict.fromkeys(faults)),
    )


def steady_from(*series: Sequence[float] | np.ndarray) -> int:
    """How many leading cycles to drop so that the rest is steady: the most that any series asks for.

    A leading cycle goes while it lies further from the median of those after it than 2 % and than three of
    their robust standard deviations; half of the cycles at most, and never so many that fewer than `MIN_CYCLES`
    remain: an engine whose pace wanders all the time is noisy, not warming up. With a handful of cycles a rule
    that minimises a standard error, such as MSER, would cut at random.

    Args:
        series: each of shape (cycles,).
    """
    drop = 0
    for values in series:
        x = np.asarray(values, dtype=float)
        while drop < min(len(x) // 2, len(x) - MIN_CYCLES):
            rest = x[drop + 1 :]
            median = float(np.median(rest))
            spread = _MAD_TO_DEVIATION * float(np.median(np.abs(rest - median)))
            if abs(x[drop] - median) <= max(_TRANSIENT * abs(median), 3 * spread):
                break
            drop += 1
    return drop


def _cycle_boundaries_ns(recording: Recording, cycle_tokens: int) -> np.ndarray:
    """Times at which the token counter passed C, 2C, 3C …; the first cycle is warm-up. Shape (cycles + 1,)."""
    time_ns = np.asarray(recording.tokens.time_ns, dtype=np.int64)
    total = np.cumsum(np.asarray(recording.tokens.tokens, dtype=np.int64))
    if not len(total):
        return np.empty(0, dtype=np.int64)
    # Inside a step the tokens come about evenly; times are kept relative so that no nanosecond is rounded away.
    marks = np.arange(1, total[-1] // cycle_tokens + 1) * cycle_tokens
    boundaries: np.ndarray = time_ns[0] + np.rint(np.interp(marks, total, (time_ns - time_ns[0]).astype(float))).astype(np.int64)
    covered = [_span_ns(gpu) for gpu in recording.gpus if gpu.counter.changed_ns]
    for first, last in covered:
        boundaries = boundaries[(boundaries >= first) & (boundaries <= last)]
    return boundaries


def _span_ns(gpu: GpuTrace) -> tuple[int, int]:
    return gpu.counter.changed_ns[0], gpu.counter.unchanged_ns[-1]


def _update_times_ns(gpu: GpuTrace) -> np.ndarray:
    """When the counter was updated: midway between the last read of the old and the first of the new value."""
    unchanged, changed = np.asarray(gpu.counter.unchanged_ns), np.asarray(gpu.counter.changed_ns)
    return np.asarray(unchanged + (changed - unchanged) // 2)


def _energy_j(gpu: GpuTrace, time_ns: Sequence[int] | np.ndarray) -> np.ndarray:
    """The GPU's energy counter at `time_ns`, interpolated between updates; zero at the first update."""
    updates, energy_mj = _update_times_ns(gpu), np.asarray(gpu.counter.energy_mj, dtype=np.int64)
    relative_s = (np.asarray(time_ns, dtype=np.int64) - updates[0]) / 1e9
    return np.asarray(np.interp(relative_s, (updates - updates[0]) / 1e9, (energy_mj - energy_mj[0]) / 1e3))


def _counter_faults(recording: Recording) -> list[str]:
    faults = []
    if not recording.gpus:
        faults.append("no_counter: no GPU was metered")
    for gpu in recording.gpus:
        updates = len(gpu.counter.energy_mj)
        if updates < 2:
            faults.append(f"counter_stuck: {gpu.uuid} counted {updates} updates in all")
            continue
        energy_mj, times = np.asarray(gpu.counter.energy_mj), _update_times_ns(gpu)
        if (np.diff(energy_mj) < 0).any():
            faults.append(f"counter_backwards: {gpu.uuid}")
        gap_s = float(np.max(np.diff(times))) / 1e9
        if gap_s > 1.0:
            faults.append(f"counter_stuck: {gpu.uuid} stood still for {gap_s:.1f} s")
    return faults


def _select(gpu: GpuTrace, window_ns: tuple[int, int], name: str) -> np.ndarray:
    time_ns = np.asarray(gpu.samples.time_ns, dtype=np.int64)
    values = np.asarray(getattr(gpu.samples, name), dtype=float)
    return np.asarray(values[(time_ns >= window_ns[0]) & (time_ns <= window_ns[1])])


def _window_faults(recording: Recording, window_ns: tuple[int, int], batch_size: int) -> list[str]:
    faults = []
    time_ns, tokens = np.asarray(recording.tokens.time_ns), np.asarray(recording.tokens.tokens)
    inside = (time_ns >= window_ns[0]) & (time_ns <= window_ns[1])
    per_step = float(tokens[inside].mean())
    if per_step < _FULL_BATCH * batch_size * _slot_share(recording, batch_size):
        faults.append(f"batch_not_full: {per_step:.1f} tokens a step at batch size {batch_size}; requests waited or were preempted")
    for gpu in recording.gpus:
        # The average covers the second before it, so the first second of samples belongs to another window.
        average_w = _select(gpu, (window_ns[0] + 1_000_000_000, window_ns[1]), "average_power_mw") / 1e3
        counter_w = float(np.diff(_energy_j(gpu, window_ns))[0]) / ((window_ns[1] - window_ns[0]) / 1e9)
        if len(average_w) < _MIN_POWER_SAMPLES:
            faults.append(f"power_unsampled: {gpu.uuid} has {len(average_w)} power samples in the window")
        elif not abs(counter_w - average_w.mean()) <= _AGREEMENT * average_w.mean():
            faults.append(
                f"counter_disagrees: {gpu.uuid} counted {counter_w:.0f} W on average, the power readings say "
                f"{average_w.mean():.0f} W (more than {_AGREEMENT:.0%} apart)"
            )
        busy = _select(gpu, window_ns, "utilization_percent")
        if len(busy) and np.median(busy) < _BUSY_PERCENT:
            faults.append(f"gpu_idle: {gpu.uuid} was busy {np.median(busy):.0f} % of the time under load: is it the engine's GPU?")
        reasons = np.bitwise_or.reduce(_select(gpu, window_ns, "throttle_reasons").astype(np.int64), initial=0)
        faults += [f"throttled: {gpu.uuid}: {name}" for bit, name in _THERMAL_OR_HARDWARE.items() if int(reasons) & bit]
    return faults


def _slot_share(recording: Recording, batch_size: int) -> float:
    """The share of steps in which a slot yields a token when nothing waits.

    A finished request's successor needs a step or two to be scheduled and its prefill to be chunked in; with short outputs that is
    no small part of its life.
    """
    output_tokens = int(recording.key["workload"]["output_tokens"])
    return output_tokens / (output_tokens + 3)


def _conditions(recording: Recording, window_ns: tuple[int, int] | None) -> Conditions:
    if window_ns is None:
        return Conditions(None, None, None)
    clocks, temperatures, capped = [], [], []
    for gpu in recording.gpus:
        clocks.append(_select(gpu, window_ns, "sm_clock_mhz"))
        temperatures.append(_select(gpu, window_ns, "temperature_c"))
        capped.append(_select(gpu, window_ns, "throttle_reasons").astype(np.int64) & SW_POWER_CAP > 0)
    if not all(len(values) for values in clocks):
        return Conditions(None, None, None)
    return Conditions(
        sm_clock_mhz=float(np.mean([np.median(values) for values in clocks])),
        temperature_c=float(np.mean([np.median(values) for values in temperatures])),
        power_cap_share=float(np.mean([values.mean() for values in capped])),
    )


def _static_power_w(recording: Recording, conditions: Conditions) -> float | None:
    """Counter power between updates from shortly after the load stopped until the clock sank or the trace ended, over all GPUs."""
    if conditions.sm_clock_mhz is None:
        return None
    start_ns = recording.load_stopped_ns + int(_STATIC_SETTLE_S * 1e9)
    total_w = 0.0
    for gpu in recording.gpus:
        end_ns = _span_ns(gpu)[1]
        for time_ns, clock in zip(gpu.samples.time_ns, gpu.samples.sm_clock_mhz, strict=True):
            if time_ns > start_ns and clock < _STATIC_CLOCK * conditions.sm_clock_mhz:
                end_ns = min(end_ns, time_ns)
                break
        # Between updates only: one that spans the load's end would bring energy of the load along.
        updates = _update_times_ns(gpu)
        inside = updates[(np.asarray(gpu.counter.unchanged_ns) >= start_ns) & (updates <= end_ns)]
        if len(inside) < 2 or inside[-1] - inside[0] < _STATIC_MIN_S * 1e9:
            return None
        total_w += float(np.diff(_energy_j(gpu, inside[[0, -1]]))[0]) / ((inside[-1] - inside[0]) / 1e9)
    return total_w


def _cpu_power_w(recording: Recording, window_ns: tuple[int, int] | None) -> float | None:
    time_ns = np.asarray(recording.cpu.time_ns, dtype=np.int64)
    if window_ns is None or len(time_ns) < 2:
        return None
    inside = (time_ns >= window_ns[0]) & (time_ns <= window_ns[1])
    if inside.sum() < 2:
        return None
    energy_mj = np.asarray(recording.cpu.energy_mj, dtype=float)[inside]
    seconds = float(np.ptp(time_ns[inside])) / 1e9
    return float(np.ptp(energy_mj)) / 1e3 / seconds if math.isfinite(seconds) and seconds > 0 else None
