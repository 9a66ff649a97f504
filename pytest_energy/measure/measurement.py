"""Recording → steady state → whole cycles → Measurement. Pure: the same recording gives the same numbers.

    tokens     0 ······ C ······ 2C ······ 3C ······ 4C ······ 5C ··  stop      C = batch_size × output_tokens
               │ warm-up │ cycle 1 │ cycle 2 │ cycle 3 │ cycle 4 │          │ hot, no load │
    energy          E(t₁)     E(t₂)     E(t₃)     E(t₄)     E(t₅)             static power

A cycle's end points fall between counter updates, so the energy there is interpolated. Where requests differ in length there
is no cycle, and *blocks* take its place: equal numbers of finished requests (batch means). A block ends with the step that
finishes its last request and holds a pass of the requests (pytest_energy.cell.workload), so blocks hold nearly equal work, but not
equal numbers of tokens: J/token is the ratio of their sums. What follows calls both cycles.

    finished   0 ··· B ······ B+P ······ B+2P ······ B+3P ······ B+4P ··  stop      B = batch size, P = requests of a pass
               │  warm-up     │ block 1  │ block 2   │ block 3   │       │ hot, no load │

Where two engines took turns
a launch is several recordings, one per turn, each with a warm-up of its own; their cycles make one measurement.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_energy.cell.workload import block_size, tokens_in_flight
from pytest_energy.recording.counters import energy_j, span_ns, update_times_ns
from pytest_energy.recording.recording import (
    SW_POWER_CAP,
    THERMAL_OR_HARDWARE,
    Client,
    CoResident,
    Distribution,
    GpuTrace,
    Recording,
)

MIN_CYCLES = 3
_TRANSIENT = 0.02  # a first cycle further off than this is still warming up
_MAD_TO_DEVIATION = 1.4826
_AGREEMENT = 0.03  # counter energy against the integral of average power
_FULL_BATCH = 0.90  # of the tokens that a step yields when every slot generates
_CLIENT_CORES = 0.9  # the clients share one thread: at 1 they would hold the server back
PERCENTILES = (50, 90, 99)
LATENCIES: Mapping[str, str] = {
    "ttft": "time to first token",
    "itl": "inter-token latency",
    "e2e": "end-to-end latency",
}
_BUSY_PERCENT = 5  # median utilization under load; an eager engine at batch size 8 keeps an H200 busy 45 % of the time
_MIN_POWER_SAMPLES = 5
_AVERAGED_NS = 1_000_000_000  # before a sample of the average power; so the first ones in a window belong to another
_STATIC_SETTLE_S = 0.15  # after the load stops: counter lag, last kernels
_STATIC_MIN_S = 0.35
_STATIC_CLOCK = 0.90  # of the clock under load: below it the GPU has begun to rest
FIGURES = 1e-9, 1e12  # within which J/token, W and tokens/s of anything lie
STATIC_POWER_UNCERTAINTY_W = 20.0  # docs/architecture.md: how the hot idle power was found to vary


@dataclass(frozen=True)
class Cycles:
    """Whole cycles, or blocks, in steady state, all of shape (cycles,); `tokens` are equal in cycles, not in blocks."""

    energy_j: tuple[float, ...]
    time_s: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def weights(self) -> tuple[int, ...]:
        """The tokens of each where they differ; empty where they do not."""
        return self.tokens if len(set(self.tokens)) > 1 else ()

    @property
    def joules_per_token(self) -> tuple[float, ...]:
        """Energy of each cycle over its tokens."""
        return tuple(
            energy / tokens for energy, tokens in zip(self.energy_j, self.tokens, strict=True)
        )

    @property
    def power_w(self) -> tuple[float, ...]:
        """Mean power in each cycle."""
        return tuple(energy / time for energy, time in zip(self.energy_j, self.time_s, strict=True))

    @property
    def tokens_per_s(self) -> tuple[float, ...]:
        """Tokens generated per second in each cycle."""
        return tuple(tokens / time for tokens, time in zip(self.tokens, self.time_s, strict=True))


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
class Period:
    """The cycles of one recording of a launch, and when they began (CLOCK_MONOTONIC)."""

    cycles: Cycles
    started_ns: int


@dataclass(frozen=True)
class Measurement:
    """One cell of one launch.

    Attributes:
        key, launch_id, environment: as in the recording.
        cycles: in steady state, over all turns; None where the recordings hold too few whole cycles.
        gpu_energy_j: energy of each GPU over those cycles, by UUID.
        static_power_w: power of the hot GPUs just after the load stopped, clocks still up; None where not seen.
        cpu_power_w: mean CPU package power over the cycles; None where RAPL was not readable.
        skipped_cycles: cycles before the steady state.
        faults: why the measurement must not be judged, as "code: detail"; empty when it is valid.
        turns: the same cycles turn by turn; a single turn where the launch had the GPU to itself.
        beside: what is known of the engine that waited, one entry per turn; empty where none did.
        clients: what a server's clients saw, one entry per turn; empty where there were none.
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
    periods: tuple[Period, ...] = ()
    co_resident: tuple[CoResident, ...] = ()
    clients: tuple[Client, ...] = ()

    @property
    def latencies_ms(self) -> dict[str, dict[str, float]]:
        """Of a server's clients, over all turns: "ttft", "itl" and "e2e", each with "mean", "p50", "p90" and "p99"; empty without clients.

        Time to first token, inter-token latency, and end-to-end latency, as pytest_energy.recording.Client defines them. A percentile
        is the smallest value that so many in a hundred do not exceed.
        """
        series = {
            "ttft": [client.first_token for client in self.clients],
            "itl": [client.inter_token for client in self.clients],
            "e2e": [client.end_to_end for client in self.clients],
        }
        return {
            name: summary
            for name, distributions in series.items()
            if (summary := _summary_ms(distributions))
        }

    @property
    def gpu_power_w(self) -> dict[str, float]:
        """Mean power of each GPU over all cycles, by UUID; they add up to `power_w`."""
        seconds = sum(self.cycles.time_s) if self.cycles else 0.0
        return {uuid: energy / seconds for uuid, energy in self.gpu_energy_j.items()}

    @property
    def valid(self) -> bool:
        """Whether the measurement may be judged or become a baseline."""
        return not self.faults and self.cycles is not None

    @property
    def unrecoverable(self) -> bool:
        """Whether it is invalid for a reason that more cycles do not mend."""
        return any(not fault.startswith(("too_short", "power_unsampled")) for fault in self.faults)

    @property
    def joules_per_token(self) -> float:
        """Energy over tokens of all cycles."""
        assert self.cycles is not None
        return sum(self.cycles.energy_j) / sum(self.cycles.tokens)

    @property
    def power_w(self) -> float:
        """Mean power over all cycles."""
        assert self.cycles is not None
        return sum(self.cycles.energy_j) / sum(self.cycles.time_s)

    @property
    def tokens_per_s(self) -> float:
        """Tokens generated per second over all cycles."""
        assert self.cycles is not None
        return sum(self.cycles.tokens) / sum(self.cycles.time_s)


