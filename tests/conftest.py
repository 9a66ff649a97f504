"""Shared by all tests."""

import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Imported here, since pytester's runs would otherwise load numpy and matplotlib again each time.
import pytest_energy.report.page
import pytest_energy.session
import pytest_energy.verdict.comparison  # noqa: F401
from pytest_energy.cell.cell import Cell
from pytest_energy.cell.model import Model
from pytest_energy.cell.workload import Workload
from pytest_energy.launch import gpu_locks

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]

# HYPOTHESIS_PROFILE=nightly: .ci/nightly.
hypothesis.settings.register_profile("fast", max_examples=25, deadline=None)
hypothesis.settings.register_profile("nightly", max_examples=500, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay with one worker, so that what a fixture makes for all is made once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


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


@pytest.fixture(autouse=True)
def few_plugins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare pytester's runs the other plugins installed here, which they would load each time."""
    if "pytester" in request.fixturenames:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.setenv("PYTEST_PLUGINS", "pytest_energy.plugin,pytest_benchmark.plugin")


@pytest.fixture(autouse=True)
def own_locks(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A host with GPUs may be measuring on them."""
    monkeypatch.setattr(gpu_locks, "FOLDER", tmp_path_factory.getbasetemp() / "locks")
