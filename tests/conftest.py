"""Shared by all tests."""

from pathlib import Path

import pytest

from pytest_energy.cell import Cell, Model
from pytest_energy.workload import Workload

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cell() -> Cell:
    """A cell that no shipped baseline knows."""
    return Cell(
        model=Model(location="/models/tiny", name="tiny", config_sha256="0123456789abcdef"),
        batch_size=8,
        workload=Workload(input_tokens=64, output_tokens=250),
        weights="dummy",
        engine_args=(("max_num_seqs", 8),),
    )
