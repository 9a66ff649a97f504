"""What a recording and its cycles show of the faults in recording/faults.py. Pure."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from pytest_energy.cell.plan import block_size, held_once, tokens_in_flight
from pytest_energy.measure import idle
from pytest_energy.measure.conditions import power_after_load_w
from pytest_energy.measure.cycles import FIGURES, Cycles, boundaries, request_lengths
from pytest_energy.measure.latency import summary_ms
from pytest_energy.measure.window import Window, samples_in
from pytest_energy.recording.counters import update_times_ns
from pytest_energy.recording.faults import fault
from pytest_energy.recording.recording import THERMAL_OR_HARDWARE, Recording

_COUNTER_GAP_S = 1.0
_AGREEMENT = 0.03  # counter energy against the integral of average power
# Readings of no duration scatter: allowed are three standard errors of their mean, up to this.
_AGREEMENT_OF_INSTANT = 0.10
_FULL_BATCH = 0.90  # of the tokens that a step yields when every slot generates
_CLIENT_CORES = 0.9  # the clients share one thread: at 1 they would hold the server back
_WITH_CLIENTS = ("server", "attached")  # engines whose steps are not seen
_BUSY_PERCENT = 5  # median under load; an eager engine at batch size 8 keeps an H200 busy 45 %
_MORE_THAN_IDLE = 1.1  # power under load over that after it; 1.7 or more in all of recordings/
_MIN_POWER_SAMPLES = 5
AVERAGED_NS = 1_000_000_000  # the average power reaches back so far, so a window's first samples do


def before_cycles(periods: Sequence[Recording]) -> list[str]:
    """Faults noted in a launch's recordings, and those that show before its cycles are known."""
    lines = [
        line
        for period in periods
        for line in (*period.faults, *(line for gpu in period.gpus for line in gpu.faults))
    ]
    if any(period.environment.vllm is None for period in periods):
        lines.append(fault("engine_unknown", "the recording does not hold the engine's version"))
    for period in periods:
        lines += [*_counter(period), *_token_times(period), *_clients(period)]
    if len({tuple(gpu.uuid for gpu in period.gpus) for period in periods}) > 1:
        lines.append(fault("periods_differ", "the periods of this launch ran on different GPUs"))
    return lines


def of_cycles(cycles: Cycles, windows: Sequence[Window], batch_size: int) -> list[str]:
    """What the cycles of a launch and their time under load show; the cycles alone if implausible.

    Args:
        cycles: of all periods.
        windows: that they come from.
        batch_size: of the cell.
    """
    gpus = range(len(windows[0].recording.gpus))
    if not batch_size:
        return [
            *idle.faults_of(windows[0].recording, cycles),
            *itertools.chain.from_iterable(_gpu(windows, index) for index in gpus),
        ]
    implausible = _implausible(cycles)
    if implausible:
        return implausible
    return [
        *(line for window in windows for line in _batch(window, batch_size)),
        *itertools.chain.from_iterable(_gpu_under_load(windows, index) for index in gpus),
    ]


def kv_cache(recording: Recording) -> list[str]:
    """Whether the KV cache holds the batch; unknown if the engine did not say how large it is."""
    lengths, batch_size = request_lengths(recording), recording.key.batch_size
    settings = recording.environment.engine_settings
    once = held_once(recording.key.workload.shared_prefix_tokens, settings)
    needed = tokens_in_flight(lengths, batch_size, block_size(settings), once)
    if not 0 < recording.kv_cache_tokens < needed:
        return []
    detail = f"it holds {recording.kv_cache_tokens} tokens, the batch needs {needed}"
    return [fault("kv_cache_too_small", detail)]


def _counter(recording: Recording) -> list[str]:
    if not recording.gpus:
        return [fault("no_counter", "no GPU was metered")]
    lines = []
    for gpu in recording.gpus:
        updates = len(gpu.counter.energy_mj)
        if updates < 2:
            often = "only once" if updates else "not once"
            lines.append(fault("counter_stuck", f"{gpu.uuid} was updated {often}"))
            continue
        if (np.diff(np.asarray(gpu.counter.energy_mj)) < 0).any():
            lines.append(fault("counter_backwards", gpu.uuid))
        gap_s = float(np.max(np.diff(update_times_ns(gpu)))) / 1e9
        if gap_s > _COUNTER_GAP_S:
            lines.append(fault("counter_stuck", f"{gpu.uuid} stood still for {gap_s:.1f} s"))
    return lines


def _token_times(recording: Recording) -> list[str]:
    """Without any time between them cycles have no power."""
    if (np.diff(boundaries(recording)[0]) <= 0).any():
        return [fault("implausible", "all tokens of a cycle have the same timestamp")]
    return []


def _clients(recording: Recording) -> list[str]:
    """What makes the clients' account of a load doubtful."""
    client = recording.client
    if client is None:
        return []
    lines = []
    if client.streamed_tokens != client.server_tokens:
        detail = (
            f"the streams brought {client.streamed_tokens} tokens, the server counted "
            f"{client.server_tokens}: another client used it, or one of them miscounts"
        )
        lines.append(fault("tokens_disagree", detail))
    if client.preemptions:
        detail = (
            f"the server preempted requests {client.preemptions} times; "
            "its KV cache is too small for the batch"
        )
        lines.append(fault("batch_not_full", detail))
    if client.cpu_cores > _CLIENT_CORES:
        detail = (
            f"the clients used {client.cpu_cores:.2f} of one CPU core and may have slowed the "
            "server down. Give the clients a CPU core of their own"
        )
        lines.append(fault("client_busy", detail))
    return lines


