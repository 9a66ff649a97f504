"""Power during one cell of one launch, from its recording, with the cycles that were measured."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pytest_energy.errors import RecordingError
from pytest_energy.measure import cycles, measurement
from pytest_energy.recording import counters, recording_file
from pytest_energy.recording.recording import GpuTrace, Recording
from pytest_energy.report.results import engine_name

_MIN_INTERVAL_NS = 450_000_000
_MAX_UNKNOWN_NS = 30_000_000


@dataclass(frozen=True)
class Trace:
    """One cell of one launch; times in seconds since the first token.

    Attributes:
        engine, gpu_name, batch_size, launch_id: what was measured.
        time_s: ends of intervals of about half a second, between updates of the energy counter,
            shape (intervals,).
        power_w: mean power of all GPUs in each of them, shape (intervals,).
        cycles_s: start and end of each cycle, shape (cycles, 2).
        cycle_power_w: mean power of each cycle, shape (cycles,).
        load_stopped_s: when the load stopped.
        static_power_w: just after it; None if not measured.
        in_blocks: whether its cycles are blocks of finished requests.
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
    in_blocks: bool = False


def trace(recorded: Recording) -> Trace | None:
    """The trace of a recording; None if that has an unrecoverable fault.

    The power of several GPUs is summed at the updates of the first one's counter.
    """
    # A single period may be too short to be judged, but it can be drawn; an unsteady one, too.
    measured = measurement.measure(recorded, ended=False)
    if measured.unrecoverable:
        return None
    updates_ns = counters.update_times_ns(recorded.gpus[0])[_well_known(recorded.gpus[0])]
    bounds_ns, _ = cycles.boundaries(recorded)
    if len(updates_ns) < 2 or len(bounds_ns) < 2:
        return None
    begin_ns = recorded.tokens.time_ns[0]
    power_w, cycle_power_w = (
        _mean_power_w(recorded.gpus, times) for times in (updates_ns, bounds_ns)
    )
    environment = recorded.environment
    return Trace(
        engine=engine_name(environment.vllm or "?", environment.settings_under_test),
        gpu_name=environment.gpu_name,
        batch_size=recorded.key.batch_size,
        launch_id=recorded.launch_id,
        time_s=tuple(((updates_ns[1:] - begin_ns) / 1e9).tolist()),
        power_w=tuple(power_w.tolist()),
        cycles_s=tuple(itertools.pairwise(((bounds_ns - begin_ns) / 1e9).tolist())),
        cycle_power_w=tuple(cycle_power_w.tolist()),
        load_stopped_s=(recorded.load_stopped_ns - begin_ns) / 1e9,
        static_power_w=measured.static_power_w,
        in_blocks=recorded.requests is not None,
    )


def _mean_power_w(gpus: Sequence[GpuTrace], times_ns: np.ndarray) -> np.ndarray:
    """Mean power of all GPUs from each time to the next, by their counters; shape (times - 1,)."""
    energy_j = np.sum([counters.energy_j(gpu, times_ns) for gpu in gpus], axis=0)
    return np.asarray(np.diff(energy_j) / (np.diff(times_ns) / 1e9))


def _well_known(gpu: GpuTrace) -> list[int]:
    """Updates whose time is known precisely enough that its error does not look like power."""
    kept: list[int] = []
    for i, (unchanged, changed) in enumerate(
        zip(gpu.counter.unchanged_ns, gpu.counter.changed_ns, strict=True)
    ):
        far = not kept or changed - gpu.counter.changed_ns[kept[-1]] >= _MIN_INTERVAL_NS
        if far and changed - unchanged <= _MAX_UNKNOWN_NS:
            kept.append(i)
    return kept


def find(folders: Sequence[Path], wanted: Iterable[tuple[str, str]]) -> list[Trace]:
    """The traces of the wanted cells and launches that have a recording below `folders`.

    Args:
        folders: to search; one without recordings is passed over.
        wanted: canonical key of the cell and id of the launch, each.
    """
    missing = dict.fromkeys(wanted)
    found: dict[tuple[str, str], Trace] = {}
    launch_ids = {launch_id for _, launch_id in missing}
    for folder in folders:
        try:
            # Files named after a wanted launch come first: usually no others need to be read.
            files = sorted(
                recording_file.find(folder), key=lambda file: not launch_ids & set(file.parts)
            )
        except RecordingError:
            continue
        for file in files:
            if set(found) == set(missing):
                break
            try:
                recorded = recording_file.read(file)
            except RecordingError:
                continue
            name = recorded.key.canonical, recorded.launch_id
            drawn = trace(recorded) if name in missing and name not in found else None
            if drawn is not None:
                found[name] = drawn
    return [found[name] for name in missing if name in found]
