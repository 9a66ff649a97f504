"""When a cell is measured well enough."""

from dataclasses import replace

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.measure import stopping
from pytest_energy.measure.measurement import measure
from pytest_energy.recording.recording import Recording, TokenCounter
from tests import simulated
from tests.disturbed import with_step_in_power
from tests.unit.figures import PAUSED

CYCLE_TOKENS = 8 * 250  # of the fixture `cell`


def recorded(cell: Cell, cycles: float, cycle_s: float, **changes: object) -> Recording:
    """So many cycles of `cycle_s` after the warm-up, and their steps alone."""
    return simulated.recording(
        cell, tokens_per_s=CYCLE_TOKENS / cycle_s, cycles=1 + cycles, noise=0.02, **changes
    )


@pytest.mark.parametrize(
    ("cycles", "cycle_s", "enough"),
    [
        (3.5, 10, False),
        (4.1, 10, True),  # and the last one was counted under load
        (4.5, 4.9, False),
        (5.5, 4.1, True),
        (9.5, 2, False),
        (10.5, 2, True),
        (19.5, 1.0, False),
        (21.5, 1.0, True),
    ],
)
def test_a_cell_takes_four_cycles_and_twenty_seconds(
    cell: Cell, cycles: float, cycle_s: float, enough: bool
) -> None:
    so_far = recorded(cell, cycles, cycle_s)
    assert stopping.is_enough(so_far, int(1 + cycles)) is enough


def test_a_fault_that_time_does_not_mend_ends_it(cell: Cell) -> None:
    so_far = recorded(cell, 4.5, 1, faults=["foreign_process: pid 1"])
    assert stopping.is_enough(so_far, 5)
    # Before there are four cycles, nothing is computed.
    assert not stopping.is_enough(so_far, 4)


@pytest.mark.parametrize(("cycles", "enough"), [(7.5, False), (8.5, True)])
def test_without_power_samples_it_ends_after_twice_the_time(
    cell: Cell, cycles: float, enough: bool
) -> None:
    so_far = recorded(cell, cycles, 5)
    (gpu,) = so_far.gpus
    samples = type(gpu.samples)(*((),) * 6)
    unsampled = replace(so_far, gpus=(replace(gpu, samples=samples),))
    assert stopping.is_enough(unsampled, int(1 + cycles)) is enough


@pytest.mark.parametrize(
    ("length", "cycles", "cycle_s", "enough"),
    [
        (1, 1.5, 9, False),
        (1, 2.5, 2.2, False),
        (1, 2.5, 2.3, True),
        (2, 3.5, 9, False),
        (2, 4.5, 2.2, False),
        (2, 4.5, 2.3, True),
    ],
)
def test_a_period_takes_two_cycles_and_four_and_a_half_seconds_for_each_part(
    cell: Cell, length: int, cycles: float, cycle_s: float, enough: bool
) -> None:
    so_far = recorded(cell, cycles, cycle_s)
    assert stopping.is_period_enough(length)(so_far, 0) is enough


def test_a_period_with_a_fault_is_over(cell: Cell) -> None:
    broken = recorded(cell, 0.5, 1, faults=["foreign_process: pid 1"])
    assert stopping.is_period_enough(2)(broken, 0)


def periods(cell: Cell, cycles: float, count: int, launch_id: str) -> list[Recording]:
    paused = replace(PAUSED, launch_id="other")
    return [
        replace(
            recorded(cell, cycles, 2, launch_id=launch_id, start_s=1000 + 100 * number),
            period=number,
            co_resident=paused,
        )
        for number in range(count)
    ]


def test_a_pair_takes_eighteen_seconds_of_each_side(cell: Cell) -> None:
    long, short = periods(cell, 9.1, 1, "long"), periods(cell, 4.1, 2, "short")
    assert not stopping.is_pair_enough({"reference": short, "candidate": []})
    assert not stopping.is_pair_enough({"reference": short, "candidate": long})
    more = periods(cell, 5.1, 2, "more")
    assert stopping.is_pair_enough({"reference": more, "candidate": long})
    assert stopping.is_pair_enough({"reference": long, "candidate": more})


def test_a_pair_ends_at_a_fault_and_after_twelve_periods(cell: Cell) -> None:
    short = periods(cell, 4.0, 1, "short")
    broken = [replace(short[0], faults=("foreign_process: pid 1",))]
    assert stopping.is_pair_enough({"reference": short, "candidate": broken})
    empty = TokenCounter((), (), ())
    hopeless = [replace(short[0], tokens=empty, period=number) for number in range(12)]
    assert not stopping.is_pair_enough({"reference": hopeless[:11], "candidate": short})
    assert stopping.is_pair_enough({"reference": hopeless, "candidate": short})


@pytest.mark.parametrize(
    ("cycles", "cycle_s", "enough"),
    [(10.5, 3, False), (12.0, 3, False), (12.5, 3, True), (15.5, 2.3, False), (15.5, 2.5, True)],
)
def test_without_power_samples_short_cycles_take_forty_seconds_too(
    cell: Cell, cycles: float, cycle_s: float, enough: bool
) -> None:
    so_far = recorded(cell, cycles, cycle_s)
    (gpu,) = so_far.gpus
    unsampled = replace(so_far, gpus=(replace(gpu, samples=type(gpu.samples)(*((),) * 6)),))
    assert stopping.is_enough(unsampled, int(1 + cycles)) is enough


def test_what_changes_on_the_way_ends_no_period_and_no_pair_early(cell: Cell) -> None:
    """The launch is tested for steadiness at its end, when a transient can be told from a fault."""
    of_period = with_step_in_power(recorded(cell, 8.5, 1), 80.0)
    assert measure(of_period).unrecoverable
    assert not stopping.is_period_enough(2)(of_period, 0)
    (side,) = periods(cell, 8.5, 1, "side")
    changed = with_step_in_power(side, 80.0)
    assert measure(changed).unrecoverable
    assert not stopping.is_pair_enough({"reference": [changed], "candidate": [side]})
