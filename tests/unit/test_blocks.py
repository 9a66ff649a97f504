"""Requests of varying lengths: blocks of finished requests, and J/token as a ratio of sums."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.lengths import Lognormal
from pytest_energy.cell.model import Model
from pytest_energy.cell.plan import Plan
from pytest_energy.cell.workload import Workload
from pytest_energy.errors import BaselineError, NoiseError, RecordingError
from pytest_energy.measure import stopping
from pytest_energy.measure.cycles import boundaries, whole_cycles
from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import launch_means, launch_rates, relative_standard_error
from pytest_energy.recording import recording_file, schema
from pytest_energy.recording.recording import CoResident, Recording, TokenCounter
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.baselines import Store
from pytest_energy.store.noise import NoiseStore
from tests import simulated
from tests.conftest import ROOT
from tests.unit.test_measurement import scaled, with_samples

STATISTICS = " ".join((ROOT / "docs" / "statistics.md").read_text().split())
VARYING = Workload(Lognormal(60, 0.6, 400), Lognormal(100, 0.8, 600))


def make_cell(batch_size: int = 8, workload: Workload = VARYING) -> Cell:
    return Cell(Model("/models/tiny", "tiny"), batch_size, workload, "dummy")


@given(
    power_w=st.floats(80, 700),
    batch_size=st.sampled_from([1, 3, 8, 64]),
    sigmas=st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0)),
    noise=st.floats(0, 0.05),
    seed=st.integers(0, 10**6),
)
def test_recovers_what_was_simulated(
    power_w: float, batch_size: int, sigmas: tuple[float, float], noise: float, seed: int
) -> None:
    workload = Workload(Lognormal(60, sigmas[0], 400), Lognormal(100, sigmas[1], 600), seed)
    cell, rate = make_cell(batch_size, workload), 100.0 * batch_size**0.8
    m = measure(
        simulated.recording(
            cell, power_w=power_w, tokens_per_s=rate, noise=noise, seed=seed, cycles=9.2
        )
    )
    assert m.valid, m.faults
    of_pass = sum(out for _, out in simulated.plan(cell).lengths)
    seconds = simulated.seconds_of_a_pass(cell, rate)
    assert math.isclose(m.power_w, power_w, rel_tol=0.005)
    assert math.isclose(m.joules_per_token, power_w * seconds / of_pass, rel_tol=0.02)
    assert math.isclose(m.tokens_per_s, of_pass / seconds, rel_tol=0.02)


@given(st.sampled_from([1, 3, 8, 64]), st.integers(0, 10**6), st.integers(3, 11))
def test_blocks_tile_the_window_and_hold_equal_numbers_of_requests(
    batch_size: int, seed: int, blocks: int
) -> None:
    cell = make_cell(batch_size, replace(VARYING, seed=seed))
    recorded = replace(
        simulated.recording(cell, noise=0.02, cycles=blocks + 1.5),
        co_resident=CoResident("other", 1.0, 0, True, 0.0),
    )
    m = measure(recorded)
    assert m.cycles is not None
    assert len(m.cycles.time_s) == blocks == whole_cycles(recorded)[0]
    of_pass = cell.workload.requests_per_pass(batch_size)
    times, finished = np.array(recorded.tokens.time_ns), np.cumsum(recorded.tokens.finished)
    total = np.cumsum(recorded.tokens.tokens)
    started_ns = m.periods[0].started_ns
    for number, seconds in enumerate((0.0, *np.cumsum(m.cycles.time_s))):
        step = int(np.searchsorted(times, started_ns + round(seconds * 1e9) - 1000))
        # The step in which the last request of the warm-up, or of the block, finished.
        assert finished[step - 1] < batch_size + (number + 1) * of_pass <= finished[step]
        assert total[step] - total[np.searchsorted(times, started_ns)] == sum(
            m.cycles.tokens[:number]
        )


@given(st.sampled_from([1.04, 0.9, 2.0]), st.integers(0, 10**6))
def test_scaled_energy_scales_the_estimate_alone(factor: float, seed: int) -> None:
    recorded = simulated.recording(make_cell(), noise=0.05, seed=seed)
    one, other = (
        measure(recorded),
        measure(replace(recorded, gpus=(scaled(recorded.gpus[0], factor),))),
    )
    assert math.isclose(other.joules_per_token, factor * one.joules_per_token, rel_tol=1e-6)
    assert other.tokens_per_s == one.tokens_per_s


@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_launches_of_different_length_measure_the_same_work(batch_size: int) -> None:
    """Each block holds a pass of the same requests; free draws would hold anything."""
    cell = make_cell(batch_size)
    measured = [
        measure(simulated.recording(cell, noise=0.01, seed=blocks, cycles=blocks + 0.5))
        for blocks in range(5, 13)
    ]
    values = [m.joules_per_token for m in measured]
    assert max(values) / min(values) < 1.006
    tokens = [count for m in measured if m.cycles for count in m.cycles.tokens]
    assert max(tokens) / min(tokens) < 1.15


@pytest.mark.nightly
def test_free_draws_would_scatter_far_more() -> None:
    """What docs/statistics.md says of launches of 4 to 9 blocks at batch size 64."""
    cell = make_cell(64, Workload(Lognormal(512, 0.6, 2048), Lognormal(256, 0.6, 1024)))

    def drawn_freely(seed: int) -> Plan:
        generator, of_pass = random.Random(seed), cell.workload.requests_per_pass(64)

        def draw(median: int, longest: int) -> int:
            return min(longest, max(1, round(generator.lognormvariate(math.log(median), 0.6))))

        lengths = tuple((draw(512, 2048), draw(256, 1024)) for _ in range(14 * of_pass))
        return Plan(lengths, simulated.plan(cell).first_wave)

    def spread(free: bool) -> float:
        launches = [
            measure(
                simulated.recording(
                    cell,
                    tokens_per_s=4800,
                    noise=0.01,
                    seed=n,
                    cycles=5.5 + n % 6,
                    asked=drawn_freely(n) if free else None,
                )
            )
            for n in range(60)
        ]
        return float(np.std(np.log([m.joules_per_token for m in launches]), ddof=1))

    assert (
        f"{100 * spread(free=False):.2f} % instead of {100 * spread(free=True):.2f} %" in STATISTICS
    )


def test_j_per_token_is_a_ratio_of_sums() -> None:
    m = measure(simulated.recording(make_cell(), noise=0.05))
    assert m.cycles is not None
    assert len(set(m.cycles.tokens)) > 1
    assert m.joules_per_token == sum(m.cycles.energy_j) / sum(m.cycles.tokens)
    assert launch_means([m.cycles.joules_per_token], [m.cycles.weights])[0] == pytest.approx(
        m.joules_per_token, rel=1e-12
    )
    assert launch_rates([m.cycles.tokens_per_s], [m.cycles.weights])[0] == pytest.approx(
        m.tokens_per_s, rel=1e-12
    )
    assert m.power_w == pytest.approx(m.joules_per_token * m.tokens_per_s, rel=1e-12)


def test_the_error_of_the_ratio_is_what_it_says() -> None:
    """Blocks of unequal tokens: the spread of 4,000 launches against the mean of their errors."""
    generator = np.random.default_rng(7)
    tokens = generator.lognormal(8, 0.3, (4000, 12)).round()
    energy = 0.1 * tokens * (1 + 0.02 * generator.standard_normal(tokens.shape)) + 20
    ratios = energy.sum(axis=1) / tokens.sum(axis=1)
    errors = [
        relative_standard_error(tuple(e / t), tuple(t)) for e, t in zip(energy, tokens, strict=True)
    ]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(
        ratios.std(ddof=1) / ratios.mean(), rel=0.1
    )


@given(st.lists(st.floats(0.05, 2.0), min_size=2, max_size=12), st.integers(1, 10**6))
def test_of_equal_blocks_the_error_is_that_of_the_mean(values: list[float], tokens: int) -> None:
    assert relative_standard_error(values, [tokens] * len(values)) == pytest.approx(
        relative_standard_error(values), abs=1e-9
    )
    assert relative_standard_error(values[:1], [tokens]) == math.inf


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_a_live_measurement_ends_after_four_blocks_and_twenty_seconds(noise: float) -> None:
    def enough(blocks: float, block_s: float) -> bool:
        cell = make_cell()
        tokens = simulated.plan(cell).warm_up_tokens
        recorded = simulated.recording(
            cell, noise=noise, tokens_per_s=tokens / block_s, cycles=blocks
        )
        return stopping.is_enough(recorded, int(blocks))

    assert not enough(4.5, block_s=10)  # the first is warm-up
    assert enough(5.5, block_s=10)
    assert not enough(9.5, block_s=1)
    assert enough(30.5, block_s=1)


def half_empty(recorded: Recording) -> Recording:
    return replace(
        recorded,
        tokens=replace(recorded.tokens, tokens=tuple(n // 2 for n in recorded.tokens.tokens)),
    )


def first_steps(recorded: Recording) -> Recording:
    count = len(recorded.tokens.time_ns) // 2
    tokens = recorded.tokens
    return replace(
        recorded,
        tokens=TokenCounter(tokens.time_ns[:count], tokens.tokens[:count], tokens.finished[:count]),
    )


@pytest.mark.parametrize(
    ("fault", "spoil"),
    [
        ("batch_not_full: 4.0 tokens a step at batch size 8", half_empty),
        (
            "kv_cache_too_small: it holds 1000 tokens, the batch needs 2",
            lambda r: replace(r, kv_cache_tokens=1000),
        ),
        (
            "too_short: 2 whole blocks after warm-up, 3 needed",
            first_steps,
        ),
        ("too_short: 0 whole blocks", lambda r: replace(r, tokens=TokenCounter((), (), ()))),
        ("throttled: ", lambda r: with_samples(r, throttle_reasons=0x40)),
    ],
)
def test_faults(fault: str, spoil: Any) -> None:
    m = measure(spoil(simulated.recording(make_cell())))
    assert not m.valid
    assert any(found.startswith(fault) for found in m.faults), m.faults


def test_a_kv_cache_for_the_requests_that_meet_is_enough() -> None:
    """Not one for a batch of the longest."""
    recorded = simulated.recording(make_cell(64))
    assert recorded.requests is not None
    longest = max(
        map(sum, zip(recorded.requests.input_tokens, recorded.requests.output_tokens, strict=True))
    )
    assert measure(replace(recorded, kv_cache_tokens=64 * longest * 3 // 4)).valid


def test_a_step_that_ends_several_requests_ends_the_block() -> None:
    """A server's clients see many end at once."""
    recorded = simulated.recording(make_cell(64), noise=0.02, cycles=8.5)
    tokens = recorded.tokens
    starts = range(0, len(tokens.time_ns) - 9, 10)
    merged = TokenCounter(
        tokens.time_ns[9::10],
        *(
            tuple(sum(series[i : i + 10]) for i in starts)
            for series in (tokens.tokens, tokens.finished)
        ),
    )
    one, other = (
        measure(recorded),
        measure(replace(recorded, key=replace(recorded.key, engine="server"), tokens=merged)),
    )
    assert one.cycles is not None
    assert other.cycles is not None
    assert len(one.cycles.time_s) == len(other.cycles.time_s)
    assert other.joules_per_token == pytest.approx(one.joules_per_token, rel=0.005)


