"""Windows of a launch → parts of a second or two → whether the load was steady. Pure.

Two series are tested apart (change.py), both as logarithms:

- pace: tokens/s;
- power *at equal pace*: J/token ≈ static power / pace + dynamic energy, so power follows pace, with
  an elasticity of 0.3 to 0.8. Of a host-bound cell whose pace wanders by 20 % power wanders by 12 %
  and power at equal pace by 1 %: what wanders with the host does not hide what does not.

Each may shift to the end of the launch, or for a while: a host that is slow for five seconds.
A launch is tested once, at its end: tests after each cycle would add up their false alarms.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from pytest_energy.measure.change import (
    Drift,
    Shift,
    Slope,
    Usual,
    drift,
    largest_episode,
    largest_shift,
)
from pytest_energy.measure.spread import expm1
from pytest_energy.measure.window import MIN_CYCLES, Window
from pytest_energy.recording.counters import energy_j

MATTERS = 0.02  # of J/token; less than most tests tolerate
LEVEL = 0.002  # of each test of a launch whose level shifts by no more than that
_REPORTED_DRIFT = 0.01
_REPORTED_LEVELS = 0.05, 0.01  # of power, and of pace, which wanders for seconds
MAX_TRANSIENT_CYCLES = 1  # beyond the warm-up: hardly any load needed that
MAX_TRANSIENT_S = 3.0  # a cycle of a large batch is longer, and hides a disturbance

_PART_S = 1.0  # ten counter updates; shorter parts are noisier by more than their number makes up
_MOST_PARTS = 6  # of a cycle
# Of the launches in recordings/, per second to the power −1/2: power at equal pace is about alike
# in all cells; pace is not, so that its own spread counts for more.
_POWER_NOISE, _POWER_DEGREES = 0.010, 8.0
_PACE_NOISE, _PACE_DEGREES = 0.030, 2.0
_PACE_AUTOCORRELATION = 0.2
_ELASTICITY, _ELASTICITY_SD = 0.5, 0.2  # of power on pace
_ELASTICITY_RANGE = 0.0, 0.7


@dataclass(frozen=True)
class Parts:
    """A launch in parts of equal tokens, over all GPUs and periods; all of shape (parts,).

    Attributes:
        power: logarithm of W.
        pace: logarithm of tokens/s.
        seconds: that each took.
        place: of each in its cycle, 0 to places − 1.
        cycle: that each belongs to, over all periods.
    """

    power: np.ndarray
    pace: np.ndarray
    seconds: np.ndarray
    place: np.ndarray
    cycle: np.ndarray

    @property
    def places(self) -> int:
        """Parts of a cycle."""
        return int(self.place.max()) + 1

    def after(self, cycles: int) -> "Parts":
        """The same without so many leading cycles."""
        kept = self.cycle >= cycles
        return Parts(*(getattr(self, field.name)[kept] for field in fields(self)))


@dataclass(frozen=True)
class Steadiness:
    """How steady a launch was.

    Attributes:
        dropped: leading cycles that are a transient; 0 or 1.
        changes: of each series in the rest, if significant, its shift or else its episode.
        power_drift, pace_drift: over the rest.
        unsteady: what changed, when and by how much, one line a change; empty if the launch was
            steady.
        reported: drifts that are significant and do no harm, one line each.
        doubtful: those that change J/token by more than `MATTERS` at the least.
    """

    dropped: int
    changes: tuple[Shift, ...]
    power_drift: Drift
    pace_drift: Drift
    unsteady: tuple[str, ...]
    reported: tuple[str, ...]
    doubtful: tuple[str, ...]


def parts(windows: Sequence[Window]) -> Parts | None:
    """All cycles of a launch in parts, at least one cycle; None if a part took no time or energy.

    Args:
        windows: one per period, in order.
    """
    cycles = sum(len(window.time_s) for window in windows)
    seconds = sum(float(window.time_s.sum()) for window in windows)
    places = int(np.clip(seconds / cycles // _PART_S, 1, _MOST_PARTS))
    rows = [_of_window(window, places) for window in windows]
    energy, time_s, made = (np.concatenate([row[i] for row in rows]) for i in range(3))
    if min(energy.min(), time_s.min()) <= 0:
        return None
    number = np.arange(len(made))
    return Parts(
        power=np.log(energy / time_s),
        pace=np.log(made / time_s),
        seconds=time_s,
        place=number % places,
        cycle=number // places,
    )


def _of_window(window: Window, places: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energy (J), seconds and tokens of each part."""
    counter = window.recording.tokens
    time_ns = np.asarray(counter.time_ns, dtype=np.int64)
    total = np.cumsum(np.asarray(counter.tokens, dtype=np.int64))
    cycles = len(window.time_s)
    marks = np.interp(np.arange(cycles * places + 1) / places, np.arange(cycles + 1), window.tokens)
    relative_ns = np.interp(marks, total, (time_ns - time_ns[0]).astype(float))
    at_ns = time_ns[0] + np.rint(relative_ns).astype(np.int64)
    at_ns[::places] = window.ends_ns
    energy = np.sum([np.diff(energy_j(gpu, at_ns)) for gpu in window.recording.gpus], axis=0)
    return energy, np.diff(at_ns) / 1e9, np.diff(marks)


