"""The driver fails at any call before a load: a clear error or nothing, and no other exception."""

import contextlib

import pynvml
import pytest

from pytest_energy.errors import MeterError
from pytest_energy.health.guard import Guard
from pytest_energy.meters import nvml
from pytest_energy.meters.processes import compute_processes
from pytest_energy.meters.zeus_meter import ZeusMeter
from tests.driver import UUIDS, SimulatedDriver

ERRORS = (
    pynvml.NVML_ERROR_UNKNOWN,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_TIMEOUT,
)


def before_a_load() -> None:
    nvml.visible_uuids()
    compute_processes()
    nvml.listed_uuids()
    with contextlib.suppress(MeterError):
        ZeusMeter(UUIDS[:1], lambda pid: True).describe()
    guard = Guard(UUIDS[:1])
    guard.faults_before()
    guard.faults()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("for_good", [True, False], ids=["for good", "once"])
def test_any_call_before_a_load_may_fail(
    monkeypatch: pytest.MonkeyPatch, error: int, for_good: bool
) -> None:
    driver = SimulatedDriver(monkeypatch)
    before_a_load()
    count = len(driver.calls)
    assert count > 40
    for first in range(1, count + 1):
        driver.calls.clear()
        driver.fails = lambda name, number, first=first: (
            error if number == first or (for_good and number > first) else None
        )  # type: ignore[misc]
        before_a_load()
        assert len(driver.calls) >= first
