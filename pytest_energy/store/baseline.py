"""A baseline: the launches that a cell is compared with, and what was stored before them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from pytest_energy.cell.key import CellKey
from pytest_energy.measure import limits, spread
from pytest_energy.measure.measurement import Measurement
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.safety.schema import STRICT, Count, Name, Setting, Short
from pytest_energy.store.figures import (
    Condition,
    CycleTokens,
    Figure,
    Figures,
    NotNegative,
    Series,
    Share,
    rounded,
)

# Whence launches come that stand in for a baseline: this run, an earlier one here, recordings.
ReferenceFrom = Literal["", "run", "cache", "replay"]


@dataclass(frozen=True)
class LaunchValues:
    """One launch: values per cycle, each of shape (cycles,), and the conditions under load.

    At idle there is power alone, and what recording.Idle holds.

    Attributes:
        tokens: of each cycle if they differ; empty if they do not.
        step_ms, prompt_ms, steps_per_token, host_bound_share: as in measure/limits.py; None if the
            engine's steps were not seen.
        cached_share: of the prompts' tokens, from the prefix cache; None if not counted.
    """

    __pydantic_config__ = STRICT

    launch_id: Name
    power_w: Figures
    joules_per_token: Series = ()
    tokens_per_s: Series = ()
    static_power_w: Condition | None = None
    sm_clock_mhz: Condition | None = None
    temperature_c: Condition | None = None
    power_cap_share: Condition | None = None
    tokens: CycleTokens = ()
    step_ms: Condition | None = None
    prompt_ms: Condition | None = None
    steps_per_token: Condition | None = None
    host_bound_share: Condition | None = None
    without_engine_w: NotNegative | None = None
    cpu_cores: NotNegative | None = None
    cached_share: Share | None = None

    @classmethod
    def from_measurement(cls, measurement: Measurement) -> "LaunchValues":
        """The launch that `measurement`, a valid one, comes from."""
        cycles, conditions = measurement.cycles, measurement.conditions
        steps, at_idle = measurement.step_times, measurement.idle
        assert cycles is not None
        if at_idle is not None:
            return cls(
                launch_id=measurement.launch_id,
                power_w=cycles.power_w,
                sm_clock_mhz=conditions.sm_clock_mhz,
                temperature_c=conditions.temperature_c,
                without_engine_w=at_idle.without_engine_w,
                cpu_cores=at_idle.cpu_cores,
            )
        return cls(
            launch_id=measurement.launch_id,
            joules_per_token=cycles.joules_per_token,
            power_w=cycles.power_w,
            tokens_per_s=cycles.tokens_per_s,
            static_power_w=measurement.static_power_w,
            sm_clock_mhz=conditions.sm_clock_mhz,
            temperature_c=conditions.temperature_c,
            power_cap_share=conditions.power_cap_share,
            tokens=cycles.weights,
            step_ms=steps.step_ms if steps else None,
            prompt_ms=steps.prompt_ms if steps else None,
            steps_per_token=steps.steps_per_token if steps else None,
            host_bound_share=steps.host_bound if steps else None,
            cached_share=measurement.cached_share,
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Means over launches, and their number; of an engine at idle of power alone."""

    __pydantic_config__ = STRICT

    launches: Count
    power_w: Figure
    joules_per_token: Figure | None = None
    tokens_per_s: Figure | None = None

    @property
    def idle_power_w(self) -> float:
        """Of an engine at idle, of which nothing else is known."""
        return self.power_w


@dataclass(frozen=True, kw_only=True)
class EarlierBaseline(Summary):
    """A baseline that a later one replaced.

    Attributes:
        date, vllm: of its newest launch; None if unknown.
        update_reason: why a loss was accepted with it; None if there was none to accept.
        settings_under_test: "name=value" each; of older files unknown, and empty.
    """

    date: Short | None
    vllm: Short | None
    update_reason: str | None = None
    settings_under_test: tuple[Setting, ...] = ()


