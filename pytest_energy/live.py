"""Live measurement: launch an engine, put each cell's load on it, keep both counters. Yields recordings, judges nothing."""

import datetime
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_energy import environment, measurement, statistics
from pytest_energy.cell import Cell
from pytest_energy.engines.offline import EngineReady, OfflineEngine, session_members
from pytest_energy.meters.zeus_meter import Meter, compute_processes
from pytest_energy.recording import Recording, TokenCounter
from pytest_energy.settings import LaunchSettings

MIN_CYCLES = 4  # fewer tell nothing of their own spread
MIN_S = 6.0  # sixty counter updates
MAX_CYCLES = 12
MAX_S = 20.0
_HOT_TAIL_S = 1.6  # after the load, for the static power

OpenMeter = Callable[[Sequence[str], Callable[[int], bool]], Meter]
Progress = Callable[[str], None]
Precision = Callable[[Cell, str], float]


def record_launch(
    cells: Sequence[Cell], settings: LaunchSettings, open_meter: OpenMeter, progress: Progress, precision: Precision
) -> Generator[tuple[Cell, Recording], None, None]:
    """One engine launch: record each of `cells`, which must share their launch arguments, in the order given.

    Args:
        cells: at least one.
        settings: how the engine is launched.
        open_meter: opens a meter for the GPUs with the given UUIDs.
        progress: told, in a few words, what is going on.
        precision: the relative standard error of J/token at which a cell on a GPU model (its name) is measured well enough.

    Raises:
        EngineError: the engine did not load, crashed or hung; cells yielded before stand.
        MeterError: the engine's GPUs cannot be read.
    """
    first = cells[0]
    engine_args = {**first.launch_args, "model": first.model.location, **settings.engine_args_under_test}
    launch_id = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
    before = compute_processes()
    progress(f"{first.model.name}: loading ({Path(settings.python).name})")
    with OfflineEngine(settings.python, engine_args, settings.load_timeout_s, settings.progress_timeout_s) as engine:
        ready = engine.ready
        assert ready is not None
        foreign = sorted({pid for gpu in ready.gpu_uuids for pid in before.get(gpu, ())})
        meter = open_meter(ready.gpu_uuids, _membership(ready, engine.session_id, before))
        for cell in cells:
            fingerprint = environment.fingerprint(ready.versions, ready.settings, settings.engine_args_under_test, meter.describe())
            recorded = _record_cell(cell, engine, meter, launch_id, fingerprint, progress, precision)
            if foreign:
                pids = ", ".join(map(str, foreign))
                recorded = replace(recorded, faults=(*recorded.faults, f"foreign_process: pid {pids} was on the GPU before"))
            yield cell, recorded


def _membership(ready: EngineReady, session_id: int, before: Mapping[str, frozenset[int]]) -> Callable[[int], bool]:
    """Tells the engine's processes on the GPU from others.

    In a container the driver's process ids are not ours. So a process counts as the engine's when it appeared
    on the GPU while the engine loaded and, where its id is one of ours, belongs to the worker's session.
    """
    after = compute_processes()
    appeared = {pid for gpu in ready.gpu_uuids for pid in after.get(gpu, frozenset()) - before.get(gpu, frozenset())}
    ours = set(session_members(session_id))
    own = {pid for pid in appeared if pid in ours or not Path(f"/proc/{pid}").exists()}
    return own.__contains__


def _record_cell(
    cell: Cell,
    engine: OfflineEngine,
    meter: Meter,
    launch_id: str,
    fingerprint: Mapping[str, Any],
    progress: Progress,
    precision: Precision,
) -> Recording:
    assert engine.ready is not None
    enough = precision(cell, str(fingerprint.get("gpu_name")))
    cycle_tokens = cell.workload.tokens_per_cycle(cell.batch_size)
    times: list[int] = []
    tokens: list[int] = []
    finished: list[int] = []

    def recording(stopped_ns: int) -> Recording:
        gpus, cpu = meter.read()
        assert engine.ready is not None
        return Recording(
            key=cell.key,
            launch_id=launch_id,
            environment=fingerprint,
            tokens=TokenCounter(tuple(times), tuple(tokens), tuple(finished)),
            gpus=gpus,
            load_stopped_ns=stopped_ns,
            kv_cache_tokens=engine.ready.kv_cache_tokens,
            cpu=cpu,
        )

    meter.start()
    try:
        time.sleep(0.3)  # the counter's first update lies before the load
        engine.start_load(cell.workload, cell.batch_size)
        total, next_look, told = 0, float((1 + MIN_CYCLES) * cycle_tokens), 0.0
        while True:
            steps = engine.take_steps()
            times += steps.time_ns
            tokens += steps.tokens
            finished += steps.finished
            total += sum(steps.tokens)
            elapsed_s = (times[-1] - times[0]) / 1e9
            if time.monotonic() - told > 1.0:
                told = time.monotonic()
                phase = "warming up" if total < cycle_tokens else "measuring"
                progress(f"{cell.name}: {phase}, {total / cycle_tokens:.1f} cycles, {total / max(elapsed_s, 1e-9):,.0f} tokens/s")
            if total >= next_look:
                if _is_enough(recording(times[-1]), total // cycle_tokens, enough):
                    break
                next_look = total + cycle_tokens / 2
        rest, stopped_ns = engine.stop_load()
        times += rest.time_ns
        tokens += rest.tokens
        finished += rest.finished
        time.sleep(_HOT_TAIL_S)
    finally:
        meter.stop()
    return recording(stopped_ns)


def _is_enough(so_far: Recording, whole_cycles: int, enough: float) -> bool:
    measured = measurement.measure(so_far)
    if any(not fault.startswith(("too_short", "power_unsampled")) for fault in measured.faults):
        return True  # more of it will not become valid
    elapsed_s = (so_far.tokens.time_ns[-1] - so_far.tokens.time_ns[0]) / 1e9
    cycles = measured.cycles
    if cycles is None or not measured.valid or len(cycles.time_s) < MIN_CYCLES or sum(cycles.time_s) < MIN_S:
        return elapsed_s >= 2 * MAX_S and whole_cycles >= 2 * MAX_CYCLES  # it will not get better
    if len(cycles.time_s) >= MAX_CYCLES or sum(cycles.time_s) >= MAX_S:
        return True
    return statistics.relative_standard_error(cycles.joules_per_token) <= enough
