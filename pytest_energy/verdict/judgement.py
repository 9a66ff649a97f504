"""What a test allows, and the judgement that it gets."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric, metrics_of
from pytest_energy.measure.spread import NoiseFloor, mean_of_known
from pytest_energy.store.baseline import Baseline, ReferenceFrom
from pytest_energy.verdict.attribution import CachedShares, Split
from pytest_energy.verdict.comparison import Comparison, Estimate, estimate
from pytest_energy.verdict.planning import Plan
from pytest_energy.verdict.rule import Verdict
from pytest_energy.verdict.slowdown import Slowdown
from pytest_energy.verdict.variation import Variation


@dataclass(frozen=True)
class Limits:
    """What one test allows. None: the default tolerance, or no limit.

    Attributes:
        tolerance: the smallest loss that fails, relative.
        max_power_w: power budget; not with tokens/s.
        max_ttft_ms, max_itl_ms: of a server's latencies, 99th percentiles; J/token only.
    """

    tolerance: float | None = None
    max_power_w: float | None = None
    max_ttft_ms: float | None = None
    max_itl_ms: float | None = None

    @property
    def latencies_ms(self) -> dict[str, float]:
        """Those of latencies, by the latency's name."""
        limits = {"ttft": self.max_ttft_ms, "itl": self.max_itl_ms}
        return {name: limit for name, limit in limits.items() if limit is not None}


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Sample:
    """All launches of one cell on one side.

    Attributes:
        launches: the valid measurements.
        estimates: over launches, of each metric that the cell has.
        power_w: mean over launches.
    """

    launches: tuple[Measurement, ...]
    estimates: Mapping[Metric, Estimate]
    power_w: float

    @classmethod
    def of(
        cls, measurements: Sequence[Measurement], noise: Mapping[Metric, NoiseFloor]
    ) -> "Sample":
        """Summarize valid measurements, one per launch."""
        return cls(
            launches=tuple(measurements),
            estimates={
                metric: estimate([getattr(m, metric.value) for m in measurements], noise[metric])
                for metric in metrics_of(measurements[0].key)
            },
            power_w=mean_power_w(measurements),
        )

    @property
    def joules_per_token(self) -> Estimate:
        """Of a cell under load."""
        return self.estimates[Metric.JOULES_PER_TOKEN]

    @property
    def tokens_per_s(self) -> Estimate:
        """Of a cell under load."""
        return self.estimates[Metric.TOKENS_PER_S]

    @property
    def cached_share(self) -> float | None:
        """Of the prompts' tokens from the prefix cache, mean over launches; None if unknown."""
        return mean_of_known(m.cached_share for m in self.launches)

    @property
    def is_idle(self) -> bool:
        """Whether it is of an engine at idle."""
        return Metric.IDLE_POWER_W in self.estimates

    @property
    def without_engine_w(self) -> float | None:
        """Power of the same GPUs without the engine, mean over launches; None if unknown."""
        return mean_of_known(m.idle.without_engine_w for m in self.launches if m.idle)

    @property
    def cpu_cores(self) -> float | None:
        """That the engine's processes used at idle, median over launches; None under load."""
        known = [m.idle.cpu_cores for m in self.launches if m.idle]
        return statistics.median(known) if known else None


def mean_power_w(measurements: Sequence[Measurement]) -> float:
    """Over valid launches."""
    return math.fsum(m.power_w for m in measurements) / len(measurements)


@dataclass(frozen=True)
class Compared:
    """One metric of one cell on both sides, without a verdict.

    Attributes:
        candidate: None if no launch is valid.
        reference: a stored baseline or the interleaved engine's launches; None if there is neither.
        ratio: candidate ÷ reference; None if they were not compared.
        split: of a change in J/token; None if it cannot be determined.
        noise: between launches, measured or assumed; None if nothing was compared.
        slowdown: why tokens/s fell; None if they did not, or if it cannot be told.
        cached: what the prefix caches served; None if that is the same, or not known.
        changed: what differs between the environments, one line each.
        paired: whether the launches of both sides were interleaved.
        reference_from: where launches come from that stand in for a baseline; empty if none do.
    """

    metric: Metric
    candidate: Sample | None = None
    reference: Baseline | None = None
    ratio: Comparison | None = None
    split: Split | None = None
    slowdown: Slowdown | None = None
    cached: CachedShares | None = None
    noise: NoiseFloor | None = None
    changed: tuple[str, ...] = ()
    paired: bool = False
    reference_from: ReferenceFrom = ""

    @property
    def other(self) -> str:
        """What the candidate is compared with."""
        return "reference" if self.paired or self.reference_from else "baseline"


@dataclass(frozen=True, kw_only=True)
class Judgement(Compared):
    """One metric of one cell, judged.

    Attributes:
        tolerance: relative loss that fails.
        reasons: what led to the verdict, one line each.
        broken_limits: of the test, by their names in the marker.
        by_limits_alone: whether it regressed for these alone.
        smallest_detected: loss, relative, that the run, gone on to its last look, would have called
            regressed in 95 % of cases; None if nothing was compared.
        blind: whether not even a doubled energy, or a halved throughput, would have been detected.
        variation: of periods and pairs, if engines were interleaved period by period.
        left_out: disturbed launches that others took the place of.
        plan: what would decide; None if something did, or nothing was compared.
        out_of_time: whether launches that it asked for were not begun.
    """

    verdict: Verdict
    tolerance: float
    reasons: tuple[str, ...]
    broken_limits: tuple[str, ...] = ()
    by_limits_alone: bool = False
    smallest_detected: float | None = None
    blind: bool = False
    variation: Variation | None = None
    left_out: tuple[Measurement, ...] = ()
    plan: Plan | None = None
    out_of_time: bool = False

    @property
    def change(self) -> float | None:
        """Relative change of the metric, None if nothing was compared."""
        return None if self.ratio is None else self.ratio.value - 1

    @property
    def with_itself(self) -> tuple[str, ...]:
        """Ids of launches that were compared with a baseline that holds them."""
        if self.ratio is None or self.candidate is None or self.reference is None:
            return ()
        stored = {launch.launch_id for launch in self.reference.launches}
        return tuple(m.launch_id for m in self.candidate.launches if m.launch_id in stored)

    @property
    def undecided(self) -> bool:
        """Whether more launches may bring a verdict."""
        return self.verdict is Verdict.INCONCLUSIVE
