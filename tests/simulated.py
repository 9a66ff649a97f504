"""Simulated meters and recordings, for tests; no real baseline matches "simulated GPU"."""

import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.plan import Plan
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.recording.recording import (
    Client,
    Distribution,
    EnergyCounter,
    GpuSamples,
    GpuTrace,
    Idle,
    Recording,
    Requests,
    TokenCounter,
)
from pytest_energy.settings import LaunchSettings, Settings

GPU_NAME = "simulated GPU"
UUID = "GPU-00000000-0000-0000-0000-000000000000"
UPDATE_NS = 100_000_000


def trace(
    start_ns: int,
    end_ns: int,
    power_w: float,
    idle_power_w: float | None = None,
    load_stopped_ns: int | None = None,
    uuid: str = UUID,
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
        counter=EnergyCounter(
            tuple(t - 1_000_000 for t in ticks),
            tuple(t + 1_000_000 for t in ticks),
            tuple(energy_mj),
        ),
        samples=GpuSamples(
            time_ns=tuple(ticks),
            average_power_mw=tuple(round(power * 1000) for power in powers),
            sm_clock_mhz=(1980,) * count,
            temperature_c=(50,) * count,
            throttle_reasons=(0,) * count,
            utilization_percent=(99,) * count,
        ),
        faults=(),
    )


def fingerprint(**changes: Any) -> Fingerprint:
    """Of an engine on the simulated GPU."""
    usual: dict[str, Any] = {
        "date": "2026-01-01T00:00:00+00:00",
        "vllm": "0.0.1",
        "gpu_name": GPU_NAME,
        "gpu_uuids": (UUID,),
        "power_limit_w": 700.0,
    }
    known = {**usual, **changes}
    return Fingerprint(**{**known, "gpu_uuids": tuple(known["gpu_uuids"])})


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

    def read(self) -> tuple[GpuTrace, ...]:
        return (trace(self._start_ns, self._stopped_ns or time.monotonic_ns(), self._power_w),)

    def stop(self) -> None:
        self._stopped_ns = time.monotonic_ns()

    def describe(self) -> dict[str, Any]:
        return {
            "gpu_name": GPU_NAME,
            "gpu_uuids": (UUID,),
            "power_limit_w": 700.0,
            "driver": "none",
        }


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
    asked: Plan | None = None,
    power_shares: dict[str, float] | None = None,
) -> Recording:
    """A recording of an engine at constant throughput.

    If requests differ in length, a prompt delays its step by `PREFILL_S` a token, and `cycles` are
    blocks.

    Args:
        noise: relative standard deviation of a step's time.
        environment: what differs from the usual fingerprint.
        idle_power_w: of each GPU.
        asked: other requests than the cell's own.
        power_shares: of several GPUs in `power_w`, by UUID in rank order.
    """
    shares = power_shares or {UUID: 1.0}
    if cell.workload.varies:
        counted, requests = _replayed(cell, tokens_per_s, cycles, noise, seed, start_s, asked)
        return _recorded(
            cell,
            launch_id,
            power_w,
            shares,
            environment,
            idle_power_w,
            faults,
            start_s,
            counted,
            requests,
        )
    generator = random.Random(seed)
    batch = cell.batch_size
    step_ns = batch / tokens_per_s * 1e9
    count = int(cycles * cell.workload.output_tokens)
    now, times = start_s * 1_000_000_000, []
    for _ in range(count):
        now += round(step_ns * max(0.1, generator.gauss(1, noise)))
        times.append(now)
    counted = TokenCounter(tuple(times), (batch,) * count, (0,) * count)
    return _recorded(
        cell, launch_id, power_w, shares, environment, idle_power_w, faults, start_s, counted, None
    )


