"""Why an engine is slower: more steps, a slower host, a GPU that waits, or works longer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.measure.limits import StepTimes
from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.recording.recording_file import read_launches
from pytest_energy.report import host
from pytest_energy.store.baseline import Baseline
from pytest_energy.verdict.slowdown import CLOCK, GPU, HOST, MORE_STEPS, WAITS, Slowdown, slowdown
from tests.conftest import ROOT
from tests.unit.figures import measurement

STEPS = StepTimes(
    captured_tokens=512,
    steps_per_token=0.125,
    steps_with_prompt=0.03,
    steps_with_prompts=0.0,
    steps_outside=0.0,
    time_outside=0.0,
    time_with_prompt=0.05,
    host_bound=0.0,
    step_ms=8.0,
    prompt_ms=10.0,
)


def launches(
    cell: Cell, energy: float = 0.5, tokens_per_s: float = 1000.0, **changes: Any
) -> list[Measurement]:
    steps = replace(STEPS, **changes)
    return [measurement(cell, f"launch-{i}", energy, tokens_per_s, step_times=steps) for i in "abc"]


def found(cell: Cell, candidate: Sequence[Measurement]) -> Slowdown | None:
    return slowdown(candidate, Baseline.of(launches(cell)))


def test_longer_steps_at_the_same_power_are_the_gpus(cell: Cell) -> None:
    slower = found(cell, launches(cell, 0.55, 900.0, step_ms=8.9, prompt_ms=10.05))
    assert slower is not None
    assert slower.cause == GPU
    assert (
        host.slower_because(slower).in_words
        == "slower steps on the GPU (8.9 ms a step instead of 8)"
    )


def test_longer_steps_whose_power_falls_with_the_pace_are_waits(cell: Cell) -> None:
    slower = found(cell, launches(cell, 0.53, 900.0, step_ms=8.9, prompt_ms=12.0))
    assert slower is not None
    assert slower.cause == WAITS
    assert (
        host.slower_because(slower).in_words
        == "GPU waits longer (8.9 ms a step instead of 8, a prompt adds 12 ms instead of 10, "
        "power fell with the pace)"
    )


@pytest.mark.parametrize(
    ("clock_mhz", "cause"), [(1980.0, WAITS), (1890.0, WAITS), (1870.0, CLOCK), (None, WAITS)]
)
def test_power_that_falls_with_the_clock_is_not_a_wait(
    cell: Cell, clock_mhz: float | None, cause: str
) -> None:
    """The pace falls by 10 %: half of that or more is the clock's."""

    def at(mhz: float | None, energy: float, rate: float) -> list[Measurement]:
        made = launches(cell, energy, rate)
        return [replace(m, conditions=replace(m.conditions, sm_clock_mhz=mhz)) for m in made]

    slower = slowdown(at(clock_mhz, 0.53, 900.0), Baseline.of(at(1980.0, 0.5, 1000.0)))
    assert slower is not None
    assert slower.cause == cause
    clocked = host.slower_because(slower).in_words == "lower GPU clock (1,870 MHz instead of 1,980)"
    assert clocked == (cause == CLOCK)


def test_time_that_becomes_host_bound_is_the_hosts(cell: Cell) -> None:
    slower = found(cell, launches(cell, 0.55, 900.0, step_ms=8.9, host_bound=0.4))
    assert slower is not None
    assert slower.cause == HOST
    assert "40 % of the time host-bound instead of 0 %" in host.slower_because(slower).in_words


def test_a_share_that_is_no_cause_is_not_told_as_one(cell: Cell) -> None:
    slower = found(cell, launches(cell, 0.53, 900.0, step_ms=8.9, host_bound=0.02))
    assert slower is not None
    assert "host" not in host.slower_because(slower).in_words


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        (0.0, 0.04, GPU),  # 0.4 ms of the 0.9 ms that a step takes longer
        (0.0, 0.06, HOST),  # 0.5 ms
        (0.4, 0.36, GPU),  # 3.2 ms before and after
        (0.4, 0.5, HOST),  # 3.2 ms, and 4.4 ms
    ],
)
def test_the_host_slows_what_is_longer_by_its_time(
    cell: Cell, before: float, after: float, cause: str
) -> None:
    """Steps take 8 ms and then 8.9 ms, at the same power."""
    reference = Baseline.of(launches(cell, host_bound=before))
    slower = slowdown(launches(cell, 0.5 / 0.9, 900.0, host_bound=after), reference)
    assert slower is not None
    assert slower.cause == cause