@dataclass(frozen=True)
class Baseline:
    """What a cell is compared with on some GPUs.

    Attributes:
        key: of the cell.
        launches: at least three if it is stored.
        environment: the fingerprint of the newest launch.
        history: the baselines before this one, oldest first.
        update_reason: why a loss was accepted with it; None if there was none to accept.
    """

    key: CellKey
    launches: tuple[LaunchValues, ...]
    environment: Fingerprint
    history: tuple[EarlierBaseline, ...] = ()
    update_reason: str | None = None

    @classmethod
    def of(
        cls, measurements: Sequence[Measurement], history: Sequence[EarlierBaseline] = ()
    ) -> "Baseline":
        """The baseline that valid measurements, one per launch and in order, make."""
        environments = [measurement.environment for measurement in measurements]
        return cls(
            key=measurements[0].key,
            launches=tuple(map(LaunchValues.from_measurement, measurements)),
            environment=max(environments, key=lambda environment: str(environment.date)),
            history=tuple(history),
        )

    @property
    def gpu_name(self) -> str:
        """The GPU model that it was measured on."""
        return self.environment.gpu_name

    @property
    def gpus(self) -> tuple[str, ...]:
        """UUIDs of the GPUs that it was measured on, sorted."""
        return self.environment.gpus

    @property
    def joules_per_token(self) -> list[float]:
        """One value per launch."""
        return spread.launch_means(
            [launch.joules_per_token for launch in self.launches], self._weights
        )

    @property
    def tokens_per_s(self) -> list[float]:
        """One value per launch."""
        return spread.launch_rates([launch.tokens_per_s for launch in self.launches], self._weights)

    @property
    def _weights(self) -> list[tuple[int, ...]]:
        return [launch.tokens for launch in self.launches]

    @property
    def power_w(self) -> list[float]:
        """One value per launch: energy over time."""
        if self.key.is_idle:
            return spread.launch_means([launch.power_w for launch in self.launches])
        return [
            jpt * rate for jpt, rate in zip(self.joules_per_token, self.tokens_per_s, strict=True)
        ]

    @property
    def idle_power_w(self) -> list[float]:
        """One value per launch, of an engine at idle."""
        return self.power_w

    @property
    def without_engine_w(self) -> float | None:
        """Power of the GPUs before the engine was started, mean over launches; None if unknown."""
        known = [launch.without_engine_w for launch in self.launches if launch.without_engine_w]
        return math.fsum(known) / len(known) if known else None

    @property
    def cpu_cores(self) -> float | None:
        """That the engine's processes used at idle; None if unknown."""
        known = [launch.cpu_cores for launch in self.launches if launch.cpu_cores is not None]
        return statistics.median(known) if known else None

    @property
    def summary(self) -> Summary:
        """Means over launches, with the digits that files keep."""
        if self.key.is_idle:
            power_w = rounded(spread.geometric_mean(self.power_w))
            return Summary(launches=len(self.launches), power_w=power_w)
        return Summary(
            joules_per_token=rounded(spread.geometric_mean(self.joules_per_token)),
            launches=len(self.launches),
            power_w=rounded(math.fsum(self.power_w) / len(self.power_w)),
            tokens_per_s=rounded(spread.geometric_mean(self.tokens_per_s)),
        )

    @property
    def as_history(self) -> EarlierBaseline:
        """What the history keeps of it once it is replaced."""
        return EarlierBaseline(
            **asdict(self.summary),
            date=self.environment.date,
            vllm=self.environment.vllm,
            update_reason=self.update_reason,
            settings_under_test=self.environment.settings_under_test,
        )

    @property
    def cached_share(self) -> float | None:
        """Of the prompts' tokens from the prefix cache, mean over launches; None if unknown."""
        return spread.mean_of_known(launch.cached_share for launch in self.launches)

    @property
    def is_host_bound(self) -> bool:
        """By the median of launches, since a single one may have met a slow host."""
        shares = [launch.host_bound_share for launch in self.launches]
        known = [share for share in shares if share is not None]
        return bool(known) and limits.is_host_bound(statistics.median(known))
