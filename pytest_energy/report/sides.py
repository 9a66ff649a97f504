"""Measurements and stored baselines as the cells, GPUs and sides of results.json.

Intervals are those of the summary table: over launches, moderated by the runner's noise
(docs/statistics.md). No noise of power is stored. From three launches on, their own spread gives
its interval (Student t). For fewer, power = J/token × tokens/s bounds its deviation by the sum of
theirs, and that sum is used.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_energy.cell.key import CellKey, WorkloadKey
from pytest_energy.measure import measurement
from pytest_energy.measure.change import Drift
from pytest_energy.measure.limits import StepTimes
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric, metrics_of
from pytest_energy.measure.per_request import per_request
from pytest_energy.measure.spread import NoiseFloor, expm1
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.report.results import (
    Gpu,
    IdleSide,
    Interval,
    ReportedCell,
    ReportedDrift,
    ReportedIdle,
    ReportedLaunch,
    ReportedSide,
    ReportedSteps,
    digits,
    interval,
)
from pytest_energy.settings import MIN_LAUNCHES
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.noise import NoiseStore
from pytest_energy.verdict import comparison
from pytest_energy.verdict.judgement import Sample

Floors = Mapping[Metric, NoiseFloor]
_NO_NOISE = NoiseFloor(deviation=0.0, degrees_of_freedom=0, measured=True)


def floors_of(store: NoiseStore, key: CellKey, gpu_name: str, launch_ids: Sequence[str]) -> Floors:
    """The noise floors that the intervals of these launches rest on."""
    return {
        metric: store.floor(key, gpu_name, metric, frozenset(launch_ids))
        for metric in metrics_of(key)
    }


def side_of_launches(measurements: Sequence[Measurement], floors: Floors) -> ReportedSide:
    """Valid measurements of one engine, at least one, one per launch."""
    launches = list(map(_launch, measurements))
    newest = max((m.environment for m in measurements), key=lambda e: str(e.date))
    return _side(launches, newest, floors, measurements[0].key.workload)


def _launch(m: Measurement) -> ReportedLaunch:
    steady = m.steadiness
    return ReportedLaunch(
        m.launch_id,
        m.joules_per_token,
        m.power_w,
        m.tokens_per_s,
        known(m.static_power_w),
        measurement.mean_gpu_power_w([m]),
        cycles=len(m.cycles.time_s) if m.cycles else None,
        dropped_cycles=m.dropped_cycles,
        power_drift=_drift(steady.power_drift) if steady else None,
        tokens_per_s_drift=_drift(steady.pace_drift) if steady else None,
        steps=_steps(m.step_times) if m.step_times else None,
        cached_share=m.cached_share,
    )


def _steps(found: StepTimes) -> ReportedSteps:
    return ReportedSteps(
        captured_tokens=found.captured_tokens,
        steps_outside=found.steps_outside,
        time_outside=found.time_outside,
        steps_with_prompts=found.steps_with_prompts,
        time_with_prompt=found.time_with_prompt,
        host_bound=found.host_bound,
        step_ms=found.step_ms,
        prompt_ms=found.prompt_ms,
    )


def _drift(found: Drift) -> ReportedDrift:
    return ReportedDrift(expm1(found.size), found.error)


def side_of_baseline(baseline: Baseline, floors: Floors) -> ReportedSide:
    """A stored baseline, or the other engine of an interleaved comparison."""
    series = zip(
        baseline.launches,
        baseline.joules_per_token,
        baseline.power_w,
        baseline.tokens_per_s,
        strict=True,
    )
    launches = [
        ReportedLaunch(
            launch.launch_id,
            jpt,
            power_w,
            rate,
            known(launch.static_power_w),
            cycles=len(launch.joules_per_token),
            cached_share=launch.cached_share,
        )
        for launch, jpt, power_w, rate in series
    ]
    return _side(launches, baseline.environment, floors, baseline.key.workload)


def idle_of(candidate: Sample | None, reference: Baseline | None) -> ReportedIdle:
    """An engine at idle, and what it is compared with."""
    return ReportedIdle(
        _at_idle(Baseline.of(candidate.launches)) if candidate else None,
        _at_idle(reference) if reference else None,
    )


def _at_idle(launches: Baseline) -> IdleSide:
    return IdleSide(
        vllm=launches.environment.vllm or "?",
        settings_under_test=launches.environment.settings_under_test,
        power_w=launches.summary.power_w,
        without_engine_w=known(launches.without_engine_w),
        cpu_cores=launches.cpu_cores,
        launches=tuple(kept.launch_id for kept in launches.launches),
    )


def _side(
    launches: Sequence[ReportedLaunch],
    environment: Fingerprint,
    floors: Floors,
    workload: WorkloadKey,
) -> ReportedSide:
    power_w = [launch.power_w for launch in launches]
    static_w = [launch.static_power_w for launch in launches if launch.static_power_w is not None]
    own_spread = len(power_w) >= MIN_LAUNCHES
    of_power = comparison.estimate(power_w, _NO_NOISE if own_spread else floor_of_power(floors))
    energy = _estimate(
        [launch.joules_per_token for launch in launches], floors[Metric.JOULES_PER_TOKEN]
    )
    quoted = per_request(energy.value, workload)
    return ReportedSide(
        vllm=environment.vllm or "?",
        settings_under_test=environment.settings_under_test,
        date=environment.date or "",
        launches=tuple(launches),
        joules_per_token=energy,
        power_w=interval(math.fsum(power_w) / len(power_w), of_power.low, of_power.high),
        tokens_per_s=_estimate(
            [launch.tokens_per_s for launch in launches], floors[Metric.TOKENS_PER_S]
        ),
        static_power_w=(
            math.fsum(static_w) / len(static_w) if len(static_w) == len(launches) else None
        ),
        joules_per_total_token=digits(quoted.joules_per_total_token) if quoted else None,
        wh_per_1000_requests=digits(quoted.wh_per_1000_requests) if quoted else None,
        experts=environment.experts,
    )


def known(value: float | None) -> float | None:
    """The value; None if it carries no information: zero watts, or an unbounded change."""
    return value if value is not None and 0 < value < 1e99 else None


def _estimate(values: Sequence[float], floor: NoiseFloor) -> Interval:
    estimate = comparison.estimate(values, floor)
    return interval(estimate.value, estimate.low, estimate.high)


def floor_of_power(floors: Floors) -> NoiseFloor:
    """The largest that power can have, given that of J/token and tokens/s; at idle its own."""
    if Metric.IDLE_POWER_W in floors:
        return floors[Metric.IDLE_POWER_W]
    energy, rate = floors[Metric.JOULES_PER_TOKEN], floors[Metric.TOKENS_PER_S]
    return NoiseFloor(
        deviation=energy.deviation + rate.deviation,
        degrees_of_freedom=min(energy.degrees_of_freedom, rate.degrees_of_freedom),
        measured=energy.measured and rate.measured,
    )


def reported_cell(key: CellKey) -> ReportedCell:
    """A cell by its key."""
    return ReportedCell(
        name=key.name,
        model=key.model,
        engine=key.engine,
        batch_size=key.batch_size,
        input_tokens=_same_for_all(key.workload.input_tokens) or None,
        output_tokens=_same_for_all(key.workload.output_tokens) or None,
        key=key,
    )


def _same_for_all(length: Any) -> int | None:
    """A length of a key; None if requests differ in it."""
    return length if isinstance(length, int) else None


def reported_gpu(environment: Fingerprint) -> Gpu:
    """The GPUs of a fingerprint."""
    limit_w = environment.power_limit_w
    return Gpu(
        name=environment.gpu_name,
        uuids=environment.gpus,
        power_limit_w=float(limit_w) if isinstance(limit_w, int | float) else None,
    )
