"""The measurements of a cell, of engines that are launched now.

A live source asks its callback `is_decided` after each launch which cells need no further one, and
`reference_wanted` how many launches of the reference they ask for.
"""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.key import canonical
from pytest_energy.errors import (
    EnergyError,
    EngineError,
    LockError,
    MeterError,
    RecordingError,
)
from pytest_energy.evidence import Evidence
from pytest_energy.launch import failures, interleaved, launch
from pytest_energy.launch.failures import Failures
from pytest_energy.launch.gpu_locks import GpuLocks
from pytest_energy.launch.gpu_minutes import GpuMinutes
from pytest_energy.launch.interleaved import NoFit, Side, SideError
from pytest_energy.launch.load import Progress
from pytest_energy.launch.time_left import TimeLeft
from pytest_energy.measure import measurement
from pytest_energy.measure.disturbed import is_disturbed, without_disturbed
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.stopping import is_enough, is_pair_enough, is_period_enough
from pytest_energy.meters import nvml
from pytest_energy.meters.zeus_meter import Meter
from pytest_energy.recording import recording_file
from pytest_energy.recording.folder import SUFFIX
from pytest_energy.recording.recording import Recording
from pytest_energy.reference import StandIn
from pytest_energy.settings import Settings
from pytest_energy.store.gpu_cache import Cached

CANDIDATE, REFERENCE = "candidate", "reference"


class _OutOfTime(Exception):
    """There are not GPU minutes enough for another launch."""


