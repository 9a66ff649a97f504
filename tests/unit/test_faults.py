"""The table of faults: what each means for a measurement."""

from dataclasses import replace

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.measure.faults import FAULTS, fault, unrecoverable, without_figures
from pytest_energy.measure.measurement import measure
from tests.simulated import recording


def test_more_cycles_help_a_short_measurement_alone() -> None:
    helped = [code for code in FAULTS if not unrecoverable([f"{code}: detail"])]
    assert sorted(helped) == ["power_unsampled", "too_short"]
    assert not unrecoverable([])
    assert unrecoverable(["too_short: 2 cycles", "throttled: hot"])


def test_without_a_counter_or_a_common_gpu_there_are_no_figures() -> None:
    assert [code for code in FAULTS if without_figures([f"{code}: detail"])] == [
        "no_counter",
        "counter_unreadable",
        "counter_stuck",
        "counter_backwards",
        "implausible",
        "periods_differ",
    ]
    assert not without_figures([])
    assert without_figures(["throttled: hot", "no_counter: no GPU was metered"])


def test_a_fault_is_declared_before_it_is_found() -> None:
    assert fault("throttled", "hot") == "throttled: hot"
    with pytest.raises(KeyError, match="fan_stopped"):
        fault("fan_stopped", "0 rpm")


def test_a_recorded_fault_that_is_not_declared_counts(cell: Cell) -> None:
    """Such as one that a later pytest-energy declares."""
    found = measure(replace(recording(cell, cycles=8.5), faults=("fan_stopped: 0 rpm",)))
    assert found.cycles is not None
    assert not found.valid
    assert found.unrecoverable
