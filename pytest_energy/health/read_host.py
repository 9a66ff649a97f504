"""Reads facts of the host and its clocks. Reads only, and never raises."""

import contextlib
import datetime
import os
import shutil
import tempfile
import time
from pathlib import Path

import psutil

from pytest_energy.health.facts import ClockFacts, HostFacts

_CLOCKS_S = 0.25
_UNLIMITED = 1 << 60


def read_host() -> HostFacts:
    """The host."""
    from pytest_energy.recording.fingerprint import host

    described, folder = host(), tempfile.gettempdir()
    try:
        free: int | None = shutil.disk_usage(folder).free >> 20
    except OSError:
        free = None
    return HostFacts(
        cpu_model=described.cpu_model or "unknown",
        cores=described.cpu_count,
        usable_cores=_usable_cores(),
        governors=_governors(),
        load_1min=described.load_1min,
        memory_available_mib=_memory_available_mib(),
        temporary_folder=folder,
        disk_free_mib=free,
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def _first(path: str) -> str | None:
    return next((line.strip() for line in _lines(path) if line.strip()), None)


def _governors(folder: str = "/sys/devices/system/cpu") -> tuple[str, ...]:
    files = sorted(Path(folder).glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return tuple(sorted({word for file in files if (word := _first(str(file)))}))


def _cgroups() -> list[str]:
    """Folders of this process's cgroup (v2) and of those around it."""
    line = next((line for line in _lines("/proc/self/cgroup") if line.startswith("0::")), None)
    if line is None:
        return []
    inner = Path("/sys/fs/cgroup") / line[3:].lstrip("/")
    return [
        str(folder) for folder in (inner, *inner.parents) if folder.is_relative_to("/sys/fs/cgroup")
    ]


def _usable_cores() -> float:
    cores = float(len(os.sched_getaffinity(0)))
    for folder in _cgroups():
        quota, _, period = (_first(f"{folder}/cpu.max") or "max").partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            cores = min(cores, int(quota) / int(period))
    return cores


def _memory_available_mib() -> int | None:
    found = []
    with contextlib.suppress(OSError, psutil.Error):
        found.append(int(psutil.virtual_memory().available) >> 20)
    for folder in _cgroups():
        limit, used = _first(f"{folder}/memory.max"), _first(f"{folder}/memory.current")
        if limit and used and limit.isdecimal() and used.isdecimal() and int(limit) < _UNLIMITED:
            # The page cache counts as used and is given back when memory is short.
            lines = (line.split() for line in _lines(f"{folder}/memory.stat"))
            cached = next((int(line[1]) for line in lines if line[:1] == ["inactive_file"]), 0)
            found.append(max(0, int(limit) - int(used) + cached) >> 20)
    return min(found, default=None)


def read_clocks(seconds: float = _CLOCKS_S) -> ClockFacts:
    """The clocks, compared over `seconds`."""
    steps: list[int] = []
    last = time.monotonic_ns()
    while len(steps) < 200:
        now = time.monotonic_ns()
        if now != last:
            steps.append(now - last)
        last = now
    monotonic, wall = _together(time.CLOCK_REALTIME)
    time.sleep(seconds)
    monotonic_later, wall_later = _together(time.CLOCK_REALTIME)
    return ClockFacts(
        monotonic_s=monotonic_later - monotonic,
        wall_s=wall_later - wall,
        step_ns=min(steps),
        year=datetime.datetime.now(datetime.UTC).year,
        source=_first("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    )


def suspended_s() -> float:
    """How long the machine has been suspended since boot, s: CLOCK_BOOTTIME - CLOCK_MONOTONIC."""
    monotonic, boottime = _together(time.CLOCK_BOOTTIME)
    return boottime - monotonic


def _together(clock: int) -> tuple[float, float]:
    """CLOCK_MONOTONIC and another clock at one moment, s: of ten tries, the least delayed."""
    tries = []
    for _ in range(10):
        before, other, after = time.monotonic(), time.clock_gettime(clock), time.monotonic()
        tries.append((after - before, (before + after) / 2, other))
    _, monotonic, other = min(tries)
    return monotonic, other