def test_more_steps_for_as_many_tokens(cell: Cell) -> None:
    slower = found(cell, launches(cell, 0.55, 900.0, steps_per_token=0.139))
    assert slower is not None
    assert slower.cause == MORE_STEPS
    assert host.slower_because(slower).in_words == "more steps (0.139 a token instead of 0.125)"


def test_no_cause_without_a_loss_or_without_steps_on_both_sides(cell: Cell) -> None:
    assert found(cell, launches(cell, 0.6, 990.0)) is None
    assert found(cell, [measurement(cell, "server", 0.55, 900.0)]) is None
    stored = Baseline.of([measurement(cell, f"old-{i}") for i in range(3)])
    assert slowdown(launches(cell, 0.55, 900.0), stored) is None


@pytest.mark.parametrize(
    "unknown", [{"steps_per_token": None}, {"steps_per_token": 0.0}, {"host_bound_share": None}]
)
def test_no_cause_if_a_stored_launch_knows_half_of_its_steps(
    cell: Cell, unknown: dict[str, Any]
) -> None:
    known = Baseline.of(launches(cell))
    half = replace(known, launches=tuple(replace(k, **unknown) for k in known.launches))
    assert slowdown(launches(cell, 0.55, 900.0), half) is None


@pytest.mark.parametrize(
    ("reference", "candidate", "cause"),
    [
        ("gpu-e4e905c4/vllm-0.25.1-256-in", "gpu-e4e905c4/vllm-0.25.1-256-in-eager", HOST),
        ("gpu-e4e905c4/vllm-0.25.1-256-in", "gpu-e4e905c4/vllm-0.25.1-256-in-piecewise", HOST),
        ("gpu-e4e905c4/vllm-0.25.1-256-in", "gpu-e4e905c4/vllm-0.25.1-256-in-no-async", WAITS),
        (
            "vllm-0.25.1-no-async-interleaved/reference",
            "vllm-0.25.1-no-async-interleaved/candidate",
            WAITS,
        ),
    ],
)
def test_what_slows_recorded_engines(reference: str, candidate: str, cause: str) -> None:
    """Without asynchronous scheduling the host-bound time stays, or falls, and the GPU waits."""
    recorded = ROOT / "recordings" / "h100-sxm-80gb"

    def measured(folder: str) -> list[Measurement]:
        return [
            measure(*periods)
            for periods in read_launches([recorded / folder])
            if periods[0].key.batch_size == 64
        ]

    slower = slowdown(measured(candidate), Baseline.of(measured(reference)))
    assert slower is not None
    assert slower.cause == cause


@pytest.mark.parametrize(
    ("captured", "outside", "says", "sets"),
    [
        (0, 1.0, "it runs without CUDA graphs", []),
        (
            64,
            0.5,
            "a step with a prompt has 71 tokens, CUDA graphs hold 64",
            ["set max_cudagraph_capture_size=128, or prompts of at most 57 tokens"],
        ),
        (
            512,
            0.3,
            "steps with several prompts outgrow CUDA graphs of 512 tokens",
            ["set max_cudagraph_capture_size=1024"],
        ),
        (512, 0.0, "inside its CUDA graphs of 512 tokens too", []),
    ],
)
def test_a_host_bound_cell_says_so_and_what_to_set(
    cell: Cell, captured: int, outside: float, says: str, sets: list[str]
) -> None:
    bound = launches(cell, captured_tokens=captured, time_outside=outside, host_bound=0.4)
    start = "40 % of its time is host-bound, so that launches differ as the host does: "
    assert host.host_bound(bound) == ([start + says], sets)
    assert host.host_bound(launches(cell)) == ([], [])
    assert host.host_bound([*bound, measurement(cell, "server")]) == ([], [])
    assert host.host_bound([]) == ([], [])
