"""Simulated meters and recordings, for tests alone. Their GPU is called "simulated GPU", so no real baseline can ever match."""

import itertools
import random
import time
from collections.abc import Sequence
from typing import Any

from pytest_energy.cell import Cell
from pytest_energy.recording import Client, CpuEnergy, Distribution, EnergyCounter, GpuSamples, GpuTrace, Recording, TokenCounter

GPU_NAME = "simulated GPU"
UUID = "GPU-00000000-0000-0000-0000-000000000000"
UPDATE_NS = 100_000_000


def trace(
    start_ns: int, end_ns: int, power_w: float, idle_power_w: float | None = None, load_stopped_ns: int | None = None, uuid: str = UUID
) -> GpuTrace:
    """A GPU that draws `power_w` until the load stops and `idle_power_w` after it."""
    ticks = range(start_ns, end_ns, UPDATE_NS)

    def power_at(time_ns: int) -> float:
        stopped = load_stopped_ns is not None and time_ns > load_stopped_ns
        return idle_power_w if stopped and idle_power_w is not None else power_w

    powers = [power_at(tick) for tick in ticks]
    energy_mj = list(itertools.accumulate(round(power * UPDATE_NS / 1e6) for power in powers))
    count = len(powers)
    return GpuTrace(
        uuid=uuid,
        name=GPU_NAME,
        counter=EnergyCounter(tuple(t - 1_000_000 for t in ticks), tuple(t + 1_000_000 for t in ticks), tuple(energy_mj)),
        samples=GpuSamples(
            time_ns=tuple(ticks),
            average_power_mw=tuple(round(power * 1000) for power in powers),
            instant_power_mw=tuple(round(power * 1000) for power in powers),
            sm_clock_mhz=(1980,) * count,
            temperature_c=(50,) * count,
            throttle_reasons=(0,) * count,
            utilization_percent=(99,) * count,
        ),
    )


def client(tokens: int, **changes: Any) -> Client:
    """What clients saw of a healthy server that streamed `tokens`."""
    healthy: dict[str, Any] = {
        "first_token": Distribution((20_000, 40_000), (60, 40)),
        "inter_token": Distribution((8_000, 12_000), (9_950, 50)),
        "end_to_end": Distribution((2_000_000,), (100,)),
        "cpu_cores": 0.3,
        "streamed_tokens": tokens,
        "server_tokens": tokens,
        "preemptions": 0,
    }
    return Client(**{**healthy, **changes})


class SimulatedMeter:
    """A meter that reports a constant power from `start` on."""

    def __init__(self, power_w: float = 100.0) -> None:
        self._power_w = power_w
        self._stopped_ns: int | None = None

    def start(self) -> None:
        self._start_ns, self._stopped_ns = time.monotonic_ns(), None

    def read(self) -> tuple[tuple[GpuTrace, ...], CpuEnergy]:
        return (trace(self._start_ns, self._stopped_ns or time.monotonic_ns(), self._power_w),), CpuEnergy()

    def stop(self) -> None:
        self._stopped_ns = time.monotonic_ns()

    def describe(self) -> dict[str, Any]:
        return {"gpu_name": GPU_NAME, "gpu_uuids": [UUID], "power_limit_w": 700.0, "driver": "none"}


def recording(
    cell: Cell,
    launch_id: str = "launch-1",
    power_w: float = 500.0,
    tokens_per_s: float = 1000.0,
    cycles: float = 6.5,
    noise: float = 0.0,
    seed: int = 0,
    environment: dict[str, Any] | None = None,
    idle_power_w: float = 120.0,
    faults: Sequence[str] = (),
    start_s: int = 1000,
    power_shares: dict[str, float] | None = None,
) -> Recording:
    """A recording of an engine at constant throughput; steps jitter by `noise` (relative standard deviation).

    `power_shares` spreads `power_w` over several GPUs, by UUID in rank order; `idle_power_w` is of each.
    """
    generator = random.Random(seed)
    batch = cell.batch_size
    step_ns = batch / tokens_per_s * 1e9
    count = int(cycles * cell.workload.output_tokens)
    now, times = start_s * 1_000_000_000, []
    start = now - 300_000_000
    for _ in range(count):
        now += round(step_ns * max(0.1, generator.gauss(1, noise)))
        times.append(now)
    shares = power_shares or {UUID: 1.0}
    gpus = tuple(trace(start, now + 1_300_000_000, power_w * share, idle_power_w, now, uuid) for uuid, share in shares.items())
    return Recording(
        key=cell.key,
        launch_id=launch_id,
        environment={
            "date": "2026-01-01T00:00:00+00:00",
            "vllm": "0.0.1",
            "gpu_name": GPU_NAME,
            "gpu_uuids": list(shares),
            "power_limit_w": 700.0,
            **(environment or {}),
        },
        tokens=TokenCounter(tuple(times), (batch,) * count, (0,) * count),
        gpus=gpus,
        load_stopped_ns=now,
        faults=tuple(faults),
    )
