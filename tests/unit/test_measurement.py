"""Recording → measurement: figures recovered, faults found."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.model import Model
from pytest_energy.cell.workload import Workload
from pytest_energy.measure.measurement import measure
from pytest_energy.recording.counters import span_ns
from pytest_energy.recording.recording import (
    Client,
    Distribution,
    EnergyCounter,
    GpuSamples,
    GpuTrace,
    Recording,
    TokenCounter,
)
from tests.simulated import client, recording, trace


def make_cell(batch_size: int = 8, output_tokens: int = 250) -> Cell:
    return Cell(Model("/models/tiny", "tiny"), batch_size, Workload(64, output_tokens), "dummy")


def with_gpu(recorded: Recording, **changes: Any) -> Recording:
    return replace(recorded, gpus=(replace(recorded.gpus[0], **changes),))


def of_engine(recorded: Recording, engine: str) -> Recording:
    return replace(recorded, key=replace(recorded.key, engine=engine))


def with_samples(recorded: Recording, **values: int) -> Recording:
    samples = recorded.gpus[0].samples
    constant = {name: (value,) * len(samples.time_ns) for name, value in values.items()}
    return with_gpu(recorded, samples=replace(samples, **constant))


def scaled(gpu: GpuTrace, factor: float) -> GpuTrace:
    return replace(
        gpu,
        counter=replace(
            gpu.counter, energy_mj=tuple(round(e * factor) for e in gpu.counter.energy_mj)
        ),
        samples=replace(
            gpu.samples,
            average_power_mw=tuple(round(p * factor) for p in gpu.samples.average_power_mw),
        ),
    )


@given(
    power_w=st.floats(80, 700),
    batch_size=st.sampled_from([1, 3, 8, 64]),
    steps_per_s=st.floats(40, 160),
    noise=st.floats(0, 0.1),
    seed=st.integers(0, 10**6),
)
def test_recovers_what_was_simulated(
    power_w: float, batch_size: int, steps_per_s: float, noise: float, seed: int
) -> None:
    cell = make_cell(batch_size)
    rate = batch_size * steps_per_s
    m = measure(
        recording(cell, power_w=power_w, tokens_per_s=rate, noise=noise, seed=seed, cycles=9.5)
    )
    assert m.valid, m.faults
    assert math.isclose(m.power_w, power_w, rel_tol=0.005)
    assert math.isclose(m.tokens_per_s, rate, rel_tol=0.02 if noise else 0.001)
    assert math.isclose(m.joules_per_token, m.power_w / m.tokens_per_s, rel_tol=1e-9)


@given(factor=st.floats(0.5, 2.0))
def test_scaled_energy_scales_energy_alone(factor: float) -> None:
    recorded = recording(make_cell())
    one, other = (
        measure(recorded),
        measure(replace(recorded, gpus=(scaled(recorded.gpus[0], factor),))),
    )
    assert math.isclose(other.joules_per_token, factor * one.joules_per_token, rel_tol=1e-4)
    assert math.isclose(other.power_w, factor * one.power_w, rel_tol=1e-4)
    assert other.tokens_per_s == one.tokens_per_s


@given(shift_ns=st.integers(0, 10**16))
def test_the_clock_may_start_anywhere(shift_ns: int) -> None:
    recorded = recording(make_cell(), noise=0.05)

    def moved(times: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(t + shift_ns for t in times)

    gpu = recorded.gpus[0]
    counter = replace(
        gpu.counter,
        unchanged_ns=moved(gpu.counter.unchanged_ns),
        changed_ns=moved(gpu.counter.changed_ns),
    )
    later = replace(
        recorded,
        tokens=replace(recorded.tokens, time_ns=moved(recorded.tokens.time_ns)),
        gpus=(
            replace(
                gpu,
                counter=counter,
                samples=replace(gpu.samples, time_ns=moved(gpu.samples.time_ns)),
            ),
        ),
        load_stopped_ns=recorded.load_stopped_ns + shift_ns,
    )
    assert measure(later).cycles == measure(recorded).cycles


def test_the_first_cycle_is_warm_up() -> None:
    m = measure(recording(make_cell(), cycles=6.5))
    assert m.cycles is not None
    assert len(m.cycles.time_s) == 5


@given(
    tokens_per_s=st.floats(15, 100), idle_power_w=st.floats(60, 490), start_s=st.integers(0, 10**6)
)
def test_short_cycles_hold_no_energy_of_the_time_around_the_load(
    tokens_per_s: float, idle_power_w: float, start_s: int
) -> None:
    """Of requests for one token, a cycle is shorter than the time between the counter's updates."""
    recorded = recording(
        make_cell(1, output_tokens=1),
        tokens_per_s=tokens_per_s,
        cycles=6 * tokens_per_s,
        idle_power_w=idle_power_w,
        start_s=start_s,
    )
    measured = measure(recorded)
    assert measured.valid, measured.faults
    assert measured.cycles is not None
    assert measured.cycles.power_w == pytest.approx([500.0] * len(measured.cycles.tokens), rel=0.02)


