"""Two engines co-resident on one GPU, measured in alternating periods: drift between them cancels.

    outer engine   load ······· paused ─┤ period 0 │ ········ paused ········ │ period 1 │
    inner engine         ··· load ··· paused ───── │ period 0, twice as long  │ paused ──

Both are loaded, one after the other, and paused. Then each cell is measured in a block of three
periods, outer, inner, outer, so that both sides have the same mean time. If that is not precise
enough, more blocks follow, with the roles swapped each time. The engine that waits has its
scheduler paused and no requests, and is watched.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.plan import block_size, held_once, tokens_in_flight
from pytest_energy.engines.engine import Engine, EngineReady
from pytest_energy.errors import EngineError
from pytest_energy.health import neighbours
from pytest_energy.health.neighbours import Look
from pytest_energy.launch.engines import new_engine
from pytest_energy.launch.launch import IsEnough, Launch, OpenMeter
from pytest_energy.launch.load import Progress
from pytest_energy.meters.zeus_meter import Meter
from pytest_energy.recording import counters
from pytest_energy.recording.faults import fault
from pytest_energy.recording.recording import CoResident, Recording
from pytest_energy.settings import LaunchSettings

# vLLM takes 0.9 of the GPU's memory for one engine; CUDA graphs and contexts need some on top.
MEMORY_SHARE = 0.45
_IDLE_S = 2.0
# CPU cores per GPU; a waiting engine that uses more disturbs the other. Each worker of a
# tensor-parallel engine polls for another second after its last step.
_MAX_WAITING_CORES = 0.5
_LOOKS_PER_CYCLE = 8


@dataclass(frozen=True)
class Stopping:
    """Says when enough is measured.

    Attributes:
        period: returns the rule for one period, so many times as long as a short one.
        pair: whether a cell is done, by both sides' periods so far.
    """

    period: Callable[[int], IsEnough]
    pair: Callable[[Mapping[str, Sequence[Recording]]], bool]


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
    """One launch of each engine: record each of `cells` on both, interleaved.

    Yields each period's recording with its side's name, three per cell and block; all again if more
    is found once the engines have ended.

    Args:
        cells: at least one; they must share their launch arguments.
        outer: the engine that is loaded first and has the first and the last period.
        inner: the other.
        open_meter: opens a meter for the GPUs with the given UUIDs.
        progress: returns, by the side's name, what is called with a few words on what is going on.
        stopping: says when a period and a cell are measured well enough.

    Raises:
        NoFit: there is not enough GPU memory for both.
        SideError: an engine did not load or pause, crashed or hung; the other is ended, too.
        MeterError: the GPUs cannot be read.
    """
    before, recordings, launches = Look.when_idle(), [], {}
    sides = (outer, inner)
    engines = {
        side.name: new_engine(cells[0], side.settings, gpu_memory_utilization=MEMORY_SHARE)
        for side in sides
    }
    with contextlib.ExitStack() as stack:
        for side in sides:
            stack.push(engines[side.name])
            with _named(side):
                engines[side.name].start()  # both import vLLM at once
        idle_power_w = []
        for side in sides:
            python = Path(side.settings.python).name
            progress(side.name)(f"{cells[0].model.name}: loading ({python})")
            ready = _load(engines[side.name], side, cells)
            with _named(side):
                engines[side.name].pause()
            idle_power_w.append(_idle_power_w(open_meter(ready.gpu_uuids, lambda _: True)))
        both = list(engines.values())
        launches = {
            side.name: Launch.of(engines[side.name], side.settings, both, open_meter, before)
            for side in sides
        }
        pair = _Pair(outer, inner, launches, idle_power_w[0], idle_power_w[1], progress)
        for cell in cells:
            for name, recorded in pair.record(cell, stopping):
                recordings.append((name, cell, recorded))
                yield recordings[-1]
    gpu_uuids = {gpu for launch in launches.values() for gpu in launch.gpu_uuids}
    late = neighbours.after_engine(sorted(gpu_uuids), before)
    for name, cell, recorded in recordings if late else ():
        yield name, cell, replace(recorded, faults=(*recorded.faults, *late))


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
        once = held_once(cell.workload.shared_prefix_tokens, ready.settings)
        needed = tokens_in_flight(lengths, cell.batch_size, block_size(ready.settings), once)
        if 0 < ready.kv_cache_tokens < needed:
            raise NoFit(
                f"the {side.name} engine's KV cache holds {ready.kv_cache_tokens} of the {needed} "
                f"tokens that {cell.name} needs"
            )
    return ready


def _idle_power_w(meter: Meter) -> float | None:
    """Mean power of the metered GPUs while nothing runs; None if the counter did not move."""
    meter.start()
    try:
        time.sleep(_IDLE_S)
    finally:
        meter.stop()
    return counters.mean_power_w(meter.read())


@dataclass(frozen=True)
class _Pair:
    """Both engines, loaded and paused.

    Attributes:
        outer, inner: the sides.
        launches: by the side's name.
        idle_power_alone_w: of the idle GPUs with the outer engine loaded.
        idle_power_w: the same with both loaded.
        progress: returns a side's, by its name.
    """

    outer: Side
    inner: Side
    launches: Mapping[str, Launch]
    idle_power_alone_w: float | None
    idle_power_w: float | None
    progress: Callable[[str], Progress]

    def record(
        self, cell: Cell, stopping: Stopping
    ) -> Generator[tuple[str, Recording], None, None]:
        """Blocks of three periods, until `stopping` says that the cell is measured well enough."""
        periods: dict[str, list[Recording]] = {self.outer.name: [], self.inner.name: []}
        ends, middle = self.outer, self.inner
        while not stopping.pair(periods):
            for side, waiting, length in ((ends, middle, 1), (middle, ends, 2), (ends, middle, 1)):
                recorded = self._period(cell, side, waiting, stopping.period(length))
                of_side = periods[side.name]
                of_side.append(replace(recorded, period=len(of_side)))
                yield side.name, of_side[-1]
            ends, middle = middle, ends

    def _period(self, cell: Cell, side: Side, waiting: Side, is_enough: IsEnough) -> Recording:
        """One period of one side; the other is watched meanwhile."""
        measured, watched = self.launches[side.name], self.launches[waiting.name]
        with _named(waiting):
            before, cpu_before_s = watched.engine.pause(), watched.engine.cpu_s()
            started_s = time.monotonic()
        with _named(side):
            progress = self.progress(side.name)
            recorded = measured.record(cell, progress, is_enough, _LOOKS_PER_CYCLE)
            measured.engine.pause()
        with _named(waiting):
            cpu_s, seconds = watched.engine.cpu_s() - cpu_before_s, time.monotonic() - started_s
            after = watched.engine.pause()
        paused = None if before.paused is None else before.paused and bool(after.paused)
        co_resident = CoResident(
            launch_id=watched.launch_id,
            seconds=round(seconds, 3),
            tokens=after.tokens - before.tokens,
            paused=paused,
            cpu_s=round(max(0.0, cpu_s), 3),
            idle_power_alone_w=self.idle_power_alone_w,
            idle_power_w=self.idle_power_w,
        )
        ready = watched.engine.ready
        gpus = max(1, len(ready.gpu_uuids)) if ready is not None else 1
        faults = (*recorded.faults, *_not_idle(co_resident, gpus))
        return replace(recorded, faults=faults, co_resident=co_resident)


def _not_idle(co_resident: CoResident, gpus: int) -> list[str]:
    """The fault of an engine that did not wait idly on so many GPUs."""
    why = []
    if co_resident.tokens:
        why.append(f"it generated {co_resident.tokens} tokens")
    if co_resident.paused is False:
        why.append("its scheduler was not paused")
    if co_resident.cpu_s > _MAX_WAITING_CORES * gpus * co_resident.seconds:
        why.append(f"it used {co_resident.cpu_s / co_resident.seconds:.1f} CPU cores")
    if not why:
        return []
    detail = (
        f"the waiting engine was not idle: {', '.join(why)}. "
        "Alternate launches instead: --energy-interleave launches"
    )
    return [fault("not_idle", detail)]
