"""Live measurement: launch an engine, put each cell's load on it, keep both counters. Yields recordings, judges nothing."""

import datetime
import math
import time
import uuid
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.workload import Plan
from pytest_energy.engines.attached import AttachedEngine
from pytest_energy.engines.engine import Engine, Steps
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.engines.server import ServerEngine
from pytest_energy.errors import EngineError
from pytest_energy.health.guard import Guard
from pytest_energy.meters.zeus_meter import Meter, compute_processes
from pytest_energy.recording import fingerprint
from pytest_energy.recording.fingerprint import RequestTokens
from pytest_energy.recording.recording import Recording, Requests, TokenCounter
from pytest_energy.settings import LaunchSettings

_SAFE_VOCABULARY = (
    1000  # token ids that every tokenizer has, for a model of which no config.json is at hand
)
_LEAVE_S = 60.0
_COUNTED_S = 0.65  # until the meter, which reads twice a second, has seen the counter's next update
_BRIEF_S = 1.0  # the load of a cell with a fault before it
_HOT_TAIL_S = 1.6  # after the load, for the static power

OpenMeter = Callable[[Sequence[str], Callable[[int], bool]], Meter]
Progress = Callable[[str], None]
IsEnough = Callable[[Recording, int], bool]  # of the recording so far and its whole cycles
Stopping = Callable[[Cell, str], IsEnough]  # of a cell on a GPU model, by its name


def record_launch(
    cells: Sequence[Cell],
    settings: LaunchSettings,
    open_meter: OpenMeter,
    progress: Progress,
    stopping: Stopping,
) -> Generator[tuple[Cell, Recording], None, None]:
    """One engine launch: record each of `cells`, which must share their launch arguments, in the order given.

    Args:
        cells: at least one.
        settings: how the engine is launched.
        open_meter: opens a meter for the GPUs with the given UUIDs.
        progress: told, in a few words, what is going on.
        stopping: gives what says when a cell is measured well enough.

    Raises:
        EngineError: the engine did not load, crashed or hung; cells yielded before stand.
        MeterError: the engine's GPUs cannot be read.
    """
    before = compute_processes()
    progress(
        f"{cells[0].model.name}: {f'loading ({Path(settings.python).name})' if settings.url is None else f'attaching to {settings.url}'}"
    )
    with new_engine(cells[0], settings) as engine:
        if settings.url is not None:  # a server that ran already was on its GPUs before
            before = {gpu: pids - engine.processes() for gpu, pids in before.items()}
        launch = Launch.of(engine, settings, [engine], open_meter, before)
        for cell in cells:
            gpu_name = launch.meter.describe()["gpu_name"]
            yield cell, launch.record(cell, progress, stopping(cell, gpu_name))


def wait_for_leftovers(gpu_uuids: Collection[str], progress: Progress) -> None:
    """Wait up to a minute until no process is left on these GPUs: a killed run's engines take a moment to end.

    What stays is reported as a foreign process when an engine is launched.
    """
    end = time.monotonic() + _LEAVE_S
    while gpu_uuids and time.monotonic() < end:
        left = {
            pid for uuid, pids in compute_processes().items() if uuid in gpu_uuids for pid in pids
        }
        if not left:
            return
        progress("waiting until what a killed run left on the GPU has ended")
        time.sleep(0.5)


def new_engine(cell: Cell, settings: LaunchSettings, **engine_args: Any) -> Engine:
    """The engine of a cell, not started; settings under test win over `engine_args`, and these over the suite's."""
    if settings.url is not None:
        vocabulary_size = cell.model.vocabulary_size or _SAFE_VOCABULARY
        request_tokens = (
            cell.workload.longest_request or 0
        )  # of prompts it is known when they are tokenized
        return AttachedEngine(
            settings.url,
            settings.gpu_uuids,
            vocabulary_size,
            request_tokens,
            compute_processes,
            settings.progress_timeout_s,
        )
    arguments = {
        **cell.launch_args,
        "model": cell.model.location,
        **engine_args,
        **settings.engine_args_under_test,
    }
    kind = ServerEngine if cell.engine == "server" else OfflineEngine
    return kind(settings.python, arguments, settings.load_timeout_s, settings.progress_timeout_s)


