"""Reads facts: the driver through nvidia-ml-py, the host from /proc, /sys and the clocks. Reads only, and never raises."""

import datetime
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_energy.health.facts import (
    ClockFacts,
    CounterWatch,
    DriverFacts,
    GpuFacts,
    HostFacts,
    Process,
)
from pytest_energy.meters.nvml import Listed, text

_READ_EVERY_S = 0.002
_POWER_EVERY_S = 0.05
_CLOCKS_S = 0.25
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO in Linux' include/linux/proc_ns.h
_UNLIMITED = 1 << 60
_LOST = ("NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_RESET_REQUIRED")


def _nvml() -> Any:
    import pynvml

    return pynvml


# What is asked of a GPU, by the name of the fact.
_ASKS: Mapping[str, Callable[[Any], Any]] = {
    "persistence": lambda gpu: bool(_nvml().nvmlDeviceGetPersistenceMode(gpu)),
    "power_limit_w": lambda gpu: _nvml().nvmlDeviceGetPowerManagementLimit(gpu) / 1000,
    "default_power_limit_w": lambda gpu: (
        _nvml().nvmlDeviceGetPowerManagementDefaultLimit(gpu) / 1000
    ),
    "enforced_power_limit_w": lambda gpu: _nvml().nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,
    "sm_clock_mhz": lambda gpu: int(_nvml().nvmlDeviceGetClockInfo(gpu, _nvml().NVML_CLOCK_SM)),
    "max_sm_clock_mhz": lambda gpu: int(
        _nvml().nvmlDeviceGetMaxClockInfo(gpu, _nvml().NVML_CLOCK_SM)
    ),
    "clock_reasons": lambda gpu: int(_nvml().nvmlDeviceGetCurrentClocksEventReasons(gpu)),
    "temperature_c": lambda gpu: int(
        _nvml().nvmlDeviceGetTemperature(gpu, _nvml().NVML_TEMPERATURE_GPU)
    ),
    "utilization_percent": lambda gpu: int(_nvml().nvmlDeviceGetUtilizationRates(gpu).gpu),
    "memory_used_mib": lambda gpu: int(_memory_used(gpu)) >> 20,
    "mig": lambda gpu: bool(_nvml().nvmlDeviceGetMigMode(gpu)[0]),
    "mig_pending": lambda gpu: bool(_nvml().nvmlDeviceGetMigMode(gpu)[1]),
    "ecc": lambda gpu: bool(_nvml().nvmlDeviceGetEccMode(gpu)[0]),
    "ecc_pending": lambda gpu: bool(_nvml().nvmlDeviceGetEccMode(gpu)[1]),
    "ecc_uncorrected": lambda gpu: int(
        _nvml().nvmlDeviceGetTotalEccErrors(
            gpu, _nvml().NVML_MEMORY_ERROR_TYPE_UNCORRECTED, _nvml().NVML_VOLATILE_ECC
        )
    ),
    "rows_pending": lambda gpu: bool(_nvml().nvmlDeviceGetRemappedRows(gpu)[2]),
    "rows_failed": lambda gpu: bool(_nvml().nvmlDeviceGetRemappedRows(gpu)[3]),
    "compute_mode": lambda gpu: int(_nvml().nvmlDeviceGetComputeMode(gpu)),
    "processes": lambda gpu: tuple(
        map(_process, _nvml().nvmlDeviceGetComputeRunningProcesses(gpu))
    ),
}


def read_driver() -> DriverFacts:
    """Versions of the driver, or why it does not answer."""
    try:
        nvml = _nvml()
        nvml.nvmlInit()
        version = text(nvml.nvmlSystemGetDriverVersion())
    except Exception as error:
        return DriverFacts(error=_said(error))
    try:
        number = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        cuda: str | None = f"{number // 1000}.{number % 1000 // 10}"
    except Exception:
        cuda = None
    return DriverFacts(version, cuda)


def read_gpu(gpu: Listed, wanted: Collection[str] = _ASKS.keys()) -> GpuFacts:
    """What the driver tells of a GPU.

    Args:
        gpu: as listed; it is found by its UUID.
        wanted: names of facts; the others stay None.
    """
    known: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    lost = ""
    try:
        _nvml().nvmlInit()
        handle = _nvml().nvmlDeviceGetHandleByUUID(gpu.uuid)
    except Exception as error:
        return GpuFacts(
            gpu.index, gpu.uuid, gpu.name, lost=_said(error), unknown=not _is(error, *_LOST)
        )
    for name in wanted:
        try:
            known[name] = _ASKS[name](handle)
        except (
            Exception
        ) as error:  # whatever a driver or nvidia-ml-py may raise: the other facts are worth having
            if _is(error, *_LOST):
                lost = _said(error)
                break
            if not _is(
                error,
                "NVML_ERROR_NOT_SUPPORTED",
                "NVML_ERROR_FUNCTION_NOT_FOUND",
                "NVML_ERROR_VGPU_ECC_NOT_SUPPORTED",
            ):
                unreadable[name] = _said(error)
    return GpuFacts(gpu.index, gpu.uuid, gpu.name, lost=lost, unreadable=unreadable, **known)