def test_periods_of_blocks_make_one_measurement() -> None:
    periods = [
        replace(
            simulated.recording(
                make_cell(), start_s=1000 * (1 + n), cycles=3.5, seed=n, noise=0.02
            ),
            period=n,
        )
        for n in range(3)
    ]
    m = measure(*periods)
    assert m.valid, m.faults
    assert m.cycles is not None
    assert m.cycles.tokens == tuple(count for period in m.periods for count in period.cycles.tokens)
    # Each period begins with the same requests.
    assert len({period.cycles.tokens for period in m.periods}) == 1


def test_a_recording_keeps_the_lengths(tmp_path: Path) -> None:
    recorded = simulated.recording(make_cell())
    recording_file.write(recorded, tmp_path / "a.json.gz")
    assert recording_file.read(tmp_path / "a.json.gz") == recorded


LENGTHS = {"input_tokens": 1, "output_tokens": "replies", "seed": 0}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"requests": None}, "it holds the lengths of None requests, but its key says 24"),
        (
            {"requests": {"input_tokens": [1], "output_tokens": [1]}},
            "it holds the lengths of 1 requests, but its key says 24",
        ),
        (
            {"requests": {"input_tokens": [1] * 24, "output_tokens": [1] * 23}},
            "its series differ in length",
        ),
        (
            {"requests": {"input_tokens": [1] * 24, "output_tokens": [0] * 24}},
            "requests.output_tokens: it holds an impossible value",
        ),
        (
            {"requests": {"input_tokens": [1.5] * 24, "output_tokens": [1] * 24}},
            "requests.input_tokens.0 is 1.5, but must be a whole number",
        ),
        (
            {"key": {"workload": {"input_tokens": 1, "output_tokens": 1, "seed": 0}}},
            "it holds the lengths of 24 requests, but its key says None",
        ),
        (
            {"key": {"workload": {**LENGTHS, "requests": "24"}}},
            "key.workload.requests is '24', but must be a whole number",
        ),
        (
            {"key": {"workload": {"requests": 24, "input_tokens": 1, "seed": 0}}},
            "key.workload.output_tokens is missing",
        ),
        (
            {"key": {"workload": LENGTHS}, "requests": None},
            "key.workload: its requests vary in length, and their number is not",
        ),
        (
            {"key": {"batch_size": 10**6}},
            "its batch size is 1000000, and a pass has only 24 requests",
        ),
        (
            {"key": {"workload": {**LENGTHS, "input_tokens": {}}}, "requests": None},
            "key.workload.input_tokens",
        ),
    ],
)
def test_damaged_lengths(damage: dict[str, Any], message: str) -> None:
    content = schema.to_json(simulated.recording(make_cell()))
    content = {**content, **damage, "key": {**content["key"], **damage.get("key", {})}}
    with pytest.raises(RecordingError, match=message):
        schema.from_json(json.loads(json.dumps(content)))


