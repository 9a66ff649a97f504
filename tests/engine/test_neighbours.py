"""Others on the GPU whom no list of processes shows: what tells of them, and what does not.

nvml.h, nvmlDeviceGetMemoryInfo_v2: "the reported amount of used memory is equal to the sum of
memory allocated by all active channels on the device", whoever's they are. A pod's list of
processes shows its own.
"""

from collections.abc import Callable

import pynvml
import pytest

from pytest_energy.health import neighbours
from pytest_energy.health.guard import Guard
from pytest_energy.health.neighbours import Look, after_engine, before_launch, is_held
from tests.driver import UUIDS, SimulatedClock, SimulatedDriver, SimulatedGpu

UUID = UUIDS[0]
COMPUTE = "nvmlDeviceGetComputeRunningProcesses"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimulatedClock:
    """Waiting takes no time, and does what is due at a simulated second."""
    clock = SimulatedClock()
    monkeypatch.setattr(neighbours, "time", clock)
    return clock


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, clock: SimulatedClock) -> SimulatedGpu:
    return SimulatedDriver(monkeypatch).gpus[UUID]


def later(
    monkeypatch: pytest.MonkeyPatch, clock: SimulatedClock, at_s: float, do: Callable[[], None]
) -> None:
    start_s, sleep = clock.monotonic(), clock.sleep

    def wait(seconds: float) -> None:
        sleep(seconds)
        if clock.monotonic() - start_s >= at_s:
            do()

    monkeypatch.setattr(clock, "sleep", wait)


def codes(faults: list[str]) -> list[str]:
    return [fault.partition(":")[0] for fault in faults]


def found_before() -> list[str]:
    return before_launch([UUID], Look.when_idle())


@pytest.mark.parametrize(
    "use",
    [
        {},
        {"memory_mib": 1000},  # reserved, as a driver without nvmlDeviceGetMemoryInfo_v2 counts it
        {"memory_mib": 2048},
        {"memory_mib": 9000, "desktop_mib": 8000},
        {"memory_mib": 90_000, "is_numa_node": True},  # Grace Hopper
        {"utilization_percent": 5},
        {"memory_mib": 40_000, "fails": {"nvmlDeviceGetMemoryInfo": 3}},
        {"utilization_percent": 60, "fails": {"nvmlDeviceGetUtilizationRates": 3}},
    ],
)
def test_no_neighbour(gpu: SimulatedGpu, use: dict[str, object]) -> None:
    """nvml.h, nvmlDeviceGetMemoryInfo_v2: "On systems where GPUs are NUMA nodes […] pages allocated
    from FB memory are not released even after the process terminates".
    """
    for name, value in use.items():
        setattr(gpu, name, value)
    assert found_before() == []
    assert after_engine([UUID], Look.when_idle()) == []
    assert not is_held([UUID])


