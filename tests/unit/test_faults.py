"""The table of faults: what each means for a measurement."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import pytest_energy
from pytest_energy.cell.cell import Cell
from pytest_energy.measure.measurement import measure
from pytest_energy.recording.faults import FAULTS, fault, unrecoverable, without_figures
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


def _reported(tree: ast.AST) -> Iterator[str]:
    """The codes that a module reports by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("fault", "self._fault"):
            code = node.args[0]
            if isinstance(code, ast.Constant):
                yield str(code.value)


def test_every_reported_code_is_declared_and_every_declared_code_is_reported() -> None:
    package = Path(pytest_energy.__file__).parent
    trees = [ast.parse(module.read_text()) for module in package.rglob("*.py")]
    reported = {code for tree in trees for code in _reported(tree)}
    # The guard passes on what these findings of health/check_gpu.py say.
    assert reported | {"gpu_lost", "mig_enabled"} == set(FAULTS)


def test_only_the_table_writes_a_code_and_a_colon() -> None:
    """A fault that is put together by hand would go past the table."""
    package = Path(pytest_energy.__file__).parent
    for module in package.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                code, colon, _ = node.value.partition(": ")
                assert not (colon and code in FAULTS), f"{module.name}: {node.value}"
