"""The meter on simulated devices below Zeus: every update within its bounds, every fault told."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pynvml
import pytest

from pytest_energy.errors import MeterError
from pytest_energy.meters import zeus_meter
from pytest_energy.meters.zeus_meter import ZeusMeter

UPDATE_S = 0.1
UUIDS = ("GPU-aaaa", "GPU-bbbb")


class Device:
    """What the meter asks of zeus.device.gpu.nvidia.NVIDIAGPU; the counter is updated on a grid of 0.1 s."""

    def __init__(self, power_w: float = 500.0, uuid: str = UUIDS[0]) -> None:
        self.power_w, self.handle = power_w, SimpleNamespace(uuid=uuid, pids=[])
        self.start_s = time.monotonic()
        self.spoil: Callable[[float, int], int] = lambda elapsed_s, energy_mj: energy_mj

    def energy_at(self, elapsed_s: float) -> int:
        return 1_000_000 + round(int(elapsed_s / UPDATE_S) * UPDATE_S * self.power_w * 1000)

    def get_total_energy_consumption(self) -> int:
        elapsed_s = time.monotonic() - self.start_s
        return self.spoil(elapsed_s, self.energy_at(elapsed_s))

    def get_name(self) -> str:
        return "simulated GPU"

    def get_average_power_usage(self) -> int:
        return round(self.power_w * 1000)

    get_instant_power_usage = get_average_power_usage

    def get_gpu_temperature(self) -> int:
        return 50


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    made = [Device(500.0, UUIDS[0]), Device(200.0, UUIDS[1])]
    by_uuid = {device.handle.uuid: device for device in made}
    monkeypatch.setattr(zeus_meter, "_open_gpus", lambda uuids: [by_uuid[uuid] for uuid in uuids])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetClockInfo", lambda handle, kind: 1980)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons", lambda handle: 4)
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetUtilizationRates", lambda handle: SimpleNamespace(gpu=97)
    )
    monkeypatch.setattr(
        pynvml,
        "nvmlDeviceGetComputeRunningProcesses",
        lambda handle: [SimpleNamespace(pid=p) for p in handle.pids],
    )
    return made


def meter_for(seconds: float, *uuids: str, is_ours: Callable[[int], bool] | None = None) -> Any:
    meter = ZeusMeter(uuids or UUIDS[:1], is_ours)
    meter.start()
    time.sleep(seconds)
    meter.stop()
    return meter.read()


def test_a_sound_counter(devices: list[Device]) -> None:
    """Every update within its bounds, energy = power × time between them, few reads, no fault."""
    reads = []
    devices[0].spoil = lambda elapsed_s, energy_mj: reads.append(elapsed_s) or energy_mj  # type: ignore[func-returns-value]
    (trace,), _ = meter_for(1.75)
    assert trace.faults == ()
    counter = trace.counter
    assert 3 <= len(counter.energy_mj) <= 4  # one in five is watched
    for unchanged_ns, changed_ns, energy_mj in zip(
        counter.unchanged_ns, counter.changed_ns, counter.energy_mj, strict=True
    ):
        true_s = (
            devices[0].start_s
            + round((energy_mj - 1_000_000) / 1000 / devices[0].power_w / UPDATE_S) * UPDATE_S
        )
        assert unchanged_ns / 1e9 - 1e-6 <= true_s <= changed_ns / 1e9 + 1e-6
        assert changed_ns - unchanged_ns < 0.03e9
    middle = (np.asarray(counter.unchanged_ns) + np.asarray(counter.changed_ns)) / 2e9
    assert np.ptp(counter.energy_mj) / 1e3 / np.ptp(middle) == pytest.approx(
        devices[0].power_w, rel=0.02
    )
    assert len(reads) / 1.75 < 60
    assert len(trace.samples.time_ns) == 2
    assert set(trace.samples.sm_clock_mhz) == {1980}


def test_faults_of_the_counter(devices: list[Device], monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side, one device and one meter each."""
    failed: list[float] = []
    lost: list[float] = []

    def now_and_then(elapsed_s: float, energy_mj: int) -> int:
        if 0.6 < elapsed_s < 0.8 and len(failed) < 3:
            failed.append(elapsed_s)
            raise RuntimeError("Unknown Error")
        return energy_mj

    def gone(elapsed_s: float, energy_mj: int) -> int:
        lost.append(elapsed_s)
        raise RuntimeError("GPU is lost")

    spoils: dict[str, Callable[[float, int], int]] = {
        "sound": lambda elapsed_s, energy_mj: energy_mj,
        "stuck": lambda elapsed_s, energy_mj: min(energy_mj, 1_200_000),
        "backwards": lambda elapsed_s, energy_mj: (
            energy_mj if elapsed_s < 0.6 else energy_mj - 900_000
        ),
        "now and then": now_and_then,
        "gone": gone,
        "foreign": lambda elapsed_s, energy_mj: energy_mj,
    }
    made = {name: Device(uuid=name) for name in spoils}
    for name, spoil in spoils.items():
        made[name].spoil = spoil
    made["foreign"].handle.pids = [1, 7]
    monkeypatch.setattr(zeus_meter, "_open_gpus", lambda uuids: [made[uuid] for uuid in uuids])
    meters = {name: ZeusMeter([name], lambda pid: pid == 1) for name in made}
    for meter in meters.values():
        meter.start()
    time.sleep(2.8)
    traces = {}
    for name, meter in meters.items():
        meter.stop()
        (traces[name],), _ = meter.read()
    assert traces["sound"].faults == ()
    assert [fault.split(":")[0] for fault in traces["stuck"].faults] == ["counter_stuck"]
    assert [fault.split(":")[0] for fault in traces["backwards"].faults] == ["counter_backwards"]
    assert traces["now and then"].faults == ("counter_unreadable: Unknown Error",)
    assert len(traces["now and then"].counter.energy_mj) >= 3
    assert traces["gone"].faults == ("counter_unreadable: GPU is lost",)
    assert len(lost) <= 20
    assert traces["foreign"].faults == ("foreign_process: pid 7",)