@dataclass(frozen=True)
class Launch:
    """A loaded engine and its meter.

    Attributes:
        launch_id: of this engine start.
        engine: loaded.
        meter: of the engine's GPUs.
        foreign: processes, by the driver's ids, that were on these GPUs before.
        under_test: settings from the command line.
    """

    launch_id: str
    engine: Engine
    meter: Meter
    foreign: tuple[int, ...]
    under_test: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        engine: Engine,
        settings: LaunchSettings,
        engines: Sequence[Engine],
        open_meter: OpenMeter,
        before: Mapping[str, frozenset[int]],
    ) -> "Launch":
        """The launch of a loaded engine.

        Args:
            engine, settings: it and how it was launched.
            engines: all engines that may be on its GPUs, itself among them.
            open_meter: opens a meter for the GPUs with the given UUIDs.
            before: compute processes by GPU before the first of them was started.
        """
        assert engine.ready is not None
        gpu_uuids = engine.ready.gpu_uuids
        return cls(
            launch_id=engine.launch_id
            or f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}",
            engine=engine,
            meter=open_meter(gpu_uuids, _membership(gpu_uuids, engines, before)),
            foreign=tuple(sorted({pid for gpu in gpu_uuids for pid in before.get(gpu, ())})),
            under_test=settings.engine_args_under_test,
        )

    def record(
        self, cell: Cell, progress: Progress, is_enough: IsEnough, looks_per_cycle: int = 2
    ) -> Recording:
        """Put the cell's load on the engine and record it until `is_enough(recording so far, whole cycles)` says so.

        Args:
            cell: what to record.
            progress: told what is going on.
            is_enough: asked from the second cycle, or block, on, and as soon as the energy of each further one is counted. A cell
                with a fault before its load, of which no figure counts, ends after a second.
            looks_per_cycle: how often it is asked besides.
        """
        ready = self.engine.ready
        assert ready is not None
        if cell.workload.prompts_file is not None:
            progress(f"{cell.name}: tokenizing prompts")
        plan = self.engine.prepare(cell.workload, cell.batch_size)
        requests = Requests(*zip(*plan.lengths, strict=True)) if cell.workload.varies else None
        environment = fingerprint.fingerprint(
            ready.versions,
            ready.settings,
            self.under_test,
            self.meter.describe(),
            ready.synthetic_weights,
            None
            if requests is None
            else RequestTokens(sum(requests.input_tokens), sum(requests.output_tokens)),
        )
        pids = ", ".join(map(str, self.foreign))
        foreign = (f"foreign_process: pid {pids} was on the GPU before",) if self.foreign else ()
        guard = Guard(ready.gpu_uuids)
        faults = (*foreign, *guard.faults_before())
        counted = _Counted()

        def recording(stopped_ns: int) -> Recording:
            return Recording(
                key=cell.key,
                launch_id=self.launch_id,
                environment=environment,
                tokens=TokenCounter(
                    tuple(counted.time_ns), tuple(counted.tokens), tuple(counted.finished)
                ),
                gpus=self.meter.read(),
                load_stopped_ns=stopped_ns,
                kv_cache_tokens=ready.kv_cache_tokens,
                faults=faults,
                client=self.engine.client,
                requests=requests,
            )

        self.meter.start()
        try:
            time.sleep(0.3)  # the counter's first update lies before the load
            self.engine.start_load(cell.workload, cell.batch_size)
            if faults:
                self._drive_briefly(counted)
            else:
                self._drive(
                    cell,
                    plan,
                    counted,
                    lambda cycles: is_enough(recording(counted.time_ns[-1]), cycles),
                    progress,
                    looks_per_cycle,
                )
            rest, stopped_ns = self.engine.stop_load()
            counted.add(rest)
            time.sleep(_HOT_TAIL_S)
        except EngineError as error:
            why = guard.faults()
            if not why:
                raise
            message = f"{error.message} ({'; '.join(why)})"
            raise EngineError(error.stage, message, error.log_tail, error.out_of_memory) from error
        finally:
            self.meter.stop()
        recorded = recording(stopped_ns)
        return replace(recorded, faults=tuple(dict.fromkeys((*faults, *guard.faults()))))

    def _drive_briefly(self, counted: "_Counted") -> None:
        """As long as counters, and the clients' share of a CPU core, need to tell no faults of their own."""
        end = time.monotonic() + _BRIEF_S
        while time.monotonic() < end:
            counted.add(self.engine.take_steps())

    def _drive(
        self,
        cell: Cell,
        plan: Plan,
        counted: "_Counted",
        is_enough: Callable[[int], bool],
        progress: Progress,
        looks_per_cycle: int,
    ) -> None:
        """Add the load's steps to `counted` until `is_enough(whole cycles)`."""
        next_look, told, whole, counted_s = 2.0, 0.0, 2, math.inf
        while True:
            counted.add(self.engine.take_steps())
            cycles = plan.cycles(counted.total, counted.ended)
            if int(cycles) > whole:
                whole, counted_s = int(cycles), time.monotonic() + _COUNTED_S
            elapsed_s = (counted.time_ns[-1] - counted.time_ns[0]) / 1e9
            if time.monotonic() - told > 1.0:
                told = time.monotonic()
                phase, name = (
                    "warming up" if cycles < 1 else "measuring",
                    "blocks" if cell.workload.varies else "cycles",
                )
                progress(
                    f"{cell.name}: {phase}, {cycles:.1f} {name}, {counted.total / max(elapsed_s, 1e-9):,.0f} tokens/s"
                )
            counted_now = time.monotonic() >= counted_s
            if counted_now or cycles >= next_look:
                if is_enough(int(cycles)):
                    return
                next_look = cycles + 1 / looks_per_cycle
                counted_s = math.inf if counted_now else counted_s


@dataclass
class _Counted:
    """The steps of a load so far, with the sums of their tokens and finished requests."""

    time_ns: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    total: int = 0
    ended: int = 0

    def add(self, steps: Steps) -> None:
        self.time_ns += steps.time_ns
        self.tokens += steps.tokens
        self.finished += steps.finished
        self.total += sum(steps.tokens)
        self.ended += sum(steps.finished)


def _membership(
    gpu_uuids: Sequence[str], engines: Sequence[Engine], before: Mapping[str, frozenset[int]]
) -> Callable[[int], bool]:
    """Tells the engines' processes on the GPUs from others.

    In a container the driver's process ids are not ours. So a process counts as an engine's when it appeared
    on the GPU while they loaded and, where its id is one of ours, belongs to a worker's session.
    """
    after = compute_processes()
    appeared = {
        pid
        for gpu in gpu_uuids
        for pid in after.get(gpu, frozenset()) - before.get(gpu, frozenset())
    }
    ours = {pid for engine in engines for pid in engine.processes()}
    own = {pid for pid in appeared if pid in ours or not Path(f"/proc/{pid}").exists()}
    return own.__contains__
