"""Measurements × reference × limits → Judgement.

rule.py decides; preconditions.py gathers what it looks at. This asks the stores and adds what
explains a change.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric, metrics_of
from pytest_energy.measure.spread import ASSUMED_NOISE, NoiseFloor
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.baselines import NearMiss, Store
from pytest_energy.store.noise import NoiseStore
from pytest_energy.verdict.attribution import (
    cached_shares,
    split,
    temperature_change,
    what_changed,
)
from pytest_energy.verdict.judgement import NO_LIMITS, Judgement, Limits, Sample
from pytest_energy.verdict.planning import launches_of_baseline, plan
from pytest_energy.verdict.preconditions import case_of, unfit_for_pairs
from pytest_energy.verdict.reasons import in_words, planned
from pytest_energy.verdict.rule import Terms, Verdict, decide, tolerated
from pytest_energy.verdict.slowdown import slowdown
from pytest_energy.verdict.variation import Variation, raised, variation

_ALONE = Terms()


@dataclass
class Judge:
    """Judges the cells of a run by the stores as they were before the run wrote to them.

    Args:
        store, noise_store: of baselines and of the runner's noise.
        comparisons: cells × metrics that the run judges.
        paired: whether candidate and reference are interleaved.
        counts: whether a baseline may be the reference; that of another engine may not if the user
            names the reference.
    """

    store: Store
    noise_store: NoiseStore
    comparisons: int
    paired: bool
    counts: Callable[[Baseline], bool] = lambda baseline: True
    _baselines: dict[tuple[str, str, tuple[str, ...]], Baseline | None] = field(
        default_factory=dict
    )

    def judge(
        self,
        metric: Metric,
        limits: Limits,
        candidate: Sequence[Measurement],
        reference: Sequence[Measurement] = (),
        budget: int | None = None,
        set_aside: str = "",
    ) -> Judgement:
        """Judge one metric of one cell.

        Args:
            metric, limits: what a test asks.
            candidate: one measurement per launch, at least one.
            reference: of the interleaved engine, one per pair, or of launches that stand in for a
                baseline; empty for the stored baseline.
            budget: launches at most; None to judge all launches at once.
            set_aside: why the stored baseline must not be compared with; empty if it may be.

        Raises:
            BaselineError, NoiseError: a file is damaged.
        """
        unfit = unfit_for_pairs(candidate, reference)
        if unfit:
            return self.invalid(metric, limits, unfit)
        key, gpu_name = candidate[0].key, candidate[0].environment.gpu_name
        on = candidate[0].environment.gpus
        measured = reference or self.paired
        baseline = Baseline.of(reference) if measured else self._stored(candidate[0])
        ids = {m.launch_id for m in candidate}
        ids |= {kept.launch_id for kept in (baseline.launches if baseline else ())}
        pairs = reference if self.paired else ()
        vary = {m: _variation(m, candidate, pairs) for m in metrics_of(key)}
        noise = {}
        for m, found in vary.items():
            floor = self.noise_store.floor(key, gpu_name, m, ids)
            noise[m] = raised(floor, found.of_launch if found else None)
        return judge(
            metric,
            candidate,
            baseline,
            limits,
            Terms(self.comparisons, budget, self.paired),
            noise,
            self.store.near_misses(key, gpu_name, on) if baseline is None else (),
            vary[metric],
            set_aside,
        )

    def launches_of_baseline(
        self, metric: Metric, limits: Limits, measured: Measurement
    ) -> int | None:
        """The least launches of a baseline against which one launch of an unchanged engine passes.

        Args:
            metric, limits: what a test asks.
            measured: a launch of its cell.

        Raises:
            NoiseError: a file is damaged.
        """
        tolerance = Terms(paired=self.paired).tolerance(metric, limits.tolerance)
        gpu_name = measured.environment.gpu_name
        noise = self.noise_store.floor(measured.key, gpu_name, metric, [measured.launch_id])
        return launches_of_baseline(tolerated(metric, tolerance), noise)

    def unmeasured(self, metric: Metric, limits: Limits, reasons: Sequence[str]) -> Judgement:
        """The judgement on a cell for which there was no time."""
        judgement = self.invalid(metric, limits, reasons)
        return replace(judgement, verdict=Verdict.INCONCLUSIVE, out_of_time=True)

    def invalid(self, metric: Metric, limits: Limits, reasons: Sequence[str]) -> Judgement:
        """The judgement on a cell that could not be measured."""
        tolerance = Terms(paired=self.paired).tolerance(metric, limits.tolerance)
        return Judgement(
            metric=metric,
            paired=self.paired,
            verdict=Verdict.INVALID,
            tolerance=tolerance,
            reasons=tuple(reasons),
        )

    def _stored(self, measured: Measurement) -> Baseline | None:
        gpu_name, on = measured.environment.gpu_name, measured.environment.gpus
        place = measured.key.canonical, gpu_name, on
        if place not in self._baselines:
            found = self.store.find(measured.key, gpu_name, on)
            self._baselines[place] = found if found and self.counts(found) else None
        return self._baselines[place]


def judge(
    metric: Metric,
    candidate: Sequence[Measurement],
    reference: Baseline | None,
    limits: Limits = NO_LIMITS,
    terms: Terms = _ALONE,
    noise: Mapping[Metric, NoiseFloor] = ASSUMED_NOISE,
    near_misses: Sequence[NearMiss] = (),
    vary: Variation | None = None,
    set_aside: str = "",
) -> Judgement:
    """Judge the launches of one cell by its reference.

    Args:
        metric: what is judged.
        candidate: one measurement per launch, at least one.
        reference: of the same cell and GPUs; None if there is none.
        limits: of the test.
        terms: of the run.
        noise: of the runner, between launches.
        near_misses: why other baselines do not fit, if there is no reference.
        vary: how much periods differ, of engines that were interleaved period by period.
        set_aside: why the reference must not be compared with; empty if it may be.
    """
    case = case_of(
        metric, candidate, reference, limits, terms, noise[metric], near_misses, set_aside
    )
    decision = decide(case, terms)
    compared = reference if decision.ratio is not None else None
    undecided = decision.ratio if decision.verdict is Verdict.INCONCLUSIVE else None
    plans = plan(case, undecided, terms) if undecided and not decision.blind else None
    few_pairs = terms.paired and decision.verdict is Verdict.INCONCLUSIVE
    return Judgement(
        metric=metric,
        verdict=decision.verdict,
        tolerance=case.tolerance,
        reasons=(
            *decision.reasons,
            *in_words(case, decision, terms.paired),
            *([planned(plans)] if plans else []),
        ),
        plan=plans,
        ratio=decision.ratio,
        candidate=None if case.faults else Sample.of(candidate, noise),
        reference=reference,
        split=split(candidate, compared) if compared else None,
        slowdown=slowdown(candidate, compared) if compared else None,
        cached=cached_shares(candidate, compared) if compared else None,
        by_limits_alone=decision.verdict is not decision.by_comparison,
        broken_limits=(*case.over_budget, *case.slow) if compared else (),
        smallest_detected=decision.smallest_detected,
        blind=decision.blind,
        noise=noise[metric] if compared or few_pairs else None,
        changed=_changed(candidate, compared) if compared else (),
        paired=terms.paired,
        variation=vary,
    )


def _variation(
    metric: Metric, candidate: Sequence[Measurement], reference: Sequence[Measurement]
) -> Variation | None:
    """Of periods and pairs; None without a reference, or if a launch is invalid."""
    if len(candidate) != len(reference) or not all(m.valid for m in (*candidate, *reference)):
        return None
    return variation(metric, candidate, reference)


def _changed(candidate: Sequence[Measurement], reference: Baseline) -> tuple[str, ...]:
    found = what_changed(reference.environment, candidate[-1].environment)
    return tuple(found + temperature_change(candidate, reference))
