"""The plugin that a run of the campaign loads: simulated GPUs, short measurements, and one fault.

CAMPAIGN_FAULT   the fault and its arguments, "name:argument:..."
CAMPAIGN_SIGNS   a folder; a file in it shows that a stage was reached: load, run, stop, exit,
                 update
CAMPAIGN_PAUSE   a stage in which the run waits for a signal
"""

import errno
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml
import pytest

from pytest_energy.engines.engine import Engine, EngineReady
from pytest_energy.health import neighbours, read_host
from pytest_energy.launch import gpu_locks, launch
from pytest_energy.measure import checks, stopping
from pytest_energy.meters import zeus_meter
from tests.driver import UUIDS, SimulatedDriver
from tests.faults import disk
from tests.faults.setting import POWER_W

MIDDLE = 6  # of an engine's messages, one every 50 ms: when a fault in the middle of a run comes

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a runner may have been started with it ignored


class Stage:
    """What the run has reached, shown by files."""

    def __init__(self) -> None:
        self._folder, self._pause = (
            Path(os.environ["CAMPAIGN_SIGNS"]),
            os.environ.get("CAMPAIGN_PAUSE"),
        )

    def reach(self, name: str) -> None:
        if not (self._folder / name).exists():
            (self._folder / name).touch()
            if name == self._pause:
                time.sleep(60)


class Ground:
    """What faults are put into."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.driver, self.stage = patch, SimulatedDriver(patch), Stage()
        self.busy_percent, self.idle_percent = 97, 0
        self.when_loading: Callable[[], Any] = lambda: None
        self.when_closed: Callable[[], Any] = lambda: None
        self.in_the_middle: Callable[[], Any] = lambda: None
        self.launches = self.messages = 0
        for gpu in self.driver.gpus.values():
            gpu.power_w = POWER_W
        self.gpu = self.driver.gpus[UUIDS[0]]
        self._shorten()
        self._engine()

    def _shorten(self) -> None:
        set_attribute = self.patch.setattr
        set_attribute(launch, "_HOT_TAIL_S", 0.1)
        set_attribute(stopping, "WINDOW_S", 1.0)
        set_attribute(launch, "_LEAVE_S", 0.5)
        set_attribute(checks, "AVERAGED_NS", 100_000_000)
        set_attribute(checks, "_COUNTER_GAP_S", 30.0)  # a busy host; the meter sees a frozen one
        set_attribute(zeus_meter, "_SAMPLE_EVERY_S", 0.1)
        set_attribute(zeus_meter, "_PAUSE_AFTER_UPDATE_S", 0.02)
        set_attribute(zeus_meter, "_STUCK_AFTER_S", 0.5)
        set_attribute(neighbours, "_BUSY_FOR_S", 0.5)
        set_attribute(neighbours, "_MEMORY_FREED_S", 0.5)
        set_attribute(gpu_locks, "FOLDER", Path(os.environ["CAMPAIGN_SIGNS"]) / "locks")

    def _engine(self) -> None:
        """Engines say that they are on the GPU that they were given, and stages are shown."""
        ready, start, begin, steps, stop, close = (
            getattr(Engine, name)
            for name in ("_ready", "_load_with", "start_load", "take_steps", "stop_load", "close")
        )

        def _ready(engine: Engine, event: Any) -> EngineReady:
            index = int(os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
            return replace(ready(engine, event), gpu_uuids=(UUIDS[index],))

        def _load_with(engine: Engine, *args: Any, **kwargs: Any) -> EngineReady:
            self.launches, self.messages = self.launches + 1, 0
            self.when_loading()
            self.stage.reach("load")
            return start(engine, *args, **kwargs)  # type: ignore[no-any-return]

        def use(percent: int) -> None:
            for gpu in self.driver.gpus.values():
                gpu.utilization_percent = percent

        def start_load(engine: Engine, *args: Any) -> Any:
            use(self.busy_percent)
            return begin(engine, *args)

        def take_steps(engine: Engine) -> Any:
            self.messages += 1
            if self.messages == MIDDLE:
                self.in_the_middle()
                self.stage.reach("run")
                if self.launches == 2:
                    self.stage.reach("second")
            return steps(engine)

        def stop_load(engine: Engine) -> Any:
            self.stage.reach("stop")
            stopped = stop(engine)
            use(self.idle_percent)
            return stopped

        def close_(engine: Engine, grace_s: float) -> None:
            if engine.worker.started and grace_s:
                self.stage.reach("exit")
            close(engine, grace_s)
            use(self.idle_percent)
            self.when_closed()

        for function in (_ready, _load_with, start_load, take_steps, stop_load):
            self.patch.setattr(Engine, function.__name__, function)
        self.patch.setattr(Engine, "close", close_)

    def nvml(self, error: int, fails: Callable[[str, int], bool]) -> None:
        self.driver.fails = lambda name, number: error if fails(name, number) else None


def _gpu(ground: Ground, **changes: Any) -> Callable[[], None]:
    return lambda: [setattr(ground.gpu, name, value) for name, value in changes.items()] and None


def reset(ground: Ground) -> None:
    def back() -> None:
        start = ground.gpu.energy_mj()
        ground.gpu.counter = lambda energy_mj: energy_mj - start

    ground.in_the_middle = back


def frozen(ground: Ground) -> None:
    def freeze() -> None:
        last = ground.gpu.energy_mj()
        ground.gpu.counter = lambda energy_mj: last

    ground.in_the_middle = freeze


def half_counted(ground: Ground) -> None:
    ground.gpu.average_power_w = 2 * POWER_W


def lost(ground: Ground) -> None:
    ground.in_the_middle = lambda: ground.nvml(
        pynvml.NVML_ERROR_GPU_IS_LOST, lambda name, number: True
    )


def lost_at_load(ground: Ground) -> None:
    ground.nvml(pynvml.NVML_ERROR_GPU_IS_LOST, lambda name, number: ground.launches > 0)


def no_driver(ground: Ground) -> None:
    ground.nvml(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, lambda name, number: True)


def appears(ground: Ground) -> None:
    ground.in_the_middle = _gpu(ground, pids=[4711])


def there_before(ground: Ground) -> None:
    ground.gpu.pids = [4711]


def unlisted_before(ground: Ground) -> None:
    """Another job is there, and the driver's list of processes times out until the engine loads."""
    ground.gpu.pids = [4711]
    ground.nvml(
        pynvml.NVML_ERROR_TIMEOUT,
        lambda name, number: (
            name == "nvmlDeviceGetComputeRunningProcesses" and ground.launches == 0
        ),
    )


