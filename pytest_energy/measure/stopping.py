"""When a cell is measured well enough: the rules that a launch is given. Pure."""

import functools
from collections.abc import Callable, Mapping, Sequence

from pytest_energy.measure.cycles import whole_cycles
from pytest_energy.measure.measurement import measure
from pytest_energy.recording.recording import Recording

# A launch is as long as every other, whatever its cycles show: a rule that ends on a small spread
# ends on lucky cycles, which are cheap ones (docs/statistics.md).
WINDOW_S = 20.0
MIN_CYCLES = 4
# Of an outer period; the inner one is twice as long.
PERIOD_CYCLES = 2
PERIOD_S = 4.5
# Of each side of a pair: two blocks of periods, so that both have had both roles.
PAIR_S = 4 * PERIOD_S
_MAX_PERIODS = 12  # of a side


def is_enough(so_far: Recording, cycles_so_far: int) -> bool:
    """Whether a cell is measured for as long as it shall be, or cannot be measured well.

    Args:
        so_far: the recording.
        cycles_so_far: whole cycles in it, the warm-up among them.
    """
    if cycles_so_far <= MIN_CYCLES:
        return False
    measured = measure(so_far, ended=False)
    if measured.unrecoverable:
        return True
    cycles = measured.cycles
    if cycles is None or not measured.valid:
        elapsed_s = (so_far.tokens.time_ns[-1] - so_far.tokens.time_ns[0]) / 1e9
        return elapsed_s >= 2 * WINDOW_S and cycles_so_far > 2 * MIN_CYCLES  # no better with time
    return len(cycles.time_s) >= MIN_CYCLES and sum(cycles.time_s) >= WINDOW_S


def is_period_enough(length: int) -> Callable[[Recording, int], bool]:
    """The rule for one period of an interleaved engine, `length` times as long as a short one."""
    return functools.partial(_is_period_enough, length)


def _is_period_enough(length: int, so_far: Recording, _: int) -> bool:
    cycles, seconds = whole_cycles(so_far)
    if cycles >= length * PERIOD_CYCLES and seconds >= length * PERIOD_S:
        return True
    return measure(so_far, ended=False).unrecoverable


def is_pair_enough(periods: Mapping[str, Sequence[Recording]]) -> bool:
    """Whether both sides of a cell are measured well enough, or as well as they will be.

    Args:
        periods: the recordings of each side.
    """
    if not all(periods.values()):
        return False
    measured = [measure(*recordings, ended=False) for recordings in periods.values()]
    first_side = next(iter(periods.values()))
    if any(m.unrecoverable for m in measured) or len(first_side) >= _MAX_PERIODS:
        return True
    return all(
        m.valid and m.cycles is not None and sum(m.cycles.time_s) >= PAIR_S for m in measured
    )
