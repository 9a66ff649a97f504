"""The look at GPUs around each live cell, on a simulated driver: what it finds, at what cost."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.workload import Workload
from pytest_energy.engines.engine import Engine, EngineReady
from pytest_energy.errors import EngineError
from pytest_energy.health import neighbours, read_host
from pytest_energy.health.guard import Guard
from pytest_energy.launch import launch
from pytest_energy.measure import checks, stopping
from pytest_energy.measure.measurement import measure
from pytest_energy.recording.recording import Recording
from pytest_energy.settings import LaunchSettings
from tests.driver import UUIDS, SimulatedDriver
from tests.simulated import SimulatedMeter


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> SimulatedDriver:
    monkeypatch.setattr(neighbours, "_BUSY_FOR_S", 0.1)
    monkeypatch.setattr(neighbours, "_MEMORY_FREED_S", 0.1)
    return SimulatedDriver(monkeypatch)


def lost(called: str, number: int) -> int:
    return pynvml.NVML_ERROR_GPU_IS_LOST


Change = Callable[[SimulatedDriver], Any]
CHANGES: dict[str, Change] = {
    "hidden_process": lambda driver: setattr(driver.gpus[UUIDS[0]], "utilization_percent", 60),
    "hidden_process ": lambda driver: setattr(driver.gpus[UUIDS[0]], "memory_mib", 30_000),
    "power_limit_changed": lambda driver: setattr(driver.gpus[UUIDS[0]], "power_limit_mw", 500_000),
    "power_limit_changed ": lambda driver: setattr(driver.gpus[UUIDS[0]], "enforced_mw", 500_000),
    "ecc_errors": lambda driver: setattr(driver.gpus[UUIDS[0]], "ecc_uncorrected", 1),
    "mig_enabled": lambda driver: setattr(driver.gpus[UUIDS[0]], "mig", (1, 1)),
    "gpu_lost": lambda driver: setattr(driver, "fails", lost),
    "gpu_lost ": lambda driver: driver.gpus.clear(),
    "gpu_unreadable": lambda driver: setattr(
        driver,
        "fails",
        lambda name, n: (
            pynvml.NVML_ERROR_UNKNOWN if name == "nvmlDeviceGetPowerManagementLimit" else None
        ),
    ),
}


@pytest.mark.parametrize("code", CHANGES)
def test_what_changes_during_a_cell(driver: SimulatedDriver, code: str) -> None:
    driver.gpus[UUIDS[0]].memory_mib = 70_000  # the engine's, and perhaps another's
    looking = Guard(UUIDS)
    assert looking.faults_before() == []
    CHANGES[code](driver)
    found = looking.faults()
    assert found[0].startswith(f"{code.strip()}: {UUIDS[0]}: ")
    assert {fault.split(":")[0] for fault in found} == {code.strip()}


def test_memory_that_the_engine_gives_back_is_its_own(driver: SimulatedDriver) -> None:
    """PyTorch's allocator does so when the GPU's memory is short."""
    gpu = driver.gpus[UUIDS[0]]
    gpu.memory_mib, gpu.pids, gpu.held_mib = 140_000, [4711], {4711: 139_000}
    looking = Guard(UUIDS)
    gpu.memory_mib, gpu.held_mib = 136_000, {4711: 135_000}
    assert looking.faults() == []
    gpu.memory_mib = 136_000 - 900  # of the thousand that no process is listed for
    assert looking.faults() == []


def test_memory_of_which_the_driver_does_not_say_who_held_it_is_judged(
    driver: SimulatedDriver,
) -> None:
    gpu = driver.gpus[UUIDS[0]]
    gpu.memory_mib, gpu.pids = 140_000, [4711]
    looking = Guard(UUIDS)
    gpu.memory_mib = 136_000
    (fault,) = looking.faults()
    assert fault.endswith("4,000 MiB of memory were given back under load, by no listed process")


@pytest.mark.parametrize("code", ["mig_enabled", "gpu_lost"])
def test_what_is_bad_before_is_reported_before(driver: SimulatedDriver, code: str) -> None:
    CHANGES[code](driver)
    looking = Guard(UUIDS[:1])
    (fault,) = looking.faults_before()
    assert fault.startswith(f"{code}: {UUIDS[0]}: ")
    assert looking.faults() == [fault]


def test_a_call_that_fails_once_is_tried_again(driver: SimulatedDriver) -> None:
    looking = Guard(UUIDS)
    for name in set(driver.calls) - {"nvmlInit"}:
        failed: list[str] = []

        def once(
            called: str, number: int, name: str = name, failed: list[str] = failed
        ) -> int | None:
            if called != name or failed:
                return None
            failed.append(called)
            return pynvml.NVML_ERROR_UNKNOWN

        driver.fails = once
        assert looking.faults() == []
        assert failed == [name]


@pytest.mark.parametrize(
    "error",
    [
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_UNKNOWN,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    ],
)
def test_what_the_driver_never_reports_is_not_judged(driver: SimulatedDriver, error: int) -> None:
    for name in sorted(
        set(driver.calls)
        | {
            "nvmlInit",
            "nvmlDeviceGetHandleByUUID",
            "nvmlDeviceGetMigMode",
            "nvmlDeviceGetTotalEccErrors",
        }
    ):

        def fails(called: str, number: int, name: str = name) -> int | None:
            return error if called == name else None

        driver.fails = fails
        looking = Guard(UUIDS)
        assert (looking.faults_before(), looking.faults()) == ([], [])


def test_without_a_driver_or_without_that_gpu_nothing_is_judged(driver: SimulatedDriver) -> None:
    assert Guard(["GPU-none"]).faults() == []
    assert Guard([]).faults() == []
    driver.fails = lambda called, number: pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    assert Guard(UUIDS).faults() == []


@pytest.mark.parametrize(("memory_mib", "calls"), [(4, 8), (70_000, 11)])
def test_a_look_is_a_few_calls_a_gpu(driver: SimulatedDriver, memory_mib: int, calls: int) -> None:
    """A call takes several milliseconds on some machines; a look shall take less than 50."""
    driver.gpus[UUIDS[0]].memory_mib = memory_mib
    looking = Guard(UUIDS[:1])
    assert len(driver.calls) <= calls
    driver.calls.clear()
    looking.faults()
    assert len(driver.calls) <= calls


def test_a_machine_that_slept(driver: SimulatedDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    looking = Guard(UUIDS)
    paused = read_host.suspended_s()
    monkeypatch.setattr(read_host, "suspended_s", lambda: paused + 7.5)
    (fault,) = looking.faults()
    assert fault.startswith("suspended: host: the machine was suspended for 7.5 s")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, driver: SimulatedDriver) -> SimulatedDriver:
    """Engines say that they are on the first GPU."""
    ready = Engine._ready

    def there(self: Engine, event: Any) -> EngineReady:
        return replace(ready(self, event), gpu_uuids=UUIDS[:1])

    monkeypatch.setattr(Engine, "_ready", there)
    monkeypatch.setattr(launch, "_HOT_TAIL_S", 0.1)
    monkeypatch.setattr(stopping, "WINDOW_S", 1.0)
    monkeypatch.setattr(checks, "AVERAGED_NS", 100_000_000)
    return driver


def record(
    cell: Cell,
    python: str,
    during: Callable[[], Any],
    output_tokens: int = 80,
    loading: Callable[[str], Any] = lambda text: None,
) -> Recording:
    def progress(text: str) -> None:
        if "loading" in text:
            loading(text)
        if "measuring" in text:
            during()

    cell = replace(cell, workload=Workload(input_tokens=64, output_tokens=output_tokens))
    settings = LaunchSettings(python, {}, 20, 20)
    ((_, recorded),) = launch.record_launch(
        [cell],
        settings,
        lambda uuids, is_ours: SimulatedMeter(),
        progress,
        stopping.is_enough,
    )
    return recorded


def test_a_sound_launch_has_no_fault(cell: Cell, python: str, on_gpu: SimulatedDriver) -> None:
    recorded = record(cell, python, lambda: None)
    assert recorded.faults == ()
    assert measure(recorded).valid


def test_nothing_is_asked_while_it_measures(
    cell: Cell, python: str, on_gpu: SimulatedDriver
) -> None:
    asked = SimpleNamespace(before=0, last=0)

    def note() -> None:
        asked.before = asked.before or len(on_gpu.calls)
        asked.last = len(on_gpu.calls)

    record(cell, python, note)
    assert asked.before == asked.last > 0
    assert len(on_gpu.calls) > asked.last


@pytest.mark.parametrize("code", ["power_limit_changed", "gpu_lost"])
def test_a_change_in_the_middle_makes_the_measurement_invalid_and_stays_in_the_recording(
    cell: Cell, python: str, on_gpu: SimulatedDriver, code: str
) -> None:
    recorded = record(cell, python, lambda: CHANGES[code](on_gpu))
    assert [fault.split(":")[0] for fault in recorded.faults] == [code]
    measured = measure(recorded)
    assert set(recorded.faults) <= set(measured.faults)
    assert not measured.valid


def test_what_was_on_the_gpu_before_is_a_fault(
    cell: Cell, python: str, on_gpu: SimulatedDriver
) -> None:
    on_gpu.gpus[UUIDS[0]].pids = [4711]
    recorded = record(cell, python, lambda: None)
    assert recorded.faults == ("foreign_process: pid 4711 was on the GPU before",)
    assert not measure(recorded).valid


@pytest.mark.parametrize("unknown", ["before", "after"])
def test_processes_that_are_not_known_are_not_taken_for_none(
    cell: Cell, python: str, on_gpu: SimulatedDriver, unknown: str
) -> None:
    """Nor is the engine accused, or another job taken for the engine's."""
    gpu, name = on_gpu.gpus[UUIDS[0]], "nvmlDeviceGetComputeRunningProcesses"
    gpu.pids, fails = [4711], {name: pynvml.NVML_ERROR_TIMEOUT}
    gpu.fails = fails if unknown == "before" else {}
    other = on_gpu.gpus[UUIDS[1]]
    other.fails = {name: pynvml.NVML_ERROR_NOT_SUPPORTED}

    def loaded(text: str) -> None:
        gpu.fails = fails if unknown == "after" else {}

    recorded = record(cell, python, lambda: None, loading=loaded)
    codes = [fault.split(":")[0] for fault in recorded.faults]
    assert codes == ["processes_unreadable", *(["foreign_process"] if unknown == "after" else [])]
    assert recorded.faults[0].startswith(f"processes_unreadable: {UUIDS[0]} does not list them")
    assert not measure(recorded).valid


