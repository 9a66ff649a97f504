"""Power during one cell of one launch, as its recording holds it, with the cycles that were measured."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pytest_energy import measurement, recording
from pytest_energy.cell import canonical_key
from pytest_energy.errors import RecordingError
from pytest_energy.recording import GpuTrace, Recording

_MIN_INTERVAL_NS = 450_000_000
_MAX_UNKNOWN_NS = 30_000_000


@dataclass(frozen=True)
class Trace:
    """One cell of one launch; times in seconds since the first token.

    Attributes:
        engine, gpu_name, batch_size, launch_id: what was measured.
        time_s: ends of intervals of half a second or so, from update to update of the energy counter, shape (intervals,).
        power_w: mean power of all GPUs in each of them, shape (intervals,).
        cycles_s: start and end of each cycle, shape (cycles, 2).
        cycle_power_w: mean power of each cycle, shape (cycles,).
        load_stopped_s: when the load stopped.
        static_power_w: just after it; None where not seen.
    """

    engine: str
    gpu_name: str
    batch_size: int
    launch_id: str
    time_s: tuple[float, ...]
    power_w: tuple[float, ...]
    cycles_s: tuple[tuple[float, float], ...]
    cycle_power_w: tuple[float, ...]
    load_stopped_s: float
    static_power_w: float | None


def trace(recorded: Recording) -> Trace | None:
    """The trace of a valid recording; None of another. With several GPUs their power is summed at updates of the first."""
    measured = measurement.measure(recorded)
    if not measured.valid or measured.cycles is None:
        return None
    begin_ns = recorded.tokens.time_ns[0]
    updates_ns = _updates_ns(recorded.gpus[0])[_well_known(recorded.gpus[0])]
    if len(updates_ns) < 2:
        return None
    energy_j = np.sum([_energy_j(gpu, updates_ns) for gpu in recorded.gpus], axis=0)
    seconds = (updates_ns - begin_ns) / 1e9
    tokens = np.cumsum(recorded.tokens.tokens)
    first_end = (1 + measured.skipped_cycles) * measured.cycles.tokens
    start_s = float(np.interp(first_end, tokens, (np.asarray(recorded.tokens.time_ns, dtype=np.int64) - begin_ns) / 1e9))
    bounds = [start_s, *(start_s + end for end in itertools.accumulate(measured.cycles.time_s))]
    environment = recorded.environment
    under_test = environment.get("engine_args_under_test") or {}
    return Trace(
        engine=" ".join((f"vLLM {environment.get('vllm')}", *(f"{k}={v}" for k, v in sorted(under_test.items())))),
        gpu_name=str(environment.get("gpu_name")),
        batch_size=int(recorded.key["batch_size"]),
        launch_id=recorded.launch_id,
        time_s=tuple(seconds[1:].tolist()),
        power_w=tuple((np.diff(energy_j) / np.diff(seconds)).tolist()),
        cycles_s=tuple(itertools.pairwise(bounds)),
        cycle_power_w=measured.cycles.power_w,
        load_stopped_s=(recorded.load_stopped_ns - begin_ns) / 1e9,
        static_power_w=measured.static_power_w,
    )


def _updates_ns(gpu: GpuTrace) -> np.ndarray:
    """Of the energy counter: midway between the last read of the old and the first of the new value."""
    unchanged, changed = (np.asarray(times, dtype=np.int64) for times in (gpu.counter.unchanged_ns, gpu.counter.changed_ns))
    return np.asarray(unchanged + (changed - unchanged) // 2)


def _well_known(gpu: GpuTrace) -> list[int]:
    """Updates whose time is known well against the time between them, so that no error of it looks like power."""
    kept: list[int] = []
    for i, (unchanged, changed) in enumerate(zip(gpu.counter.unchanged_ns, gpu.counter.changed_ns, strict=True)):
        rested = not kept or changed - gpu.counter.changed_ns[kept[-1]] >= _MIN_INTERVAL_NS
        if rested and changed - unchanged <= _MAX_UNKNOWN_NS:
            kept.append(i)
    return kept


def _energy_j(gpu: GpuTrace, time_ns: np.ndarray) -> np.ndarray:
    return np.asarray(np.interp(time_ns, _updates_ns(gpu), np.asarray(gpu.counter.energy_mj) / 1e3))


def find(folders: Sequence[Path], wanted: Iterable[tuple[str, str]]) -> list[Trace]:
    """The traces of cells (canonical key) in launches (id) whose recordings lie below `folders`; those that do not are left out."""
    missing = dict.fromkeys(wanted)
    found: dict[tuple[str, str], Trace] = {}
    launch_ids = {launch_id for _, launch_id in missing}
    for folder in folders:
        try:
            # Those named after a launch that is looked for come first: most often nothing else need be read.
            files = sorted(recording.find(folder), key=lambda file: not launch_ids & set(file.parts))
        except RecordingError:
            continue
        for file in files:
            if set(found) == set(missing):
                break
            try:
                recorded = recording.read(file)
            except RecordingError:
                continue
            name = canonical_key(recorded.key), recorded.launch_id
            drawn = trace(recorded) if name in missing and name not in found else None
            if drawn is not None:
                found[name] = drawn
    return [found[name] for name in missing if name in found]
