"""Which launches the questions of a run still ask for, by the verdicts on those so far."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_energy import reference
from pytest_energy.cell.cell import Cell
from pytest_energy.evidence import Evidence
from pytest_energy.reference import StandIn
from pytest_energy.settings import DEFAULT_LAUNCHES, Settings
from pytest_energy.store.baselines import Store
from pytest_energy.told import Question, Told
from pytest_energy.verdict.judge import Judge
from pytest_energy.verdict.judgement import Judgement
from pytest_energy.verdict.rule import Terms, Verdict

_ASKS_FOR_REFERENCE = {Verdict.REGRESSED, Verdict.NOT_COMPARABLE, Verdict.NO_BASELINE}


@dataclass(frozen=True)
class Further:
    """Asks the judge about the launches so far.

    Attributes:
        settings, questions: of the run.
        store, judge: of baselines, and by them.
        stand_in: the reference that stands in for baselines; None if none does.
    """

    settings: Settings
    questions: Sequence[Question]
    store: Store
    judge: Judge
    stand_in: StandIn | None

    def judgement(self, question: Question, evidence: Evidence, budget: int | None) -> Judgement:
        """What the launches so far say; `budget` as in `Judge.judge`."""
        judgement = self.judge.judge(
            question.metric,
            question.limits,
            evidence.measurements,
            evidence.reference,
            budget,
            self._set_aside(question.cell, evidence),
        )
        return replace(
            judgement, left_out=evidence.left_out, reference_from=evidence.reference_from
        )

    def is_decided(self, cell: Cell, evidence: Evidence) -> bool:
        """Whether every question on the cell has its verdict, so it needs no further launch."""
        budget = self.settings.launches
        looks = Terms(budget=budget, paired=self.settings.paired).looks()
        if self.settings.exactly:
            return False
        if self.settings.update:
            return len(evidence.measurements) >= self._launches_of_baseline(cell, evidence)
        if len(evidence.measurements) not in looks:
            return False
        return not any(
            self.judgement(question, evidence, budget).undecided
            for question in self.questions_on(cell)
        )

    def reference_wanted(self, cell: Cell, evidence: Evidence) -> int:
        """How many launches of the reference, made in this run, the cell's verdict asks for.

        A stored or cached launch may pass an engine; that it regressed is said only by launches of
        this run, whatever has changed about the machine since then, and by these alone on a GPU
        that has left its band. Baselines from before the machine changed are set aside.
        """
        made = len(evidence.measurements)
        if not made or self.settings.update or not self.settings.reference_first:
            return 0
        on = evidence.measurements[-1].environment
        if self.settings.reference is None and not reference.may_install(cell.key, on, self.store):
            return 0
        trusted = self.stand_in is None or not (
            self.stand_in.is_out_of_band(on) or self._set_aside(cell, evidence)
        )
        in_run = evidence.reference_from == "run"
        if not in_run and trusted and not self._asks_for_reference(cell, evidence):
            return 0
        return min(made + 1, reference.MOST_LAUNCHES)

    def _set_aside(self, cell: Cell, evidence: Evidence) -> str:
        """Why the cell's baseline stands for no launch made now; empty if it does, or need not."""
        if self.stand_in is None or evidence.reference_from or not evidence.measurements:
            return ""
        on = evidence.measurements[-1].environment
        stored = self.store.find(cell.key, on.gpu_name, on.gpus)
        counts = stored is not None and self.judge.counts(stored)
        return self.stand_in.set_aside(stored, on) if stored and counts else ""

    def _asks_for_reference(self, cell: Cell, evidence: Evidence) -> bool:
        """Whether what is stored or cached does not do; asked where a run looks at its launches."""
        made, budget = len(evidence.measurements), self.settings.launches
        if made not in Terms(budget=budget).looks():
            return False
        judged = [self.judgement(q, evidence, budget) for q in self.questions_on(cell)]
        # As many launches on both sides as without a cache may decide.
        few = made > 1 and evidence.reference_from == "cache"
        return any(
            (j.verdict in _ASKS_FOR_REFERENCE and not (j.by_limits_alone and j.ratio))
            or (few and j.undecided)
            for j in judged
        )

    def _launches_of_baseline(self, cell: Cell, evidence: Evidence) -> int:
        """As many as the noise asks for, so that one launch of an unchanged engine passes."""
        if not evidence.measurements:
            return self.settings.launches
        of_questions = [
            self.judge.launches_of_baseline(q.metric, q.limits, evidence.measurements[0])
            for q in self.questions_on(cell)
        ]
        most = max(launches or DEFAULT_LAUNCHES for launches in of_questions)
        return min(most, self.settings.launches)

    def questions_on(self, cell: Cell) -> list[Question]:
        """Those that are asked about a cell."""
        key = cell.key.canonical
        return [question for question in self.questions if question.cell.key.canonical == key]

    def without_reference(
        self, question: Question, evidence: Evidence, verdict: Verdict, told: Told, ended: str
    ) -> list[str]:
        """Why the reference was launched less often than a verdict asked for; or nothing.

        Args:
            question, evidence, verdict: of one metric of one cell.
            told: what has stopped tests so far.
            ended: that there was no time for more launches, in words.
        """
        asks = verdict in _ASKS_FOR_REFERENCE
        if evidence.reference_failure and (asks or verdict is Verdict.INCONCLUSIVE):
            failure = told.failure(evidence.reference_failure, question)
            return [f"the reference could not be launched on this GPU: {failure}"]
        first = self.settings.reference_first and evidence.reference_from != "run"
        if asks and first and evidence.out_of_time:
            return [f"the reference was not launched: {ended}"]
        return []