def test_what_shows_only_once_the_engine_has_ended_makes_its_recordings_invalid(
    cell: Cell, python: str, on_gpu: SimulatedDriver
) -> None:
    """Another pod's job that came while the engine loaded, and was idle whenever it was looked."""
    cells = [
        replace(cell, workload=Workload(input_tokens=64, output_tokens=80), batch_size=batch)
        for batch in (4, 8)
    ]

    def progress(text: str) -> None:
        on_gpu.gpus[UUIDS[0]].memory_mib = 30_000

    settings = LaunchSettings(python, {}, 20, 20)
    recorded = [
        recording
        for _, recording in launch.record_launch(
            cells, settings, lambda *_: SimulatedMeter(), progress, stopping.is_enough
        )
    ]
    assert [r.key.batch_size for r in recorded] == [4, 8, 4, 8]
    assert [r.faults for r in recorded[:2]] == [(), ()]
    for early, late in zip(recorded[:2], recorded[2:], strict=True):
        (fault,) = late.faults
        assert fault.startswith(f"hidden_process: {UUIDS[0]}: 29,996 MiB of memory were taken with")
        assert replace(late, faults=()) == early
        assert not measure(late).valid


def test_a_cell_that_cannot_be_valid_is_cut_short(
    cell: Cell, python: str, on_gpu: SimulatedDriver
) -> None:
    """Its GPU time would be wasted: it ends long before the warm-up does."""
    on_gpu.gpus[UUIDS[0]].mig = (1, 1)
    cut = record(cell, python, lambda: None, output_tokens=5000)
    assert [fault.split(":")[0] for fault in cut.faults] == ["mig_enabled"]
    assert 0 < sum(cut.tokens.tokens) < 0.8 * cut.key.batch_size * 5000


def test_an_engine_that_dies_with_its_gpu_says_so(
    cell: Cell, python: str, on_gpu: SimulatedDriver, sessions: list[int]
) -> None:
    def during() -> None:
        CHANGES["gpu_lost"](on_gpu)
        os.kill(sessions[0], signal.SIGKILL)

    with pytest.raises(
        EngineError,
        match=rf"(?s)ended by SIGKILL \(gpu_lost: {UUIDS[0]}: the GPU no longer responds",
    ):
        record(cell, python, during)