def steadiness(launch: Parts, may_begin_with_transient: bool) -> Steadiness | None:
    """Whether a launch kept its level; None for too few parts.

    Args:
        launch: its parts, of at least three cycles.
        may_begin_with_transient: whether its first cycle may be dropped, if that makes the rest
            steady.
    """
    whole = _tested(launch, 0)
    if whole is None or not whole.unsteady or not may_begin_with_transient:
        return whole
    lasts = len(launch.pace)
    last = max(c.at if c.until == lasts else c.until for c in whole.changes)
    if (
        launch.cycle[-1] < MIN_CYCLES
        or last > MAX_TRANSIENT_CYCLES * launch.places
        or float(launch.seconds[:last].sum()) > MAX_TRANSIENT_S
    ):
        return whole
    rest = _tested(launch.after(MAX_TRANSIENT_CYCLES), MAX_TRANSIENT_CYCLES)
    return whole if rest is None or rest.unsteady else rest


def _tested(launch: Parts, dropped: int) -> Steadiness | None:
    seconds = float(launch.seconds.sum())
    middle = (np.cumsum(launch.seconds) - launch.seconds / 2) / seconds
    root_s = float(launch.seconds.mean()) ** 0.5
    of_power = Usual(_POWER_NOISE / root_s, _POWER_DEGREES)
    of_pace = Usual(_PACE_NOISE / root_s, _PACE_DEGREES, _PACE_AUTOCORRELATION)
    slope = Slope(launch.pace, _ELASTICITY, _ELASTICITY_SD)
    of_j = 1 - _elasticity(launch, of_power.deviation)  # of J/token, in magnitude, on pace
    power = launch.power, launch.place, of_power, MATTERS, slope
    pace = launch.pace, launch.place, of_pace, MATTERS / of_j
    power_shift, pace_shift = largest_shift(*power), largest_shift(*pace)
    power_drift = drift(launch.power, launch.place, middle, of_power, slope)
    pace_drift = drift(launch.pace, launch.place, middle, of_pace)
    if power_shift is None or pace_shift is None or power_drift is None or pace_drift is None:
        return None
    changes = tuple(
        change
        for shift, series in ((power_shift, power), (pace_shift, pace))
        if (change := shift if shift.p < LEVEL else largest_episode(launch.seconds, *series))
        and change.p < LEVEL
    )
    series = (
        ("power at equal pace", power_shift, power_drift, _REPORTED_LEVELS[0], 1.0),
        ("tokens/s", pace_shift, pace_drift, _REPORTED_LEVELS[1], of_j),
    )
    drifted = [
        (
            f"{name} drifted by {_percent(line.size)} ± {200 * line.error:.1f} % "
            f"over {seconds:.0f} s",
            (abs(line.size) - 2 * line.error) * of_line > MATTERS,
        )
        for name, shift, line, level, of_line in series
        if shift.p >= LEVEL and abs(line.size) >= _REPORTED_DRIFT and line.p < level
    ]
    return Steadiness(
        dropped=dropped,
        changes=changes,
        power_drift=power_drift,
        pace_drift=pace_drift,
        unsteady=_changes(launch, changes),
        reported=tuple(line for line, matters in drifted if not matters),
        doubtful=tuple(line for line, matters in drifted if matters),
    )


def _changes(launch: Parts, changes: Sequence[Shift]) -> tuple[str, ...]:
    """What is said of changes; of two that begin within a cycle of each other once."""
    ends_s = np.r_[0, np.cumsum(launch.seconds)]
    lines: list[str] = []
    said: list[int] = []
    for change in sorted(changes, key=lambda change: change.p):
        if any(abs(change.at - at) <= launch.places for at in said):
            continue
        said.append(change.at)
        within = np.zeros(len(launch.pace), dtype=bool)
        within[change.at : change.until] = True
        pace, power = (
            _percent(float(values[within].mean() - values[~within].mean()))
            for values in (launch.pace, launch.power)
        )
        lasted_s = float(launch.seconds[within].sum())
        lasting = "" if change.until == len(within) else f"for {lasted_s:.1f} s "
        lines.append(
            f"tokens/s changed by {pace} and power by {power} {lasting}"
            f"{ends_s[change.at]:.1f} s into the {ends_s[-1]:.1f} s measured"
        )
    return tuple(lines)


def _percent(logarithm: float) -> str:
    return f"{100 * expm1(logarithm):+.1f} %"


def _elasticity(launch: Parts, deviation: float) -> float:
    """Of power on pace within the launch, pulled towards the usual one."""
    at_place = np.arange(launch.places)[:, None] == launch.place[None, :]
    share = at_place / at_place.sum(axis=1, keepdims=True)
    x, y = (values - (share @ values)[launch.place] for values in (launch.pace, launch.power))
    weight = (deviation / _ELASTICITY_SD) ** 2
    own = (float(x @ y) + weight * _ELASTICITY) / (float(x @ x) + weight)
    return float(np.clip(own, *_ELASTICITY_RANGE))