@given(
    st.lists(st.tuples(st.integers(-5, 50), st.integers(-5, 50), st.integers(-9, 9)), max_size=30)
)
def test_nonsense_in_the_counters_is_no_measurement(steps: list[tuple[int, int, int]]) -> None:
    recorded = simulated.recording(make_cell())
    begin = recorded.tokens.time_ns[0]
    series = list(
        zip(*((begin + t * 10**8, n * 40, f * 10 ** abs(f)) for t, n, f in steps), strict=True)
    ) or [(), (), ()]
    m = measure(replace(recorded, tokens=TokenCounter(*series)))
    assert m.cycles is None or all(value > 0 for value in m.cycles.time_s)


@pytest.mark.parametrize("damage", ["time", "tokens"])
def test_blocks_that_took_no_time_or_hold_no_token_are_damage(damage: str) -> None:
    """From the end of the fourth block on, the counters stand."""
    recorded = simulated.recording(make_cell(), cycles=8.5)
    ends_ns, _ = boundaries(recorded)
    tokens = recorded.tokens
    stood = [t > ends_ns[3] for t in tokens.time_ns]
    if damage == "time":
        times = (min(t, int(ends_ns[3])) for t in tokens.time_ns)
        tokens = replace(tokens, time_ns=tuple(times))
    else:
        counted = (0 if stands else n for n, stands in zip(tokens.tokens, stood, strict=True))
        tokens = replace(tokens, tokens=tuple(counted))
    assert len(ends_ns) > 5
    assert whole_cycles(recorded)[0] == len(ends_ns) - 1
    damaged = replace(recorded, tokens=tokens)
    assert [len(found) for found in boundaries(damaged)] == [0, 0]
    assert whole_cycles(damaged) == (0, 0.0)