def mean_gpu_power_w(launches: Sequence[Measurement]) -> dict[str, float]:
    """Mean power of each GPU over launches on the same GPUs, by UUID in order; empty where there is only one GPU, or they differ."""
    uuids = sorted(launches[0].gpu_power_w) if launches else []
    if len(uuids) < 2 or any(sorted(m.gpu_power_w) != uuids for m in launches):
        return {}
    return {
        uuid: math.fsum(m.gpu_power_w[uuid] for m in launches) / len(launches) for uuid in uuids
    }


def first_invalid(measurements: Sequence[Measurement]) -> str | None:
    """The first of them that must not be kept, and why; None where all are valid."""
    for measurement in measurements:
        if not measurement.valid:
            return f"launch {measurement.launch_id} is invalid: {'; '.join(measurement.faults)}"
    return None


@dataclass(frozen=True)
class _Steady:
    """One recording and its cycles in steady state; energy_j of shape (GPUs, cycles), time_s and tokens of shape (cycles,)."""

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


def measure(*periods: Recording) -> Measurement:
    """Everything the gate needs of one launch in one cell: its recording, or its turns in order."""
    first = periods[0]
    key = first.key
    batch_size = int(key["batch_size"])
    faults = [
        fault
        for period in periods
        for fault in (*period.faults, *(fault for gpu in period.gpus for fault in gpu.faults))
    ]
    faults += [
        fault
        for period in periods
        for fault in (*_counter_faults(period), *_token_faults(period), *_client_faults(period))
    ]
    if len({tuple(gpu.uuid for gpu in period.gpus) for period in periods}) > 1:
        faults.append("turns_differ: the turns of this launch were metered on different GPUs")
    steady: list[_Steady] = []
    if not any(
        fault.startswith(("no_counter", "counter_", "implausible", "turns_differ"))
        for fault in faults
    ):
        steady = [part for period in periods if (part := _steady(period)) is not None]
    whole = sum(len(part.time_s) + part.skipped for part in steady)
    skipped = sum(part.skipped for part in steady)
    cycles, gpu_energy_j = None, {}
    if whole - skipped >= MIN_CYCLES and len(steady) == len(periods):
        cycles = Cycles(
            energy_j=tuple(itertools.chain.from_iterable(part.cycles.energy_j for part in steady)),
            time_s=tuple(itertools.chain.from_iterable(part.cycles.time_s for part in steady)),
            tokens=tuple(itertools.chain.from_iterable(part.cycles.tokens for part in steady)),
        )
        gpu_energy_j = {
            gpu.uuid: sum(float(part.energy_j[i].sum()) for part in steady)
            for i, gpu in enumerate(first.gpus)
        }
        faults += _implausible(cycles) or _window_faults(steady, batch_size)
    elif not faults:
        empty = (
            f"; {len(periods) - len(steady)} of {len(periods)} turns without one"
            if len(periods) > 1
            else ""
        )
        needed = f"{skipped} of them before the steady state, {MIN_CYCLES} needed{empty}"
        faults.append(
            f"too_short: {whole} whole {'cycles' if first.requests is None else 'blocks'} after warm-up, {needed}"
        )
    if cycles is None:
        steady = []
    kv_tokens = tokens_in_flight(
        _lengths(first), batch_size, block_size(first.environment.get("engine_settings") or {})
    )
    if 0 < first.kv_cache_tokens < kv_tokens:
        faults.append(
            f"kv_cache_too_small: it holds {first.kv_cache_tokens} tokens, the batch needs {kv_tokens}"
        )
    conditions = _conditions(steady)
    return Measurement(
        key=key,
        launch_id=first.launch_id,
        environment=first.environment,
        cycles=cycles,
        gpu_energy_j=gpu_energy_j,
        conditions=conditions,
        static_power_w=_mean([_static_power_w(period, conditions) for period in periods]),
        cpu_power_w=_mean([_cpu_power_w(part) for part in steady]),
        skipped_cycles=skipped,
        faults=tuple(dict.fromkeys(faults)),
        periods=tuple(Period(part.cycles, part.window_ns[0]) for part in steady),
        co_resident=tuple(
            period.co_resident for period in periods if period.co_resident is not None
        ),
        clients=tuple(period.client for period in periods if period.client is not None),
    )