def in_a_container(ground: Ground) -> None:
    """The driver's id of the engine is the host's, and above any of ours."""
    ground.when_loading = _gpu(ground, pids=[2**22 + 1], memory_mib=70_000)
    ground.when_closed = _gpu(ground, pids=[], memory_mib=4)


def other_gpu(ground: Ground, function: str) -> None:
    """A function of the driver fails for the GPU that the engine is not on."""
    ground.driver.gpus[UUIDS[1]].fails[function] = pynvml.NVML_ERROR_NO_PERMISSION


def throttled(ground: Ground) -> None:
    ground.in_the_middle = _gpu(ground, clock_reasons=0x40)


def idle(ground: Ground) -> None:
    ground.busy_percent = 0


def neighbour_before(ground: Ground, memory_mib: str, percent: str) -> None:
    """One that the process list does not show holds memory, or is busy, before the launch."""
    ground.gpu.memory_mib, ground.idle_percent = int(memory_mib), int(percent)
    ground.gpu.utilization_percent = int(percent)


def neighbour_comes(ground: Ground, memory_mib: str, percent: str) -> None:
    """One comes while the engine loads, and stays."""

    def come() -> None:
        ground.gpu.memory_mib, ground.idle_percent = int(memory_mib), int(percent)

    ground.when_loading = come


def neighbour_goes(ground: Ground) -> None:
    """One that came while the engine loaded gives its memory back under load."""
    ground.when_loading = _gpu(ground, memory_mib=40_000)
    ground.in_the_middle = _gpu(ground, memory_mib=4)


