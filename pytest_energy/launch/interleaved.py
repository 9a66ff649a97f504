"""Two engines resident on one GPU, cycle by cycle in turns: what drifts within a pair of launches cancels.

    outer engine   load ········· rest ─┤ turn 0 │ ············ rest ············ │ turn 1 │
    inner engine         ···load ··· rest ─────── │ turn 0, twice as long         │ rest ──

Both are loaded, one after the other, and rest. Then each cell is measured in the order outer, inner, outer, so that both
sides lie at the same mean time; where that is not precise enough such blocks follow with the roles changed. The engine that
waits has its scheduler paused and no request, and is watched.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.workload import block_size, tokens_in_flight
from pytest_energy.engines.engine import Engine, EngineReady
from pytest_energy.errors import EngineError
from pytest_energy.launch.launch import IsEnough, Launch, OpenMeter, Progress, new_engine
from pytest_energy.meters.zeus_meter import Meter, compute_processes
from pytest_energy.recording import counters
from pytest_energy.recording.recording import CoResident, Recording
from pytest_energy.settings import LaunchSettings

# vLLM takes 0.9 of the GPU's memory for one engine; what CUDA graphs and contexts take comes on top.
MEMORY_SHARE = 0.45
_IDLE_S = 2.0
# More than this of the CPU per GPU, and the waiting engine is in the other's way. Each worker of a tensor-parallel engine polls for
# another second after its last step.
_MAX_WAITING_CORES = 0.5


class Stopping(Protocol):
    """Says when enough is measured."""

    def period(self, length: int) -> IsEnough:
        """Of one turn, `length` times as long as a short one."""

    def cell(self, periods: Mapping[str, Sequence[Recording]]) -> bool:
        """Of a cell, by both sides' turns so far."""


class NoFit(Exception):
    """The two engines do not fit on the GPU together; the message says why."""


class SideError(Exception):
    """One side failed: `side` is its name, the cause an EngineError."""

    def __init__(self, side: str, error: EngineError) -> None:
        super().__init__(str(error))
        self.side = side


@dataclass(frozen=True)
class Side:
    """One of the two engines: its name ("candidate", "reference") and how it is launched."""

    name: str
    settings: LaunchSettings


def record_pair(
    cells: Sequence[Cell],
    outer: Side,
    inner: Side,
    open_meter: OpenMeter,
    progress: Callable[[str], Progress],
    stopping: Stopping,
) -> Generator[tuple[str, Cell, Recording], None, None]:
    """One launch of each engine: record each of `cells`, which must share their launch arguments, in turns.

    Yields each turn's recording with its side's name, three per cell and block.

    Args:
        cells: at least one.
        outer: the engine that is loaded first and takes the first and the last turn.
        inner: the other.
        open_meter: opens a meter for the GPUs with the given UUIDs.
        progress: by side's name, told in a few words what is going on.
        stopping: says when a turn and a cell are measured well enough.

    Raises:
        NoFit: there is not memory enough for both.
        SideError: an engine did not load, crashed, hung or did not rest; the other is ended, too.
        MeterError: the GPUs cannot be read.
    """
    before = compute_processes()
    engines = {
        side.name: new_engine(cells[0], side.settings, gpu_memory_utilization=MEMORY_SHARE)
        for side in (outer, inner)
    }
    with contextlib.ExitStack() as stack:
        for side in (outer, inner):
            stack.push(engines[side.name])
            with _named(side):
                engines[side.name].start()  # both import vLLM at once
        idle_power_w = []
        for side in (outer, inner):
            progress(side.name)(
                f"{cells[0].model.name}: loading ({Path(side.settings.python).name})"
            )
            ready = _load(engines[side.name], side, cells)
            with _named(side):
                engines[side.name].pause()
            idle_power_w.append(_idle_power_w(open_meter(ready.gpu_uuids, lambda _: True)))
        both = list(engines.values())
        launches = {
            side.name: Launch.of(engines[side.name], side.settings, both, open_meter, before)
            for side in (outer, inner)
        }
        for cell in cells:
            periods: dict[str, list[Recording]] = {outer.name: [], inner.name: []}
            ends, middle = outer, inner
            while not stopping.cell(periods):
                for side, waiting, length in (
                    (ends, middle, 1),
                    (middle, ends, 2),
                    (ends, middle, 1),
                ):
                    recorded, co_resident = _period(
                        cell, launches, side, waiting, stopping.period(length), progress(side.name)
                    )
                    co_resident = replace(
                        co_resident,
                        idle_power_alone_w=idle_power_w[0],
                        idle_power_w=idle_power_w[1],
                    )
                    periods[side.name].append(
                        replace(recorded, period=len(periods[side.name]), co_resident=co_resident)
                    )
                    yield side.name, cell, periods[side.name][-1]
                ends, middle = middle, ends


