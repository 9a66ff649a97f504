"""One run: which cells are selected, where their measurements come from, what is judged and what is written.

Knows nothing of pytest. The plugin makes one of these and asks it; reports are made from what it answers.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_energy import gate, live, measurement, recording
from pytest_energy.baselines import Baseline, Store, Update, mixed
from pytest_energy.cell import Cell, canonical_key, key_differences
from pytest_energy.errors import EngineError, MeterError, RecordingError
from pytest_energy.gate import Judgement, Metric, Verdict
from pytest_energy.measurement import Measurement
from pytest_energy.recording import Recording
from pytest_energy.settings import Settings


@dataclass(frozen=True)
class Evidence:
    """What is known of one cell: its measurements, one per launch, or why there are none (or not all)."""

    measurements: tuple[Measurement, ...] = ()
    failure: str | None = None


@dataclass
class Session:
    """Measures each cell once, whoever asks, and remembers.

    Args:
        settings: what the user asked for.
        open_meter: opens a meter for the GPUs with the given UUIDs.
        progress: told, in a few words, what is going on.
    """

    settings: Settings
    open_meter: live.OpenMeter
    progress: Callable[[str], None]
    _cells: list[Cell] = field(default_factory=list)
    _evidence: dict[str, Evidence] = field(default_factory=dict)
    _updates: dict[str, Update] = field(default_factory=dict)
    _baselines: dict[str, Baseline | None] = field(default_factory=dict)
    _comparisons: int = 1
    _replayed: dict[str, list[Recording]] | None = None

    def __post_init__(self) -> None:
        self.store = Store(self.settings.baselines)

    def select(self, asked: Iterable[tuple[Cell, Metric]]) -> None:
        """Say what this run will ask for: cells that share a launch are measured in one, and all comparisons share the error level."""
        asked = list(asked)
        self._cells = list({canonical_key(cell.key): cell for cell, _ in asked}.values())
        self._comparisons = max(1, len(asked))

    def evidence(self, cell: Cell) -> Evidence:
        """The cell's measurements; the first call for a launch measures all selected cells that share it."""
        key = canonical_key(cell.key)
        if key not in self._evidence:
            if self.settings.replay:
                self._evidence[key] = self._replay(cell)
            else:
                self._measure_launch_group(cell)
        return self._evidence[key]

    def judge(self, cell: Cell, metric: Metric, tolerance: float | None = None, max_power_w: float | None = None) -> Judgement:
        """Judge one metric of one cell against the store as it was before this run's updates.

        Raises:
            BaselineError: a baseline file is damaged.
        """
        evidence = self.evidence(cell)
        if evidence.failure is not None:
            tolerance = gate.DEFAULT_TOLERANCE[metric] if tolerance is None else tolerance
            return Judgement(metric, Verdict.INVALID, tolerance, (evidence.failure,))
        gpu_name = str(evidence.measurements[0].environment.get("gpu_name"))
        key = canonical_key(cell.key)
        if key not in self._baselines:
            self._baselines[key] = self.store.find(cell.key, gpu_name)
        baseline = self._baselines[key]
        near_misses = self.store.near_misses(cell.key, gpu_name) if baseline is None else []
        return gate.judge(metric, evidence.measurements, baseline, near_misses, tolerance, max_power_w, self._comparisons)

    def update(self, cell: Cell) -> Update:
        """Make the cell's launches its baseline, once per run.

        Raises:
            BaselineError: refused; nothing was written.
            EngineError, RecordingError: there are no measurements.
        """
        key = canonical_key(cell.key)
        if key not in self._updates:
            evidence = self.evidence(cell)
            if evidence.failure is not None:
                raise RecordingError(evidence.failure)
            self._updates[key] = self.store.update(evidence.measurements)
        return self._updates[key]

    def unused_baselines(self) -> list[Baseline]:
        """Baselines of the GPU models seen in this run that no selected cell asks for."""
        selected = {canonical_key(cell.key) for cell in self._cells}
        gpu_names = {str(m.environment.get("gpu_name")) for evidence in self._evidence.values() for m in evidence.measurements}
        return [entry for entry in self.store.entries() if entry.gpu_name in gpu_names and canonical_key(entry.key) not in selected]

    def _measure_launch_group(self, cell: Cell) -> None:
        group = [c for c in self._cells if _launch_key(c) == _launch_key(cell)] or [cell]
        measured: dict[str, list[Measurement]] = {canonical_key(c.key): [] for c in group}
        failure = None
        for number in range(self.settings.launches):
            progress = self._numbered(number)
            try:
                # Closed at once whatever happens here, and the engine with it.
                with contextlib.closing(live.record_launch(group, self.settings.launch, self.open_meter, progress)) as launched:
                    for done, recorded in launched:
                        self._keep(done, recorded)
                        measured[canonical_key(done.key)].append(measurement.measure(recorded))
            except (EngineError, MeterError, RecordingError) as error:
                failure = str(error)
                break
            except Exception as error:
                # Not foreseen, so let it be seen whole, once; the group's other tests must not launch engines over and over.
                for c in group:
                    self._evidence[canonical_key(c.key)] = Evidence(failure=f"measuring failed: {type(error).__name__}: {error}")
                raise
        for c in group:
            values = tuple(measured[canonical_key(c.key)])
            missing = failure if len(values) < self.settings.launches else None
            self._evidence[canonical_key(c.key)] = Evidence(values, missing)

    def _numbered(self, number: int) -> Callable[[str], None]:
        prefix = f"launch {number + 1} of {self.settings.launches}: " if self.settings.launches > 1 else ""
        return lambda text: self.progress(prefix + text)

    def _keep(self, cell: Cell, recorded: Recording) -> None:
        if self.settings.record is None:
            return
        path = self.settings.record / recorded.launch_id / f"{cell.slug}{recording.SUFFIX}"
        try:
            recording.write(recorded, path)
        except OSError as error:
            raise RecordingError(
                f"the recording of {cell.name} cannot be written to {path}: {error.strerror}.\n"
                "Its figures are lost with it. Free space, or give another folder: --energy-record DIR"
            ) from None

    def _replay(self, cell: Cell) -> Evidence:
        if self._replayed is None:
            self._replayed = _read_recordings(self.settings.replay)
        found = self._replayed.get(canonical_key(cell.key), [])
        if found:
            return Evidence(tuple(measurement.measure(recorded) for recorded in found))
        places = ", ".join(map(str, self.settings.replay))
        message = f"no recording of {cell.name} in {places}"
        for recordings in self._replayed.values():
            other = recordings[0].key
            if (other.get("model"), other.get("batch_size")) == (cell.key["model"], cell.batch_size):
                message += f"\none of the same model and batch size differs in {', '.join(key_differences(other, cell.key))}"
        return Evidence(failure=f"{message}\nRecord it with --energy-record DIR, or deselect the test with -k.")


def _launch_key(cell: Cell) -> tuple[str, str]:
    return cell.model.location, canonical_key(cell.launch_args)


def _read_recordings(paths: Sequence[Path]) -> dict[str, list[Recording]]:
    """Recordings below `paths` by cell key, a launch once, in order of their launch.

    Raises:
        RecordingError: a file is damaged, a path holds none, or a cell's recordings are of different engines or GPU models.
    """
    by_launch: dict[tuple[str, str], Recording] = {}
    for path in paths:
        for file in recording.find(path):
            recorded = recording.read(file)
            by_launch[canonical_key(recorded.key), recorded.launch_id] = recorded
    cells: dict[str, list[Recording]] = {}
    for (key, _), recorded in sorted(by_launch.items(), key=lambda item: item[0]):
        cells.setdefault(key, []).append(recorded)
    for recordings in cells.values():
        differing = mixed([recorded.environment for recorded in recordings])
        if differing:
            raise RecordingError(
                f"the recordings of one cell differ in {differing}: they are no launches of one engine. Replay them apart."
            )
    return cells