def test_the_hot_idle_power_is_the_static_power() -> None:
    assert measure(recording(make_cell(), idle_power_w=123.0)).static_power_w == pytest.approx(
        123.0, rel=0.01
    )


def test_no_static_power_when_the_clock_sank_at_once() -> None:
    recorded = recording(make_cell())
    samples = recorded.gpus[0].samples
    clocks = tuple(345 if t > recorded.load_stopped_ns else 1980 for t in samples.time_ns)
    assert (
        measure(with_gpu(recorded, samples=replace(samples, sm_clock_mhz=clocks))).static_power_w
        is None
    )


def test_several_gpus_add_up_and_are_told_apart() -> None:
    recorded = recording(make_cell(), power_w=400.0)
    second = replace(scaled(recorded.gpus[0], 0.5), uuid="GPU-11111111-1111-1111-1111-111111111111")
    m = measure(replace(recorded, gpus=(*recorded.gpus, second)))
    assert m.power_w == pytest.approx(600.0, rel=0.002)
    first_j, second_j = m.gpu_energy_j.values()
    assert first_j == pytest.approx(2 * second_j, rel=0.002)
    assert m.cycles is not None
    assert first_j + second_j == pytest.approx(sum(m.cycles.energy_j), rel=1e-9)


def standing_still(recorded: Recording) -> Recording:
    counter = recorded.gpus[0].counter
    keep = [i for i in range(len(counter.energy_mj)) if not 30 <= i < 60]
    series = (
        tuple(values[i] for i in keep)
        for values in (counter.unchanged_ns, counter.changed_ns, counter.energy_mj)
    )
    return with_gpu(recorded, counter=EnergyCounter(*series))


def running_backwards(recorded: Recording) -> Recording:
    energy = list(recorded.gpus[0].counter.energy_mj)
    energy[40:] = [e - energy[40] for e in energy[40:]]
    return with_gpu(recorded, counter=replace(recorded.gpus[0].counter, energy_mj=tuple(energy)))


def half_empty(recorded: Recording) -> Recording:
    return replace(
        recorded, tokens=replace(recorded.tokens, tokens=(4,) * len(recorded.tokens.tokens))
    )


def test_a_v0_engine_generates_nothing_while_it_computes_prompts() -> None:
    recorded = recording(make_cell(), cycles=8.5)
    steps = len(recorded.tokens.tokens)
    waiting = replace(recorded, tokens=replace(recorded.tokens, tokens=(7,) * steps))
    environment = replace(waiting.environment, engine_settings={"vllm_engine": "V0"})
    of_v0 = replace(waiting, environment=environment)
    settings = {"vllm_engine": "V0", "enable_chunked_prefill": True}
    mixed = replace(waiting, environment=replace(environment, engine_settings=settings))
    for recorded, is_faulty in (
        (waiting, True), (of_v0, False), (mixed, True), (half_empty(of_v0), True)
    ):  # fmt: skip
        assert any("batch_not_full" in f for f in measure(recorded).faults) is is_faulty


def unused(recorded: Recording, idle_power_w: float) -> Recording:
    """A GPU that draws so much after the load, and does not report its utilization."""
    stopped_ns, (first_ns, last_ns) = recorded.load_stopped_ns, span_ns(recorded.gpus[0])
    gpu = trace(first_ns, last_ns + 2 * 10**9, 500.0, idle_power_w, stopped_ns)
    samples = replace(gpu.samples, utilization_percent=())
    return replace(recorded, gpus=(replace(gpu, samples=samples),))