@dataclass
class LiveSource:
    """Launches engines: the first cell that is asked for brings all that share its launch.

    Attributes:
        settings: how, how often, and what of it is kept.
        cells: all cells of this run.
        open_meter: opens a meter for the GPUs with the given UUIDs.
        progress: called with a few words on what is going on.
        is_decided: whether a cell with this evidence needs no further launch.
        reference_wanted: how many launches of the reference, made in this run, the verdicts on a
            cell with this evidence ask for.
        reference: how the reference is launched; None without one.
        check: called before the first launch of a group; raises if a file it needs is damaged.
        clock: monotonic, in seconds; what GPU minutes are counted by.
    """

    settings: Settings
    cells: Sequence[Cell]
    open_meter: launch.OpenMeter
    progress: Progress
    is_decided: Callable[[Cell, Evidence], bool]
    check: Callable[[], None]
    reference_wanted: Callable[[Cell, Evidence], int] = lambda cell, evidence: 0
    reference: StandIn | None = None
    clock: Callable[[], float] = time.monotonic
    found: dict[str, Evidence] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._locks = GpuLocks(self.settings.lock_timeout_s)
        self._gpu_minutes = GpuMinutes(self.settings.gpu_minutes, self.clock)
        self._time_left = TimeLeft(self.settings, map(_launch_key, self.cells), self.clock)
        self._failures = Failures()

    def close(self) -> None:
        """Let other runs use the GPUs."""
        self._locks.release()
        if self.reference is not None:
            self.reference.close()

    def evidence(self, cell: Cell) -> Evidence:
        """The cell's measurements; the first call launches engines, whether or not that fails."""
        key = cell.key.canonical
        if key not in self.found:
            self.check()
            alike = [c for c in self.cells if _launch_key(c) == _launch_key(cell)] or [cell]
            # The idle engine first, while its GPU is cool.
            self._measure(sorted(alike, key=lambda c: not c.key.is_idle))
            if self.reference is not None:
                self.reference.report()
        return self.found[key]

    def _measure(self, cells: Sequence[Cell]) -> None:
        """Launch engines until every cell is decided or the budget is spent."""
        model = cells[0].model.name
        open_meter = functools.partial(self._open_meter, model)
        told = self._time_left.told(self.progress)
        launches = _Launches(self.settings, open_meter, told, self.reference)
        open_cells = list(cells)
        failure = self._failures.expected(cells[0])
        out_of_time = False
        try:
            if failure is not None:
                return
            failure = "measuring was interrupted"
            # The GPUs of a server that runs already are known once it is found.
            if self.settings.launch.url is None:
                left = self._locks.acquire(nvml.visible_uuids(), model, self.progress)
                launch.wait_for_leftovers(left, self.progress)
            for number in itertools.count(1):
                failure = self._launch(launches, open_cells, number, launches.add)
                if failure is not None:
                    if launches.is_unusable:
                        self._failures.add(cells[0], failure)
                    break
                self._add_reference(launches, open_cells)
                open_cells = [c for c in open_cells if not self._is_done(c, launches.evidence(c))]
                if not open_cells:
                    break
        except _OutOfTime:
            failure, out_of_time = None, True
        except LockError as error:
            failure = str(error)
        except Exception as error:
            # Unforeseen: shown whole, once. The group's other tests must not launch engines again.
            failure = f"measuring failed: {type(error).__name__}: {error}"
            raise
        finally:
            for cell in cells:
                is_open = cell in open_cells
                launches.keep_cached(cell)
                self.found[cell.key.canonical] = replace(
                    launches.evidence(cell),
                    failure=failure if is_open else None,
                    out_of_time=out_of_time and is_open,
                )
            if all(c.key.canonical in self.found for c in self.cells):
                self._locks.release()

    def _launch(
        self,
        launches: "_Launches",
        cells: Sequence[Cell],
        number: int,
        add: Callable[[Sequence[Cell], int], str | None],
    ) -> str | None:
        """Launch cells once; returns why that failed, else None.

        Raises:
            _OutOfTime: it would not end in time.
        """
        if not self._gpu_minutes.allow_another:
            raise _OutOfTime
        allowed_s = self._gpu_minutes.left_s / launches.gpus()
        timed = self._time_left.launch(_launch_key(cells[0]), len(cells), number, allowed_s)
        with self._gpu_minutes.counted(launches.gpus), timed:
            return add(cells, number)

    def _add_reference(self, launches: "_Launches", cells: Sequence[Cell]) -> None:
        """Launch the reference as often as the cells' verdicts ask for, until that fails."""
        while launches.reference_failure is None:
            short, made = [], 0
            for cell in cells:
                wanted = self.reference_wanted(cell, launches.evidence(cell))
                if wanted and launches.take_cached(cell):
                    wanted = self.reference_wanted(cell, launches.evidence(cell))
                if wanted > launches.of_reference(cell):
                    short.append(cell)
                    made = max(made, launches.of_reference(cell))
            if not short or launches.reference_failure is not None:
                break
            failed = self._launch(launches, short, made + 1, launches.add_reference)
            launches.reference_failure = failed

    def _is_done(self, cell: Cell, evidence: Evidence) -> bool:
        """Whether a cell needs no further launch, or gets none."""
        counted = len(evidence.measurements)
        # A running server is measured once: its launch cannot be made again.
        may_repeat = counted == 1 and self.settings.launch.url is None
        if may_repeat and is_disturbed(*evidence.measurements, *evidence.reference):
            return False
        return counted >= self.settings.launches or self.is_decided(cell, evidence)

    def _open_meter(
        self, model: str, gpu_uuids: Sequence[str], is_engine_process: Callable[[int], bool]
    ) -> Meter:
        """The meter of the GPUs that an engine runs on; from here on the run locks only these."""
        known = {*nvml.listed_uuids(), *self._locks.held}  # a list that fails frees nothing
        self._locks.keep(known & set(gpu_uuids), model, self.progress)
        return self.open_meter(gpu_uuids, is_engine_process)


