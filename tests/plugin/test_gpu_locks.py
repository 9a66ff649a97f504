"""Two runs on one host: who waits, and what happens to the tests; driver and launches simulated."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.launch import gpu_locks, launch
from pytest_energy.launch.gpu_locks import look
from pytest_energy.plugin.terminal import ProgressLine
from tests import simulated
from tests.conftest import ROOT
from tests.driver import UUIDS, SimulatedDriver
from tests.plugin.project import MARKER, TESTS, Project
from tests.unit.test_locks import RUN, says


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu_locks, "FOLDER", tmp_path_factory.mktemp("host") / "locks")
    monkeypatch.setattr(gpu_locks, "_POLL_S", 0.05)
    return gpu_locks.FOLDER


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, folder: Path) -> SimulatedDriver:
    return SimulatedDriver(monkeypatch)


@pytest.fixture
def other(driver: SimulatedDriver, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another run, which holds the second GPU."""
    command = [sys.executable, "-c", RUN, str(folder), "300", UUIDS[1]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as run:
        assert says(run) == "held"
        yield run
        run.kill()


@pytest.fixture
def launched(project: Project, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, ...]]:
    """Simulated engines on the first GPU; by launch, the GPUs locked while and after it loads."""
    seen: list[tuple[bool, ...]] = []

    def record_launch(
        cells: Any, settings: Any, open_meter: Any, progress: Callable[[str], None], precision: Any
    ) -> Any:
        loading = tuple(look(uuid)[0] for uuid in UUIDS)
        open_meter(UUIDS[:1], lambda pid: True)
        seen.append(loading + tuple(look(uuid)[0] for uuid in UUIDS))
        for cell in cells:
            yield cell, simulated.recording(cell, launch_id=f"live-{len(seen)}", cycles=12.5)

    monkeypatch.setattr("pytest_energy.launch.launch.record_launch", record_launch)
    project.pytester.makeconftest(f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.simulated import SimulatedMeter

        def pytest_energy_open_meter(gpu_uuids, is_engine_process):
            return SimulatedMeter()
    """)
    return seen


def test_a_run_holds_all_gpus_that_it_may_land_on_and_then_those_that_it_is_on(
    project: Project, driver: SimulatedDriver, launched: list[tuple[bool, ...]]
) -> None:
    """Until its last launch has ended; later launches of the engine leave the other GPUs alone."""
    project.pytester.makepyfile(
        test_what_follows=f"""
        from pytest_energy.launch.gpu_locks import look

        def test_gpus_are_free():
            assert not any(look(uuid)[0] for uuid in {UUIDS!r})
    """
    )
    files = ("test_tiny.py", "test_what_follows.py")
    project.run(*files, "--energy-update", "--energy-launches", "3").assert_outcomes(passed=5)
    assert launched == [
        (True, True, True, False),
        (True, False, True, False),
        (True, False, True, False),
    ]
    assert [look(uuid)[0] for uuid in UUIDS] == [False, False]


def test_a_run_that_ends_early_frees_what_it_holds(
    project: Project, driver: SimulatedDriver, launched: list[tuple[bool, ...]]
) -> None:
    """Even if the process goes on, as in an editor.

    The second file's cells need a launch of their own, which is never made.
    """
    project.pytester.makepyfile(
        test_wide=TESTS.replace(repr(MARKER), repr({**MARKER, "batch_sizes": [4]}))
    )
    result = project.run("test_tiny.py", "test_wide.py", "-x")
    result.assert_outcomes(failed=1)
    assert launched
    assert [look(uuid)[0] for uuid in UUIDS] == [False, False]


def test_only_visible_gpus_are_locked(
    project: Project,
    driver: SimulatedDriver,
    launched: list[tuple[bool, ...]],
    other: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other run has the second GPU; nobody waits."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    project.store()
    result = project.run()
    result.assert_outcomes(passed=4)
    result.stdout.no_fnmatch_line("*waiting for*")
    assert set(launched) == {(True, True, True, True)}


def test_waiting_says_for_whom_and_ends_when_they_end(
    project: Project,
    driver: SimulatedDriver,
    launched: list[tuple[bool, ...]],
    other: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project.store()
    show = ProgressLine.__call__

    def end_once_it_is_named(line: ProgressLine, text: str) -> None:
        show(line, text)
        if "waiting for" in text:
            other.kill()

    monkeypatch.setattr(ProgressLine, "__call__", end_once_it_is_named)
    result = project.run()
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [f"energy * s  GPU-bbbbbbbb: waiting for pid {other.pid} (a model since ??:??)*"]
    )
    assert launched[0] == (True, True, True, False)


def test_a_run_that_waits_in_vain_measures_nothing_and_says_who_it_was(
    project: Project,
    driver: SimulatedDriver,
    launched: list[tuple[bool, ...]],
    other: subprocess.Popen[str],
) -> None:
    project.store()
    before = project.files()
    result = project.run("--energy-lock-timeout", "0.3")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "INVALID: tiny bs=2 64/250*",
            f"*{UUIDS[1]} is not free: pid {other.pid} (a model since ??:??) holds it, and this "
            "run has waited 0.3 s in all.",
            "*Run again when it has ended, or wait longer: --energy-lock-timeout SECONDS",
        ]
    )
    assert launched == []
    assert [look(uuid)[0] for uuid in UUIDS] == [False, True]
    assert {name for name in project.files() if name not in before} <= {"conftest.py"}


def test_an_engine_on_a_gpu_that_another_run_has_is_not_measured(
    project: Project,
    driver: SimulatedDriver,
    launched: list[tuple[bool, ...]],
    other: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CUDA_VISIBLE_DEVICES meant another GPU than it seemed to."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    made = launch.record_launch

    def elsewhere(cells: Any, settings: Any, open_meter: Any, progress: Any, precision: Any) -> Any:
        return made(
            cells, settings, lambda uuids, is_ours: open_meter(UUIDS, is_ours), progress, precision
        )

    monkeypatch.setattr("pytest_energy.launch.launch.record_launch", elsewhere)
    result = project.run()
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [f"*the engine is on {UUIDS[1]}, on which another run measures: pid * (a model since *"]
    )


@pytest.mark.parametrize("value", ["0", "-3", "soon"])
def test_a_limit_that_is_not_positive(project: Project, value: str) -> None:
    result = project.run("--energy-lock-timeout", value)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*--energy-lock-timeout: {value} is not a positive number"])


def test_replays_and_runs_without_a_driver_need_no_lock(
    project: Project, launched: list[tuple[bool, ...]], folder: Path, driver: SimulatedDriver
) -> None:
    project.store()
    project.record("same")
    project.run("--energy-replay", "same").assert_outcomes(passed=4)
    assert not folder.exists()
    driver.gpus.clear()
    project.run("-k", "bs2").assert_outcomes(passed=2)
    assert set(launched) == {(False, False, False, False)}
    assert not folder.exists()


def test_what_a_killed_run_left_on_the_gpu_is_given_time_to_end(
    driver: SimulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.gpus[UUIDS[0]].pids = [4711]
    driver.gpus[UUIDS[1]].pids = [1]
    reported: list[str] = []

    def progress(text: str) -> None:
        reported.append(text)
        driver.gpus[UUIDS[0]].pids.clear()

    launch.wait_for_leftovers(UUIDS[:1], progress)
    assert reported == ["waiting until what a killed run left on the GPU has ended"]
    launch.wait_for_leftovers([], progress)
    monkeypatch.setattr(launch, "_LEAVE_S", 0.1)
    launch.wait_for_leftovers(UUIDS[1:], progress)  # it never ends: the launch reports it
    assert len(reported) == 2


XDIST = """
    import os, sys
    sys.path.insert(0, {root!r})
    import pathlib
    from pytest_energy.launch import launch as live
    from pytest_energy.launch import gpu_locks as locks
    from pytest_energy.meters import nvml
    from tests import simulated

    locks.FOLDER = pathlib.Path({folder!r})

    def pytest_configure(config):
        worker = getattr(config, "workerinput", None)
        if worker is not None and {hand_out}:
            os.environ["CUDA_VISIBLE_DEVICES"] = worker["workerid"].removeprefix("gw")
        listed = [nvml.Listed(index, uuid, "a GPU") for index, uuid in enumerate({uuids!r})]
        nvml.list_gpus = lambda: listed

    def pytest_energy_open_meter(gpu_uuids, is_engine_process):
        return simulated.SimulatedMeter()

    def record_launch(cells, settings, open_meter, progress, precision):
        uuid = {uuids!r}[int(os.environ["CUDA_VISIBLE_DEVICES"])]
        open_meter([uuid], None)
        # One look each: the other worker may let go of its GPU at any moment.
        holders = dict((gpu, locks.look(gpu)[1]) for gpu in {uuids!r})
        held = [gpu for gpu, holder in holders.items() if holder and holder.pid == os.getpid()]
        assert held == [uuid]
        for cell in cells:
            yield cell, simulated.recording(cell, launch_id=f"live-{{uuid}}", cycles=12.5)

    live.record_launch = record_launch
"""


@pytest.mark.parametrize(
    ("hand_out", "parents"),
    [(True, None), pytest.param(False, None, marks=pytest.mark.nightly), (False, "0")],
)
def test_under_xdist_workers_measure_on_gpus_of_their_own_or_not_at_all(
    project: Project, folder: Path, hand_out: bool, parents: str | None
) -> None:
    project.store()
    project.pytester.makeconftest(
        XDIST.format(root=str(ROOT), folder=str(folder), uuids=UUIDS, hand_out=hand_out)
    )
    environment = {
        name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"
    }
    environment |= {} if parents is None else {"CUDA_VISIBLE_DEVICES": parents}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "2", "-p", "no:cacheprovider"],
        cwd=project.path, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    if hand_out:
        assert "4 passed" in run.stdout, run.stdout
    else:
        assert "4 failed" in run.stdout, run.stdout
        assert (
            "live measurements do not work under pytest-xdist if workers share GPUs" in run.stdout
        )
        assert not folder.exists()
