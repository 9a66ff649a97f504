"""Measurements × reference × limits → Judgement.

rule.py decides. This gathers the facts that the rule looks at, and adds reasons in words and what
explains a change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pytest_energy.measure.latency import LATENCIES
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import ASSUMED_NOISE, NoiseFloor, expm1
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.store.baselines import Baseline, NearMiss, Store, other_gpus
from pytest_energy.store.noise import NoiseStore
from pytest_energy.verdict.attribution import split, what_changed
from pytest_energy.verdict.comparison import Comparison
from pytest_energy.verdict.judgement import Judgement, Limits, Sample, mean_power_w
from pytest_energy.verdict.rule import (
    Case,
    Decision,
    Terms,
    Verdict,
    decide,
    loss,
    on_ratio,
    tolerated,
)
from pytest_energy.verdict.variation import Variation, raised, variation

_SAME_POWER_LIMIT_W = 1.0
_NO_LIMITS, _ALONE = Limits(), Terms()


@dataclass
class Judge:
    """Judges the cells of a run by the stores as they were before the run wrote to them.

    Args:
        store, noise_store: of baselines and of the runner's noise.
        comparisons: cells × metrics that the run judges.
        paired: whether candidate and reference are interleaved.
    """

    store: Store
    noise_store: NoiseStore
    comparisons: int
    paired: bool
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
    ) -> Judgement:
        """Judge one metric of one cell.

        Args:
            metric, limits: what a test asks.
            candidate: one measurement per launch, at least one.
            reference: of the interleaved engine, one per pair; unless it is a stored baseline.
            budget: launches at most; None to judge all launches at once.

        Raises:
            BaselineError, NoiseError: a file is damaged.
        """
        unfit = _unfit_for_pairs(candidate, reference)
        if unfit:
            return self.invalid(metric, limits, unfit)
        key, gpu_name = candidate[0].key, candidate[0].environment.gpu_name
        baseline = Baseline.of(reference) if self.paired else self._stored(candidate[0])
        ids = {m.launch_id for m in candidate}
        ids |= {kept.launch_id for kept in (baseline.launches if baseline else ())}
        vary = {m: _variation(m, candidate, reference) for m in Metric}
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
            self.store.near_misses(key, gpu_name) if baseline is None else (),
            vary[metric],
        )

    def invalid(self, metric: Metric, limits: Limits, reasons: Sequence[str]) -> Judgement:
        """The judgement on a cell that could not be measured."""
        tolerance = Terms(paired=self.paired).tolerance(metric, limits.tolerance)
        return Judgement(metric, Verdict.INVALID, tolerance, tuple(reasons), paired=self.paired)

    def _stored(self, measured: Measurement) -> Baseline | None:
        gpu_name, on = measured.environment.gpu_name, measured.environment.gpus
        place = measured.key.canonical, gpu_name, on
        if place not in self._baselines:
            self._baselines[place] = self.store.find(measured.key, gpu_name, on)
        return self._baselines[place]


def judge(
    metric: Metric,
    candidate: Sequence[Measurement],
    reference: Baseline | None,
    limits: Limits = _NO_LIMITS,
    terms: Terms = _ALONE,
    noise: Mapping[Metric, NoiseFloor] = ASSUMED_NOISE,
    near_misses: Sequence[NearMiss] = (),
    vary: Variation | None = None,
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
    """
    case = _case(metric, candidate, reference, limits, terms, noise[metric], near_misses)
    decision = decide(case, terms)
    compared = reference if decision.ratio is not None else None
    few_pairs = terms.paired and decision.verdict is Verdict.INCONCLUSIVE
    return Judgement(
        metric=metric,
        verdict=decision.verdict,
        tolerance=case.tolerance,
        reasons=(*decision.reasons, *_in_words(case, decision, terms.paired)),
        ratio=decision.ratio,
        sample=None if case.faults else Sample.of(candidate, noise),
        baseline=reference,
        split=split(candidate, compared) if compared else None,
        only_over_budget=decision.verdict is not decision.by_comparison,
        over=(*case.over_budget, *case.slow) if compared else (),
        smallest_detected=decision.smallest_detected,
        noise=noise[metric] if compared or few_pairs else None,
        changed=_changed(candidate, compared) if compared else (),
        paired=terms.paired,
        variation=vary,
    )


def _case(
    metric: Metric,
    candidate: Sequence[Measurement],
    reference: Baseline | None,
    limits: Limits,
    terms: Terms,
    noise: NoiseFloor,
    near_misses: Sequence[NearMiss],
) -> Case:
    """What the rule looks at."""
    tolerance = terms.tolerance(metric, limits.tolerance)
    if metric is not Metric.JOULES_PER_TOKEN:
        limits = _NO_LIMITS  # each limit is checked once, with J/token
    faults = _faults(candidate, limits)
    if faults:
        return Case(metric, tolerance, (), (), noise, faults)
    return Case(
        metric=metric,
        tolerance=tolerance,
        candidate=[getattr(m, metric.value) for m in candidate],
        reference=getattr(reference, metric.value) if reference else (),
        noise=noise,
        not_comparable=_not_comparable(candidate, reference, terms.paired, near_misses),
        missing=_missing(near_misses) if reference is None else (),
        slow=_slow(candidate, limits),
        over_budget=_over_budget(candidate, limits),
    )


def _faults(candidate: Sequence[Measurement], limits: Limits) -> list[str]:
    """What makes a launch invalid, or impossible to hold against the limits."""
    faults = [f"launch {m.launch_id}: {f}" for m in candidate if not m.valid for f in m.faults]
    return faults + [
        f"launch {m.launch_id}: no latencies were recorded, so the test's latency limits cannot "
        "be checked"
        for m in candidate
        if m.valid and not limits.latencies_ms.keys() <= m.latencies_ms.keys()
    ]


