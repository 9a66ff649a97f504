"""A whole live run that is interrupted: no process stays, no file is half written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_energy.engines.worker_process import session_members
from tests.conftest import ROOT
from tests.engine.conftest import left_of
from tests.plugin.project import Project

FAKE_PACKAGES = ROOT / "tests" / "engine" / "fake_packages"
CONFTEST = """
    from tests.simulated import SimulatedMeter

    def pytest_energy_open_meter(gpu_uuids, is_engine_process):
        return SimulatedMeter()
"""


# A runner may have been started with SIGINT ignored.
RUN = """
import signal, sys, pytest
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(pytest.main(sys.argv[1:]))
"""


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize(
    ("how", "status"), [(signal.SIGINT, 2), (signal.SIGTERM, -15), (signal.SIGKILL, -9)]
)
def test_an_interrupted_measurement_leaves_nothing(
    project: Project, how: signal.Signals, status: int
) -> None:
    project.pytester.makeconftest(CONFTEST)
    before = project.files()
    run = subprocess.Popen(
        [
            sys.executable,
            "-c",
            RUN,
            "-p",
            "no:cacheprovider",
            "--energy-update",
            "--energy-record",
            "kept",
        ],
        cwd=project.path,
        env={**os.environ, "PYTHONPATH": f"{FAKE_PACKAGES}:{ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    for line in run.stdout:
        if "measuring" in line:
            break
    sessions = children(run.pid)
    assert sum(len(session_members(session)) for session in sessions) >= 1
    run.send_signal(how)
    rest = run.stdout.read()
    assert run.wait(timeout=120) == status, rest
    run.stdout.close()
    assert [left_of(session) for session in sessions] == [[] for _ in sessions]
    assert project.files() == before
