"""The meter on simulated devices below Zeus: every update within its bounds, every fault reported.

Time is simulated, so that nothing depends on how busy the host is.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pynvml
import pytest

from pytest_energy.errors import MeterError
from pytest_energy.meters import zeus_meter
from pytest_energy.meters.zeus_meter import ZeusMeter
from pytest_energy.recording.recording import GpuSamples, GpuTrace
from tests.driver import SimulatedClock

UPDATE_S = 0.1
CALL_S = 0.001  # of a driver call
UUIDS = ("GPU-aaaa", "GPU-bbbb")


class Until(threading.Event):
    """The event that ends the meter's thread: waiting passes simulated time, which then ends it."""

    def __init__(self, clock: SimulatedClock, seconds: float) -> None:
        super().__init__()
        self._clock, self._seconds = clock, seconds
        self.clear()

    def clear(self) -> None:
        super().clear()
        self._end_s = self._clock.monotonic() + self._seconds

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.sleep(timeout or 0.0)
        if self._clock.monotonic() >= self._end_s:
            self.set()
        return self.is_set()


class Device:
    """What the meter asks of Zeus's NVIDIAGPU; its counter is updated on a grid of 0.1 s."""

    def __init__(self, power_w: float = 500.0, uuid: str = UUIDS[0]) -> None:
        self.power_w, self.handle = power_w, SimpleNamespace(uuid=uuid, pids=[], device=self)
        self.clock = SimulatedClock()
        self.start_s = self.clock.monotonic()
        self.reads = 0
        self.spoil: Callable[[float, int], int] = lambda elapsed_s, energy_mj: energy_mj

    def get_total_energy_consumption(self) -> int:
        self.reads += 1
        self.clock.sleep(CALL_S)
        elapsed_s = self.clock.monotonic() - self.start_s
        updates = int(elapsed_s / UPDATE_S)
        return self.spoil(elapsed_s, 1_000_000 + round(updates * UPDATE_S * self.power_w * 1000))

    def get_name(self) -> str:
        return "simulated GPU"


def fails(error: int) -> Callable[..., Any]:
    def fail(*_: Any) -> None:
        raise pynvml.NVMLError(error)

    return fail


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> dict[str, Device]:
    """By UUID; they share a clock, which is the meter's."""
    made = {UUIDS[0]: Device(500.0, UUIDS[0]), UUIDS[1]: Device(200.0, UUIDS[1])}
    made[UUIDS[1]].clock = made[UUIDS[0]].clock
    monkeypatch.setattr(zeus_meter, "_open_gpus", lambda uuids: [made[uuid] for uuid in uuids])

    def answer(name: str, value: Callable[..., Any]) -> None:
        monkeypatch.setattr(pynvml, name, value)

    def power(handle: Any, fields: Any) -> list[Any]:
        value = SimpleNamespace(uiVal=round(handle.device.power_w * 1000))
        return [SimpleNamespace(nvmlReturn=pynvml.NVML_SUCCESS, value=value)]

    answer("nvmlDeviceGetFieldValues", power)
    answer("nvmlDeviceGetPowerUsage", lambda handle: round(handle.device.power_w * 1000))
    answer("nvmlDeviceGetC2cModeInfoV", fails(pynvml.NVML_ERROR_NOT_SUPPORTED))
    answer("nvmlDeviceGetClockInfo", lambda handle, kind: 1980)
    answer("nvmlDeviceGetTemperatureV", lambda handle, sensor: 50)
    answer("nvmlDeviceGetTemperature", lambda handle, sensor: 50)
    answer("nvmlDeviceGetCurrentClocksEventReasons", lambda handle: 4)
    answer("nvmlDeviceGetCurrentClocksThrottleReasons", lambda handle: 4)
    answer("nvmlDeviceGetUtilizationRates", lambda handle: SimpleNamespace(gpu=97))
    answer(
        "nvmlDeviceGetComputeRunningProcesses",
        lambda handle: [SimpleNamespace(pid=p) for p in handle.pids],
    )
    return made


