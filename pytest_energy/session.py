"""One run: which cells are selected, where their measurements come from, what is judged and what is written.

Knows nothing of pytest. The plugin makes one of these and asks it; reports are made from what it answers.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.key import canonical_key, key_differences
from pytest_energy.errors import (
    EnergyError,
    EngineError,
    LockError,
    MeterError,
    NoiseError,
    RecordingError,
)
from pytest_energy.launch import launch
from pytest_energy.launch.gpu_locks import GpuLocks
from pytest_energy.launch.interleaved import NoFit, Side, SideError, record_pair
from pytest_energy.measure import measurement
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import Spread
from pytest_energy.measure.stopping import InterleavedStopping, is_enough
from pytest_energy.meters import nvml
from pytest_energy.meters.zeus_meter import Meter
from pytest_energy.recording import recording
from pytest_energy.recording.recording import Recording
from pytest_energy.settings import LaunchSettings, Settings
from pytest_energy.store.baselines import Baseline, Store, Update, boards, mixed
from pytest_energy.store.noise import Noise, NoiseStore
from pytest_energy.verdict import comparison, judge
from pytest_energy.verdict.judge import Judgement, Variation
from pytest_energy.verdict.rule import Rule, Verdict

Measured = Mapping[
    str, Mapping[str, list[Measurement]]
]  # by side, then by cell key; one per launch


@dataclass(frozen=True)
class Question:
    """What one test asks: a metric of a cell, and its limits (None: the default)."""

    cell: Cell
    metric: Metric
    tolerance: float | None = None
    max_power_w: float | None = None
    max_ttft_ms: float | None = None
    max_itl_ms: float | None = None


@dataclass(frozen=True)
class Evidence:
    """What is known of one cell.

    Attributes:
        measurements: one per launch.
        failure: why there are none, or not all; None where nothing failed.
        reference: of the other engine of an interleaved comparison, one per pair.
    """

    measurements: tuple[Measurement, ...] = ()
    failure: str | None = None
    reference: tuple[Measurement, ...] = ()


@dataclass
class Session:
    """Measures each cell once, whoever asks, and remembers.

    Args:
        settings: what the user asked for.
        open_meter: opens a meter for the GPUs with the given UUIDs.
        progress: told, in a few words, what is going on.
    """

    settings: Settings
    open_meter: launch.OpenMeter
    progress: Callable[[str], None]
    _questions: list[Question] = field(default_factory=list)
    _evidence: dict[str, Evidence] = field(default_factory=dict)
    _updates: dict[str, Update | EnergyError | OSError] = field(default_factory=dict)
    _baselines: dict[tuple[str, str, tuple[str, ...]], Baseline | None] = field(
        default_factory=dict
    )
    _replayed: dict[tuple[Path, ...], dict[str, list[Measurement]]] = field(default_factory=dict)
    _resident: bool = False  # whether the launches being measured are of two engines together

    def __post_init__(self) -> None:
        self.store = Store(self.settings.baselines)
        self.noise_store = NoiseStore(self.settings.baselines)
        self._locks = GpuLocks(self.settings.lock_timeout_s)

    def close(self) -> None:
        """Let other runs have the GPUs."""
        self._locks.release()

    def select(self, asked: Iterable[Question]) -> None:
        """Say what this run will ask for: cells that share a launch are measured in one, and all comparisons share the error level."""
        self._questions = list(asked)

    @property
    def _cells(self) -> list[Cell]:
        return list(
            {
                canonical_key(question.cell.key): question.cell for question in self._questions
            }.values()
        )

    def _questions_on(self, cell: Cell) -> list[Question]:
        key = canonical_key(cell.key)
        return [question for question in self._questions if canonical_key(question.cell.key) == key]

    def evidence(self, cell: Cell) -> Evidence:
        """The cell's measurements; the first call for a launch measures all selected cells that share it.

        Raises:
            BaselineError, NoiseError: a file that the verdict needs is damaged; nothing was measured.
        """
        key = canonical_key(cell.key)
        if key not in self._evidence:
            if self.settings.replay:
                self._evidence[key] = self._replay(cell)
            else:
                self._measure_launch_group(cell)
        return self._evidence[key]

    def judge(self, question: Question) -> Judgement:
        """Judge one metric of one cell against the store as it was before this run's updates.

        Raises:
            BaselineError, NoiseError: a file is damaged.
        """
        evidence = self.evidence(question.cell)
        if evidence.failure is not None:
            return self._invalid(question, [evidence.failure])
        # Recordings are judged at once, without looks before the last: clear where a live run was, and perhaps where it was not.
        return self._judge(
            question, evidence, None if self.settings.replay else self.settings.launches
        )

    def _invalid(self, question: Question, reasons: Sequence[str]) -> Judgement:
        paired = self.settings.paired
        tolerance = Rule(paired=paired).tolerance(question.metric, question.tolerance)
        return Judgement(question.metric, Verdict.INVALID, tolerance, tuple(reasons), paired=paired)

    def _old_side(self, cell: Cell, evidence: Evidence) -> Baseline | None:
        """What the cell is compared with: the other engine, or the baseline as it was before this run's updates."""
        if self.settings.paired:
            return Baseline.of(evidence.reference)
        measurements = evidence.measurements
        gpu_name, on = _gpu_name(measurements), boards(measurements[0].environment)
        place = canonical_key(cell.key), gpu_name, on
        if place not in self._baselines:
            self._baselines[place] = self.store.find(cell.key, gpu_name, on)
        return self._baselines[place]

    def _judge(self, question: Question, evidence: Evidence, budget: int | None) -> Judgement:
        cell, measurements, gpu_name = (
            question.cell,
            evidence.measurements,
            _gpu_name(evidence.measurements),
        )
        faults = [
            f"reference, launch {m.launch_id}: {fault}"
            for m in evidence.reference
            for fault in m.faults
        ]
        if (
            evidence.reference
            and len({bool(m.co_resident) for m in (*measurements, *evidence.reference)}) > 1
        ):
            faults.append(
                "one side was measured beside a resident engine, the other without: they are no pairs"
            )
        if faults:
            return self._invalid(question, faults)
        baseline = self._old_side(cell, evidence)
        near_misses = self.store.near_misses(cell.key, gpu_name) if baseline is None else []
        compared = {m.launch_id for m in measurements} | {
            launch.launch_id for launch in (baseline.launches if baseline else ())
        }
        noise = {
            metric: self.noise_store.floor(cell.key, gpu_name, metric, compared)
            for metric in Metric
        }
        variation = {metric: self._variation(metric, evidence) for metric in Metric}
        noise = {
            metric: comparison.raised(floor, _of_a_launch(variation[metric]))
            for metric, floor in noise.items()
        }
        rule = Rule(self.comparisons, budget, noise, self.settings.paired)
        judged = judge.judge(
            question.metric,
            measurements,
            baseline,
            near_misses,
            question.tolerance,
            question.max_power_w,
            rule,
            question.max_ttft_ms,
            question.max_itl_ms,
        )
        return replace(judged, variation=variation[question.metric])

    def _variation(self, metric: Metric, evidence: Evidence) -> Variation | None:
        """Of turns and pairs; None without a reference, or where something is invalid."""
        pairs = evidence.measurements, evidence.reference
        if len(pairs[0]) != len(pairs[1]) or not all(m.valid for side in pairs for m in side):
            return None
        return judge.variation(metric, *pairs)

    def update(self, cell: Cell) -> Update:
        """Make the cell's launches its baseline, once per run: where that failed it has failed for all that ask.

        Raises:
            BaselineError: refused; nothing was written.
            RecordingError: there are no measurements.
            OSError: nothing was written.
        """
        key = canonical_key(cell.key)
        if key not in self._updates:
            # Against the history, so by the rule of stored baselines whatever this run compares.
            tolerance = {
                q.metric.value: Rule().tolerance(q.metric, q.tolerance)
                for q in self._questions_on(cell)
            }
            try:
                self._updates[key] = self.store.update(
                    self._whole_evidence(cell), tolerance, self.settings.update_reason
                )
            except (EnergyError, OSError) as error:
                self._updates[key] = error
        updated = self._updates[key]
        if isinstance(updated, Exception):
            raise updated
        return updated

    def add_noise(self, cell: Cell) -> None:
        """Add the cell's launches to the runner's noise; those that are there already count once.

        Raises:
            NoiseError: refused; nothing was written.
            RecordingError: there are no measurements.
        """
        self.noise_store.add(self._whole_evidence(cell))

    def noise(self, cell: Cell, metric: Metric) -> Noise:
        """What is known of the runner's noise in this cell, all calls together."""
        return self.noise_store.noise(cell.key, _gpu_name(self.evidence(cell).measurements), metric)

    @property
    def comparisons(self) -> int:
        """Cells × metrics of this run."""
        return max(1, len(self._questions))

    def _whole_evidence(self, cell: Cell) -> tuple[Measurement, ...]:
        evidence = self.evidence(cell)
        if evidence.failure is not None:
            raise RecordingError(evidence.failure)
        return evidence.measurements

    def unused_baselines(self) -> list[Baseline]:
        """Baselines of the GPU models, as many GPUs and the engines as were seen in this run that no selected cell asks for."""
        selected = {canonical_key(cell.key) for cell in self._cells}
        # Suites for another number of GPUs, and another engine, are asked for by name: a run of these says nothing of theirs.
        measurements = [m for evidence in self._evidence.values() for m in evidence.measurements]
        seen = {
            (str(m.environment.get("gpu_name")), len(boards(m.environment)), m.key["engine"])
            for m in measurements
        }
        entries = [
            entry
            for entry in self.store.entries()
            if (entry.gpu_name, len(entry.boards), entry.key["engine"]) in seen
        ]
        return [entry for entry in entries if canonical_key(entry.key) not in selected]

    def _measure_launch_group(self, cell: Cell) -> None:
        """Launch the engine until every cell that shares the launch is decided, or the budget is spent."""
        group = [c for c in self._cells if _launch_key(c) == _launch_key(cell)] or [cell]
        self._resident = (
            self.settings.reference is not None and self.settings.interleave != "launches"
        )
        first_look = Rule(paired=self.settings.paired).first_look
        self.store.entries()  # a damaged file costs no GPU time
        self.noise_store.check()
        budget = self.settings.launches
        all_launches = self.settings.update or self.settings.noise
        measured: Measured = {
            side: {canonical_key(c.key): [] for c in group} for side in ("reference", "candidate")
        }
        open_cells = list(group)
        failure: str | None = None
        try:
            failure = "measuring was interrupted"
            if (
                self.settings.launch.url is None
            ):  # the GPUs of a server that runs are known once it is found
                launch.let_leave(
                    self._locks.acquire(nvml.visible_uuids(), cell.model.name, self.progress),
                    self.progress,
                )
            for number in range(1, budget + 1):
                failure = "measuring was interrupted"
                failure = self._launch_sides(open_cells, number, measured)
                if failure is not None:
                    break
                if not all_launches and number in comparison.looks(budget, first_look):
                    open_cells = [
                        c for c in open_cells if self._is_open(c, _evidence(c, measured), budget)
                    ]
                if not open_cells:
                    break
        except LockError as error:
            failure = str(error)
        except Exception as error:
            # Not foreseen, so it is seen whole, once; the group's other tests must not launch engines over and over.
            failure = f"measuring failed: {type(error).__name__}: {error}"
            raise
        finally:
            for c in group:
                self._evidence[canonical_key(c.key)] = replace(
                    _evidence(c, measured), failure=failure if c in open_cells else None
                )
            if all(canonical_key(c.key) in self._evidence for c in self._cells):
                self._locks.release()

    def _open_meter(
        self, measuring: str, gpu_uuids: Sequence[str], is_engine_process: Callable[[int], bool]
    ) -> Meter:
        """The meter of the GPUs that an engine was found on; from now on the run holds these alone."""
        self._locks.keep(set(gpu_uuids) & set(nvml.listed_uuids()), measuring, self.progress)
        return self.open_meter(gpu_uuids, is_engine_process)

    def _launch_sides(self, cells: Sequence[Cell], number: int, measured: Measured) -> str | None:
        """Launch the engine, or both in turns; returns why one failed, None where none did."""
        sides = [Side("candidate", self.settings.launch)]
        if self.settings.reference is not None:
            sides.insert(0, Side("reference", self.settings.reference))
        if number % 2 == 0:
            sides.reverse()  # reference first, candidate first, ...: drift falls on both sides alike
        if self._resident:
            try:
                return self._launch_pair(cells, number, sides[0], sides[1], measured)
            except NoFit as reason:
                if self.settings.interleave == "periods":
                    return f"the two engines do not fit on the GPU together: {reason}\nLet launches alternate: --energy-interleave launches"
                self.progress(
                    f"launches alternate: the two engines do not fit on the GPU together ({str(reason).splitlines()[0]})"
                )
                self._resident = False
        for side in sides:
            failure = self._launch(cells, number, side.name, side.settings, measured[side.name])
            if failure is not None:
                return failure
        return None

    def _launch_pair(
        self, cells: Sequence[Cell], number: int, outer: Side, inner: Side, measured: Measured
    ) -> str | None:
        """One launch of both engines together; returns why a side failed, None where none did."""
        periods: dict[tuple[str, str], list[Recording]] = {}
        try:
            open_meter = functools.partial(self._open_meter, cells[0].model.name)
            stopping = InterleavedStopping(self._noise)
            launched = record_pair(
                cells, outer, inner, open_meter, functools.partial(self._numbered, number), stopping
            )
            with contextlib.closing(launched):
                for side, done, recorded in launched:
                    self._keep(done, recorded, side)
                    periods.setdefault((side, canonical_key(done.key)), []).append(recorded)
        except SideError as error:
            python = next(
                side.settings.python for side in (outer, inner) if side.name == error.side
            )
            return f"the {error.side} engine ({python}): {error}"
        except (MeterError, RecordingError, LockError) as error:
            return str(error)
        for (side, key), recordings in periods.items():
            measured[side][key].append(measurement.measure(*recordings))
        return None

    def _launch(
        self,
        cells: Sequence[Cell],
        number: int,
        side: str,
        settings: LaunchSettings,
        measured: Mapping[str, list[Measurement]],
    ) -> str | None:
        """One engine launch; returns why it failed, None where it did not."""
        named = f"the {side} engine ({settings.python}): " if self.settings.paired else ""
        try:
            # Closed at once whatever happens here, and the engine with it.
            open_meter = functools.partial(self._open_meter, cells[0].model.name)
            launched = launch.record_launch(
                cells, settings, open_meter, self._numbered(number, side), self._stopping
            )
            with contextlib.closing(launched):
                for done, recorded in launched:
                    self._keep(done, recorded, side)
                    measured[canonical_key(done.key)].append(measurement.measure(recorded))
        except (EngineError, MeterError, RecordingError, NoiseError, LockError) as error:
            return f"{named}{error}"
        return None

    def _is_open(self, cell: Cell, evidence: Evidence, budget: int) -> bool:
        return any(
            self._judge(question, evidence, budget).undecided
            for question in self._questions_on(cell)
        )

    def _stopping(self, cell: Cell, gpu_name: str) -> launch.IsEnough:
        """More cycles buy nothing below a standard error of a third of the launches' deviation."""
        error = self.noise_store.floor(cell.key, gpu_name, Metric.JOULES_PER_TOKEN).deviation / 3
        return functools.partial(is_enough, error)

    def _noise(self, measured: Measurement) -> float:
        """The deviation of J/token between launches (relative) in a measurement's cell."""
        return self.noise_store.floor(
            measured.key, _gpu_name([measured]), Metric.JOULES_PER_TOKEN
        ).deviation

    def _numbered(self, number: int, side: str) -> Callable[[str], None]:
        upto = "" if self.settings.update or self.settings.noise else "up to "
        prefix = (
            f"launch {number} of {upto}{self.settings.launches}: "
            if self.settings.launches > 1
            else ""
        )
        if self.settings.paired:
            prefix = f"pair {number} of {upto}{self.settings.launches} ({side}): "
        return lambda text: self.progress(prefix + text)

    def _keep(self, cell: Cell, recorded: Recording, side: str) -> None:
        if self.settings.record is None:
            return
        folder = self.settings.record / side if self.settings.paired else self.settings.record
        period = "" if recorded.co_resident is None else f"-period{recorded.period}"
        path = folder / recorded.launch_id / f"{cell.slug}{period}{recording.SUFFIX}"
        try:
            recording.write(recorded, path)
        except OSError as error:
            raise RecordingError(
                f"the recording of {cell.name} cannot be written to {path}: {error.strerror}.\n"
                "Its figures are lost with it. Free space, or give another folder: --energy-record DIR"
            ) from None

    def _replay(self, cell: Cell) -> Evidence:
        new = self._replayed_launches(cell, self.settings.replay)
        if not self.settings.reference_replay or new.failure is not None:
            return new
        old = self._replayed_launches(cell, self.settings.reference_replay)
        if old.failure is not None:
            return old
        if len(old.measurements) != len(new.measurements):
            return Evidence(
                failure=f"{len(new.measurements)} launches of {cell.name} against {len(old.measurements)} of the reference make no pairs.\n"
                "Give as many recordings for --energy-reference-replay as for --energy-replay."
            )
        return replace(new, reference=old.measurements)

    def _replayed_launches(self, cell: Cell, folders: tuple[Path, ...]) -> Evidence:
        if folders not in self._replayed:
            self._replayed[folders] = _read_recordings(
                folders, of_one_engine=not self.settings.noise
            )
        found = self._replayed[folders].get(canonical_key(cell.key), [])
        if found:
            return Evidence(tuple(found))
        places = ", ".join(map(str, folders))
        message = f"no recording of {cell.name} in {places}"
        for others in self._replayed[folders].values():
            other = others[0].key
            if (other.get("model"), other.get("batch_size")) == (
                cell.key["model"],
                cell.batch_size,
            ):
                message += f"\none of the same model and batch size differs in {', '.join(key_differences(other, cell.key))}"
        return Evidence(
            failure=f"{message}\nRecord it with --energy-record DIR, or deselect the test with -k."
        )


