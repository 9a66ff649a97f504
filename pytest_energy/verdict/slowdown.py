"""Why tokens/s fell: more steps, a slower host, a GPU that waits or is clocked lower. Pure.

The host-bound share (measure/limits.py) counts only steps whose times vary as the host's do. A wait
of always the same length, as for the next step without asynchronous scheduling, is not in it and
shows in the power alone: it falls with the pace.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.spread import geometric_mean
from pytest_energy.store.baseline import Baseline, LaunchValues
from pytest_energy.verdict.attribution import mean_if_all_known

MORE_STEPS, HOST, GPU = "more steps", "slower host", "slower steps on the GPU"
WAITS, CLOCK = "GPU waits longer", "lower GPU clock"
CAUSES = (MORE_STEPS, HOST, CLOCK, WAITS, GPU)
_LOST = 0.02  # of tokens/s, log scale; less needs no cause
_MOST = 0.5
# While the GPU waits, power follows the pace with an elasticity of 0.3 to 0.9; a GPU that works
# longer for each step draws about as much as before.
_FOLLOWS = 0.3


@dataclass(frozen=True)
class Steps:
    """Engine steps of one side, as means over its launches.

    Attributes:
        per_token: steps for each token that all requests together got.
        step_ms: the median step without a prompt; None if a launch has none.
        prompt_ms: what a prompt adds; None if a launch does not show it.
        host_bound: share of the time in which the host decides the pace.
        clock_mhz: of the SMs; None if a launch does not know it.
    """

    per_token: float
    step_ms: float | None
    prompt_ms: float | None
    host_bound: float
    clock_mhz: float | None = None


@dataclass(frozen=True)
class Slowdown:
    """Why the candidate is slower than the reference: one of `CAUSES`."""

    cause: str
    reference: Steps
    candidate: Steps


def slowdown(candidate: Sequence[Measurement], reference: Baseline) -> Slowdown | None:
    """What made the candidate slower.

    None if it is not slower by 2 %, or if a launch does not show its steps.

    Args:
        candidate: valid measurements, one per launch.
        reference: what they are compared with.
    """
    before = _steps(reference.launches)
    after = _steps([LaunchValues.from_measurement(m) for m in candidate])
    if before is None or after is None:
        return None
    rate = geometric_mean([m.tokens_per_s for m in candidate])
    rate_before = geometric_mean(reference.tokens_per_s)
    lost = math.log(rate_before / rate)
    if lost < _LOST:
        return None
    if math.log(after.per_token / before.per_token) > _MOST * lost:
        return Slowdown(MORE_STEPS, before, after)
    mean_s, mean_before_s = 1 / (rate * after.per_token), 1 / (rate_before * before.per_token)
    by_host_s = after.host_bound * mean_s - before.host_bound * mean_before_s
    if by_host_s > _MOST * (mean_s - mean_before_s):
        return Slowdown(HOST, before, after)
    power = math.fsum(m.power_w for m in candidate) / len(candidate)
    if math.log(reference.summary.power_w / power) <= _FOLLOWS * lost:
        return Slowdown(GPU, before, after)
    clocked_lower = (
        before.clock_mhz
        and after.clock_mhz
        and math.log(before.clock_mhz / after.clock_mhz) > _MOST * lost
    )
    return Slowdown(CLOCK if clocked_lower else WAITS, before, after)


def _steps(launches: Sequence[LaunchValues]) -> Steps | None:
    per_token, host_bound = (
        mean_if_all_known([getattr(launch, name) for launch in launches])
        for name in ("steps_per_token", "host_bound_share")
    )
    if not per_token or host_bound is None:
        return None
    return Steps(
        per_token=per_token,
        step_ms=mean_if_all_known([launch.step_ms for launch in launches]),
        prompt_ms=mean_if_all_known([launch.prompt_ms for launch in launches]),
        host_bound=host_bound,
        clock_mhz=mean_if_all_known([launch.sm_clock_mhz for launch in launches]),
    )