def _is(error: Exception, *names: str) -> bool:
    if isinstance(error, ImportError):
        return False
    return getattr(error, "value", None) in {getattr(_nvml(), name, None) for name in names} - {
        None
    }


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _memory_used(handle: Any) -> int:
    nvml = _nvml()
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).used)
    except nvml.NVMLError as error:
        if not _is(
            error,
            "NVML_ERROR_NOT_SUPPORTED",
            "NVML_ERROR_FUNCTION_NOT_FOUND",
            "NVML_ERROR_ARGUMENT_VERSION_MISMATCH",
        ):
            raise
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)


def _process(process: Any) -> Process:
    used = process.usedGpuMemory
    return Process(
        int(process.pid), _name_of(int(process.pid)), None if used is None else int(used) >> 20
    )


def _name_of(pid: int) -> str | None:
    """A process's name; the driver's ids are those of the host, so none is believed in a container."""
    try:
        if str(Path("/proc/self/ns/pid").readlink()) != _INITIAL_PID_NAMESPACE:
            return None
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return None
    return name if name.isprintable() else None


class _Watched:
    """One GPU's counter while it is watched."""

    def __init__(self, gpu: Listed) -> None:
        self.updates: list[tuple[float, int]] = []
        self.powers: list[tuple[float, float]] = []
        self.backwards, self.error, self.supported = False, "", True
        self._last: int | None = None
        self._next_power_s = 0.0
        try:
            self._handle = _nvml().nvmlDeviceGetHandleByUUID(gpu.uuid)
        except Exception as error:
            self.error = _said(error)

    def read(self) -> None:
        if self.error or not self.supported:
            return
        try:
            energy_mj = int(_nvml().nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except Exception as error:
            self.supported = not _is(error, "NVML_ERROR_NOT_SUPPORTED")
            self.error = _said(error) if self.supported else ""
            return
        now = time.monotonic()
        if self._last is not None and energy_mj != self._last:
            self.backwards |= energy_mj < self._last
            self.updates.append((now, energy_mj))
        self._last = energy_mj
        if now >= self._next_power_s:
            self._next_power_s = now + _POWER_EVERY_S
            try:
                self.powers.append((now, _power_w(self._handle)))
            except Exception:
                self._next_power_s = float("inf")  # told by there being none

    def found(self) -> CounterWatch:
        times = [time_s for time_s, _ in self.updates]
        seconds = times[-1] - times[0] if times else 0.0
        inside = [
            power for time_s, power in self.powers if times and times[0] <= time_s <= times[-1]
        ]
        return CounterWatch(
            updates=len(times),
            seconds=seconds,
            energy_j=(self.updates[-1][1] - self.updates[0][1]) / 1000 if times else 0.0,
            period_s=statistics.median(b - a for a, b in itertools.pairwise(times))
            if len(times) > 1
            else None,
            power_w=statistics.fmean(inside) if inside else None,
            backwards=self.backwards,
            error=self.error,
            supported=self.supported,
        )


def _power_w(handle: Any) -> float:
    """The power now, W; the mean of the last second where the driver does not tell that."""
    nvml = _nvml()
    value = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_POWER_INSTANT])[0]
    if value.nvmlReturn == nvml.NVML_SUCCESS:
        return float(value.value.uiVal) / 1000
    return float(nvml.nvmlDeviceGetPowerUsage(handle)) / 1000


def watch_counters(gpus: Sequence[Listed], seconds: float) -> tuple[CounterWatch, ...]:
    """The energy counters of some GPUs, watched side by side for `seconds`."""
    watched = [_Watched(gpu) for gpu in gpus]
    end = time.monotonic() + seconds
    while watched and time.monotonic() < end:
        for counter in watched:
            counter.read()
        time.sleep(_READ_EVERY_S)
    return tuple(counter.found() for counter in watched)


def read_host(rapl_unavailable: str) -> HostFacts:
    """The host.

    Args:
        rapl_unavailable: why the meter cannot read CPU energy; empty where it can.
    """
    from pytest_energy.recording.fingerprint import host

    described, folder = host(), tempfile.gettempdir()
    try:
        free: int | None = shutil.disk_usage(folder).free >> 20
    except OSError:
        free = None
    return HostFacts(
        cpu_model=described["cpu_model"],
        cores=described["cpu_count"],
        usable_cores=_usable_cores(),
        governors=_governors(),
        load_1min=described["load_1min"],
        memory_available_mib=_memory_available_mib(),
        rapl_unavailable=rapl_unavailable,
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
    line = next((line for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")), "")
    words = line.split()
    found = [int(words[1]) >> 10] if len(words) > 1 and words[1].isdecimal() else []
    for folder in _cgroups():
        limit, used = _first(f"{folder}/memory.max"), _first(f"{folder}/memory.current")
        if limit and used and limit.isdecimal() and used.isdecimal() and int(limit) < _UNLIMITED:
            # The page cache counts as used and is given back when memory is short.
            cached = next(
                (
                    int(line.split()[1])
                    for line in _lines(f"{folder}/memory.stat")
                    if line.startswith("inactive_file ")
                ),
                0,
            )
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
    """How long the machine slept since it was booted, s: the time that CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC."""
    monotonic, boottime = _together(time.CLOCK_BOOTTIME)
    return boottime - monotonic


def _together(clock: int) -> tuple[float, float]:
    """CLOCK_MONOTONIC and another clock at one moment, s: of several tries that in which this process was held up least."""
    tries = []
    for _ in range(10):
        before, other, after = time.monotonic(), time.clock_gettime(clock), time.monotonic()
        tries.append((after - before, (before + after) / 2, other))
    _, monotonic, other = min(tries)
    return monotonic, other