def _summary_ms(distributions: Sequence[Distribution]) -> dict[str, float]:
    """Mean and percentiles of all of them together, ms; empty where nothing was counted."""
    values = (
        np.concatenate(
            [np.asarray(d.value_us, dtype=float) for d in distributions] or [np.empty(0)]
        )
        / 1e3
    )
    counts = np.concatenate(
        [np.asarray(d.count, dtype=np.int64) for d in distributions]
        or [np.empty(0, dtype=np.int64)]
    )
    if not counts.sum():
        return {}
    order = np.argsort(values)
    values, reached = values[order], np.cumsum(counts[order])
    percentiles = {
        f"p{p}": float(values[np.searchsorted(reached, math.ceil(p * int(reached[-1]) / 100))])
        for p in PERCENTILES
    }
    return {"mean": float((values * counts[order]).sum() / reached[-1]), **percentiles}


def _client_faults(period: Recording) -> list[str]:
    """What makes the clients' account of a load doubtful."""
    client = period.client
    if client is None:
        return []
    faults = []
    if client.streamed_tokens != client.server_tokens:
        faults.append(
            f"tokens_disagree: the streams brought {client.streamed_tokens} tokens, the server counted {client.server_tokens}: "
            "another client used it, or one of them miscounts"
        )
    if client.preemptions:
        faults.append(
            f"batch_not_full: the server preempted requests {client.preemptions} times; its KV cache is too small for the batch"
        )
    if client.cpu_cores > _CLIENT_CORES:
        faults.append(
            f"client_busy: the clients used {client.cpu_cores:.2f} of one CPU core and may have held the server back. "
            "Leave them a CPU core of their own"
        )
    return faults