def _implausible(cycles: Cycles) -> list[str]:
    """Whether a cycle has figures that no engine can have, such as no energy."""
    low, high = FIGURES
    for unit, values in (
        ("J/token", cycles.joules_per_token),
        ("W", cycles.power_w),
        ("tokens/s", cycles.tokens_per_s),
    ):
        if not low <= min(values) <= max(values) <= high:
            detail = f"a cycle with {min(values):.3g} to {max(values):.3g} {unit}"
            return [fault("implausible", detail)]
    return []


def _batch(window: Window, batch_size: int) -> list[str]:
    """Whether every slot of the batch generated."""
    recording = window.recording
    if recording.key.engine in _WITH_CLIENTS:
        return _waiting(recording)
    time_ns, tokens = np.asarray(recording.tokens.time_ns), np.asarray(recording.tokens.tokens)
    start_ns, end_ns = window.span_ns
    per_step = float(tokens[(time_ns >= start_ns) & (time_ns <= end_ns)].mean())
    if per_step >= _FULL_BATCH * batch_size * _slot_share(recording):
        return []
    detail = (
        f"{per_step:.1f} tokens a step at batch size {batch_size}; "
        "requests waited or were preempted"
    )
    return [fault("batch_not_full", detail)]


def _waiting(recording: Recording) -> list[str]:
    """A server's steps are not seen, but a slot yields nothing until its request's first token."""
    client = recording.client
    if client is None:  # clients report when the load has stopped
        return []
    first_token, end_to_end = summary_ms([client.first_token]), summary_ms([client.end_to_end])
    if not first_token or not end_to_end or not end_to_end["mean"]:
        return []
    waiting = first_token["mean"] / end_to_end["mean"]
    if 1 - waiting >= _FULL_BATCH * _slot_share(recording):
        return []
    detail = f"requests waited {100 * waiting:.0f} % of their time for their first token"
    return [fault("batch_not_full", detail)]


def _slot_share(recording: Recording) -> float:
    """The share of steps in which a slot yields a token when nothing waits.

    A finished request's successor needs a step or two to be scheduled and its prefill to be chunked
    in; with short outputs that is no small part of its life. A V0 engine generates nothing while it
    computes prompts, so each slot waits for those of all.
    """
    lengths = request_lengths(recording)
    output_tokens = sum(out for _, out in lengths) / len(lengths)
    apart = recording.key.batch_size if recording.environment.prompts_run_apart else 0
    return output_tokens / (output_tokens + 3 + apart)


def _gpu_under_load(windows: Sequence[Window], index: int) -> list[str]:
    """Whether a GPU worked, and leaves no doubt of its counter."""
    idle_why = _idle(windows, index, _counter_w(windows, index))
    lines = _gpu(windows, index)
    if idle_why is not None:
        uuid = windows[0].recording.gpus[index].uuid
        lines.append(fault("gpu_idle", f"{uuid} {idle_why}"))
    return lines


def _gpu(windows: Sequence[Window], index: int) -> list[str]:
    """Whether a GPU's power readings and clocks leave no doubt of its counter."""
    trace = windows[0].recording.gpus[index]
    uuid, lines = trace.uuid, []
    average_w = samples_in(windows, index, "average_power_mw", AVERAGED_NS) / 1e3
    counter_w = _counter_w(windows, index)
    if len(average_w) < _MIN_POWER_SAMPLES:
        detail = f"{uuid} has {len(average_w)} power samples in the window"
        lines.append(fault("power_unsampled", detail))
    else:
        read_w, agreement = float(average_w.mean()), _agreement(trace.power, average_w)
        if not abs(counter_w - read_w) <= agreement * read_w:
            detail = (
                f"{uuid} counted {counter_w:.0f} W on average, the power readings say "
                f"{read_w:.0f} W (more than {100 * agreement:.0f} % apart)"
            )
            lines.append(fault("counter_disagrees", detail))
    reasons = samples_in(windows, index, "throttle_reasons")
    acted = int(np.bitwise_or.reduce(reasons, initial=0))
    return lines + [
        fault("throttled", f"{uuid}: {name}")
        for bit, name in THERMAL_OR_HARDWARE.items()
        if acted & bit
    ]


def _counter_w(windows: Sequence[Window], index: int) -> float:
    """Mean power of a GPU by its energy counter, W."""
    spent_j = sum(float(window.energy_j[index].sum()) for window in windows)
    return spent_j / sum(float(window.time_s.sum()) for window in windows)


def _idle(windows: Sequence[Window], index: int, counter_w: float) -> str | None:
    """What tells that a GPU did not generate the tokens, and what to do; None if nothing does."""
    recording = windows[-1].recording
    busy = samples_in(windows, index, "utilization_percent")
    if len(busy):
        shows = f"was busy {np.median(busy):.0f} % of the time under load"
        is_idle = float(np.median(busy)) < _BUSY_PERCENT
    else:
        after_w = power_after_load_w(recording, recording.gpus[index]) or 0.0
        shows = f"drew {counter_w:.0f} W under load and {after_w:.0f} W after it"
        is_idle = counter_w < _MORE_THAN_IDLE * after_w
    if not is_idle:
        return None
    if recording.key.engine != "attached":
        return f"{shows}: is it the engine's GPU?"
    return (
        f"{shows}: the server runs on other GPUs. Name those (--energy-gpu UUID), or if they are "
        "in another machine, behind a tunnel or proxy, run pytest there"
    )


def _agreement(power: str, readings_w: np.ndarray) -> float:
    """By how much of the power readings' mean the counter may differ from it."""
    if power == "average":
        return _AGREEMENT
    error = 3 * float(readings_w.std(ddof=1)) / math.sqrt(len(readings_w))
    return min(max(_AGREEMENT, error / float(readings_w.mean())), _AGREEMENT_OF_INSTANT)
