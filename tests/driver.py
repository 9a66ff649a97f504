"""A driver below nvidia-ml-py: two simulated GPUs that can be given any fault.

Their energy counters are updated on a grid, as real ones are.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from tests.simulated import GPU_NAME

UPDATE_S = 0.01
UUIDS = ("GPU-aaaaaaaa-0000-0000-0000-000000000000", "GPU-bbbbbbbb-0000-0000-0000-000000000000")


class SimulatedClock:
    """Time that passes only where a program waits for it; stands in for the module `time`."""

    def __init__(self) -> None:
        self._now_ns = 10**12

    def monotonic(self) -> float:
        return self._now_ns / 1e9

    def monotonic_ns(self) -> int:
        return self._now_ns

    def sleep(self, seconds: float) -> None:
        self._now_ns += round(seconds * 1e9)


@dataclass
class SimulatedGpu:
    """One GPU and what it reports."""

    index: int
    uuid: str
    monotonic: Callable[[], float] = time.monotonic
    power_w: float = 30.0  # so little that a delayed test does not see a disagreement
    power_limit_mw: int = 700_000
    enforced_mw: int = 700_000
    mig: tuple[int, int] = (0, 0)
    ecc_uncorrected: int = 0
    persistence: int = 1
    utilization_percent: int = 0
    clock_reasons: int = 1
    average_power_w: float | None = None  # as reported; None: what is drawn
    cpu_w: float | None = None  # of a CPU on the same module
    counts_module: bool = False  # whether its counter counts that, too
    bus_id: bytes = b""
    memory_mib: int = 4
    desktop_mib: int | None = None  # held by a graphics process; None if not known
    is_numa_node: bool = False
    pids: list[int] = field(default_factory=list)
    held_mib: dict[int, int] = field(default_factory=dict)  # by process, if the driver says it
    # NVML's error codes by function, and by "FIELD of scope SCOPE"
    fails: dict[str, int] = field(default_factory=dict)
    counter: Callable[[int], int] = lambda energy_mj: energy_mj

    def energy_mj(self) -> int:
        updates = int(self.monotonic() / UPDATE_S)
        power_w = self.power_w + (self.cpu_w or 0) * self.counts_module
        return self.counter(1_000_000 + round(updates * UPDATE_S * power_w * 1000) % 10**12)


class SimulatedDriver:
    """Replaces nvidia-ml-py's functions.

    Args:
        monotonic: the clock of the energy counters.

    Attributes:
        gpus: by UUID.
        calls: names of the functions called, in order.
        fails: takes a call's name and number; returns the NVML error code to fail with, or None.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.gpus = {uuid: SimulatedGpu(index, uuid, monotonic) for index, uuid in enumerate(UUIDS)}
        self.calls: list[str] = []
        self.fails: Callable[[str, int], int | None] = lambda name, number: None
        for name, answer in self._answers().items():
            monkeypatch.setattr(pynvml, name, self._function(name, answer))

    def _function(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls.append(name)
            gpu = arguments[0] if arguments else None
            if name == "nvmlDeviceGetHandleByIndex":
                gpu = list(self.gpus.values())[arguments[0]]
            error = self.fails(name, len(self.calls))
            if isinstance(gpu, SimulatedGpu):
                error = gpu.fails.get(name, error)
            if error is not None:
                raise pynvml.NVMLError(error)
            return answer(*arguments, **keywords)

        return call

    def _by_uuid(self, uuid: str) -> SimulatedGpu:
        if uuid not in self.gpus:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.gpus[uuid]

    def _answers(self) -> dict[str, Callable[..., Any]]:
        def power(gpu: SimulatedGpu, fields: Any) -> list[Any]:
            power_w = gpu.power_w if gpu.average_power_w is None else gpu.average_power_w
            ((field, scope),) = fields
            error = gpu.fails.get(f"{field} of scope {scope}", pynvml.NVML_SUCCESS)
            if scope == pynvml.NVML_POWER_SCOPE_MODULE:
                power_w += gpu.cpu_w or 0
            value = SimpleNamespace(uiVal=round(power_w * 1000))
            return [SimpleNamespace(nvmlReturn=error, value=value)]

        def c2c(gpu: SimulatedGpu) -> Any:
            if gpu.cpu_w is None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return SimpleNamespace(isC2cEnabled=1)

        def numa_node(gpu: SimulatedGpu) -> int:
            if not gpu.is_numa_node:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return 1

        return {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetC2cModeInfoV": c2c,
            "nvmlDeviceGetPciInfo": lambda gpu: SimpleNamespace(busId=gpu.bus_id),
            "nvmlSystemGetDriverVersion": lambda: "580.159.04",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
            "nvmlDeviceGetCount": lambda: len(self.gpus),
            "nvmlDeviceGetHandleByIndex": lambda index: list(self.gpus.values())[index],
            "nvmlDeviceGetHandleByUUID": self._by_uuid,
            "nvmlDeviceGetUUID": lambda gpu: gpu.uuid,
            "nvmlDeviceGetName": lambda gpu: GPU_NAME,
            "nvmlDeviceGetPersistenceMode": lambda gpu: gpu.persistence,
            "nvmlDeviceGetPowerManagementLimit": lambda gpu: gpu.power_limit_mw,
            "nvmlDeviceGetPowerManagementDefaultLimit": lambda gpu: 700_000,
            "nvmlDeviceGetEnforcedPowerLimit": lambda gpu: gpu.enforced_mw,
            "nvmlDeviceGetClockInfo": lambda gpu, kind: 345,
            "nvmlDeviceGetMaxClockInfo": lambda gpu, kind: 1980,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: gpu.clock_reasons,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu: gpu.clock_reasons,
            "nvmlDeviceGetTemperature": lambda gpu, sensor: 34,
            "nvmlDeviceGetTemperatureV": lambda gpu, sensor: 34,
            "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(
                gpu=gpu.utilization_percent
            ),
            "nvmlDeviceGetMemoryInfo": lambda gpu, version=None: SimpleNamespace(
                used=gpu.memory_mib << 20
            ),
            "nvmlDeviceGetNumaNodeId": numa_node,
            "nvmlDeviceGetGraphicsRunningProcesses": lambda gpu: [
                SimpleNamespace(
                    pid=1,
                    usedGpuMemory=None if gpu.desktop_mib is None else gpu.desktop_mib << 20,
                )
            ],
            "nvmlDeviceGetMigMode": lambda gpu: list(gpu.mig),
            "nvmlDeviceGetEccMode": lambda gpu: [1, 1],
            "nvmlDeviceGetTotalEccErrors": lambda gpu, kind, counter: gpu.ecc_uncorrected,
            "nvmlDeviceGetRemappedRows": lambda gpu: (0, 0, 0, 0),
            "nvmlDeviceGetComputeMode": lambda gpu: 0,
            "nvmlDeviceGetComputeRunningProcesses": lambda gpu: [
                SimpleNamespace(
                    pid=pid, usedGpuMemory=gpu.held_mib[pid] << 20 if pid in gpu.held_mib else None
                )
                for pid in gpu.pids
            ],
            "nvmlDeviceGetTotalEnergyConsumption": lambda gpu: gpu.energy_mj(),
            "nvmlDeviceGetFieldValues": power,
            "nvmlDeviceGetPowerUsage": lambda gpu: round(gpu.power_w * 1000),
        }