@contextlib.contextmanager
def _named(side: Side) -> Generator[None, None, None]:
    try:
        yield
    except EngineError as error:
        raise SideError(side.name, error) from error


def _load(engine: Engine, side: Side, cells: Sequence[Cell]) -> EngineReady:
    try:
        engine.__enter__()
    except EngineError as error:
        if error.out_of_memory:
            asked = side.settings.engine_args_under_test.get("gpu_memory_utilization", MEMORY_SHARE)
            raise NoFit(
                f"the {side.name} engine did not load with {asked} of the GPU's memory: {error}"
            ) from error
        raise SideError(side.name, error) from error
    ready = engine.ready
    assert ready is not None
    for cell in cells:
        with _named(side):
            lengths = engine.prepare(cell.workload, cell.batch_size).lengths
        needed = tokens_in_flight(lengths, cell.batch_size, block_size(ready.settings))
        if 0 < ready.kv_cache_tokens < needed:
            raise NoFit(
                f"the {side.name} engine's KV cache holds {ready.kv_cache_tokens} of the {needed} tokens that {cell.name} needs"
            )
    return ready


def _idle_power_w(meter: Meter) -> float | None:
    """Mean power of the metered GPUs with nothing running; None where the counter did not move."""
    meter.start()
    try:
        time.sleep(_IDLE_S)
    finally:
        meter.stop()
    return counters.mean_power_w(meter.read())


def _period(
    cell: Cell,
    launches: Mapping[str, Launch],
    side: Side,
    waiting: Side,
    is_enough: IsEnough,
    progress: Progress,
) -> tuple[Recording, CoResident]:
    """One turn of one side; the other is watched meanwhile."""
    watched = launches[waiting.name]
    with _named(waiting):
        rest_before, cpu_before_s, started_s = (
            watched.engine.pause(),
            watched.engine.cpu_s(),
            time.monotonic(),
        )
    with _named(side):
        recorded = launches[side.name].record(cell, progress, is_enough, looks_per_cycle=8)
        launches[side.name].engine.pause()
    with _named(waiting):
        cpu_s, seconds, rest_after = (
            watched.engine.cpu_s() - cpu_before_s,
            time.monotonic() - started_s,
            watched.engine.pause(),
        )
    co_resident = CoResident(
        launch_id=watched.launch_id,
        seconds=round(seconds, 3),
        tokens=rest_after.tokens - rest_before.tokens,
        paused=None
        if rest_before.paused is None
        else rest_before.paused and bool(rest_after.paused),
        cpu_s=round(max(0.0, cpu_s), 3),
    )
    ready = watched.engine.ready
    gpus = max(1, len(ready.gpu_uuids)) if ready is not None else 1
    return replace(
        recorded, faults=(*recorded.faults, *_not_at_rest(co_resident, gpus))
    ), co_resident


def _not_at_rest(co_resident: CoResident, gpus: int) -> list[str]:
    why = []
    if co_resident.tokens:
        why.append(f"it generated {co_resident.tokens} tokens")
    if co_resident.paused is False:
        why.append("its scheduler was not paused")
    if co_resident.cpu_s > _MAX_WAITING_CORES * gpus * co_resident.seconds:
        why.append(f"it used {co_resident.cpu_s / co_resident.seconds:.1f} CPU cores")
    if not why:
        return []
    return [
        f"not_at_rest: the engine that waited was not idle: {', '.join(why)}. Let launches alternate: --energy-interleave launches"
    ]