def _evidence(cell: Cell, measured: Measured) -> Evidence:
    key = canonical_key(cell.key)
    return Evidence(tuple(measured["candidate"][key]), reference=tuple(measured["reference"][key]))


def _of_a_launch(variation: Variation | None) -> Spread | None:
    """How uncertain a launch is, judged by its turns."""
    return (
        None
        if variation is None
        else Spread(variation.by_periods / math.sqrt(2), variation.periods.degrees_of_freedom)
    )


def _gpu_name(measurements: Sequence[Measurement]) -> str:
    return str(measurements[0].environment.get("gpu_name"))


def _launch_key(cell: Cell) -> tuple[str, str, str]:
    return cell.engine, cell.model.location, canonical_key(cell.launch_args)


def _read_recordings(paths: Sequence[Path], of_one_engine: bool) -> dict[str, list[Measurement]]:
    """The measurements of the launches below `paths` by cell key, in order. Each recording is measured as it is read, and let go.

    Raises:
        RecordingError: a file is damaged, a path holds none, or a cell's recordings are of different engines or boards.
    """
    cells: dict[str, list[Measurement]] = {}
    for periods in recording.read_launches(paths):
        cells.setdefault(canonical_key(periods[0].key), []).append(measurement.measure(*periods))
    for launches in cells.values():
        launches.sort(key=lambda measured: measured.launch_id)
        differing = mixed([measured.environment for measured in launches])
        if differing and of_one_engine:
            raise RecordingError(
                f"the recordings of one cell differ in {differing}: they are no launches of one engine. Replay them apart."
            )
    return cells
