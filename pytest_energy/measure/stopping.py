"""When a cell is measured well enough: the rules that a launch is given. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pytest_energy.measure.cycles import Cycles, whole_cycles
from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.measure.spread import relative_standard_error
from pytest_energy.recording.recording import Recording

CYCLES_FOR_OWN_SPREAD = 4  # fewer say nothing of how much they vary
MIN_S = 6.0  # sixty counter updates
MAX_CYCLES = 12
MAX_S = 20.0
# Of an outer period; the inner one is twice as long.
PERIOD_CYCLES = 2
PERIOD_S = 4.5
# Periods are added until the error of each launch's J/token is half of the noise between launches.
# From there on another pair, at the cost of loading two engines, would bring more.
_ENOUGH = 0.5
_MAX_PERIODS = 12  # of a side


def is_enough(error: float, so_far: Recording, cycles_so_far: int) -> bool:
    """Whether a cell is measured well enough, or as well as it will be.

    Args:
        error: relative standard error of J/token below which more cycles buy nothing.
        so_far: the recording.
        cycles_so_far: whole cycles in it, the warm-up among them.
    """
    if cycles_so_far <= CYCLES_FOR_OWN_SPREAD:
        return False
    measured = measure(so_far)
    if measured.unrecoverable:
        return True
    cycles = measured.cycles
    if (
        cycles is None
        or not measured.valid
        or len(cycles.time_s) < CYCLES_FOR_OWN_SPREAD
        or sum(cycles.time_s) < MIN_S
    ):
        elapsed_s = (so_far.tokens.time_ns[-1] - so_far.tokens.time_ns[0]) / 1e9
        return elapsed_s >= 2 * MAX_S and cycles_so_far >= 2 * MAX_CYCLES  # it will not get better
    if len(cycles.time_s) >= MAX_CYCLES or sum(cycles.time_s) >= MAX_S:
        return True
    return _error(cycles) <= error


@dataclass(frozen=True)
class InterleavedStopping:
    """For two interleaved engines.

    Attributes:
        deviation: of J/token between launches (relative), for a measurement's cell and GPU model.
    """

    deviation: Callable[[Measurement], float]

    def period(self, length: int) -> Callable[[Recording, int], bool]:
        """For one period, `length` times as long as a short one."""

        def enough(so_far: Recording, _: int) -> bool:
            cycles, seconds = whole_cycles(so_far)
            if cycles >= length * PERIOD_CYCLES and seconds >= length * PERIOD_S:
                return True
            return measure(so_far).unrecoverable

        return enough

    def cell(self, periods: Mapping[str, Sequence[Recording]]) -> bool:
        """Whether both sides of a cell are measured well enough, or as well as they will be.

        Args:
            periods: the recordings of each side.
        """
        if not all(periods.values()):
            return False
        measured = [measure(*recordings) for recordings in periods.values()]
        first_side = next(iter(periods.values()))
        if any(m.unrecoverable for m in measured) or len(first_side) >= _MAX_PERIODS:
            return True
        cycles = [m.cycles for m in measured if m.cycles is not None and m.valid]
        if len(cycles) < len(measured):
            return False
        if min(sum(c.time_s) for c in cycles) >= MAX_S:
            return True
        return max(map(_error, cycles)) <= _ENOUGH * self.deviation(measured[0])


def _error(cycles: Cycles) -> float:
    """Relative standard error of J/token."""
    return relative_standard_error(cycles.joules_per_token, cycles.weights)