@pytest.mark.parametrize(
    ("use", "says"),
    [
        ({"memory_mib": 40_960}, "40,960 MiB of memory were in use before the launch"),
        ({"memory_mib": 2049}, "2,049 MiB of memory were in use"),
        ({"memory_mib": 9000, "desktop_mib": 500}, "8,500 MiB of memory were in use"),
        ({"memory_mib": 9000, "desktop_mib": None}, "9,000 MiB of memory were in use"),
        ({"utilization_percent": 60}, "the GPU was busy 60 % of the time before the launch"),
        ({"utilization_percent": 6}, "the GPU was busy 6 % of the time before the launch"),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_neighbour_before_the_launch(
    gpu: SimulatedGpu, use: dict[str, object], says: str, listed: bool
) -> None:
    for name, value in use.items():
        setattr(gpu, name, value)
    if not listed:
        gpu.fails[COMPUTE] = pynvml.NVML_ERROR_NOT_SUPPORTED
    (fault,) = found_before()
    assert fault.startswith(f"hidden_process: {UUID}: {says}")
    assert fault.endswith(", by no process that is listed")


def test_one_that_is_listed_is_not_a_hidden_one(gpu: SimulatedGpu) -> None:
    gpu.memory_mib, gpu.utilization_percent, gpu.pids = 40_000, 60, [4711]
    assert found_before() == []
    assert is_held([UUID])


def test_a_gpu_that_is_busy_only_for_a_moment(
    gpu: SimulatedGpu, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nvml.h, nvmlDeviceGetUtilizationRates: "During driver initialization when ECC is enabled one
    can see high GPU and Memory Utilization readings".
    """
    gpu.utilization_percent = 100
    later(monkeypatch, clock, 1.5, lambda: setattr(gpu, "utilization_percent", 0))
    assert found_before() == []


def test_an_engine_that_has_just_been_killed_is_no_neighbour(
    gpu: SimulatedGpu, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a load that failed: its memory is given back, and its process gone, a moment later."""
    gpu.memory_mib, gpu.pids = 60_000, [4711]
    gpu.fails["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_NOT_SUPPORTED

    def ended() -> None:
        gpu.memory_mib, gpu.pids = 4, []

    later(monkeypatch, clock, 1, ended)
    look = Look.when_idle()
    assert before_launch([UUID], look) == []
    assert look.processes[UUID] == frozenset()


def test_a_neighbours_gpu_is_no_neighbour(gpu: SimulatedGpu) -> None:
    before = Look.when_idle()
    assert before_launch([UUIDS[1]], before) == after_engine([UUIDS[1]], before) == []


def test_memory_that_the_driver_takes_a_while_to_free(
    gpu: SimulatedGpu, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Look.when_idle()
    gpu.memory_mib, gpu.pids = 72_000, [4711]
    later(monkeypatch, clock, 2, lambda: setattr(gpu, "memory_mib", 4))
    later(monkeypatch, clock, 4, gpu.pids.clear)
    assert after_engine([UUID], before) == []


@pytest.mark.parametrize(
    ("use", "faults"),
    [
        ({"memory_mib": 30_000}, ["hidden_process"]),
        ({"utilization_percent": 60}, ["hidden_process"]),
        ({"pids": [4711]}, ["foreign_process"]),
        ({"pids": [4711], "memory_mib": 30_000}, ["foreign_process", "hidden_process"]),
    ],
)
def test_what_comes_with_the_engine_and_stays_is_not_the_engines(
    gpu: SimulatedGpu, use: dict[str, object], faults: list[str]
) -> None:
    before = Look.when_idle()
    for name, value in use.items():
        setattr(gpu, name, value)
    assert codes(after_engine([UUID], before)) == faults


def test_what_was_there_before_is_not_reported_again(gpu: SimulatedGpu) -> None:
    gpu.memory_mib, gpu.pids = 40_000, [4711]
    assert after_engine([UUID], Look.when_idle()) == []


def test_what_was_not_known_before_is_not_compared(gpu: SimulatedGpu) -> None:
    gpu.fails = dict.fromkeys((COMPUTE, "nvmlDeviceGetMemoryInfo"), pynvml.NVML_ERROR_TIMEOUT)
    before = Look.when_idle()
    gpu.fails, gpu.pids, gpu.memory_mib = {}, [4711], 40_000
    assert after_engine([UUID], before) == []


@pytest.mark.parametrize(
    ("leaves", "faults"),
    [
        ("while the engine loads", []),  # before the first counter update that is measured
        ("under the load", ["hidden_process"]),
        ("never", ["hidden_process", "hidden_process"]),
    ],
)
def test_a_neighbour_that_comes_while_the_engine_loads(
    gpu: SimulatedGpu, clock: SimulatedClock, leaves: str, faults: list[str]
) -> None:
    """Measured are the load's cycles alone, so only one who is there under the load can touch them.

    It is seen by memory it gives back, or holds when the engine is gone, and by its use then.
    """
    before, engine_mib = Look.when_idle(), 60_000
    gpu.memory_mib, gpu.utilization_percent = engine_mib + 10_000, 60
    if leaves == "while the engine loads":
        gpu.memory_mib, gpu.utilization_percent = engine_mib, 0
    guard = Guard([UUID])
    found = guard.faults_before()
    if leaves == "under the load":
        gpu.memory_mib, gpu.utilization_percent = engine_mib, 0
    found += guard.faults()
    gpu.memory_mib -= engine_mib - 4
    assert codes(found + after_engine([UUID], before)) == faults