def _lengths(recording: Recording) -> Sequence[tuple[int, int]]:
    """Tokens in and out of the requests; one entry where all are alike."""
    if recording.requests is not None:
        return tuple(
            zip(recording.requests.input_tokens, recording.requests.output_tokens, strict=True)
        )
    workload = recording.key["workload"]
    return ((int(workload["input_tokens"]), int(workload["output_tokens"])),)


def whole_cycles(recording: Recording) -> tuple[int, float]:
    """How many whole cycles after the warm-up a recording holds, and their time in seconds."""
    boundaries_ns, _ = _boundaries(recording)
    return max(0, len(boundaries_ns) - 1), float(np.ptp(boundaries_ns)) / 1e9 if len(
        boundaries_ns
    ) else 0.0


def _mean(values: Sequence[float | None]) -> float | None:
    """Of the values that are known."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _steady(recording: Recording) -> _Steady | None:
    """The cycles after warm-up and transient; None where there is no whole one."""
    boundaries_ns, tokens, skipped = _steady_boundaries(recording)
    if len(boundaries_ns) < 2:
        return None
    per_gpu_j = np.array([np.diff(energy_j(gpu, boundaries_ns)) for gpu in recording.gpus])
    window_ns = (int(boundaries_ns[0]), int(boundaries_ns[-1]))
    return _Steady(
        recording, per_gpu_j, np.diff(boundaries_ns) / 1e9, np.diff(tokens), skipped, window_ns
    )


def steady_boundaries_ns(recording: Recording) -> np.ndarray:
    """Start and end of each whole cycle in steady state, shape (cycles + 1,)."""
    return _steady_boundaries(recording)[0]


def _steady_boundaries(recording: Recording) -> tuple[np.ndarray, np.ndarray, int]:
    """Start and end of each whole cycle in steady state, the tokens generated until then, and how many whole cycles lie before them."""
    boundaries_ns, tokens = _boundaries(recording)
    # A turn begins on a GPU that is hot already, and of so few cycles the rule would drop one that strays by chance.
    if len(boundaries_ns) < 2 or recording.co_resident is not None:
        return boundaries_ns, tokens, 0
    total_j = np.sum([np.diff(energy_j(gpu, boundaries_ns)) for gpu in recording.gpus], axis=0)
    of_cycle = np.diff(tokens)
    # Energy for as many tokens as the mean cycle has; in cycles that is their own number.
    skipped = steady_from(
        total_j * (of_cycle.mean() / of_cycle), total_j / (np.diff(boundaries_ns) / 1e9)
    )
    return boundaries_ns[skipped:], tokens[skipped:], skipped


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


def _boundaries(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """When the warm-up and each whole cycle after it ended, and the tokens generated until then. Shapes (cycles + 1,)."""
    time_ns = np.asarray(recording.tokens.time_ns, dtype=np.int64)
    total = np.cumsum(np.asarray(recording.tokens.tokens, dtype=np.int64))
    if not len(total):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    ends_ns, tokens = (_cycle_ends if recording.requests is None else _block_ends)(
        recording, time_ns, total
    )
    covered = [span_ns(gpu) for gpu in recording.gpus if gpu.counter.changed_ns]
    for first, last in covered:
        inside = (ends_ns >= first) & (ends_ns <= last)
        ends_ns, tokens = ends_ns[inside], tokens[inside]
    return ends_ns, tokens


def _cycle_ends(
    recording: Recording, time_ns: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Times at which the token counter passed C, 2C, 3C …; the first cycle is warm-up."""
    cycle_tokens = int(recording.key["batch_size"]) * int(
        recording.key["workload"]["output_tokens"]
    )
    # Inside a step the tokens come about evenly; times are kept relative so that no nanosecond is rounded away.
    marks = np.arange(1, total[-1] // cycle_tokens + 1) * cycle_tokens
    ends_ns = time_ns[0] + np.rint(
        np.interp(marks, total, (time_ns - time_ns[0]).astype(float))
    ).astype(np.int64)
    return np.asarray(ends_ns), marks


def _block_ends(
    recording: Recording, time_ns: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The steps in which the B + P-th, B + 2P-th, … request finished; the first wave of B and the pass after it are warm-up."""
    assert recording.requests is not None
    batch_size, of_pass = int(recording.key["batch_size"]), len(recording.requests.output_tokens)
    finished = np.cumsum(np.asarray(recording.tokens.finished, dtype=np.int64))
    blocks = min((int(finished[-1]) - batch_size) // of_pass, len(finished))
    marks = batch_size + of_pass * np.arange(1, blocks + 1)
    steps = np.searchsorted(finished, marks)
    ends_ns, tokens = time_ns[steps], total[steps]
    if (np.diff(ends_ns) <= 0).any() or (
        np.diff(tokens) <= 0
    ).any():  # no engine does this, a damaged recording may
        return ends_ns[:0], tokens[:0]
    return ends_ns, tokens


def _counter_faults(recording: Recording) -> list[str]:
    faults = []
    if not recording.gpus:
        faults.append("no_counter: no GPU was metered")
    for gpu in recording.gpus:
        updates = len(gpu.counter.energy_mj)
        if updates < 2:
            faults.append(f"counter_stuck: {gpu.uuid} counted {updates} updates in all")
            continue
        energy_mj, times = np.asarray(gpu.counter.energy_mj), update_times_ns(gpu)
        if (np.diff(energy_mj) < 0).any():
            faults.append(f"counter_backwards: {gpu.uuid}")
        gap_s = float(np.max(np.diff(times))) / 1e9
        if gap_s > 1.0:
            faults.append(f"counter_stuck: {gpu.uuid} stood still for {gap_s:.1f} s")
    return faults


def _token_faults(recording: Recording) -> list[str]:
    """Without any time between them cycles have no power."""
    if (np.diff(_boundaries(recording)[0]) <= 0).any():
        return ["implausible: the tokens of whole cycles came at one time"]
    return []


def _implausible(cycles: Cycles) -> list[str]:
    """Whether a cycle's figures are none that an engine on a GPU can have; without energy the counter did not see it."""
    low, high = FIGURES
    for name, values in (
        ("J/token", cycles.joules_per_token),
        ("W", cycles.power_w),
        ("tokens/s", cycles.tokens_per_s),
    ):
        if not low <= min(values) <= max(values) <= high:
            return [f"implausible: a cycle with {min(values):.3g} to {max(values):.3g} {name}"]
    return []


def _select(gpu: GpuTrace, window_ns: tuple[int, int], name: str) -> np.ndarray:
    time_ns = np.asarray(gpu.samples.time_ns, dtype=np.int64)
    values = np.asarray(
        getattr(gpu.samples, name), dtype=np.uint64 if name == "throttle_reasons" else float
    )
    return np.asarray(values[(time_ns >= window_ns[0]) & (time_ns <= window_ns[1])])


def _window_faults(periods: Sequence[_Steady], batch_size: int) -> list[str]:
    faults = []
    for period in periods:
        if period.recording.key.get("engine") != "offline":
            faults += _waiting_faults(period.recording)
            continue
        time_ns, tokens = (
            np.asarray(period.recording.tokens.time_ns),
            np.asarray(period.recording.tokens.tokens),
        )
        per_step = float(
            tokens[(time_ns >= period.window_ns[0]) & (time_ns <= period.window_ns[1])].mean()
        )
        if per_step < _FULL_BATCH * batch_size * _slot_share(period.recording):
            faults.append(
                f"batch_not_full: {per_step:.1f} tokens a step at batch size {batch_size}; requests waited or were preempted"
            )
    for index, gpu in enumerate(periods[0].recording.gpus):
        average_w = _inside(periods, index, "average_power_mw", settle_ns=_AVERAGED_NS) / 1e3
        counter_w = sum(float(period.energy_j[index].sum()) for period in periods) / sum(
            float(period.time_s.sum()) for period in periods
        )
        if len(average_w) < _MIN_POWER_SAMPLES:
            faults.append(
                f"power_unsampled: {gpu.uuid} has {len(average_w)} power samples in the window"
            )
        elif not abs(counter_w - average_w.mean()) <= _AGREEMENT * average_w.mean():
            faults.append(
                f"counter_disagrees: {gpu.uuid} counted {counter_w:.0f} W on average, the power readings say "
                f"{average_w.mean():.0f} W (more than {_AGREEMENT:.0%} apart)"
            )
        busy = _inside(periods, index, "utilization_percent")
        if len(busy) and np.median(busy) < _BUSY_PERCENT:
            faults.append(
                f"gpu_idle: {gpu.uuid} was busy {np.median(busy):.0f} % of the time under load: is it the engine's GPU?"
            )
        reasons = np.bitwise_or.reduce(_inside(periods, index, "throttle_reasons"), initial=0)
        faults += [
            f"throttled: {gpu.uuid}: {name}"
            for bit, name in THERMAL_OR_HARDWARE.items()
            if int(reasons) & bit
        ]
    return faults


def _waiting_faults(recording: Recording) -> list[str]:
    """A server's steps are not seen, but while a request waits for its first token its slot yields none."""
    client = recording.client
    first_token, end_to_end = (
        (_summary_ms([d]) if d else {})
        for d in (client and client.first_token, client and client.end_to_end)
    )
    if not first_token or not end_to_end or not end_to_end["mean"]:
        return []
    waiting = first_token["mean"] / end_to_end["mean"]
    if 1 - waiting >= _FULL_BATCH * _slot_share(recording):
        return []
    return [f"batch_not_full: requests waited {waiting:.0%} of their time for their first token"]


def _inside(periods: Sequence[_Steady], gpu: int, name: str, settle_ns: int = 0) -> np.ndarray:
    """A GPU's samples in the turns' windows, each from `settle_ns` after its start."""
    return np.concatenate(
        [
            _select(t.recording.gpus[gpu], (t.window_ns[0] + settle_ns, t.window_ns[1]), name)
            for t in periods
        ]
    )


def _slot_share(recording: Recording) -> float:
    """The share of steps in which a slot yields a token when nothing waits.

    A finished request's successor needs a step or two to be scheduled and its prefill to be chunked in; with short outputs that is
    no small part of its life.
    """
    lengths = _lengths(recording)
    output_tokens = sum(out for _, out in lengths) / len(lengths)
    return output_tokens / (output_tokens + 3)


def _conditions(periods: Sequence[_Steady]) -> Conditions:
    if not periods:
        return Conditions(None, None, None)
    clocks, temperatures, capped = [], [], []
    for index in range(len(periods[0].recording.gpus)):
        clocks.append(_inside(periods, index, "sm_clock_mhz"))
        temperatures.append(_inside(periods, index, "temperature_c"))
        capped.append(_inside(periods, index, "throttle_reasons") & np.uint64(SW_POWER_CAP) > 0)
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
        end_ns = span_ns(gpu)[1]
        for time_ns, clock in zip(gpu.samples.time_ns, gpu.samples.sm_clock_mhz, strict=True):
            if time_ns > start_ns and clock < _STATIC_CLOCK * conditions.sm_clock_mhz:
                end_ns = min(end_ns, time_ns)
                break
        # Between updates only: one that spans the load's end would bring energy of the load along.
        updates = update_times_ns(gpu)
        inside = updates[(np.asarray(gpu.counter.unchanged_ns) >= start_ns) & (updates <= end_ns)]
        if len(inside) < 2 or inside[-1] - inside[0] < _STATIC_MIN_S * 1e9:
            return None
        total_w += float(np.diff(energy_j(gpu, inside[[0, -1]]))[0]) / (
            (inside[-1] - inside[0]) / 1e9
        )
    return total_w


def _cpu_power_w(period: _Steady) -> float | None:
    time_ns = np.asarray(period.recording.cpu.time_ns, dtype=np.int64)
    if len(time_ns) < 2:
        return None
    inside = (time_ns >= period.window_ns[0]) & (time_ns <= period.window_ns[1])
    if inside.sum() < 2:
        return None
    energy_mj = np.asarray(period.recording.cpu.energy_mj, dtype=float)[inside]
    seconds = float(np.ptp(time_ns[inside])) / 1e9
    return (
        float(np.ptp(energy_mj)) / 1e3 / seconds if math.isfinite(seconds) and seconds > 0 else None
    )