def process_comes(ground: Ground) -> None:
    """In a container, a process of another comes while the engine loads, and stays."""
    ground.when_loading = _gpu(ground, pids=[2**22 + 1, 2**22 + 2])
    ground.when_closed = _gpu(ground, pids=[2**22 + 2])


def limited(ground: Ground) -> None:
    ground.in_the_middle = _gpu(ground, power_limit_mw=500_000)


def sliced(ground: Ground) -> None:
    ground.in_the_middle = _gpu(ground, mig=(1, 1))


def memory_error(ground: Ground) -> None:
    ground.in_the_middle = _gpu(ground, ecc_uncorrected=1)


def nvml(ground: Ground, function: str, when: str) -> None:
    """A function of the driver fails: always, from the middle of the first cell on, or once."""
    on = [when == "always"]
    failed: list[str] = []

    def fails(name: str, number: int) -> bool:
        if name != function or not on[0] or (when == "once" and failed):
            return False
        failed.append(name)
        return True

    ground.in_the_middle = lambda: on.__setitem__(0, True)
    ground.nvml(pynvml.NVML_ERROR_UNKNOWN, fails)


def nvml_from(ground: Ground, first: str) -> None:
    """All calls of the driver fail from that number on."""
    ground.nvml(pynvml.NVML_ERROR_UNKNOWN, lambda name, number: number >= int(first))


def engine(ground: Ground, number: str, fault: str) -> None:
    """The engine of that launch, counted from 1, has a fault."""
    new = launch.new_engine
    made = []

    def faulty(cell: Any, settings: Any, **engine_args: Any) -> Engine:
        made.append(cell)
        return new(
            cell, settings, **engine_args, **({"fault": fault} if len(made) == int(number) else {})
        )

    ground.patch.setattr(launch, "new_engine", faulty)


def clock(ground: Ground, seconds: str) -> None:
    """The wall clock is set, in the middle of the run."""
    now, now_ns = time.time, time.time_ns

    def jump() -> None:
        ground.patch.setattr(time, "time", lambda: now() + float(seconds))
        ground.patch.setattr(time, "time_ns", lambda: now_ns() + int(float(seconds) * 1e9))

    ground.in_the_middle = jump


def suspended(ground: Ground) -> None:
    paused = read_host.suspended_s()
    ground.in_the_middle = lambda: ground.patch.setattr(
        read_host, "suspended_s", lambda: paused + 7.5
    )


def disk_fails(ground: Ground, error: str, at: str) -> None:
    disk.watch(
        ground.patch, Path.cwd(), disk.fail(getattr(errno, error), at, for_good=error == "EROFS")
    )


def no_room_for_logs(ground: Ground) -> None:
    """Temporary files cannot be made."""
    import tempfile

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tempfile.gettempdir())

    ground.patch.setattr(tempfile, "TemporaryFile", full)


def writing(ground: Ground) -> None:
    """A new file that is written but not yet in place is a stage."""

    def before(operation: str, path: Path) -> None:
        if operation == "rename":
            ground.stage.reach("update")

    disk.watch(ground.patch, Path.cwd(), before)


def hand_out(ground: Ground) -> None:
    """Each of xdist's workers is given a GPU of its own."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker:
        os.environ["CUDA_VISIBLE_DEVICES"] = worker.removeprefix("gw")


FAULTS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        reset, frozen, half_counted, lost, lost_at_load, no_driver, appears, there_before,
        throttled, idle, limited, sliced, memory_error,
        neighbour_before, neighbour_comes, neighbour_goes, process_comes,
        unlisted_before, in_a_container, other_gpu,
        nvml, nvml_from, engine, clock, suspended, disk_fails, no_room_for_logs, writing, hand_out,
    )
}  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Put the fault in."""
    ground = Ground(pytest.MonkeyPatch())
    for fault in filter(None, os.environ.get("CAMPAIGN_FAULT", "").split(" ")):
        name, *arguments = fault.split(":")
        FAULTS[name](ground, *(argument.replace("~", " ") for argument in arguments))
