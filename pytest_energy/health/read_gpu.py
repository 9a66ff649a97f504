"""Reads facts of the driver and its GPUs through nvidia-ml-py. Reads only, and never raises."""

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import psutil

from pytest_energy.health.facts import CounterWatch, DriverFacts, GpuFacts, Process
from pytest_energy.meters import scope
from pytest_energy.meters.companions import Companions, Unreadable, Unsupported
from pytest_energy.meters.nvml import Listed, text
from pytest_energy.meters.processes import in_initial_namespace

_READ_EVERY_S = 0.002
_POWER_EVERY_S = 0.05
_EXPLAINED = 1 << 30  # bytes of memory that need no explanation
_LOST = ("NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_RESET_REQUIRED")
_UNSUPPORTED = ("NVML_ERROR_NOT_SUPPORTED", "NVML_ERROR_FUNCTION_NOT_FOUND")


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
    "sm_clock_mhz": lambda gpu: _companion(gpu, "sm_clock_mhz"),
    "max_sm_clock_mhz": lambda gpu: int(
        _nvml().nvmlDeviceGetMaxClockInfo(gpu, _nvml().NVML_CLOCK_SM)
    ),
    "clock_reasons": lambda gpu: _companion(gpu, "throttle_reasons"),
    "temperature_c": lambda gpu: _companion(gpu, "temperature_c"),
    "utilization_percent": lambda gpu: _companion(gpu, "utilization_percent"),
    "memory_used_mib": lambda gpu: _mib(_unexplained_memory(gpu)),
    "unlisted_memory_mib": lambda gpu: _mib(_unlisted_memory(gpu)),
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


def _companion(handle: Any, name: str) -> int | None:
    """Read as the meter does; None if it is not reported."""
    try:
        return Companions(handle).read(name)
    except Unsupported:
        return None
    except Unreadable as error:
        raise error.__cause__ or error from None


def read_driver() -> DriverFacts:
    """Versions of the driver, or why it does not respond."""
    try:
        nvml = _nvml()
        nvml.nvmlInit()
        version = text(nvml.nvmlSystemGetDriverVersion())
    except Exception as error:
        return DriverFacts(error=_said(error), code=getattr(error, "value", None))
    try:
        number = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        cuda: str | None = f"{number // 1000}.{number % 1000 // 10}"
    except Exception:
        cuda = None
    return DriverFacts(version, cuda)


def read_gpu(gpu: Listed, wanted: Collection[str] = _ASKS.keys()) -> GpuFacts:
    """What the driver reports about a GPU.

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
        except Exception as error:  # whatever is raised, the other facts are worth having
            if _is(error, *_LOST):
                lost = _said(error)
                break
            if not _is(error, *_UNSUPPORTED, "NVML_ERROR_VGPU_ECC_NOT_SUPPORTED"):
                unreadable[name] = _said(error)
    return GpuFacts(gpu.index, gpu.uuid, gpu.name, lost=lost, unreadable=unreadable, **known)


def _is(error: Exception, *names: str) -> bool:
    if isinstance(error, ImportError):
        return False
    codes = {getattr(_nvml(), name, None) for name in names} - {None}
    return getattr(error, "value", None) in codes


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unexplained_memory(handle: Any) -> int | None:
    """Bytes of memory in use that neither driver nor listed graphics processes (a desktop) hold.

    None if the GPU is a NUMA node (Grace Hopper), where "pages allocated from FB memory are not
    released even after the process terminates" (nvml.h, nvmlDeviceGetMemoryInfo_v2).
    """
    nvml = _nvml()
    used = _memory_used(handle)
    if used <= _EXPLAINED:
        return used
    with contextlib.suppress(Exception):
        nvml.nvmlDeviceGetNumaNodeId(handle)
        return None
    with contextlib.suppress(Exception):
        desktop = nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
        used -= sum(process.usedGpuMemory or 0 for process in desktop)
    return max(0, used)


def _unlisted_memory(handle: Any) -> int | None:
    """Without what the driver says that listed compute processes hold, either; else it counts."""
    used = _unexplained_memory(handle)
    if used is None or used <= _EXPLAINED:
        return used
    listed = _nvml().nvmlDeviceGetComputeRunningProcesses(handle)
    return max(0, used - sum(process.usedGpuMemory or 0 for process in listed))


def _mib(memory: int | None) -> int | None:
    return None if memory is None else memory >> 20


def _memory_used(handle: Any) -> int:
    """In bytes; without what the driver reserves, if it reports the two separately."""
    nvml = _nvml()
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).used)
    except nvml.NVMLError as error:
        if not _is(error, *_UNSUPPORTED, "NVML_ERROR_ARGUMENT_VERSION_MISMATCH"):
            raise
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)


def _process(process: Any) -> Process:
    return Process(int(process.pid), _name_of(int(process.pid)))


def _name_of(pid: int) -> str | None:
    """A process's name; None in a container, since the driver reports the host's process ids."""
    with contextlib.suppress(OSError, psutil.Error):
        if in_initial_namespace():
            name = psutil.Process(pid).name()
            return name if name.isprintable() else None
    return None


class _Watched:
    """One GPU's counter while it is watched."""

    def __init__(self, gpu: Listed) -> None:
        self.updates: list[tuple[float, int]] = []
        self.powers: list[tuple[float, dict[int, float]]] = []
        self.power_error = ""
        self.backwards, self.error, self.supported = False, "", True
        self._last: int | None = None
        self._next_power_s = 0.0
        try:
            self._handle = _nvml().nvmlDeviceGetHandleByUUID(gpu.uuid)
            self._companions = Companions(self._handle)
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
                self.powers.append((now, self._powers_w()))
            except (Unsupported, Unreadable) as error:
                self.power_error = _said(error)
                self._next_power_s = float("inf")  # having no reading is a finding

    def _powers_w(self) -> dict[int, float]:
        """By the scope that they are of."""
        both = scope.powers_w(self._handle)
        return both or {scope.GPU: self._companions.read("average_power_mw") / 1000}

    def found(self) -> CounterWatch:
        times = [time_s for time_s, _ in self.updates]
        seconds = times[-1] - times[0] if times else 0.0
        energy_j = (self.updates[-1][1] - self.updates[0][1]) / 1000 if times else 0.0
        inside = [
            powers for time_s, powers in self.powers if times and times[0] <= time_s <= times[-1]
        ]
        mean_w = {
            of: statistics.fmean(powers[of] for powers in inside if of in powers)
            for of in (inside[0] if inside else ())
        }
        of = scope.fitting(energy_j / seconds if seconds else None, mean_w)
        return CounterWatch(
            updates=len(times),
            seconds=seconds,
            energy_j=energy_j,
            period_s=statistics.median(b - a for a, b in itertools.pairwise(times))
            if len(times) > 1
            else None,
            power_w=mean_w.get(of),
            power_error=self.power_error,
            of_module=of == scope.MODULE,
            backwards=self.backwards,
            error=self.error,
            supported=self.supported,
        )


def watch_counters(gpus: Sequence[Listed], seconds: float) -> tuple[CounterWatch, ...]:
    """The energy counters of some GPUs, watched side by side for `seconds`."""
    watched = [_Watched(gpu) for gpu in gpus]
    end = time.monotonic() + seconds
    while watched and time.monotonic() < end:
        for counter in watched:
            counter.read()
        time.sleep(_READ_EVERY_S)
    return tuple(counter.found() for counter in watched)
