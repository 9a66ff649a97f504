"""Many cells in one pytest process leave nothing behind: no thread, file descriptor or recording.

Replayed cells are recordings of a GPU; live ones run on the stand-in for vLLM with a simulated
meter, three cells per launch. PYTEST_ENERGY_SOAK_CELLS=999 runs as many of each, and then memory
must not grow either.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_energy.measure import measurement
from pytest_energy.measure.measurement import Measurement
from pytest_energy.plugin.marker import Marked
from pytest_energy.recording import recording_file, schema
from pytest_energy.store.baselines import Store
from pytest_energy.store.noise import NoiseStore
from tests.conftest import ROOT
from tests.engine.conftest import interpreter
from tests.hostile import seeds
from tests.plugin.conftest import project
from tests.plugin.project import Project

__all__ = ["project"]

_CELLS = int(os.environ.get("PYTEST_ENERGY_SOAK_CELLS", "0"))
_REPLAYED, _LIVE = _CELLS or 60, _CELLS or 12
_WARM_UP = 200
# pytest keeps a report per phase of each test, and the table and reports keep figures and words:
# 20 kB in all. A recording kept by mistake would take 100 kB.
_BYTES_PER_CELL = 30_000

_SAMPLING = """
    import gc, json, os, threading
    _done = [0]

    def pytest_runtest_logfinish(nodeid):
        _done[0] += 1
        if _done[0] % EVERY == 0:
            gc.collect()
            pages = int(open("/proc/self/statm").read().split()[1])
            sample = {
                "cells": _done[0],
                "rss": pages * os.sysconf("SC_PAGESIZE"),
                "threads": threading.active_count(),
                "tasks": len(os.listdir("/proc/self/task")),
                "fds": len(os.listdir("/proc/self/fd")),
                "children": len(open(f"/proc/self/task/{os.getpid()}/children").read().split()),
                "recordings": sum(
                    type(thing).__name__ in ("Recording", "GpuTrace") for thing in gc.get_objects()
                ),
            }
            with open("samples.jsonl", "a") as file:
                file.write(json.dumps(sample) + "\\n")
"""


def samples(project: Project) -> dict[str, np.ndarray]:
    lines = [json.loads(line) for line in (project.path / "samples.jsonl").read_text().splitlines()]
    return {name: np.array([line[name] for line in lines]) for name in lines[0]}


def assert_nothing_is_left(taken: dict[str, np.ndarray]) -> None:
    for name in ("threads", "tasks", "fds", "children"):
        assert taken[name].max() == taken[name][0], (name, taken[name].tolist())
    assert taken["recordings"].max() == 0
    if taken["cells"].max() >= 3 * _WARM_UP:
        warm = taken["cells"] > _WARM_UP
        slope = np.polyfit(taken["cells"][warm], taken["rss"][warm], 1)[0]
        assert slope < _BYTES_PER_CELL, f"{slope:.0f} bytes per cell: {taken['rss'].tolist()}"


def louder(measured: Measurement, number: int) -> Measurement:
    """Another launch, which took up to 1.2 % more energy in the same time."""
    assert measured.cycles is not None
    factor = 1 + number % 4 * 0.004
    cycles = replace(
        measured.cycles, energy_j=tuple(factor * energy for energy in measured.cycles.energy_j)
    )
    return replace(measured, launch_id=f"noise-{number}", cycles=cycles)


def test_replayed_cells(project: Project) -> None:
    content = seeds.recordings()[0]
    marker: dict[str, Any] = {
        "model": "llama",
        "weights": "dummy",
        "batch_sizes": [64],
        "tolerance": 0.3,
    }
    (project.path / "llama").mkdir()
    (project.path / "llama" / "config.json").write_text("{}")
    project.pytester.makepyfile(
        test_tiny=f"""
        import pytest
        pytestmark = pytest.mark.energy(**{marker!r})

        CELLS = [
            pytest.param(n, marks=pytest.mark.energy(engine_args={{"number": n}}))
            for n in range({_REPLAYED})
        ]

        @pytest.mark.parametrize("n", CELLS)
        def test_energy(n, energy):
            pass
        """
    )
    project.pytester.makeconftest(_SAMPLING.replace("EVERY", str(_REPLAYED // 20)))
    keys = [
        Marked.from_arguments((), {**marker, "engine_args": {"number": n}})
        .cell(64, project.path)
        .key.plain
        for n in range(_REPLAYED)
    ]
    for n, key in enumerate(keys):
        recording_file.write(
            schema.from_json({**content, "key": key}), project.path / "kept" / f"{n}.json.gz"
        )
    launches = [
        measurement.measure(schema.from_json({**content, "key": keys[0], "launch_id": f"old-{n}"}))
        for n in range(3)
    ]
    path = Store(project.path / "baselines").update(launches, {}).path
    # A noise of 0.4 %: with an assumed one the gates of so many comparisons could not fire.
    NoiseStore(project.path / "baselines").add([louder(launches[0], n) for n in range(24)])
    stored = json.loads(path.read_text())
    (entry,) = stored["cells"].values()
    path.write_text(
        json.dumps(
            {**stored, "cells": {str(n): {**entry, "key": key} for n, key in enumerate(keys)}}
        )
    )
    result = project.pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "--energy-replay", "kept", "--energy-report", "report", "-q"
    )
    result.assert_outcomes(passed=_REPLAYED)
    assert_nothing_is_left(samples(project))


def test_live_cells(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    python = interpreter(tmp_path_factory.mktemp("interpreter"))
    marker: dict[str, Any] = {
        "model": "tiny", "weights": "dummy", "batch_sizes": [2, 4, 8],
        "input_tokens": 8, "output_tokens": 20,
    }  # fmt: skip
    project.pytester.makepyfile(
        test_tiny=f"""
        import pytest
        pytestmark = pytest.mark.energy(**{marker!r})
        LAUNCHES = [
            pytest.param(n, marks=pytest.mark.energy(engine_args={{"number": n}}))
            for n in range({_LIVE // 3})
        ]

        @pytest.mark.parametrize("n", LAUNCHES)
        def test_energy(n, energy):
            assert energy.verdict == "no baseline"
            energy._checked = True
        """
    )
    every = max(3, _LIVE // 20)
    simulation = f"""
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    import pytest_energy.launch.launch, pytest_energy.measure.checks, pytest_energy.measure.stopping
    import tests.simulated

    tests.simulated.UPDATE_NS = 5_000_000
    pytest_energy.measure.stopping.WINDOW_S = pytest_energy.launch.launch._HOT_TAIL_S = 0.0
    pytest_energy.measure.checks.AVERAGED_NS = 0

    def pytest_energy_open_meter(gpu_uuids, is_engine_process):
        return tests.simulated.SimulatedMeter()
    """
    project.pytester.makeconftest(simulation + _SAMPLING.replace("EVERY", str(every)))
    result = project.pytester.runpytest_subprocess(
        "-p",
        "no:cacheprovider",
        "-p",
        "no:benchmark",
        "--energy-python",
        python,
        "--energy-launches",
        "1",
        "-q",
    )
    result.assert_outcomes(passed=_LIVE // 3 * 3)
    assert_nothing_is_left(samples(project))


if __name__ == "__main__":
    sys.exit(pytest.main([str(Path(__file__)), "-q"]))
