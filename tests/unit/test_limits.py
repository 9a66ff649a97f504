"""What limits a cell: figures of recorded launches, and which steps CUDA graphs hold."""

from dataclasses import replace
from functools import cache
from statistics import fmean
from typing import Any

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.workload import Workload
from pytest_energy.measure.limits import StepTimes, captured_tokens, in_chunks
from pytest_energy.measure.measurement import measure
from pytest_energy.recording.recording import PrefixCache, Recording
from pytest_energy.recording.recording_file import read_launches
from tests.conftest import ROOT
from tests.simulated import fingerprint, recording

H100 = ROOT / "recordings" / "h100-sxm-80gb"
H200 = ROOT / "recordings" / "h200-sxm-141gb"
NEW, OLD = "gpu-e4e905c4/vllm-0.25.1-256-in", "gpu-2d029cfc/vllm-0.25.1-448-and-512-in"


@cache
def launches(folder: str) -> list[Recording]:
    return [periods[0] for periods in read_launches([H100 / folder])]


def of(folder: str, input_tokens: int, batch_size: int) -> list[StepTimes]:
    found = []
    for recorded in launches(folder):
        fixed = recorded.key.workload.fixed_lengths
        if fixed == (input_tokens, 256) and recorded.key.batch_size == batch_size:
            times = measure(recorded).step_times
            assert times is not None
            found.append(times)
    assert found
    return found


@pytest.mark.parametrize(
    (
        "folder", "input_tokens", "batch_size", "prompts", "several", "outside", "time_outside",
        "time_with", "step_ms", "prompt_ms", "host",
    ),
    [
        (NEW, 256, 1, 0.39, 0, 0, 0, 1.0, 6.48, 16.3, False),
        (NEW, 256, 8, 3.10, 0, 0, 0, 4.4, 6.70, 9.8, False),
        (NEW, 256, 64, 24.55, 0.26, 0.26, 0.9, 32.2, 8.12, 11.8, False),
        (NEW, 256, 256, 78.06, 4.50, 4.50, 10.9, 86.2, 13.36, 22.8, True),
        (NEW + "-eager", 256, 64, 24.42, 0.39, 100, 100, 28.4, 18.22, 22.6, True),
        (NEW + "-no-async", 256, 64, 24.90, 0, 0, 0, 32.9, 11.42, 16.8, False),
        (NEW + "-piecewise", 256, 8, 3.10, 0, 0, 0, 3.8, 7.01, 9.5, True),
        (NEW + "-triton-attn", 256, 64, 24.81, 0, 0, 0, 38.6, 7.67, 14.7, True),
        (OLD, 512, 64, 24.03, 0.58, 24.03, 48.4, 48.4, 8.65, 25.9, True),
        (OLD, 448, 64, 24.03, 0.44, 0.44, 1.5, 35.5, 8.65, 15.1, False),
        (OLD, 512, 8, 3.10, 0, 3.10, 11.7, 11.7, 6.78, 28.7, True),
        (OLD, 448, 8, 3.10, 0, 0, 0, 5.9, 6.76, 13.4, False),
    ],
)  # fmt: skip
def test_what_limited_recorded_launches(
    folder: str, input_tokens: int, batch_size: int, prompts: float, several: float,
    outside: float, time_outside: float, time_with: float, step_ms: float, prompt_ms: float,
    host: bool,
) -> None:  # fmt: skip
    found = of(folder, input_tokens, batch_size)

    def mean(name: str) -> float:
        return fmean(getattr(times, name) for times in found)

    assert 100 * mean("steps_with_prompt") == pytest.approx(prompts, abs=0.006)
    assert 100 * mean("steps_with_prompts") == pytest.approx(several, abs=0.006)
    assert 100 * mean("steps_outside") == pytest.approx(outside, abs=0.006)
    assert 100 * mean("time_outside") == pytest.approx(time_outside, abs=0.06)
    assert 100 * mean("time_with_prompt") == pytest.approx(time_with, abs=0.06)
    assert mean("step_ms") == pytest.approx(step_ms, abs=0.006)
    assert mean("prompt_ms") == pytest.approx(prompt_ms, abs=0.06)
    assert mean("steps_per_token") == pytest.approx(1 / batch_size, rel=0.02)
    assert (mean("host_bound") > 0.05) is host


