"""One run: ask for evidence, ask for the verdict, update the store. Knows nothing of pytest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pytest_energy.cell.cell import Cell
from pytest_energy.errors import EnergyError, RecordingError
from pytest_energy.evidence import Evidence, LiveSource, ReplaySource, Source
from pytest_energy.launch import launch
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import Spread
from pytest_energy.settings import Settings
from pytest_energy.store.baselines import Baseline, Store, Update
from pytest_energy.store.noise import Noise, NoiseStore
from pytest_energy.verdict import comparison, judge
from pytest_energy.verdict.judge import Judgement, Variation
from pytest_energy.verdict.rule import Rule, Verdict


@dataclass(frozen=True)
class Question:
    """What one test asks: a metric of a cell, and its limits (None: the default)."""

    cell: Cell
    metric: Metric
    tolerance: float | None = None
    max_power_w: float | None = None
    max_ttft_ms: float | None = None
    max_itl_ms: float | None = None


@dataclass
class Session:
    """All questions of a run; each cell is measured once, whoever asks.

    Attributes:
        settings: of the run.
        questions: all that will be asked. Cells that share an engine launch are measured together,
            and all comparisons share the error level.
        open_meter: opens a meter for the GPUs with the given UUIDs.
        progress: called with a few words on what is going on.
    """

    settings: Settings
    questions: Sequence[Question]
    open_meter: launch.OpenMeter
    progress: launch.Progress
    _updates: dict[str, Update | EnergyError | OSError] = field(default_factory=dict)
    _baselines: dict[tuple[str, str, tuple[str, ...]], Baseline | None] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        self.store = Store(self.settings.baselines)
        self.noise_store = NoiseStore(self.settings.baselines)
        cells = {question.cell.key.canonical: question.cell for question in self.questions}
        self._source: Source = (
            ReplaySource(self.settings)
            if self.settings.replay
            else LiveSource(
                self.settings,
                list(cells.values()),
                self.open_meter,
                self.progress,
                self.noise_store,
                self._is_decided,
                self._check_store,
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
            return self._invalid(question, [evidence.failure])
        # All recordings of a replay are judged at once, so its error level is not shared by looks.
        launches = None if self.settings.replay else self.settings.launches
        return self._judge(question, evidence, launches)

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
                question.metric.value: Rule().tolerance(question.metric, question.tolerance)
                for question in self._questions_on(cell)
            }
            try:
                self._updates[key] = self.store.update(
                    self._all_launches(cell), tolerance, self.settings.update_reason
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

        Only those of the GPU models, numbers of GPUs and engines that were seen in this run: suites
        for others are run by name.
        """
        seen = {
            (_gpu_name([m]), len(m.environment.gpus), m.key.engine)
            for evidence in self._source.found.values()
            for m in evidence.measurements
        }
        asked = {question.cell.key.canonical for question in self.questions}
        return [
            entry
            for entry in self.store.entries()
            if (entry.gpu_name, len(entry.gpus), entry.key.engine) in seen
            and entry.key.canonical not in asked
        ]

    def _check_store(self) -> None:
        """A damaged file must not cost GPU time."""
        self.store.entries()
        self.noise_store.check()

    def _is_decided(self, cell: Cell, evidence: Evidence) -> bool:
        """Whether every question on the cell has its verdict, so it needs no further launch."""
        budget = self.settings.launches
        looks = comparison.looks(budget, Rule(paired=self.settings.paired).first_look)
        if self.settings.update or self.settings.noise or len(evidence.measurements) not in looks:
            return False
        return not any(
            self._judge(question, evidence, budget).undecided
            for question in self._questions_on(cell)
        )

    def _questions_on(self, cell: Cell) -> list[Question]:
        key = cell.key.canonical
        return [question for question in self.questions if question.cell.key.canonical == key]

    def _all_launches(self, cell: Cell) -> tuple[Measurement, ...]:
        evidence = self.evidence(cell)
        if evidence.failure is not None:
            raise RecordingError(evidence.failure)
        return evidence.measurements

    def _invalid(self, question: Question, reasons: Sequence[str]) -> Judgement:
        paired = self.settings.paired
        tolerance = Rule(paired=paired).tolerance(question.metric, question.tolerance)
        return Judgement(question.metric, Verdict.INVALID, tolerance, tuple(reasons), paired=paired)

    def _baseline(self, cell: Cell, evidence: Evidence) -> Baseline | None:
        """What the cell is compared with: the reference engine, or the stored baseline."""
        if self.settings.paired:
            return Baseline.of(evidence.reference)
        first = evidence.measurements[0]
        place = cell.key.canonical, _gpu_name([first]), first.environment.gpus
        if place not in self._baselines:
            self._baselines[place] = self.store.find(cell.key, *place[1:])
        return self._baselines[place]

    def _judge(self, question: Question, evidence: Evidence, budget: int | None) -> Judgement:
        cell, measurements = question.cell, evidence.measurements
        faults = _unfit_for_pairs(evidence)
        if faults:
            return self._invalid(question, faults)
        gpu_name, baseline = _gpu_name(measurements), self._baseline(cell, evidence)
        ids = {m.launch_id for m in measurements}
        ids |= {kept.launch_id for kept in (baseline.launches if baseline else ())}
        variation = {metric: _variation(metric, evidence) for metric in Metric}
        noise = {
            metric: comparison.raised(
                self.noise_store.floor(cell.key, gpu_name, metric, ids),
                _of_a_launch(variation[metric]),
            )
            for metric in Metric
        }
        judged = judge.judge(
            question.metric,
            measurements,
            baseline,
            self.store.near_misses(cell.key, gpu_name) if baseline is None else [],
            question.tolerance,
            question.max_power_w,
            Rule(self.comparisons, budget, noise, self.settings.paired),
            question.max_ttft_ms,
            question.max_itl_ms,
        )
        return replace(judged, variation=variation[question.metric])


def _unfit_for_pairs(evidence: Evidence) -> list[str]:
    """Why the reference's launches cannot be compared with the candidate's."""
    reference = evidence.reference
    faults = [f"reference, launch {m.launch_id}: {fault}" for m in reference for fault in m.faults]
    modes = {bool(m.co_resident) for m in (*evidence.measurements, *reference)}
    if reference and len(modes) > 1:
        faults.append(
            "only one side was measured with the other engine co-resident, so they are not pairs"
        )
    return faults


def _variation(metric: Metric, evidence: Evidence) -> Variation | None:
    """Of periods and pairs; None without a reference, or if a launch is invalid."""
    sides = evidence.measurements, evidence.reference
    if len(sides[0]) != len(sides[1]) or not all(m.valid for side in sides for m in side):
        return None
    return judge.variation(metric, *sides)


def _of_a_launch(variation: Variation | None) -> Spread | None:
    """How uncertain a launch is, by its periods."""
    if variation is None:
        return None
    return Spread(variation.by_periods / math.sqrt(2), variation.periods.degrees_of_freedom)


def _gpu_name(measurements: Sequence[Measurement]) -> str:
    return measurements[0].environment.gpu_name
