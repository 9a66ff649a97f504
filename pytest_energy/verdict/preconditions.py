"""What the rule's preconditions and limits look at: measurements and reference → Case. Pure.

rule.py has the preconditions in their order. Here is what each means.
"""

from collections.abc import Sequence

import numpy as np

from pytest_energy.measure.latency import LATENCIES
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric, metrics_of
from pytest_energy.measure.spread import NoiseFloor
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.baselines import NearMiss, other_gpus
from pytest_energy.verdict.judgement import NO_LIMITS, Limits, mean_power_w
from pytest_energy.verdict.rule import Case, Terms

_SAME_POWER_LIMIT_W = 1.0


def case_of(
    metric: Metric,
    candidate: Sequence[Measurement],
    reference: Baseline | None,
    limits: Limits,
    terms: Terms,
    noise: NoiseFloor,
    near_misses: Sequence[NearMiss],
    set_aside: str = "",
) -> Case:
    """What the rule looks at; the arguments are those of judge.py."""
    tolerance = terms.tolerance(metric, limits.tolerance)
    if metric is not metrics_of(candidate[0].key)[0]:
        limits = NO_LIMITS  # each limit is checked once
    faults = _faults(candidate, limits)
    if faults:
        return Case(metric, tolerance, (), (), noise, faults)
    return Case(
        metric=metric,
        tolerance=tolerance,
        candidate=[getattr(m, metric.value) for m in candidate],
        reference=getattr(reference, metric.value) if reference else (),
        noise=noise,
        not_comparable=_not_comparable(candidate, reference, terms.paired, near_misses)
        or ([set_aside] if set_aside else []),
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
    if reference.gpus != on:
        where = other_gpus(reference.gpus)
        return [f"the reference ran on {where}, the candidate on {' and '.join(on)}"]
    before = reference.environment
    for now in (measurement.environment for measurement in candidate):
        if not _same_power_limit(now, before):
            return [
                f"the power limit is {now.power_limit}, the baseline's was {before.power_limit}: "
                "energy under different limits cannot be compared"
            ]
        if now.energy_scope != before.energy_scope:
            return [
                "one was measured by the energy counter of a GPU, the other by that of a module "
                "(GPU, CPU and memory): they cannot be compared"
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
    broken = f"power {power_w:.1f} W is over the budget of {budget_w:g} W (max_power_w)"
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


def unfit_for_pairs(
    candidate: Sequence[Measurement], reference: Sequence[Measurement]
) -> list[str]:
    """Why the reference's launches cannot be compared with the candidate's."""
    faults = [f"reference, launch {m.launch_id}: {f}" for m in reference for f in m.faults]
    if reference and len({bool(m.co_resident) for m in (*candidate, *reference)}) > 1:
        faults.append(
            "only one side was measured with the other engine co-resident, so they are not pairs"
        )
    return faults