def test_a_gpu_that_draws_more_under_load_need_not_report_its_utilization() -> None:
    """In 270 recordings of H100 and H200 it draws 1.7 times or more of what it does after it."""
    assert measure(unused(recording(make_cell(), cycles=8.5), 300.0)).valid


@pytest.mark.parametrize("engine", ["offline", "attached"])
def test_an_idle_gpu_is_not_that_of_a_server_on_another_machine(engine: str) -> None:
    recorded = with_samples(recording(make_cell(), cycles=8.5), utilization_percent=0)
    named = replace(recorded, key=replace(recorded.key, engine=engine))
    (fault,) = [f for f in measure(named).faults if f.startswith("gpu_idle")]
    assert "was busy 0 % of the time under load" in fault
    assert ("another machine" in fault) == (engine == "attached")
    assert ("--energy-gpu" in fault) == (engine == "attached")


@pytest.mark.parametrize(
    ("fault", "spoil"),
    [
        ("counter_stuck", standing_still),
        ("counter_stuck", lambda r: with_gpu(r, counter=EnergyCounter((), (), ()))),
        ("counter_backwards", running_backwards),
        ("no_counter", lambda r: replace(r, gpus=())),
        ("counter_disagrees", lambda r: with_samples(r, average_power_mw=520_000)),
        ("counter_disagrees", lambda r: with_samples(r, average_power_mw=0)),
        ("batch_not_full", half_empty),
        ("batch_not_full", lambda r: of_engine(half_empty(r), "other")),
        ("engine_unknown", lambda r: replace(r, environment=replace(r.environment, vllm=None))),
        ("gpu_idle", lambda r: with_samples(r, utilization_percent=0)),
        ("gpu_idle", lambda r: unused(r, 495.0)),
        ("throttled", lambda r: with_samples(r, throttle_reasons=0x8)),
        ("throttled", lambda r: with_samples(r, throttle_reasons=0x20)),
        ("throttled", lambda r: with_samples(r, throttle_reasons=0x44)),
        ("throttled", lambda r: with_samples(r, throttle_reasons=0x80)),
        ("kv_cache_too_small", lambda r: replace(r, kv_cache_tokens=2000)),
        (
            "too_short",
            lambda r: replace(
                r,
                tokens=TokenCounter(
                    *(s[:900] for s in (r.tokens.time_ns, r.tokens.tokens, r.tokens.finished))
                ),
            ),
        ),
        ("too_short", lambda r: replace(r, tokens=TokenCounter((), (), ()))),
        ("foreign_process", lambda r: with_gpu(r, faults=("foreign_process: pid 7",))),
        ("lost", lambda r: replace(r, faults=("lost: something",))),
    ],
)
def test_faults_make_a_measurement_invalid(fault: str, spoil: Any) -> None:
    m = measure(spoil(recording(make_cell(), cycles=8.5)))
    assert not m.valid
    assert any(f.startswith(f"{fault}:") for f in m.faults), m.faults


def test_a_window_with_too_few_power_samples_is_invalid() -> None:
    recorded = recording(make_cell(), cycles=8.5)
    samples = recorded.gpus[0].samples
    few = {f.name: getattr(samples, f.name)[40:160:40] for f in fields(samples)}
    m = measure(with_gpu(recorded, samples=GpuSamples(**few)))
    assert [fault.split(":")[0] for fault in m.faults] == ["power_unsampled"]
    assert not m.unrecoverable


def test_the_software_power_cap_is_no_fault() -> None:
    m = measure(with_samples(recording(make_cell()), throttle_reasons=0x4))
    assert m.valid
    assert m.conditions.power_cap_share == 1.0


def test_a_small_disagreement_is_no_fault() -> None:
    assert measure(with_samples(recording(make_cell()), average_power_mw=510_000)).valid