def measured(
    monkeypatch: pytest.MonkeyPatch, seconds: float, *devices: Device, traces: int = 1
) -> tuple[GpuTrace, ...]:
    """The last of some traces that a meter takes of these devices, each over simulated seconds."""
    clock = devices[0].clock
    monkeypatch.setattr(zeus_meter, "time", clock)
    event = Until(clock, seconds)
    with monkeypatch.context() as patch:
        patch.setattr(
            zeus_meter,
            "threading",
            SimpleNamespace(Event=lambda: event, Thread=threading.Thread),
        )
        meter = ZeusMeter([device.handle.uuid for device in devices], lambda pid: pid == 1)
    for _ in range(traces):
        meter.start()
        while not event.is_set():
            time.sleep(0.001)
        meter.stop()
    return meter.read()


def test_a_sound_counter(devices: dict[str, Device], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every update within its bounds, energy = power × time between them, few reads, no fault."""
    device = devices[UUIDS[0]]
    (trace,) = measured(monkeypatch, 1.75, device)
    assert trace.faults == ()
    counter = trace.counter
    assert len(counter.energy_mj) == 4  # one in five is watched
    for unchanged_ns, changed_ns, energy_mj in zip(
        counter.unchanged_ns, counter.changed_ns, counter.energy_mj, strict=True
    ):
        updates = round((energy_mj - 1_000_000) / 1000 / device.power_w / UPDATE_S)
        true_s = device.start_s + updates * UPDATE_S
        assert unchanged_ns / 1e9 - 1e-6 <= true_s <= changed_ns / 1e9 + 1e-6
        assert changed_ns - unchanged_ns < 0.01e9
    middle = (np.asarray(counter.unchanged_ns) + np.asarray(counter.changed_ns)) / 2e9
    assert np.ptp(counter.energy_mj) / 1e3 / np.ptp(middle) == pytest.approx(
        device.power_w, rel=0.02
    )
    assert device.reads / 1.75 < 60
    assert len(trace.samples.time_ns) == 2
    assert set(trace.samples.sm_clock_mhz) == {1980}


SPOILS: dict[str, tuple[Callable[[float, int], int], tuple[str, ...]]] = {
    "stuck": (lambda elapsed_s, energy_mj: min(energy_mj, 1_200_000), ("counter_stuck",)),
    "backwards": (
        lambda elapsed_s, energy_mj: energy_mj if elapsed_s < 0.6 else energy_mj - 900_000,
        ("counter_backwards",),
    ),
}


@pytest.mark.parametrize("name", SPOILS)
def test_faults_of_the_counter(
    devices: dict[str, Device], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    devices[UUIDS[0]].spoil, codes = SPOILS[name]
    (trace,) = measured(monkeypatch, 2.8, devices[UUIDS[0]])
    assert tuple(fault.split(":")[0] for fault in trace.faults) == codes


def test_a_counter_that_fails_now_and_then_is_a_fault_and_is_read_again(
    devices: dict[str, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[float] = []

    def now_and_then(elapsed_s: float, energy_mj: int) -> int:
        if elapsed_s > 0.6 and len(failed) < 3:
            failed.append(elapsed_s)
            raise RuntimeError("Unknown Error")
        return energy_mj

    devices[UUIDS[0]].spoil = now_and_then
    (trace,) = measured(monkeypatch, 2.8, devices[UUIDS[0]])
    assert trace.faults == ("counter_unreadable: Unknown Error",)
    assert len(trace.counter.energy_mj) >= 3


def test_a_counter_that_is_gone_is_given_up(
    devices: dict[str, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(elapsed_s: float, energy_mj: int) -> int:
        raise RuntimeError("GPU is lost")

    devices[UUIDS[0]].spoil = gone
    (trace,) = measured(monkeypatch, 2.8, devices[UUIDS[0]])
    assert trace.faults == ("counter_unreadable: GPU is lost",)
    assert devices[UUIDS[0]].reads == 20


def test_a_process_that_is_not_the_engines_is_a_fault(
    devices: dict[str, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    devices[UUIDS[0]].handle.pids = [1, 7]
    (trace,) = measured(monkeypatch, 1.0, devices[UUIDS[0]])
    assert trace.faults == ("foreign_process: pid 7",)


NOT_THERE = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
NEEDED = (
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetUtilizationRates",
)


@pytest.mark.parametrize("function", NEEDED)
def test_a_sample_that_a_verdict_needs_and_that_fails_is_a_fault_that_names_the_call(
    devices: dict[str, Device], monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    monkeypatch.setattr(pynvml, function, fails(pynvml.NVML_ERROR_UNKNOWN))
    (trace,) = measured(monkeypatch, 1.0, devices[UUIDS[0]])
    (fault,) = trace.faults
    assert re.fullmatch(rf"sample_unreadable: {function}(\(.*\))?: Unknown Error", fault)


def test_processes_that_cannot_be_listed_are_a_fault(
    devices: dict[str, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail = fails(pynvml.NVML_ERROR_UNKNOWN)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", fail)
    (trace,) = measured(monkeypatch, 1.0, devices[UUIDS[0]])
    assert trace.faults == ("processes_unreadable: Unknown Error",)


@pytest.mark.parametrize(
    ("function", "error", "series"),
    [
        ("nvmlDeviceGetClockInfo", pynvml.NVML_ERROR_UNKNOWN, "sm_clock_mhz"),
        ("nvmlDeviceGetTemperatureV", pynvml.NVML_ERROR_UNKNOWN, "temperature_c"),
        ("nvmlDeviceGetUtilizationRates", NOT_THERE[0], "utilization_percent"),
        ("nvmlDeviceGetUtilizationRates", NOT_THERE[1], "utilization_percent"),
    ],
)
def test_a_sample_that_only_explains_or_that_no_driver_reports_is_left_out_alone(
    devices: dict[str, Device],
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    error: int,
    series: str,
) -> None:
    monkeypatch.setattr(pynvml, function, fails(error))
    (trace,) = measured(monkeypatch, 1.75, devices[UUIDS[0]])
    assert trace.faults == ()
    lengths = {field.name: len(getattr(trace.samples, field.name)) for field in fields(GpuSamples)}
    assert lengths.pop(series) == 0
    assert set(lengths.values()) == {2}


@pytest.mark.parametrize(
    ("function", "series", "value"),
    [
        ("nvmlDeviceGetTemperatureV", "temperature_c", 50),
        ("nvmlDeviceGetCurrentClocksEventReasons", "throttle_reasons", 4),
    ],
)
@pytest.mark.parametrize("lacking", ["in the driver", "in nvidia-ml-py"])
def test_an_older_driver_is_asked_by_the_call_that_it_has(
    devices: dict[str, Device],
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    series: str,
    value: int,
    lacking: str,
) -> None:
    """Drivers of the 550 branch: "undefined symbol: nvmlDeviceGetTemperatureV"
    (github.com/HackTestes/NVML-GPU-Control, issue 19), which nvidia-ml-py reports as
    NVML_ERROR_FUNCTION_NOT_FOUND.
    """
    if lacking == "in the driver":
        monkeypatch.setattr(pynvml, function, fails(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND))
    else:
        monkeypatch.delattr(pynvml, function)
    (trace,) = measured(monkeypatch, 1.0, devices[UUIDS[0]])
    assert trace.faults == ()
    assert set(getattr(trace.samples, series)) == {value}


@pytest.mark.parametrize(
    "returned", [*NOT_THERE, pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_SUCCESS]
)
def test_a_gpu_without_average_power_is_asked_for_what_it_draws(
    devices: dict[str, Device], monkeypatch: pytest.MonkeyPatch, returned: int
) -> None:
    """A100 and V100. nvml.h: NVML_FI_DEV_POWER_AVERAGE is "supported on Ampere (except GA100) or
    newer architectures"; nvmlDeviceGetPowerUsage: "On GA100 and older architectures, instantaneous
    power is returned". 0 W is no reading.
    """
    none = SimpleNamespace(nvmlReturn=returned, value=SimpleNamespace(uiVal=0))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", lambda handle, fields: [none])
    (trace,) = measured(monkeypatch, 1.0, devices[UUIDS[0]])
    assert (trace.faults, trace.power) == ((), "instant")
    assert set(trace.samples.average_power_mw) == {500_000}


def test_without_any_power_nothing_checks_the_counter(
    devices: dict[str, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    for function in ("nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage"):
        monkeypatch.setattr(pynvml, function, fails(pynvml.NVML_ERROR_NOT_SUPPORTED))
    (trace,) = measured(monkeypatch, 1.0, devices[UUIDS[0]])
    assert trace.faults == ("sample_unreadable: nvmlDeviceGetPowerUsage: Not Supported",)


def test_several_gpus_come_in_the_engines_order(
    devices: dict[str, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = measured(monkeypatch, 0.8, *reversed(devices.values()))
    assert [trace.uuid for trace in traces] == ["GPU-bbbb", "GPU-aaaa"]
    powers_mw = [set(trace.samples.average_power_mw) for trace in traces]
    assert powers_mw == [{200_000}, {500_000}]


def test_a_gpu_that_is_lost_keeps_its_name_and_its_trace(
    devices: dict[str, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = devices[UUIDS[0]]

    def lost(elapsed_s: float, energy_mj: int) -> int:
        if elapsed_s > 1.0:
            device.get_name = device.get_total_energy_consumption  # type: ignore[method-assign, assignment]
            raise RuntimeError("GPU is lost")
        return energy_mj

    device.spoil = lost
    (trace,) = measured(monkeypatch, 2.8, device)
    assert trace.name == "simulated GPU"
    assert len(trace.counter.energy_mj) >= 2


def test_a_trace_can_be_read_while_the_meter_reads(devices: dict[str, Device]) -> None:
    """With threads and time as they are: whatever is read is whole and only grows."""
    meter = ZeusMeter(UUIDS[:1])
    devices[UUIDS[0]].clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None)  # type: ignore[assignment]
    meter.start()
    lengths = [0]
    while len(set(lengths)) < 3:
        (trace,) = meter.read()
        assert len(trace.counter.energy_mj) == len(trace.counter.changed_ns)
        lengths.append(len(trace.counter.energy_mj))
        time.sleep(0.001)
    meter.stop()
    assert lengths == sorted(lengths)
    assert "energy-meter" not in [thread.name for thread in threading.enumerate()]


def test_a_new_trace_starts_afresh(
    devices: dict[str, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = devices[UUIDS[0]]
    (trace,) = measured(monkeypatch, 0.4, device, traces=2)
    assert trace.counter.changed_ns[0] > (device.start_s + 0.4) * 1e9


def test_no_gpu() -> None:
    with pytest.raises(MeterError, match=r"not run on an NVIDIA GPU.*\n.*--energy-replay"):
        ZeusMeter([])


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A driver that lists two GPUs; yields the indices that Zeus was asked to open."""
    opened: list[int] = []

    class Gpu(Device):
        def __init__(self, index: int) -> None:
            super().__init__(uuid=UUIDS[index])
            opened.append(index)

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetUUID", lambda handle: UUIDS[handle].encode() if handle else UUIDS[0]
    )
    monkeypatch.setattr("zeus.device.gpu.nvidia.NVIDIAGPU", Gpu)
    return opened