def _not_comparable(
    candidate: Sequence[Measurement],
    reference: Baseline | None,
    paired: bool,
    near_misses: Sequence[NearMiss],
) -> list[str]:
    """Why the candidate must not be compared with its reference; empty if it may be."""
    if candidate[0].co_resident and not paired:
        return [
            "it was measured with another engine co-resident on the GPU, "
            "and a baseline is measured without one"
        ]
    if reference is None:
        return _missing(near_misses) if any(miss.other_hardware for miss in near_misses) else []
    on = candidate[0].environment.gpus
    if paired and reference.gpus != on:
        where = other_gpus(reference.gpus)
        return [f"the reference ran on {where}, the candidate on {' and '.join(on)}"]
    before = reference.environment
    for now in (measurement.environment for measurement in candidate):
        if not _same_power_limit(now, before):
            return [
                f"the power limit is {now.power_limit}, the baseline's was {before.power_limit}: "
                "energy under different limits cannot be compared"
            ]
    return []


def _same_power_limit(now: Fingerprint, before: Fingerprint) -> bool:
    limits = now.power_limit_w, before.power_limit_w
    if isinstance(limits[0], int | float) and isinstance(limits[1], int | float):
        return abs(limits[0] - limits[1]) <= _SAME_POWER_LIMIT_W
    return limits[0] == limits[1]


def _missing(near_misses: Sequence[NearMiss]) -> list[str]:
    """Why there is no baseline."""
    if not near_misses:
        return ["no baseline is stored for this cell"]
    return [f"no baseline fits: {miss.reason}" for miss in near_misses]


def _over_budget(candidate: Sequence[Measurement], limits: Limits) -> dict[str, str]:
    """How the power budget is broken, by its name in the marker."""
    budget_w, power_w = limits.max_power_w, mean_power_w(candidate)
    if budget_w is None or power_w <= budget_w:
        return {}
    broken = f"power {power_w:.0f} W is over the budget of {budget_w:.0f} W (max_power_w)"
    return {"max_power_w": broken}


def _slow(candidate: Sequence[Measurement], limits: Limits) -> dict[str, str]:
    """How the limits of latency are broken, by their names in the marker.

    A launch counts by its 99th percentile, and the launches by their median: one slow launch is no
    verdict.
    """
    broken = {}
    median = f", median of {len(candidate)} launches" if len(candidate) > 1 else ""
    for name, limit in limits.latencies_ms.items():
        p99_ms = float(np.median([m.latencies_ms[name]["p99"] for m in candidate]))
        if p99_ms > limit:
            figure = f"the {LATENCIES[name]} of {p99_ms:#.3g} ms (99th percentile{median})"
            broken[f"max_{name}_ms"] = f"{figure} is over the limit of {limit:g} ms (max_{name}_ms)"
    return broken


def _in_words(case: Case, decision: Decision, paired: bool) -> list[str]:
    """What there is to say of the comparison alone."""
    ratio, levels = decision.ratio, decision.levels
    if ratio is None or levels is None:
        return []
    if decision.by_comparison is not Verdict.INCONCLUSIVE:
        return _notes(ratio)
    if on_ratio(case.metric, ratio, case.tolerance, levels) is Verdict.PASS:
        return [
            "this gate cannot fire: launches differ so much that it would miss a change by a "
            "factor of two"
        ]
    unit = "pair" if paired else "launch"
    plural = "s" if paired else "es"
    launches = f"{ratio.launches} {unit}{plural if ratio.launches > 1 else ''}"
    if loss(case.metric, ratio) < tolerated(case.metric, case.tolerance):
        name = "rise" if case.metric is Metric.JOULES_PER_TOKEN else "fall"
        reason = (
            f"with {launches} a {name} as large as the tolerance of {case.tolerance:.1%} "
            "cannot be excluded"
        )
    else:
        by_chance = expm1(ratio.alarm_bound(1 - levels.alarm))
        chance = (
            f"one of up to {by_chance:.1%} may be chance"
            if by_chance < 1
            else "that says nothing yet"
        )
        reason = (
            f"the change reaches the tolerance of {case.tolerance:.1%}, "
            f"but with {launches} {chance}"
        )
    return [reason, *_notes(ratio)]


def _notes(ratio: Comparison) -> list[str]:
    if not ratio.floor_discarded:
        return []
    return [
        "the launches differ far more than the runner's measured noise: "
        "only their own spread is used"
    ]


def _unfit_for_pairs(
    candidate: Sequence[Measurement], reference: Sequence[Measurement]
) -> list[str]:
    """Why the reference's launches cannot be compared with the candidate's."""
    faults = [f"reference, launch {m.launch_id}: {f}" for m in reference for f in m.faults]
    if reference and len({bool(m.co_resident) for m in (*candidate, *reference)}) > 1:
        faults.append(
            "only one side was measured with the other engine co-resident, so they are not pairs"
        )
    return faults


def _variation(
    metric: Metric, candidate: Sequence[Measurement], reference: Sequence[Measurement]
) -> Variation | None:
    """Of periods and pairs; None without a reference, or if a launch is invalid."""
    if len(candidate) != len(reference) or not all(m.valid for m in (*candidate, *reference)):
        return None
    return variation(metric, candidate, reference)


def _changed(candidate: Sequence[Measurement], reference: Baseline) -> tuple[str, ...]:
    return tuple(what_changed(reference.environment, candidate[-1].environment))