@dataclass
class _Launches:
    """The launches of cells that share their launch arguments, and what they gave.

    Attributes:
        is_unusable: whether the engine did not start or load, for another reason than memory.
        reference_failure: why the reference could not stand in for baselines.
    """

    settings: Settings
    open_meter: launch.OpenMeter
    progress: Progress
    reference: StandIn | None = None
    is_unusable: bool = False
    reference_failure: str | None = None
    _measured: dict[tuple[str, str], list[Measurement]] = field(default_factory=dict)
    _cached: dict[str, list[Cached]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._co_resident = self.settings.paired and self.settings.interleave != "launches"

    def evidence(self, cell: Cell) -> Evidence:
        """What the launches so far gave of one cell."""
        candidate, reference = self._of(CANDIDATE, cell), self._of(REFERENCE, cell)
        if self.settings.paired:
            return Evidence.of(candidate, reference)
        found = replace(Evidence.of(candidate), reference_failure=self.reference_failure)
        cached = [kept.measured for kept in self._cached.get(cell.key.canonical, [])]
        return found.with_reference(*((reference, "run") if reference else (cached, "cache")))

    def of_reference(self, cell: Cell) -> int:
        """How many launches of the reference count that this run has made of a cell."""
        return len(without_disturbed(self._of(REFERENCE, cell))[0])

    def take_cached(self, cell: Cell) -> bool:
        """Take launches of the reference from the cache, once; whether there are any."""
        key, measured = cell.key.canonical, self._of(CANDIDATE, cell)
        if self.reference is None or key in self._cached or self._of(REFERENCE, cell):
            return False
        self._cached[key] = []
        try:
            found = self.reference.cached(cell.key, measured[-1].environment)
        except (EnergyError, OSError) as error:
            self.reference_failure = str(error)
            return False
        self._cached[key] = found
        return bool(found)

    def keep_cached(self, cell: Cell) -> None:
        """Keep the recordings of a cell's cached launches if it is judged by them."""
        try:
            for kept in self._cached.get(cell.key.canonical, []):
                if not self._of(REFERENCE, cell):
                    self._keep(cell, kept.recording, REFERENCE)
        except RecordingError as error:
            self.progress(str(error))

    def _of(self, side: str, cell: Cell) -> list[Measurement]:
        return self._measured.get((side, cell.key.canonical), [])

    def gpus(self) -> int:
        """How many GPUs the launches use."""
        measured = [m for launches in self._measured.values() for m in launches]
        return len(measured[-1].environment.gpus) if measured else 1

    def add(self, cells: Sequence[Cell], number: int) -> str | None:
        """Launch the engine, or both sides, once more; returns why that failed, else None."""
        if number > self.settings.launches:
            disturbed = "a cell was" if len(cells) == 1 else f"{len(cells)} cells were"
            self.progress(f"launching once more, because {disturbed} disturbed")
        sides = [Side(CANDIDATE, self.settings.launch)]
        if self.settings.paired:
            assert self.settings.reference is not None
            sides.insert(0, Side(REFERENCE, self.settings.reference))
        if number % 2 == 0:
            sides.reverse()  # drift affects both sides alike
        if self._co_resident and any(cell.key.is_idle for cell in cells):
            why = "an engine at idle is measured alone on its GPU"
            if self.settings.interleave == "periods":
                return f"{why}\nAlternate launches instead: --energy-interleave launches"
            self.progress(f"launches alternate: {why}")
            self._co_resident = False
        if self._co_resident:
            try:
                return self._add_pair(cells, number, *sides)
            except NoFit as reason:
                why = f"the two engines do not fit on the GPU together: {reason}"
                if self.settings.interleave == "periods":
                    return f"{why}\nAlternate launches instead: --energy-interleave launches"
                self.progress(f"launches alternate: {why.splitlines()[0]}")
                self._co_resident = False
        for side in sides:
            failure = self._add_launch(cells, number, side)
            if failure is not None:
                return failure
        return None

    def add_reference(self, cells: Sequence[Cell], number: int) -> str | None:
        """Launch the reference, which stands in for a baseline; returns why that failed."""
        assert self.reference is not None
        return self._add_launch(cells, number, Side(REFERENCE, self.reference.engine))

    def _add_launch(self, cells: Sequence[Cell], number: int, side: Side) -> str | None:
        """One launch of one side; returns why it failed, else None."""
        progress = self._numbered(number, side.name)
        latest: dict[str, tuple[Cell, Recording]] = {}
        ended = False  # as an engine ends, so that what is seen only then was looked for
        try:
            launched = launch.record_launch(
                cells, side.settings, self.open_meter, progress, is_enough
            )
            # Closed whatever happens here, so that the engine ends.
            with contextlib.closing(launched):
                for cell, recorded in launched:
                    self._keep(cell, recorded, side.name)
                    latest[cell.key.canonical] = cell, recorded
        except EngineError as error:
            self.is_unusable = error.stage in ("start", "load") and not error.out_of_memory
            failure, ended = str(failures.explained(error, cells[0].model)), True
        except (MeterError, RecordingError, LockError) as error:
            failure = str(error)
        else:
            ended = True
            return None
        finally:
            for cell, recorded in latest.values():
                self._add(cell, side.name, recorded)
            if ended and self.reference is not None and side.name == REFERENCE:
                self.reference.keep(*(recorded for _, recorded in latest.values()))
        of_two = self.settings.paired or side.name == REFERENCE
        return failures.of_side(side, failure) if of_two else failure

    def _add_pair(self, cells: Sequence[Cell], number: int, outer: Side, inner: Side) -> str | None:
        """One launch of both sides together; returns why one failed, None if none did.

        Raises:
            NoFit: there is not enough GPU memory for both.
        """
        periods: dict[str, tuple[Cell, dict[str, dict[int, Recording]]]] = {}
        try:
            launched = interleaved.record_pair(
                cells,
                outer,
                inner,
                self.open_meter,
                functools.partial(self._numbered, number),
                interleaved.Stopping(is_period_enough, is_pair_enough),
            )
            with contextlib.closing(launched):
                for side, cell, recorded in launched:
                    self._keep(cell, recorded, side)
                    of_cell = periods.setdefault(cell.key.canonical, (cell, {}))[1]
                    of_cell.setdefault(side, {})[recorded.period] = recorded
        except SideError as error:
            failed = outer if outer.name == error.side else inner
            return failures.of_side(failed, str(error))
        except (MeterError, RecordingError, LockError) as error:
            return str(error)
        for cell, sides in periods.values():
            for side, recordings in sides.items():
                self._add(cell, side, *recordings.values())
        return None

    def _add(self, cell: Cell, side: str, *recordings: Recording) -> None:
        measured = measurement.measure(*recordings)
        self._measured.setdefault((side, cell.key.canonical), []).append(measured)

    def _numbered(self, number: int, side: str) -> Progress:
        settings = self.settings
        most = max(number, settings.launches)
        of = f"{'' if settings.exactly else 'up to '}{most}"
        if settings.paired:
            prefix = f"pair {number} of {of} ({side}): "
        elif side == REFERENCE:
            prefix = f"reference, launch {number}: "
        elif most > 1:
            prefix = f"launch {number} of {of}: "
        else:
            prefix = ""
        return lambda text: self.progress(prefix + text)

    def _keep(self, cell: Cell, recorded: Recording, side: str) -> None:
        if self.settings.record is None:
            return
        of_two = self.settings.paired or self.settings.reference_first
        folder = self.settings.record / side if of_two else self.settings.record
        period = "" if recorded.co_resident is None else f"-period{recorded.period}"
        path = folder / recorded.launch_id / f"{cell.key.slug}{period}{SUFFIX}"
        try:
            recording_file.write(recorded, path)
        except OSError as error:
            raise RecordingError(
                f"the recording of {cell.name} cannot be written to {path}: {error.strerror}.\n"
                "It is lost. Free some space, or give another folder: --energy-record DIR"
            ) from None


def _launch_key(cell: Cell) -> tuple[str, str, str]:
    return cell.engine, cell.model.location, canonical(cell.launch_args)
