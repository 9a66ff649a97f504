"""Energy of prefill and decode: planted figures come back, within their intervals as often as said.

Launches are simulated as vLLM makes them: a prompt shares a step with what others generate, steps
differ in time, and the energy counter was updated at an unknown time between two reads.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.workload import Workload
from pytest_energy.measure import mix
from pytest_energy.measure.mix import CellLaunches, Mix, PrefillDecode
from pytest_energy.measure.window import Window, window_of
from pytest_energy.recording.recording import EnergyCounter, Recording, TokenCounter
from tests import simulated

BATCH, INPUT, OUTPUT = 8, 256, 64
STEP_S, PREFILL_S = 0.007, 4e-5  # without a prompt; what each prompt token adds
READS_S = 0.02  # between the reads around an update


def launch(
    cell: Cell, per_input: float, per_output: float, seed: int, reads_s: float = READS_S
) -> Recording:
    """Some 40 s of `BATCH` slots that start one after the other."""
    generator = np.random.default_rng(seed)
    workload = Workload(input_tokens=INPUT, output_tokens=OUTPUT)
    cell = replace(cell, batch_size=BATCH, workload=workload)
    starts = np.sort(generator.choice(OUTPUT, BATCH, replace=False))
    steps = np.arange(4000)
    age = steps[:, None] - starts[None, :]
    running = age >= 0
    prompts = (running & (age % OUTPUT == 0)).sum(axis=1)
    finished = (running & (age % OUTPUT == OUTPUT - 1)).sum(axis=1)
    tokens = running.sum(axis=1)
    took_s = (STEP_S + PREFILL_S * INPUT * prompts) * generator.normal(1, 0.02, len(steps))
    energy_j = per_input * INPUT * prompts + per_output * tokens
    energy_j = energy_j * (1 + 0.01 * generator.normal()) * generator.normal(1, 0.02, len(steps))
    ends_s = 1000 + np.cumsum(took_s)
    updates_s = np.arange(1000.1, ends_s[-1], 0.5) + generator.normal(0, 0.005)
    counted_j = np.interp(updates_s, ends_s, np.cumsum(energy_j))
    before_s = generator.uniform(0, reads_s, len(updates_s))
    made = simulated.recording(cell, f"launch-{seed}")
    counter = EnergyCounter(
        tuple(_ns(updates_s - before_s)),
        tuple(_ns(updates_s - before_s + reads_s)),
        tuple(np.rint(1000 * counted_j).astype(int).tolist()),
    )
    return replace(
        made,
        tokens=TokenCounter(tuple(_ns(ends_s)), tuple(tokens.tolist()), tuple(finished.tolist())),
        gpus=(replace(made.gpus[0], counter=counter),),
        load_stopped_ns=int(ends_s[-1] * 1e9),
    )


def _ns(seconds: np.ndarray) -> list[int]:
    return [int(value) for value in np.rint(seconds * 1e9)]


def mix_of(recording: Recording) -> Mix:
    found = mix.mix_of([window(recording)])
    assert found is not None
    return found


def window(recording: Recording) -> Window:
    found = window_of(recording)
    assert found is not None
    return found


def covers(figure: mix.Figure, planted: float) -> bool:
    return figure.low <= planted <= figure.high


def test_intervals_from_within_launches_cover_what_was_planted(cell: Cell) -> None:
    """Of 100 groups of six launches 95 are expected; 89 would come once in 100 times."""
    covered = []
    for group in range(100):
        mixes = [mix_of(launch(cell, 0.016, 0.38, 6 * group + i)) for i in range(6)]
        found = mix.of_windows(mixes)
        assert isinstance(found, PrefillDecode), found
        covered.append(
            (
                covers(found.joules_per_input_token, 0.016),
                covers(found.joules_per_output_token, 0.38),
            )
        )
    assert np.sum(covered, axis=0).min() >= 89


def test_unknown_times_of_updates_do_not_flatten_the_line(cell: Cell) -> None:
    mixes = [mix_of(launch(cell, 0.016, 0.38, seed, reads_s=0.03)) for seed in range(100)]
    inputs = [m.joules_per_input_token for m in mixes]
    assert np.mean(inputs) == pytest.approx(0.016, abs=3 * np.std(inputs) / 10)
    assert np.std(inputs) / 10 < 0.0005


@given(
    st.floats(0.005, 0.05),
    st.floats(0.01, 3.0),
    st.lists(st.sampled_from([(4096, 1), (32, 1024), (256, 256), (4096, 256)]), min_size=2,
             max_size=4, unique=True),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_cells_on_a_line_give_the_line(
    per_input: float, per_output: float, lengths: list[tuple[int, int]]
) -> None:
    cells = []
    for tokens_in, tokens_out in lengths:
        energy = per_input * tokens_in / tokens_out + per_output
        launches = tuple(energy * (1 + d) for d in (-1e-6, 0.0, 1e-6))
        cells.append(CellLaunches(tokens_in, tokens_out, launches, host_bound=False))
    found = mix.of_cells(cells)
    if isinstance(found, str):  # 32/1024 and 256/256 alone may leave a small prefill untold
        assert "not told" in found
        return
    assert found.joules_per_input_token.value == pytest.approx(per_input, rel=1e-3)
    assert found.joules_per_output_token is not None
    assert found.joules_per_output_token.value == pytest.approx(per_output, rel=1e-2)


def test_intervals_from_cells_cover_what_was_planted() -> None:
    generator, covered = np.random.default_rng(1), 0
    for _ in range(400):
        cells = []
        for tokens_in, tokens_out in ((2048, 1), (32, 512), (1024, 256)):
            energy = 0.016 * tokens_in / tokens_out + 0.3
            noise = tuple(energy * generator.normal(1, 0.005, 3))
            cells.append(CellLaunches(tokens_in, tokens_out, noise, host_bound=False))
        found = mix.of_cells(cells)
        if isinstance(found, PrefillDecode):
            covered += covers(found.joules_per_input_token, 0.016)
    assert 0.91 * 400 <= covered <= 0.985 * 400


LINE = {(4096, 1): 66.0, (32, 1024): 0.3805, (256, 256): 0.396}


def _cell(
    lengths: tuple[int, int], energy: float, launches: int = 3, host: bool = False
) -> CellLaunches:
    values = tuple(energy * (1 + 0.001 * (i - launches // 2)) for i in range(launches))
    return CellLaunches(*lengths, values, host)


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ([_cell((4096, 1), 66), _cell((32, 1024), 0.38, 2)], "3 launches of each cell needed, 2"),
        ([_cell((448, 256), 0.42), _cell((512, 256), 0.44)], "factor of 2, not of 1.1"),
        ([_cell((4096, 1), 66, host=True), _cell((32, 1024), 0.38)], "pace of 4096/1"),
        ([*(_cell(k, v) for k, v in LINE.items()), _cell((512, 256), 0.9)], "lack of fit"),
        ([_cell((32, 1024), 0.38), _cell((256, 256), 0.379)], "more than half of it either way"),
    ],
)
def test_what_cells_do_not_tell_is_refused(cells: list[CellLaunches], why: str) -> None:
    found = mix.of_cells(cells)
    assert isinstance(found, str)
    assert why in found


def test_prompts_alone_tell_what_a_prompt_token_takes() -> None:
    found = mix.of_prompts(CellLaunches(2048, 1, (36.0, 36.4, 36.8), host_bound=False))
    assert isinstance(found, PrefillDecode)
    half = 4.303 * 0.4 / math.sqrt(3) / 2048  # Student's t with two degrees of freedom
    assert found.joules_per_input_token.value == pytest.approx(36.4 / 2048)
    assert found.joules_per_input_token.high == pytest.approx(36.4 / 2048 + half, rel=1e-4)
    assert found.joules_per_output_token is None
    two = mix.of_prompts(CellLaunches(2048, 1, (36.0, 36.4), host_bound=False))
    assert two == "3 launches needed, 2 found"


def test_windows_that_hold_as_many_prompts_and_few_launches_are_refused() -> None:
    assert mix.of_windows([Mix(0.016, 0.4, 0.2)] * 3) == (
        "windows between counter updates hold equally many prompts "
        "(to 0.20; they must differ by 0.25)"
    )
    assert mix.of_windows([Mix(0.016, 0.4, 0.5)] * 2) == "3 launches needed, 2 found"


def test_a_prefix_cache_chunks_and_servers_leave_the_mix_unknown(cell: Cell) -> None:
    made = launch(cell, 0.016, 0.38, 0)
    arguments = dict(made.key.engine_args)
    for key in (
        replace(made.key, engine_args={**arguments, "enable_prefix_caching": True}),
        replace(made.key, engine_args={**arguments, "max_num_batched_tokens": 128}),
        replace(made.key, engine="server"),
    ):
        assert mix.mix_of([window(replace(made, key=key))]) is None
