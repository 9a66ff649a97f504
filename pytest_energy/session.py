"""One run: ask for evidence, ask for the verdict, update the store. Knows nothing of pytest."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pytest_energy import reference
from pytest_energy.cell.cell import Cell
from pytest_energy.errors import EnergyError, LaunchError, RecordingError
from pytest_energy.evidence import Evidence, Source
from pytest_energy.further import Further
from pytest_energy.launch import launch
from pytest_energy.launch.load import Progress
from pytest_energy.live import LiveSource
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric
from pytest_energy.replay import ReplaySource
from pytest_energy.settings import Settings
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.baselines import Store, Update
from pytest_energy.store.noise import Noise, NoiseStore
from pytest_energy.told import Question, Told
from pytest_energy.verdict.judge import Judge
from pytest_energy.verdict.judgement import Judgement
from pytest_energy.verdict.rule import Terms


@dataclass
class Session:
    """All questions of a run; each cell is measured once, whoever asks.

    Attributes:
        settings: of the run.
        questions: all that will be asked. Cells that share an engine launch are measured together,
            and all comparisons share the error level.
        open_meter: opens a meter for the GPUs with the given UUIDs.
        progress: called with a few words on what is going on.
        clock: monotonic, in seconds.
        told: what has stopped tests so far.
    """

    settings: Settings
    questions: Sequence[Question]
    open_meter: launch.OpenMeter
    progress: Progress
    clock: Callable[[], float] = time.monotonic
    told: Told = field(default_factory=Told)
    _updates: dict[str, Update | EnergyError | OSError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = Store(self.settings.baselines)
        self.noise_store = NoiseStore(self.settings.baselines)
        cells = {question.cell.key.canonical: question.cell for question in self.questions}
        self.settings, self.why_interleaved = reference.resolved(
            self.settings, list(cells.values()), self.store
        )
        self._judge = Judge(
            self.store, self.noise_store, self.comparisons, paired=self.settings.paired
        )
        stand_in = None
        if self.settings.reference_first:
            self._judge.counts, stand_in = reference.stand_in(
                self.settings, list(cells.values()), self.store, self.progress
            )
        self._further = Further(self.settings, self.questions, self.store, self._judge, stand_in)
        self._source: Source = (
            ReplaySource(self.settings)
            if self.settings.replay
            else LiveSource(
                self.settings,
                list(cells.values()),
                self.open_meter,
                self.progress,
                self._further.is_decided,
                self._check_store,
                self._further.reference_wanted,
                stand_in,
                self.clock,
            )
        )

    def close(self) -> None:
        """Let other runs use the GPUs."""
        self._source.close()

    @property
    def comparisons(self) -> int:
        """Cells × metrics of this run."""
        return max(1, len(self.questions))

    def evidence(self, cell: Cell) -> Evidence:
        """The cell's measurements; the first call measures all cells that share its launch.

        Raises:
            BaselineError, NoiseError: a file that the verdict needs is damaged; nothing was
                measured.
            RecordingError: recordings to replay cannot be read.
        """
        return self._source.evidence(cell)

    def judge(self, question: Question) -> Judgement:
        """Judge one metric of one cell against the store as it was before this run's updates.

        Raises:
            BaselineError, NoiseError, RecordingError: a file is damaged.
        """
        evidence = self.evidence(question.cell)
        if evidence.failure is not None:
            reason = self.told.failure(evidence.failure, question)
            return self._judge.invalid(question.metric, question.limits, [reason])
        if not evidence.measurements:
            return self._judge.unmeasured(question.metric, question.limits, [self.out_of_time])
        # All recordings of a replay are judged at once, so its error level is not shared by looks.
        launches = None if self.settings.replay else self.settings.launches
        judgement = self._further.judgement(question, evidence, launches)
        ended = self.out_of_time if evidence.out_of_time else ""
        why = self._further.without_reference(
            question, evidence, judgement.verdict, self.told, ended
        )
        judgement = replace(judgement, reasons=(*judgement.reasons, *why))
        if not (evidence.out_of_time and judgement.undecided):
            return judgement
        reasons = (*judgement.reasons, self.out_of_time)
        return replace(judgement, reasons=reasons, out_of_time=True)

    @property
    def out_of_time(self) -> str:
        """Why a cell got no further launch."""
        limit = self.settings.gpu_minutes
        return f"no further launch would have ended within --energy-minutes {limit:g}"

    def update(self, cell: Cell) -> Update:
        """Make the cell's launches its baseline, once per run: an update that failed stays failed.

        Raises:
            BaselineError: refused; nothing was written.
            RecordingError: there are no measurements.
            OSError: nothing was written.
        """
        key = cell.key.canonical
        if key not in self._updates:
            # Compared with earlier baselines, so by their tolerances, whatever this run compares.
            tolerance = {
                question.metric.value: Terms().tolerance(question.metric, question.limits.tolerance)
                for question in self._further.questions_on(cell)
            }
            try:
                self._updates[key] = self.store.update(
                    self._all_launches(cell),
                    tolerance,
                    self.settings.update_reason,
                    self.evidence(cell).reference,
                )
            except (EnergyError, OSError) as error:
                self._updates[key] = error
        updated = self._updates[key]
        if isinstance(updated, Exception):
            raise updated
        return updated

    def add_noise(self, cell: Cell) -> None:
        """Add the cell's launches to the runner's noise; each counts once, however often added.

        Raises:
            NoiseError: refused; nothing was written.
            RecordingError: there are no measurements.
            OSError: nothing was written.
        """
        self.noise_store.add(self._all_launches(cell))

    def noise(self, cell: Cell, metric: Metric) -> Noise:
        """What is known of the runner's noise in this cell."""
        return self.noise_store.noise(cell.key, _gpu_name(self._all_launches(cell)), metric)

    def unused_baselines(self) -> list[Baseline]:
        """Baselines that no test of this run asks for.

        Only those of the GPU models, numbers of GPUs, engines and workloads that were seen in this
        run: suites for others are run by name.
        """
        seen = {
            (_gpu_name([m]), len(m.environment.gpus), m.key.engine, m.key.workload)
            for evidence in self._source.found.values()
            for m in evidence.measurements
        }
        asked = {question.cell.key.canonical for question in self.questions}
        return [
            entry
            for entry in self.store.entries()
            if (entry.gpu_name, len(entry.gpus), entry.key.engine, entry.key.workload) in seen
            and entry.key.canonical not in asked
        ]

    def _check_store(self) -> None:
        """A damaged file must not cost GPU time."""
        self.store.entries()
        self.noise_store.check()

    def _all_launches(self, cell: Cell) -> tuple[Measurement, ...]:
        evidence = self.evidence(cell)
        if evidence.failure is not None:
            raise LaunchError(evidence.failure)
        if not evidence.measurements or (evidence.out_of_time and self.settings.update):
            raise RecordingError(
                f"{self.out_of_time}: {len(evidence.measurements)} were made, which is too few.\n"
                "Give it more GPU minutes."
            )
        return evidence.measurements


def _gpu_name(measurements: Sequence[Measurement]) -> str:
    return measurements[0].environment.gpu_name