def test_several_gpus_come_in_the_engines_order(devices: list[Device]) -> None:
    traces, _ = meter_for(0.8, *reversed(UUIDS))
    assert [trace.uuid for trace in traces] == ["GPU-bbbb", "GPU-aaaa"]
    assert [round(np.mean(trace.samples.average_power_mw)) for trace in traces] == [
        200_000,
        500_000,
    ]


def test_reading_goes_on_while_it_is_looked_at(devices: list[Device]) -> None:
    meter = ZeusMeter(UUIDS[:1])
    meter.start()
    lengths = []
    for _ in range(90):
        (trace,), _ = meter.read()
        assert len(trace.counter.energy_mj) == len(trace.counter.changed_ns)
        lengths.append(len(trace.counter.energy_mj))
        time.sleep(0.008)
    meter.stop()
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0]
    assert "energy-meter" not in [thread.name for thread in threading.enumerate()]


def test_a_new_trace_starts_afresh(devices: list[Device]) -> None:
    meter = ZeusMeter(UUIDS[:1])
    for _ in range(2):
        meter.start()
        started_ns = time.monotonic_ns()
        time.sleep(0.4)
        meter.stop()
        (trace,), _ = meter.read()
        assert trace.counter.changed_ns[0] > started_ns


def test_no_gpu() -> None:
    with pytest.raises(MeterError, match=r"no NVIDIA GPU.*\n.*--energy-replay"):
        ZeusMeter([])


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A driver that lists two GPUs; yields the indices that Zeus was asked to open."""
    opened: list[int] = []

    class Gpu(Device):
        def __init__(self, index: int) -> None:
            super().__init__(uuid=UUIDS[index])
            opened.append(index)

        def supports_get_total_energy_consumption(self) -> bool:
            return True

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
    with pytest.raises(MeterError, match=r"the NVIDIA driver does not answer"):
        ZeusMeter(["GPU-aaaa"])


def test_cpu_energy_is_read_across_wraps(
    devices: list[Device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "name").write_text("package-0\n")
    (package / "max_energy_range_uj").write_text("10000000\n")
    energy = package / "energy_uj"
    energy.write_text("9000000\n")
    monkeypatch.setattr("zeus.device.cpu.rapl.RAPL_DIR", str(tmp_path))
    monkeypatch.setattr("zeus.device.cpu.rapl.rapl_is_available", lambda: True)
    meter = ZeusMeter(UUIDS[:1])
    meter.start()
    time.sleep(0.6)
    later = package / "later"
    later.write_text("500000\n")
    later.replace(energy)  # at once, as the kernel shows it
    time.sleep(0.6)
    meter.stop()
    _, cpu = meter.read()
    assert cpu.unavailable == ""
    assert cpu.energy_mj[0] == 0
    assert cpu.energy_mj[-1] == 1500


def test_cpu_energy_that_cannot_be_read_says_why(
    devices: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeus.device.cpu.rapl.rapl_is_available", lambda: False)
    _, cpu = meter_for(0.5)
    assert cpu.energy_mj == ()
    assert "RAPL" in cpu.unavailable
