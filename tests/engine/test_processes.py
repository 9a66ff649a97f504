"""Which processes on a GPU are the engine's, whatever numbers the driver gives them."""

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pynvml
import pytest

from pytest_energy.engines import cuda_device
from pytest_energy.errors import MeterError
from pytest_energy.meters import processes
from pytest_energy.meters.nvml import listed_uuids, visible_uuids
from pytest_energy.meters.processes import compute_processes, membership, unlisted
from pytest_energy.meters.zeus_meter import ZeusMeter
from tests.driver import UUIDS, SimulatedDriver

GPU, OTHER = UUIDS
LIST = "nvmlDeviceGetComputeRunningProcesses"
NONE = frozenset[int]()
HOST_ID = 2**22 + 1  # above the kernel's largest process id, PID_MAX_LIMIT


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> SimulatedDriver:
    monkeypatch.setattr(processes, "_PAUSE_S", 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return SimulatedDriver(monkeypatch)


@pytest.mark.parametrize(
    "error",
    [
        pynvml.NVML_ERROR_TIMEOUT,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_GPU_IS_LOST,
    ],
)
def test_what_one_gpu_does_not_list_is_unknown_there_alone(
    driver: SimulatedDriver, error: int
) -> None:
    driver.gpus[GPU].pids = [4711]
    driver.gpus[OTHER].fails[LIST] = error
    assert compute_processes() == {GPU: {4711}, OTHER: None}


def test_a_list_that_times_out_once_is_asked_for_again(driver: SimulatedDriver) -> None:
    driver.gpus[GPU].pids = [4711]
    failed: list[str] = []

    def once(name: str, number: int) -> int | None:
        failed.extend([name] if name == LIST else [])
        return pynvml.NVML_ERROR_TIMEOUT if failed == [name] == [LIST] else None

    driver.fails = once
    assert compute_processes() == {GPU: {4711}, OTHER: NONE}


@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID"])
def test_a_gpu_that_cannot_be_reached_hides_no_other(
    driver: SimulatedDriver, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """nvml.h: nvmlDeviceGetHandleByIndex_v2 may return NVML_ERROR_GPU_IS_LOST and
    NVML_ERROR_NO_PERMISSION for a device that nvmlDeviceGetCount_v2 counts.
    """
    driver.gpus[GPU].fails[function] = pynvml.NVML_ERROR_GPU_IS_LOST
    assert compute_processes() == {OTHER: NONE}
    assert listed_uuids() == visible_uuids() == (OTHER,)
    opened: list[int] = []
    monkeypatch.setattr(
        "zeus.device.gpu.nvidia.NVIDIAGPU",
        lambda index: opened.append(index) or zeus_gpu(driver, index),  # type: ignore[func-returns-value]
    )
    ZeusMeter([OTHER])
    assert opened == [1]
    with pytest.raises(MeterError, match=f"{GPU}, which .* GPU 0 does not respond: GPU is lost"):
        ZeusMeter([GPU])


def test_a_gpu_without_a_power_limit_is_measured(driver: SimulatedDriver) -> None:
    """nvml.h, nvmlDeviceGetPowerManagementLimit: "This reading is only available if power
    management mode is supported", else NVML_ERROR_NOT_SUPPORTED; doctor calls it not reported.
    """
    name = "nvmlDeviceGetPowerManagementLimit"
    driver.gpus[GPU].fails[name] = pynvml.NVML_ERROR_NOT_SUPPORTED
    assert ZeusMeter([GPU]).describe()["power_limit_w"] is None
    driver.gpus[GPU].fails[name] = pynvml.NVML_ERROR_UNKNOWN
    with pytest.raises(MeterError, match="does not report the power limit"):
        ZeusMeter([GPU]).describe()


def test_a_gpu_without_an_energy_counter(driver: SimulatedDriver) -> None:
    driver.gpus[GPU].fails["nvmlDeviceGetTotalEnergyConsumption"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    with pytest.raises(MeterError, match=f"{GPU} has no energy counter"):
        ZeusMeter([GPU])


def zeus_gpu(driver: SimulatedDriver, index: int) -> object:
    class Gpu:
        handle = list(driver.gpus.values())[index]

        def get_total_energy_consumption(self) -> int:
            return self.handle.energy_mj()

        def get_name(self) -> str:
            return "simulated GPU"

    return Gpu()


@pytest.mark.parametrize(
    ("before", "after", "unknown"),
    [
        ({GPU: NONE}, {GPU: {1}}, []),
        ({GPU: NONE, OTHER: None}, {GPU: {1}, OTHER: None}, []),
        ({GPU: None}, {GPU: {1}}, [GPU]),
        ({GPU: NONE}, {GPU: None}, [GPU]),
        ({}, {GPU: {1}}, [GPU]),
        ({GPU: NONE}, {}, [GPU]),
        ({}, {}, []),
    ],
)
def test_what_is_not_known_before_or_after_is_unknown(
    before: processes.OnGpus, after: processes.OnGpus, unknown: list[str]
) -> None:
    assert unlisted([GPU], before, after) == unknown


def is_engines(pid: int, ours: frozenset[int] = NONE) -> bool:
    """If it appeared while the engine loaded."""
    return membership([GPU], ours, {GPU: NONE}, {GPU: frozenset({pid})})(pid)


def test_a_process_of_the_engine() -> None:
    assert is_engines(4711, frozenset({4711}))


def test_the_hosts_number_of_a_process_in_a_container() -> None:
    assert is_engines(HOST_ID)


def test_the_hosts_number_may_be_that_of_a_thread_of_ours() -> None:
    """/proc/TID exists for a thread, though /proc does not list it (proc(5), /proc/tid)."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    assert thread.native_id is not None
    assert Path(f"/proc/{thread.native_id}").exists()
    assert is_engines(thread.native_id)
    end.set()
    thread.join()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stands in for /dev/nvidia-uvm."""
    monkeypatch.setattr(cuda_device, "_CUDA_DEVICE", str(tmp_path / "nvidia-uvm"))
    (tmp_path / "nvidia-uvm").touch()
    return tmp_path / "nvidia-uvm"


@pytest.mark.parametrize("uses_cuda", [True, False])
def test_the_number_of_another_process_of_ours(cuda: Path, uses_cuda: bool) -> None:
    """It is that process if it uses CUDA, and otherwise one of the host with the same number."""
    with ExitStack() as stack:
        file = stack.enter_context((cuda if uses_cuda else Path(os.devnull)).open())
        process = stack.enter_context(subprocess.Popen(["sleep", "60"], stdin=file))
        stack.callback(process.kill)
        assert is_engines(process.pid) is not uses_cuda


def test_a_process_that_opens_and_closes_files(cuda: Path) -> None:
    """One that is starting does, and what it closes cannot be read any more."""
    code = "while True: open('/dev/null').close()"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            assert all(is_engines(process.pid) for _ in range(5000))
        finally:
            process.kill()


def test_what_was_there_before_is_never_the_engines() -> None:
    there = {GPU: frozenset({HOST_ID})}
    assert not membership([GPU], NONE, there, there)(HOST_ID)
