"""A launch: start an engine, put each cell's load on it, keep both counters as recordings."""

import datetime
import time
import uuid
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_energy.cell.cell import Cell
from pytest_energy.engines.engine import Engine
from pytest_energy.errors import EngineError
from pytest_energy.health import neighbours
from pytest_energy.health.guard import Guard
from pytest_energy.health.neighbours import Look
from pytest_energy.launch import idle
from pytest_energy.launch.engines import new_engine
from pytest_energy.launch.idle import AtIdle
from pytest_energy.launch.load import Load, Progress
from pytest_energy.meters.host_meter import HostMeter
from pytest_energy.meters.nvml import visible_uuids
from pytest_energy.meters.processes import OnGpus, compute_processes, membership, unlisted
from pytest_energy.meters.zeus_meter import Meter
from pytest_energy.recording import fingerprint
from pytest_energy.recording.faults import fault
from pytest_energy.recording.fingerprint import Fingerprint, RequestTokens
from pytest_energy.recording.recording import Recording, Requests
from pytest_energy.settings import LaunchSettings

_LEAVE_S = 60.0
_BEFORE_LOAD_S = 0.3  # so that the counter's first update lies before the load
_HOT_TAIL_S = 1.6  # after the load, for the static power

OpenMeter = Callable[[Sequence[str], Callable[[int], bool]], Meter]
IsEnough = Callable[[Recording, int], bool]  # of the recording so far and its whole cycles


def record_launch(
    cells: Sequence[Cell],
    settings: LaunchSettings,
    open_meter: OpenMeter,
    progress: Progress,
    is_enough: IsEnough,
) -> Generator[tuple[Cell, Recording], None, None]:
    """One engine launch: record each of `cells`, in the order given.

    Args:
        cells: at least one; they must share their launch arguments.
        settings: how the engine is launched.
        open_meter: opens a meter for the GPUs with the given UUIDs.
        progress: called with a few words on what is going on.
        is_enough: says when a cell is measured well enough.

    Raises:
        EngineError: the engine did not load, crashed or hung; the cells yielded before are good.
        MeterError: the engine's GPUs cannot be read.

    What is found only once the engine has ended makes all its recordings come again, with that.
    """
    before = Look.when_idle() if settings.url is None else Look.now(())
    alone_w: dict[str, float] = {}
    if settings.url is None and any(cell.key.is_idle for cell in cells):
        progress(f"{cells[0].model.name}: power of the GPUs without the engine")
        alone_w = idle.power_without_engine_w(
            visible_uuids(), lambda uuids: open_meter(uuids, lambda pid: False)
        )
    doing = f"loading ({Path(settings.python).name})"
    if settings.url is not None:
        doing = f"attaching to {settings.url}"
    progress(f"{cells[0].model.name}: {doing}")
    launch, recordings, failed = None, [], None
    try:
        with new_engine(cells[0], settings) as engine:
            if settings.url is not None:  # a running server was on its GPUs before
                _check_model_is_there(settings.url, engine)
                before = _without(engine, before)
            launch = Launch.of(engine, settings, [engine], open_meter, before)
            launch = replace(launch, without_engine_w=alone_w)
            for cell in cells:
                recordings.append((cell, launch.record(cell, progress, is_enough)))
                yield recordings[-1]
    except EngineError as error:
        failed = error
    if launch is not None and settings.url is None:
        late = neighbours.after_engine(launch.gpu_uuids, before)
        for cell, recorded in recordings if late else ():
            yield cell, replace(recorded, faults=(*recorded.faults, *late))
    if failed is not None:
        raise failed


def _check_model_is_there(url: str, engine: Engine) -> None:
    """A GPU that is named may be another than the server's, which may be on another machine."""
    assert engine.ready is not None
    for gpu, held_mib in neighbours.without_model(engine.ready.gpu_uuids).items():
        raise EngineError(
            "load",
            f"{gpu} holds no model ({held_mib:,} MiB of its memory are in use), so the server at "
            f"{url} runs on other GPUs, or on another machine behind a tunnel or proxy.\n"
            "Run pytest on the machine that has its GPUs, and name them: --energy-gpu UUID",
        )