def launches(count: int = 3) -> list[Measurement]:
    return [
        measure(
            simulated.recording(
                make_cell(), f"launch-{n}", tokens_per_s=1000 + n, noise=0.05, seed=n
            )
        )
        for n in range(count)
    ]


def test_a_baseline_keeps_the_ratio_of_sums(tmp_path: Path) -> None:
    measured = launches()
    Store(tmp_path).update(measured, {})
    (read,) = Store(tmp_path).entries()
    for stored in (read, Baseline.of(measured)):
        assert stored.joules_per_token == pytest.approx(
            [m.joules_per_token for m in measured], rel=1e-5
        )
        assert stored.tokens_per_s == pytest.approx([m.tokens_per_s for m in measured], rel=1e-5)
    (file,) = tmp_path.rglob("*.json")
    assert "offline in=lognormal out=lognormal bs=0008" in file.read_text()
    content = json.loads(file.read_text())
    (entry,) = content["cells"].values()
    entry["launches"][0]["tokens"].pop()
    file.write_text(json.dumps(content))
    with pytest.raises(BaselineError, match="the series of launch launch-0 differ in length"):
        Store(tmp_path).entries()


def test_the_noise_is_of_the_ratio_of_sums(tmp_path: Path) -> None:
    measured = launches(6)
    NoiseStore(tmp_path).add(measured)
    noise = NoiseStore(tmp_path).noise(measured[0].key, simulated.GPU_NAME, Metric.JOULES_PER_TOKEN)
    assert noise.between is not None
    assert noise.between.deviation == pytest.approx(
        np.log([m.joules_per_token for m in measured]).std(ddof=1), rel=1e-3
    )
    (file,) = tmp_path.rglob("*.json")
    file.write_text(file.read_text().replace('"tokens": [', '"tokens": [7, '))
    with pytest.raises(NoiseError, match="the series of launch launch-0 differ in length"):
        NoiseStore(tmp_path).check()