@pytest.mark.parametrize(
    "folder", ["gpu-5a42a730/2048-in", "gpu-3c745cfa/512-in-max-num-batched-tokens-512"]
)
def test_steps_of_prompts_in_chunks_are_not_told_apart(folder: str) -> None:
    """Else a chunk that ends no prompt would count as a step without one."""
    for periods in read_launches([H200 / folder]):
        measured = measure(*periods)
        assert measured.step_times is measured.mix is None


def test_a_prompts_step_computes_what_the_prefix_cache_does_not_serve() -> None:
    """512 + 63 tokens outgrow graphs of 512, 448 + 63 do not."""
    recorded = next(
        of
        for of in launches(OLD)
        if (of.key.workload.fixed_lengths, of.key.batch_size) == ((512, 256), 64)
    )
    none, some = (
        measure(replace(recorded, prefix_cache=PrefixCache(512_000, cached))).step_times
        for cached in (0, 64_000)
    )
    assert none is not None
    assert some is not None
    assert (none.steps_outside > 0.2, some.steps_outside < 0.01) == (True, True)
    workload = replace(recorded.key.workload, shared_prefix_tokens=64)
    unknown = replace(recorded, key=replace(recorded.key, workload=workload))
    assert measure(unknown).step_times is None


@pytest.mark.parametrize(("output_tokens", "chunks"), [(250, True), (1, False)])
def test_a_prompt_shares_its_step_with_what_others_generate(
    cell: Cell, output_tokens: int, chunks: bool
) -> None:
    of = replace(cell, workload=Workload(64, output_tokens))
    settings = {"max_num_batched_tokens": 64}
    recorded = recording(of, environment={"engine_settings": settings}, cycles=8.5)
    assert in_chunks(recorded, 64) is chunks
    assert not in_chunks(recorded, 57)


def test_the_gpu_decides_a_large_models_prompts_outside_graphs() -> None:
    for times in of("gpus-90c8c798-23100d1e/vllm-0.25.1-70b-fp8-tp2", 512, 64):
        assert times.time_outside > 0.5
        assert not times.is_host_bound


@pytest.mark.parametrize(
    ("settings", "under_test", "tokens"),
    [
        ({"max_num_seqs": 256}, {}, 512),
        ({"max_num_seqs": 64}, {}, 128),
        ({"max_num_seqs": 1024}, {}, 512),
        ({"max_num_seqs": 256, "enforce_eager": True}, {}, 0),
        ({"max_num_seqs": 256}, {"enforce_eager": True}, 0),
        ({"max_num_seqs": 256, "cudagraph_mode": "NONE"}, {}, 0),
        ({"max_num_seqs": 256, "cudagraph_mode": "PIECEWISE"}, {}, 512),
        ({"max_num_seqs": 256}, {"max_cudagraph_capture_size": 1024}, 1024),
        ({"max_num_seqs": 256, "max_cudagraph_capture_size": 248}, {}, 248),
        ({"cudagraph_capture_sizes": [1, 8, 96]}, {"max_cudagraph_capture_size": 512}, 96),
        ({}, {"compilation_config": {"cudagraph_capture_sizes": [1, 8, 96]}}, 96),
        ({}, {}, 512),
        # Asked for it, the engine did not know.
        ({"max_cudagraph_capture_size": None, "max_num_seqs": 256}, {}, None),
    ],
)
def test_the_largest_captured_step(
    cell: Cell, settings: dict[str, Any], under_test: dict[str, Any], tokens: int | None
) -> None:
    recorded = recording(replace(cell, engine_args=()), cycles=5.5)
    environment = fingerprint(engine_settings=settings, engine_args_under_test=under_test)
    assert captured_tokens(replace(recorded, environment=environment)) == tokens


def test_a_servers_steps_are_not_seen(cell: Cell) -> None:
    assert measure(recording(cell, cycles=8.5)).step_times is not None
    assert measure(recording(replace(cell, engine="server"), cycles=8.5)).step_times is None


@pytest.mark.parametrize("settings", [{"vllm_engine": "V0"}, {"max_cudagraph_capture_size": None}])
def test_nothing_limits_an_engine_whose_steps_are_not_understood(
    cell: Cell, settings: dict[str, Any]
) -> None:
    recorded = recording(replace(cell, engine_args=()), cycles=8.5)
    assert measure(recorded).step_times is not None
    of_older = replace(recorded.environment, engine_settings=settings)
    assert measure(replace(recorded, environment=of_older)).step_times is None
