"""Fixtures of the engines' tests."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.engines.worker_process import session_members

FAKE_PACKAGES = Path(__file__).with_name("fake_packages")


def interpreter(folder: Path) -> str:
    """An interpreter in `folder` that finds the stand-in for vLLM."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={FAKE_PACKAGES} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


def release(folder: Path, version: str, step_s: float = 0.001) -> str:
    """An interpreter in `folder` that has the stand-in installed as vLLM of this version."""
    place = folder / version
    information = place / f"vllm-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Name: vllm\nVersion: {version}\n")
    script = place / "python"
    script.write_text(
        f"#!/bin/sh\nexport VERSION={version} STEP_S={step_s} PYTHONPATH={place}:{FAKE_PACKAGES}\n"
        f'exec {sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    return str(script)


def left_of(session: int) -> list[int]:
    """The processes of a session that are still alive a minute later; they are killed."""
    deadline = time.monotonic() + 60
    while (left := session_members(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


@pytest.fixture
def python(tmp_path: Path) -> str:
    return interpreter(tmp_path)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The POSIX sessions of all workers that were started, in order."""
    started: list[int] = []
    start = subprocess.Popen.__init__

    def remember(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        started.append(self.pid)

    monkeypatch.setattr(subprocess.Popen, "__init__", remember)
    return started
