"""Recording → Measurement. Pure: the same recording gives the same numbers.

The whole cycles (window.py), whether they were steady (steadiness.py), the faults (checks.py) and
the conditions under load (conditions.py) make one measurement of one cell of one launch. A launch
of interleaved engines is several recordings, one per period, each with a warm-up of its own; their
cycles make one measurement together.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_energy.cell import cell
from pytest_energy.cell.key import CellKey
from pytest_energy.measure import checks, latency
from pytest_energy.measure.conditions import Conditions, conditions, static_power_w
from pytest_energy.measure.cycles import IDLE_PARTS, Cycles, whole_cycles
from pytest_energy.measure.limits import StepTimes, cached_share, step_times
from pytest_energy.measure.mix import Mix, mix_of
from pytest_energy.measure.steadiness import Steadiness, parts, steadiness
from pytest_energy.measure.window import MIN_CYCLES, Window, window_of
from pytest_energy.recording.faults import by_chance, fault, unrecoverable, without_figures
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.recording.recording import Client, CoResident, Idle, Recording


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
        cycles: over all periods; None if the recordings hold too few whole cycles.
        gpu_energy_j: energy of each GPU over those cycles, by UUID.
        conditions: of the GPUs under load.
        static_power_w: power of the hot GPUs just after the load stopped, clocks still up; None if
            it was not seen.
        dropped_cycles: cycles after the warm-up that are left out as a transient; 0 or 1.
        faults: why the measurement must not be judged, as "code: detail"; empty if it is valid.
        periods: the same cycles period by period; one period if the launch was alone on the GPU.
        co_resident: what is known of the paused engine, one entry per period; empty if none was.
        clients: what a server's clients saw, one entry per period; empty if there were none.
        steadiness: how steady the launch was; None if it was not tested.
        step_times: what its steps held, and how long they took; None if they were not seen.
        mix: how its energy follows its mix of input and output tokens; None if it is not known.
        idle: of an engine at idle; None under load.
        cached_share: of the prompts' tokens, from the prefix cache and not computed; None if the
            engine did not count them.
    """

    key: CellKey
    launch_id: str
    environment: Fingerprint
    cycles: Cycles | None
    gpu_energy_j: Mapping[str, float]
    conditions: Conditions
    static_power_w: float | None
    dropped_cycles: int
    faults: tuple[str, ...]
    periods: tuple[Period, ...] = ()
    co_resident: tuple[CoResident, ...] = ()
    clients: tuple[Client, ...] = ()
    steadiness: Steadiness | None = None
    step_times: StepTimes | None = None
    mix: Mix | None = None
    idle: Idle | None = None
    cached_share: float | None = None

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
    def disturbed(self) -> bool:
        """Whether it is invalid, and only for reasons that another launch mends."""
        return bool(self.faults) and by_chance(self.faults)

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
    def idle_power_w(self) -> float:
        """Mean power, of an engine at idle."""
        return self.power_w

    @property
    def tokens_per_s(self) -> float:
        """Tokens generated per second over all cycles."""
        assert self.cycles is not None
        return sum(self.cycles.tokens) / sum(self.cycles.time_s)


def measure(*periods: Recording, ended: bool = True) -> Measurement:
    """What there is to know of one launch in one cell.

    Args:
        periods: the launch's recording, or those of its periods in order.
        ended: whether the launch is over: only then it is tested for steadiness.
    """
    first = periods[0]
    faults = checks.before_cycles(periods)
    windows: list[Window] = []
    if not without_figures(faults):
        windows = [found for period in periods if (found := window_of(period)) is not None]
    whole = sum(len(window.time_s) for window in windows)
    cycles, gpu_energy_j, steady = None, {}, None
    needed = IDLE_PARTS if first.key.is_idle else MIN_CYCLES
    if whole >= needed and len(windows) == len(periods):
        faults += checks.of_cycles(_together(windows), windows, first.key.batch_size)
        if ended and not first.key.is_idle and not without_figures(faults):
            steady, found_unsteady = _steadiness(windows)
            faults += found_unsteady
        windows[0] = windows[0].after(steady.dropped if steady else 0)
        cycles, gpu_energy_j = _together(windows), _gpu_energy_j(windows)
    else:
        if not faults:
            faults.append(_too_short(periods, windows))
        windows = []
    under_load = conditions(windows)
    return Measurement(
        key=first.key,
        launch_id=first.launch_id,
        environment=first.environment,
        cycles=cycles,
        gpu_energy_j=gpu_energy_j,
        conditions=under_load,
        static_power_w=None if first.key.is_idle else static_power_w(periods, under_load),
        dropped_cycles=steady.dropped if steady else 0,
        faults=tuple(dict.fromkeys((*faults, *checks.kv_cache(first)))),
        periods=tuple(Period(window.cycles, window.span_ns[0]) for window in windows),
        co_resident=tuple(p.co_resident for p in periods if p.co_resident is not None),
        clients=tuple(period.client for period in periods if period.client is not None),
        steadiness=steady,
        step_times=step_times(windows) if windows and ended and not first.key.is_idle else None,
        mix=mix_of(windows) if windows and ended and not first.key.is_idle else None,
        idle=first.idle,
        cached_share=cached_share(periods),
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


def _steadiness(windows: Sequence[Window]) -> tuple[Steadiness | None, list[str]]:
    """How steady a launch was, and the faults that this shows."""
    launch = parts(windows)
    if launch is None:
        return None, [fault("implausible", "tokens that took no energy or no time")]
    # Each period has a warm-up of its own, and too few cycles to tell a transient.
    found = steadiness(launch, may_begin_with_transient=len(windows) == 1)
    if found is None:
        return None, []
    return found, [fault("unsteady", line) for line in found.unsteady]


def _together(windows: Sequence[Window]) -> Cycles:
    """The cycles of all periods."""
    periods = [window.cycles for window in windows]
    return Cycles(
        energy_j=tuple(itertools.chain.from_iterable(period.energy_j for period in periods)),
        time_s=tuple(itertools.chain.from_iterable(period.time_s for period in periods)),
        tokens=tuple(itertools.chain.from_iterable(period.tokens for period in periods)),
    )


def _gpu_energy_j(windows: Sequence[Window]) -> dict[str, float]:
    """Energy of each GPU over the cycles of all periods, by UUID."""
    return {
        gpu.uuid: sum(float(window.energy_j[i].sum()) for window in windows)
        for i, gpu in enumerate(windows[0].recording.gpus)
    }


def _too_short(periods: Sequence[Recording], windows: Sequence[Window]) -> str:
    if periods[0].key.is_idle:
        spent_s = (periods[0].tokens.time_ns[-1] - periods[0].tokens.time_ns[0]) / 1e9
        if spent_s >= cell.IDLE_S:
            covered_s = whole_cycles(periods[0])[1]
            what = f"the GPU's energy is known for {covered_s:.1f} of {spent_s:.1f} s at idle"
            return fault("too_short", what)
        return fault("too_short", f"{spent_s:.1f} s at idle, {cell.IDLE_S:g} s needed")
    whole = sum(len(window.time_s) for window in windows)
    unit = "cycles" if periods[0].requests is None else "blocks"
    detail = f"{whole} whole {unit} after warm-up, {MIN_CYCLES} needed"
    if len(periods) > 1:
        detail += f"; {len(periods) - len(windows)} of {len(periods)} periods hold none"
    return fault("too_short", detail)