def idle_recording(
    cell: Cell,
    launch_id: str = "launch-1",
    power_w: float = 100.0,
    without_engine_w: float | None = 70.0,
    cpu_cores: float = 0.02,
    tokens: int = 0,
    seconds: float = 30.0,
    environment: dict[str, Any] | None = None,
    faults: Sequence[str] = (),
    start_s: int = 1000,
) -> Recording:
    """A recording of an engine at idle, with a constant power."""
    first = start_s * 1_000_000_000
    last = first + round(seconds * 1e9)
    return Recording(
        key=cell.key,
        launch_id=launch_id,
        environment=fingerprint(**(environment or {})),
        tokens=TokenCounter((first, last), (0, tokens), (0, 0)),
        gpus=(trace(first - 300_000_000, last + 700_000_000, power_w),),
        load_stopped_ns=last,
        faults=tuple(faults),
        idle=Idle(without_engine_w, cpu_cores),
    )


PREFILL_S = 0.000_02
TOKENIZED = (40, 30)  # tokens of every prompt and reply of a file


def plan(cell: Cell) -> Plan:
    """The requests of a cell's load."""
    return cell.workload.plan(
        cell.batch_size, [TOKENIZED] * cell.workload.requests_per_pass(cell.batch_size)
    )


def seconds_of_a_pass(cell: Cell, tokens_per_s: float) -> float:
    """What a pass of requests takes: its tokens at full batch, and its prompts."""
    lengths = plan(cell).lengths
    return sum(out for _, out in lengths) / tokens_per_s + PREFILL_S * sum(
        tokens_in for tokens_in, _ in lengths
    )


def _replayed(
    cell: Cell,
    tokens_per_s: float,
    blocks: float,
    noise: float,
    seed: int,
    start_s: int,
    asked: Plan | None = None,
) -> tuple[TokenCounter, Requests]:
    """Every slot yields a token a step until so many blocks, the warm-up among them, are done."""
    generator, asked, batch = random.Random(seed), asked or plan(cell), cell.batch_size
    of_pass = cell.workload.requests_per_pass(batch)
    left, sent, now = [out for _, out in asked.first_wave], batch, start_s * 1_000_000_000
    times, finished, ended = [], [], 0
    prefill = sum(asked.lengths[number][0] for number, _ in asked.first_wave)
    while ended < batch + blocks * of_pass:
        now += round(
            (batch / tokens_per_s * max(0.1, generator.gauss(1, noise)) + PREFILL_S * prefill) * 1e9
        )
        prefill, done = 0, 0
        for slot in range(batch):
            left[slot] -= 1
            if not left[slot]:
                tokens_in, left[slot] = asked.lengths[sent % len(asked.lengths)]
                prefill, sent, done = prefill + tokens_in, sent + 1, done + 1
        times.append(now)
        finished.append(done)
        ended += done
    inputs, outputs = zip(*asked.lengths[:of_pass], strict=True)
    return TokenCounter(tuple(times), (batch,) * len(times), tuple(finished)), Requests(
        inputs, outputs
    )


def _recorded(
    cell: Cell,
    launch_id: str,
    power_w: float,
    shares: dict[str, float],
    environment: dict[str, Any] | None,
    idle_power_w: float,
    faults: Sequence[str],
    start_s: int,
    counted: TokenCounter,
    requests: Requests | None,
) -> Recording:
    """The recording of a load that counted these tokens."""
    last = counted.time_ns[-1]
    start = start_s * 1_000_000_000 - 300_000_000
    gpus = tuple(
        trace(start, last + 1_300_000_000, power_w * share, idle_power_w, last, uuid)
        for uuid, share in shares.items()
    )
    return Recording(
        key=cell.key,
        launch_id=launch_id,
        environment=fingerprint(**{"gpu_uuids": shares, **(environment or {})}),
        tokens=counted,
        gpus=gpus,
        load_stopped_ns=last,
        faults=tuple(faults),
        requests=requests,
    )


def live_settings(baselines: Path, **changed: Any) -> Settings:
    """Of a live run that stores nothing and may launch three times."""
    settings = Settings(
        baselines=baselines,
        update=False,
        update_reason=None,
        noise=False,
        replay=(),
        record=None,
        launches=3,
        inconclusive_fails=True,
        launch=LaunchSettings("python", {}, 1.0, 1.0),
    )
    return replace(settings, **changed)