@pytest.mark.parametrize("visible", [None, "1", "GPU-bbbb,GPU-aaaa", ""])
def test_gpus_are_found_by_uuid_alone(
    driver: list[int], monkeypatch: pytest.MonkeyPatch, visible: str | None
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    ZeusMeter(["GPU-bbbb", "GPU-aaaa"])
    assert driver == [1, 0]


@pytest.mark.parametrize(
    ("uuid", "message"),
    [("MIG-1234", "MIG slice"), ("GPU-cccc", "which the driver does not list: GPU-aaaa, GPU-bbbb")],
)
def test_gpus_that_cannot_be_read(driver: list[int], uuid: str, message: str) -> None:
    with pytest.raises(MeterError, match=message):
        ZeusMeter([uuid])


def test_a_gpu_that_zeus_cannot_open(driver: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(index: int) -> None:
        raise RuntimeError("Insufficient Permissions")

    monkeypatch.setattr("zeus.device.gpu.nvidia.NVIDIAGPU", refuse)
    with pytest.raises(MeterError, match="GPU-aaaa cannot be read: Insufficient Permissions"):
        ZeusMeter(["GPU-aaaa"])


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    with pytest.raises(MeterError, match=r"the NVIDIA driver does not respond"):
        ZeusMeter(["GPU-aaaa"])