def _without(engine: Engine, before: Look) -> Look:
    """What was found with a running server, as if it had not been there."""
    processes = {gpu: pids and pids - engine.processes() for gpu, pids in before.processes.items()}
    return replace(before, processes=processes)


def wait_for_leftovers(gpu_uuids: Collection[str], progress: Progress) -> None:
    """Wait up to a minute until these GPUs are free: engines of a killed run take a while to end.

    What stays is reported as a foreign process when an engine is launched.
    """
    end = time.monotonic() + _LEAVE_S
    while gpu_uuids and time.monotonic() < end:
        if not neighbours.is_held(gpu_uuids):
            return
        progress("waiting until what a killed run left on the GPU has ended")
        time.sleep(0.5)


@dataclass(frozen=True)
class Launch:
    """A loaded engine and its meter.

    Attributes:
        launch_id: of this engine start.
        engine: loaded.
        meter: of the engine's GPUs.
        faults: of its GPUs and the processes on them when it had loaded.
        under_test: settings from the command line.
        without_engine_w: power of idle GPUs before it was started, by UUID, as far as it is known.
    """

    launch_id: str
    engine: Engine
    meter: Meter
    faults: tuple[str, ...]
    under_test: Mapping[str, Any]
    without_engine_w: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        engine: Engine,
        settings: LaunchSettings,
        engines: Sequence[Engine],
        open_meter: OpenMeter,
        before: Look,
    ) -> "Launch":
        """The launch of a loaded engine.

        Args:
            engine, settings: it and how it was launched.
            engines: all engines that may be on its GPUs, itself among them.
            open_meter: opens a meter for the GPUs with the given UUIDs.
            before: the GPUs before the first of them was started.
        """
        assert engine.ready is not None
        gpu_uuids, after = engine.ready.gpu_uuids, compute_processes()
        ours = {pid for engine in engines for pid in engine.processes()}
        return cls(
            launch_id=engine.launch_id
            or f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}",
            engine=engine,
            meter=open_meter(gpu_uuids, membership(gpu_uuids, ours, before.processes, after)),
            faults=(
                *_process_faults(gpu_uuids, before.processes, after),
                *neighbours.before_launch(gpu_uuids, before),
            ),
            under_test=settings.engine_args_under_test,
        )

    @property
    def gpu_uuids(self) -> tuple[str, ...]:
        """Of the engine's GPUs."""
        assert self.engine.ready is not None
        return self.engine.ready.gpu_uuids

    def record(
        self, cell: Cell, progress: Progress, is_enough: IsEnough, looks_per_cycle: int = 2
    ) -> Recording:
        """Put the cell's load on the engine, or leave it idle, and record it.

        A cell with a fault before its load ends after a second, because none of its figures counts.

        Args:
            cell: what to record.
            progress: called with a few words on what is going on.
            is_enough: asked with the recording so far and its whole cycles; see `Load.drive`.
            looks_per_cycle: how often it is asked.
        """
        if cell.key.is_idle:
            return self._record_idle(cell, progress)
        if cell.workload.prompts_file is not None:
            progress(f"{cell.name}: tokenizing prompts")
        plan = self.engine.prepare(cell.workload, cell.batch_size)
        requests = Requests(*zip(*plan.lengths, strict=True)) if cell.workload.varies else None
        load = Load(self.engine, cell, plan, progress)

        def apply(so_far: Callable[[int], Recording], has_faults: bool) -> int:
            def enough(cycles: int) -> bool:
                return is_enough(so_far(load.last_ns), cycles)

            return self._apply(load, None if has_faults else enough, looks_per_cycle)

        return self._metered(cell, load, apply, requests)

    def _record_idle(self, cell: Cell, progress: Progress) -> Recording:
        """Record the engine at idle; other processes must leave it alone, too."""
        known = [self.without_engine_w.get(gpu) for gpu in self.gpu_uuids]
        alone_w = [power_w for power_w in known if power_w is not None]
        whole = len(alone_w) == len(known) and bool(known)
        watched = AtIdle(self.engine, cell.name, sum(alone_w) if whole else None, progress)
        recorded = self._metered(
            cell, watched, lambda _, has_faults: watched.watch(briefly=has_faults)
        )
        return replace(recorded, idle=watched.facts, prefix_cache=None)

    def _metered(
        self,
        cell: Cell,
        counted: Load | AtIdle,
        apply: Callable[[Callable[[int], Recording], bool], int],
        requests: Requests | None = None,
    ) -> Recording:
        """What counters and guard show while something is done with the engine.

        Args:
            cell: that is measured.
            counted: counts its tokens.
            apply: does it, given what makes the recording so far and whether there is a fault;
                returns when the load was stopped, ns.
            requests: their lengths if they vary.
        """
        assert self.engine.ready is not None
        environment = self._environment(requests)
        guard, host = Guard(self.engine.ready.gpu_uuids), HostMeter(self.engine.processes())
        faults = (*self.faults, *guard.faults_before())

        def recording(stopped_ns: int) -> Recording:
            assert self.engine.ready is not None
            return Recording(
                key=cell.key,
                launch_id=self.launch_id,
                environment=environment,
                tokens=counted.counter,
                gpus=self.meter.read(),
                load_stopped_ns=stopped_ns,
                kv_cache_tokens=self.engine.ready.kv_cache_tokens,
                faults=faults,
                client=self.engine.client,
                requests=requests,
                host=host.read(),
                load_s=self.engine.load_s,
                compiled=self.engine.compiled,
                prefix_cache=self.engine.prefix_cache,
            )

        self.meter.start()
        host.start()
        try:
            stopped_ns = apply(recording, bool(faults))
        except EngineError as error:
            why = guard.faults()
            if not why:
                raise
            message = f"{error.message} ({'; '.join(why)})"
            raise EngineError(error.stage, message, error.log_tail, error.out_of_memory) from error
        finally:
            host.stop()
            self.meter.stop()
        recorded = recording(stopped_ns)
        found = guard.faults(may_be_busy=cell.key.is_idle)
        return replace(recorded, faults=tuple(dict.fromkeys((*faults, *found))))

    def _apply(self, load: Load, enough: Callable[[int], bool] | None, looks_per_cycle: int) -> int:
        """Start and stop the load while the meter runs; the time at which it was stopped, ns."""
        time.sleep(_BEFORE_LOAD_S)
        self.engine.start_load(load.cell.workload, load.cell.batch_size)
        if enough is None:
            load.drive_briefly()
        else:
            load.drive(enough, looks_per_cycle)
        rest, stopped_ns = self.engine.stop_load()
        load.add(rest)
        time.sleep(_HOT_TAIL_S)
        return stopped_ns

    def _environment(self, requests: Requests | None) -> Fingerprint:
        ready = self.engine.ready
        assert ready is not None
        return fingerprint.fingerprint(
            ready.versions,
            ready.settings,
            self.under_test,
            self.meter.describe(),
            ready.synthetic_weights,
            None
            if requests is None
            else RequestTokens(sum(requests.input_tokens), sum(requests.output_tokens)),
            ready.experts,
        )


def _process_faults(gpu_uuids: Sequence[str], before: OnGpus, after: OnGpus) -> tuple[str, ...]:
    """Processes that were on an engine's GPUs before it, and lists that could not be had."""
    what = "does not list them, so the engine's cannot be told from others"
    faults = [
        fault("processes_unreadable", f"{gpu} {what}") for gpu in unlisted(gpu_uuids, before, after)
    ]
    there = sorted({pid for gpu in gpu_uuids for pid in before.get(gpu) or ()})
    if there:
        pids = ", ".join(map(str, there))
        faults.append(fault("foreign_process", f"pid {pids} was on the GPU before"))
    return tuple(faults)
