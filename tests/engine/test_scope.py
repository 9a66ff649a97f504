"""Whose energy a counter counts, on stand-ins of modules that hold GPUs and a CPU."""

from pathlib import Path
from typing import Any

import pynvml
import pytest

from pytest_energy.errors import MeterError
from pytest_energy.meters import scope
from pytest_energy.meters.zeus_meter import ZeusMeter
from tests.driver import UUIDS, SimulatedClock, SimulatedDriver

GPU_SCOPE, MODULE_SCOPE = (
    f"{pynvml.NVML_FI_DEV_POWER_AVERAGE} of scope {number}"
    for number in (pynvml.NVML_POWER_SCOPE_GPU, pynvml.NVML_POWER_SCOPE_MODULE)
)
NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> SimulatedDriver:
    """Two modules, each with a CPU that draws 200 W; simulated seconds take none."""
    clock = SimulatedClock()
    monkeypatch.setattr(scope, "time", clock)
    driver = SimulatedDriver(monkeypatch, clock.monotonic)
    for gpu in driver.gpus.values():
        gpu.power_w, gpu.cpu_w = 100.0, 200.0
    nodes = {b"00000009:01:00.0": "0", b"00000019:01:00.0": "1"}
    for gpu, bus_id in zip(driver.gpus.values(), nodes, strict=True):
        gpu.bus_id = bus_id
    read = Path.read_text

    def numa_node(path: Path, *args: Any, **kwargs: Any) -> str:
        if path.name != "numa_node":
            return read(path, *args, **kwargs)
        return {p.decode()[4:]: node for p, node in nodes.items()}[path.parent.name]

    monkeypatch.setattr(Path, "read_text", numa_node)
    return driver


@pytest.mark.parametrize(
    ("counts_module", "fails", "is_module"),
    [
        (True, {}, True),
        (True, {GPU_SCOPE: NOT_SUPPORTED}, True),
        (False, {}, False),
        (False, {MODULE_SCOPE: NOT_SUPPORTED}, False),
    ],
)
def test_the_power_that_the_counter_counts_tells_its_scope(
    driver: SimulatedDriver, counts_module: bool, fails: dict[str, int], is_module: bool
) -> None:
    """Zeus, pull request 172: "On GH200 (Grace Hopper), the cumulative energy counter is for the
    entire chip/module"; its _resolve_power_field_scope: "Some C2C superchips (e.g., Grace Hopper)
    do not support GPU-scope power queries". nvml.h has both NVML_POWER_SCOPE_GPU and _MODULE.
    """
    gpu = driver.gpus[UUIDS[0]]
    gpu.counts_module, gpu.fails = counts_module, fails
    meter = ZeusMeter(UUIDS[:1])
    assert meter.describe().get("energy_scope") == ("module" if is_module else None)
    meter.start()
    meter.stop()
    assert scope.powers_w(gpu).keys() <= {scope.GPU, scope.MODULE}


def test_a_gpu_without_a_cpu_is_not_watched(driver: SimulatedDriver) -> None:
    driver.gpus[UUIDS[0]].cpu_w = None
    before = scope.time.monotonic()
    assert ZeusMeter(UUIDS[:1]).describe().get("energy_scope") is None
    assert scope.time.monotonic() == before


def test_a_counter_that_stands_still_is_taken_for_the_modules(driver: SimulatedDriver) -> None:
    driver.gpus[UUIDS[0]].counter = lambda energy_mj: 7
    assert ZeusMeter(UUIDS[:1]).describe()["energy_scope"] == "module"


def test_several_gpus_whose_counters_count_one_module_twice(driver: SimulatedDriver) -> None:
    for gpu in driver.gpus.values():
        gpu.counts_module = True
    assert ZeusMeter(UUIDS).describe()["energy_scope"] == "module"
    for bus_id in (driver.gpus[UUIDS[0]].bus_id, b"0000ffff:01:00.0"):
        driver.gpus[UUIDS[1]].bus_id = bus_id  # of the same module, of one that is not known
        with pytest.raises(MeterError, match=r"count whole modules .* the same one twice"):
            ZeusMeter(UUIDS)