@pytest.mark.parametrize(
    "series", ["sm_clock_mhz", "temperature_c", "throttle_reasons", "utilization_percent"]
)
def test_what_a_driver_does_not_report_is_unknown_and_changes_no_verdict(series: str) -> None:
    recorded = recording(make_cell(), idle_power_w=120.0)
    whole = measure(recorded)
    m = measure(with_gpu(recorded, samples=replace(recorded.gpus[0].samples, **{series: ()})))
    assert m.valid
    assert (m.joules_per_token, m.power_w) == (whole.joules_per_token, whole.power_w)
    now, before = m.conditions, whole.conditions
    assert now.sm_clock_mhz == (None if series == "sm_clock_mhz" else before.sm_clock_mhz)
    assert now.temperature_c == (None if series == "temperature_c" else before.temperature_c)
    assert now.power_cap_share == (None if series == "throttle_reasons" else 0.0)
    assert (m.static_power_w is None) == (series == "sm_clock_mhz")


def test_power_of_no_duration_may_scatter_but_not_be_another() -> None:
    """nvml.h, nvmlDeviceGetPowerUsage: "On GA100 and older architectures, instantaneous power is
    returned", which between prefill and decode swings by a tenth and more.
    """

    def scattered(factor: float, power: str) -> Any:
        recorded = recording(make_cell(), cycles=8.5)
        samples, noise = recorded.gpus[0].samples, np.random.default_rng(1)
        swing = noise.normal(factor, 0.1, len(samples.time_ns) // 8)
        thin = {f.name: getattr(samples, f.name)[::8] for f in fields(samples)}
        thin["average_power_mw"] = tuple(
            round(mw * by) for mw, by in zip(thin["average_power_mw"], swing, strict=False)
        )
        thin = {name: values[: len(swing)] for name, values in thin.items()}
        gpu = replace(recorded.gpus[0], samples=GpuSamples(**thin), power=power)
        return measure(replace(recorded, gpus=(gpu,)))

    assert scattered(1.0, "instant").valid
    for factor, power in ((1.3, "instant"), (0.7, "instant"), (1.1, "average")):
        assert [f.split(":")[0] for f in scattered(factor, power).faults] == ["counter_disagrees"]


def periods_of(cell: Cell, count: int = 3, cycles: float = 3.5, **kwargs: Any) -> list[Recording]:
    return [
        replace(
            recording(cell, start_s=1000 * (1 + period), cycles=cycles, seed=period, **kwargs),
            period=period,
        )
        for period in range(count)
    ]


@given(power_w=st.floats(80, 700), noise=st.floats(0, 0.1), count=st.integers(2, 5))
def test_the_periods_of_a_launch_make_one_measurement(
    power_w: float, noise: float, count: int
) -> None:
    periods = periods_of(make_cell(), count, power_w=power_w, noise=noise)
    m = measure(*periods)
    assert m.valid, m.faults
    assert m.cycles is not None
    assert len(m.periods) == count
    assert m.cycles.time_s == tuple(t for period in m.periods for t in period.cycles.time_s)
    assert math.isclose(m.power_w, power_w, rel_tol=0.005)
    assert [period.started_ns for period in m.periods] == sorted(
        period.started_ns for period in m.periods
    )


def test_a_period_too_short_by_itself_counts_with_the_others() -> None:
    periods = periods_of(make_cell())
    assert any(fault.startswith("too_short") for fault in measure(periods[0]).faults)
    assert measure(*periods).valid


def test_a_launch_with_a_period_that_holds_no_cycle_is_none() -> None:
    periods = [
        *periods_of(make_cell(), 2, cycles=5.5),
        replace(recording(make_cell(), cycles=0.5, start_s=5000), period=2),
    ]
    (fault,) = measure(*periods).faults
    assert fault == "too_short: 8 whole cycles after warm-up, 3 needed; 1 of 3 periods hold none"


def test_a_fault_of_one_period_is_one_of_the_launch() -> None:
    periods = periods_of(make_cell())
    periods[1] = with_samples(periods[1], throttle_reasons=0x40)
    (fault,) = measure(*periods).faults
    assert "hardware thermal slowdown" in fault
    periods[1] = replace(periods[1], gpus=(replace(periods[1].gpus[0], uuid="GPU-other"),))
    assert any(fault.startswith("periods_differ") for fault in measure(*periods).faults)


def test_the_kv_cache_holds_whole_blocks() -> None:
    recorded = replace(recording(make_cell(batch_size=8)), kv_cache_tokens=8 * 314)
    assert measure(recorded).valid
    in_blocks = replace(
        recorded, environment=replace(recorded.environment, engine_settings={"block_size": 16})
    )
    assert measure(in_blocks).faults == (
        "kv_cache_too_small: it holds 2512 tokens, the batch needs 2560",
    )


def served(seen: Client | None, tokens_a_step: int = 8) -> Recording:
    """A recording of a server; its steps are what the clients took together, not the engine's."""
    recorded = replace(recording(replace(make_cell(), engine="server"), cycles=9.5), client=seen)
    parts = 8 // tokens_a_step
    times = tuple(
        time + part * 1_000_000 for time in recorded.tokens.time_ns for part in range(parts)
    )
    return replace(
        recorded, tokens=TokenCounter(times, (tokens_a_step,) * len(times), (0,) * len(times))
    )


def test_latencies_are_percentiles_of_what_clients_saw() -> None:
    m = measure(served(client(19_000)))
    assert m.valid, m.faults
    assert m.latencies_ms == {
        "ttft": {"mean": 28.0, "p50": 20.0, "p90": 40.0, "p99": 40.0},
        "itl": {"mean": 8.02, "p50": 8.0, "p90": 8.0, "p99": 8.0},
        "e2e": {"mean": 2000.0, "p50": 2000.0, "p90": 2000.0, "p99": 2000.0},
    }


@pytest.mark.parametrize(("counted", "p50", "p90", "p99"), [(1000, 500, 900, 990), (7, 4, 7, 7)])
def test_a_percentile_is_the_least_that_so_many_do_not_exceed(
    counted: int, p50: int, p90: int, p99: int
) -> None:
    values_us = tuple(range(1000, 1000 * counted + 1, 1000))
    client_saw = client(19_000, inter_token=Distribution(values_us, (1,) * counted))
    expected = {"mean": (counted + 1) / 2, "p50": p50, "p90": p90, "p99": p99}
    assert measure(served(client_saw)).latencies_ms["itl"] == pytest.approx(expected)


def test_latencies_of_periods_are_put_together() -> None:
    periods = [
        replace(served(client(19_000, first_token=Distribution((value,), (1,)))), period=period)
        for period, value in enumerate((10_000, 30_000))
    ]
    m = measure(*periods)
    assert m.latencies_ms["ttft"] == {"mean": 20.0, "p50": 10.0, "p90": 30.0, "p99": 30.0}


def test_an_engine_without_clients_has_no_latencies() -> None:
    assert measure(recording(make_cell(), cycles=9.5)).latencies_ms == {}
    assert measure(served(None)).latencies_ms == {}
    assert (
        "ttft" not in measure(served(client(19_000, first_token=Distribution((), ())))).latencies_ms
    )


@pytest.mark.parametrize("ended", [Distribution((), ()), Distribution((0,), (1,))])
def test_requests_of_which_none_took_time_do_not_say_how_long_they_waited(
    ended: Distribution,
) -> None:
    assert measure(served(client(19_000, end_to_end=ended))).valid


@pytest.mark.parametrize(
    ("seen", "fault"),
    [
        (
            client(19_000, server_tokens=19_007),
            "tokens_disagree: the streams brought 19000 tokens, the server counted 19007",
        ),
        (client(19_000, server_tokens=18_999), "tokens_disagree"),
        (client(19_000, preemptions=3), "batch_not_full: the server preempted requests 3 times"),
        (
            client(19_000, first_token=Distribution((300_000,), (1,))),
            "batch_not_full: requests waited 15 % of their time for their first token",
        ),
        (client(19_000, cpu_cores=0.95), "client_busy: the clients used 0.95 of one CPU core"),
    ],
)
def test_what_clients_saw_makes_a_measurement_invalid(seen: Client, fault: str) -> None:
    (found,) = measure(served(seen)).faults
    assert found.startswith(fault)


def test_how_a_servers_tokens_arrive_is_no_sign_of_an_empty_batch() -> None:
    """The tokens of a large batch's step come spread out; a few milliseconds are one entry."""
    assert measure(served(client(19_000), tokens_a_step=2)).faults == ()
