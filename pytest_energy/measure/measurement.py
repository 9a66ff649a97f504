"""Recording → Measurement. Pure: the same recording gives the same numbers.

The cycles in steady state (cycles.py, steadiness.py), the faults (checks.py) and the
conditions under load (conditions.py) make one measurement of one cell of one launch. A launch of
interleaved engines is several recordings, one per period, each with a warm-up of its own; their
cycles make one measurement together.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_energy.cell.key import CellKey
from pytest_energy.measure import checks, latency
from pytest_energy.measure.conditions import Conditions, conditions, static_power_w
from pytest_energy.measure.cycles import Cycles
from pytest_energy.measure.steadiness import MIN_STEADY_CYCLES, SteadyCycles, steady_cycles
from pytest_energy.recording.faults import fault, unrecoverable, without_figures
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.recording.recording import Client, CoResident, Recording


@dataclass(frozen=True)
class Period:
    """The cycles of one recording of a launch, and when they began (CLOCK_MONOTONIC)."""

    cycles: Cycles
    started_ns: int


@dataclass(frozen=True)
class Measurement:
    """One cell of one launch.

    Attributes:
        key, launch_id, environment: as in the recording.
        cycles: in steady state, over all periods; None if the recordings hold too few whole cycles.
        gpu_energy_j: energy of each GPU over those cycles, by UUID.
        conditions: of the GPUs under load.
        static_power_w: power of the hot GPUs just after the load stopped, clocks still up; None if
            it was not seen.
        skipped_cycles: cycles before the steady state.
        faults: why the measurement must not be judged, as "code: detail"; empty if it is valid.
        periods: the same cycles period by period; one period if the launch was alone on the GPU.
        co_resident: what is known of the paused engine, one entry per period; empty if none was.
        clients: what a server's clients saw, one entry per period; empty if there were none.
    """

    key: CellKey
    launch_id: str
    environment: Fingerprint
    cycles: Cycles | None
    gpu_energy_j: Mapping[str, float]
    conditions: Conditions
    static_power_w: float | None
    skipped_cycles: int
    faults: tuple[str, ...]
    periods: tuple[Period, ...] = ()
    co_resident: tuple[CoResident, ...] = ()
    clients: tuple[Client, ...] = ()

    @property
    def latencies_ms(self) -> dict[str, dict[str, float]]:
        """What a server's clients saw, by name and statistic; empty without clients."""
        return latency.latencies_ms(self.clients)

    @property
    def gpu_power_w(self) -> dict[str, float]:
        """Mean power of each GPU over all cycles, by UUID; they add up to `power_w`."""
        seconds = sum(self.cycles.time_s) if self.cycles else 0.0
        return {uuid: energy / seconds for uuid, energy in self.gpu_energy_j.items()}

    @property
    def valid(self) -> bool:
        """Whether the measurement may be judged or become a baseline."""
        return not self.faults and self.cycles is not None

    @property
    def unrecoverable(self) -> bool:
        """Whether it is invalid for a reason that more cycles do not mend."""
        return unrecoverable(self.faults)

    @property
    def joules_per_token(self) -> float:
        """Energy over tokens of all cycles."""
        assert self.cycles is not None
        return sum(self.cycles.energy_j) / sum(self.cycles.tokens)

    @property
    def power_w(self) -> float:
        """Mean power over all cycles."""
        assert self.cycles is not None
        return sum(self.cycles.energy_j) / sum(self.cycles.time_s)

    @property
    def tokens_per_s(self) -> float:
        """Tokens generated per second over all cycles."""
        assert self.cycles is not None
        return sum(self.cycles.tokens) / sum(self.cycles.time_s)


def measure(*periods: Recording) -> Measurement:
    """What there is to know of one launch in one cell.

    Args:
        periods: the launch's recording, or those of its periods in order.
    """
    first = periods[0]
    faults = checks.before_cycles(periods)
    steady: list[SteadyCycles] = []
    if not without_figures(faults):
        steady = [part for period in periods if (part := steady_cycles(period)) is not None]
    skipped = sum(part.skipped for part in steady)
    counted = sum(len(part.time_s) for part in steady)
    cycles, gpu_energy_j = None, {}
    if counted >= MIN_STEADY_CYCLES and len(steady) == len(periods):
        cycles, gpu_energy_j = _together(steady), _gpu_energy_j(steady)
        faults += checks.of_cycles(cycles, steady, first.key.batch_size)
    else:
        if not faults:
            faults.append(_too_short(periods, steady))
        steady = []
    under_load = conditions(steady)
    return Measurement(
        key=first.key,
        launch_id=first.launch_id,
        environment=first.environment,
        cycles=cycles,
        gpu_energy_j=gpu_energy_j,
        conditions=under_load,
        static_power_w=static_power_w(periods, under_load),
        skipped_cycles=skipped,
        faults=tuple(dict.fromkeys((*faults, *checks.kv_cache(first)))),
        periods=tuple(Period(part.cycles, part.window_ns[0]) for part in steady),
        co_resident=tuple(p.co_resident for p in periods if p.co_resident is not None),
        clients=tuple(period.client for period in periods if period.client is not None),
    )


def mean_gpu_power_w(launches: Sequence[Measurement]) -> dict[str, float]:
    """Mean power of each GPU over launches on the same GPUs, by UUID in order.

    Empty if there is only one GPU, or the launches' GPUs differ.
    """
    uuids = sorted(launches[0].gpu_power_w) if launches else []
    if len(uuids) < 2 or any(sorted(m.gpu_power_w) != uuids for m in launches):
        return {}
    return {
        uuid: math.fsum(m.gpu_power_w[uuid] for m in launches) / len(launches) for uuid in uuids
    }


def first_invalid(measurements: Sequence[Measurement]) -> str | None:
    """The first of them that must not be kept, and why; None if all are valid."""
    for measurement in measurements:
        if not measurement.valid:
            return f"launch {measurement.launch_id} is invalid: {'; '.join(measurement.faults)}"
    return None


def _together(steady: Sequence[SteadyCycles]) -> Cycles:
    """The cycles of all periods."""
    periods = [part.cycles for part in steady]
    return Cycles(
        energy_j=tuple(itertools.chain.from_iterable(period.energy_j for period in periods)),
        time_s=tuple(itertools.chain.from_iterable(period.time_s for period in periods)),
        tokens=tuple(itertools.chain.from_iterable(period.tokens for period in periods)),
    )


def _gpu_energy_j(steady: Sequence[SteadyCycles]) -> dict[str, float]:
    """Energy of each GPU over the cycles of all periods, by UUID."""
    return {
        gpu.uuid: sum(float(part.energy_j[i].sum()) for part in steady)
        for i, gpu in enumerate(steady[0].recording.gpus)
    }


def _too_short(periods: Sequence[Recording], steady: Sequence[SteadyCycles]) -> str:
    skipped = sum(part.skipped for part in steady)
    whole = skipped + sum(len(part.time_s) for part in steady)
    unit = "cycles" if periods[0].requests is None else "blocks"
    detail = (
        f"{whole} whole {unit} after warm-up, {skipped} of them before the steady state, "
        f"{MIN_STEADY_CYCLES} needed"
    )
    if len(periods) > 1:
        detail += f"; {len(periods) - len(steady)} of {len(periods)} periods hold none"
    return fault("too_short", detail)
