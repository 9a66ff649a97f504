"""Two interleaved engines, in real processes: who is measured when, who waits how, who failed."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.lengths import Lognormal
from pytest_energy.cell.workload import Workload
from pytest_energy.engines.worker_process import session_members
from pytest_energy.health import neighbours
from pytest_energy.launch import interleaved, launch
from pytest_energy.launch.interleaved import NoFit, Side, SideError, Stopping, record_pair
from pytest_energy.measure import checks, stopping
from pytest_energy.measure.cycles import boundaries
from pytest_energy.measure.measurement import measure
from pytest_energy.recording.recording import Recording
from pytest_energy.settings import LaunchSettings
from tests.engine.test_offline_engine import OF_PROMPTS
from tests.simulated import SimulatedMeter

Yielded = tuple[str, Cell, Recording]


@pytest.fixture(autouse=True)
def short_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "PERIOD_S", 0.45)
    monkeypatch.setattr(stopping, "PAIR_S", 0.1)
    monkeypatch.setattr(interleaved, "_IDLE_S", 0.3)
    monkeypatch.setattr(launch, "_HOT_TAIL_S", 0.1)
    monkeypatch.setattr(checks, "AVERAGED_NS", 100_000_000)


@pytest.fixture
def cell(cell: Cell) -> Cell:
    """One of short cycles."""
    return replace(cell, workload=Workload(input_tokens=64, output_tokens=80))


def pair(
    cell: Cell,
    python: str,
    outer: str | None = None,
    inner: str | None = None,
    gpus: int = 1,
) -> Iterator[Yielded]:
    """A pair of which the engines may have a fault."""

    def side(name: str, fault: str | None) -> Side:
        hangs = fault is not None and "hang" in fault
        arguments = {"tensor_parallel_size": gpus} | ({"fault": fault} if fault else {})
        return Side(name, LaunchSettings(python, arguments, *((2, 2) if hangs else (20, 20))))

    return record_pair(
        [cell],
        side("reference", outer),
        side("candidate", inner),
        lambda uuids, is_ours: SimulatedMeter(),
        lambda name: lambda text: None,
        Stopping(stopping.is_period_enough, stopping.is_pair_enough),
    )


def test_what_shows_only_once_both_have_ended_makes_all_periods_invalid(
    cell: Cell, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "after_engine", lambda gpus, before: ["hidden_process: late"])
    done = list(pair(cell, python))
    first, again = done[: len(done) // 2], done[len(done) // 2 :]
    assert [(side, r.period) for side, _, r in again] == [(side, r.period) for side, _, r in first]
    for (_, _, early), (_, _, late) in zip(first, again, strict=True):
        assert late == replace(early, faults=(*early.faults, "hidden_process: late"))


def ended(sessions: list[int]) -> bool:
    return len(sessions) == 2 and not any(session_members(session) for session in sessions)


def test_both_are_measured_and_the_one_that_waits_is_watched(
    cell: Cell, python: str, sessions: list[int]
) -> None:
    done = list(pair(cell, python))
    assert [(side, recorded.period) for side, _, recorded in done] == [
        ("reference", 0),
        ("candidate", 0),
        ("reference", 1),
    ]
    by_side = {
        name: [recorded for side, _, recorded in done if side == name]
        for name in ("reference", "candidate")
    }
    ids = {
        name: {recorded.launch_id for recorded in recordings}
        for name, recordings in by_side.items()
    }
    assert all(len(of_side) == 1 for of_side in ids.values())
    for name, recordings in by_side.items():
        other = ids["candidate" if name == "reference" else "reference"]
        for recorded in recordings:
            assert recorded.faults == ()
            started = recorded.tokens.tokens[80 + 2 :]  # all slots, after one period
            assert set(started) == {cell.batch_size}
            co_resident = recorded.co_resident
            assert co_resident is not None
            assert (co_resident.tokens, co_resident.paused, {co_resident.launch_id}) == (
                0,
                True,
                other,
            )
            assert co_resident.cpu_s < 0.2 * co_resident.seconds
            assert co_resident.idle_power_w == pytest.approx(100, rel=0.01)
            assert co_resident.idle_power_alone_w == pytest.approx(100, rel=0.01)
    reference, new = measure(*by_side["reference"]), measure(*by_side["candidate"])
    assert len(reference.periods) == 2
    assert len(new.periods) == 1
    for side in (reference, new):
        assert side.cycles is not None
        assert len(side.cycles.time_s) >= 4
    # No two periods overlap.
    ends = [(recorded.tokens.time_ns[0], recorded.load_stopped_ns) for _, _, recorded in done]
    assert [end for span in ends for end in span] == sorted(end for span in ends for end in span)
    assert ended(sessions)


@pytest.mark.parametrize(
    "workload",
    [Workload(Lognormal(10, 0.6, 40), Lognormal(20, 0.8, 80)), OF_PROMPTS],
    ids=["lognormal", "prompts"],
)
def test_both_do_the_same_requests_of_varying_lengths(
    cell: Cell, python: str, sessions: list[int], workload: Workload
) -> None:
    done = list(pair(replace(cell, workload=workload), python))
    assert [(side, recorded.period) for side, _, recorded in done] == [
        ("reference", 0),
        ("candidate", 0),
        ("reference", 1),
    ]
    assert len({recorded.requests for _, _, recorded in done}) == 1
    for _, _, recorded in done:
        assert recorded.requests is not None
        assert recorded.faults == ()
    # The stand-in gives each request a token a step, so blocks end after equal numbers of tokens.
    ends = [boundaries(recorded)[1].tolist() for _, _, recorded in done]
    first, last = max(of[0] for of in ends), min(of[-1] for of in ends)
    shared = [[tokens for tokens in of if first <= tokens <= last] for of in ends]
    assert len(shared[0]) > 1
    assert shared[0] == shared[1] == shared[2]
    assert ended(sessions)


def test_blocks_follow_with_the_roles_changed_if_one_is_not_long_enough(
    cell: Cell, python: str, sessions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "PAIR_S", 1.1)
    done = [(side, recorded.period) for side, _, recorded in pair(cell, python)]
    assert done == [
        ("reference", 0),
        ("candidate", 0),
        ("reference", 1),
        ("candidate", 1),
        ("reference", 2),
        ("candidate", 2),
    ]
    assert ended(sessions)


@pytest.mark.parametrize(
    "fault", ["crash_on_load", "exit_on_load", "hang_on_load", "kill", "hang", "flood"]
)
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_a_failure_names_its_side_and_ends_both(
    cell: Cell, python: str, sessions: list[int], side: str, fault: str
) -> None:
    if fault == "exit_on_load":
        with pytest.raises(
            NoFit,
            match=rf"(?s)the {side} engine did not load with 0.45 of the GPU's memory: .*memory",
        ):
            list(pair(cell, python, **{"outer" if side == "reference" else "inner": fault}))
    else:
        with pytest.raises(SideError) as caught:
            list(pair(cell, python, **{"outer" if side == "reference" else "inner": fault}))
        assert caught.value.side == side
    assert ended(sessions)


def test_the_engine_that_waits_dies(cell: Cell, python: str, sessions: list[int]) -> None:
    measuring = pair(cell, python)
    assert next(measuring)[0] == "reference"
    os.kill(sessions[0], signal.SIGKILL)
    with pytest.raises(SideError, match="ended by SIGKILL") as caught:
        next(measuring)
    assert caught.value.side == "reference"
    assert ended(sessions)


def test_the_measurement_is_given_up_in_the_middle(
    cell: Cell, python: str, sessions: list[int]
) -> None:
    measuring: Any = pair(cell, python)
    next(measuring)
    assert all(session_members(session) for session in sessions)
    measuring.close()
    assert ended(sessions)


def test_an_engine_that_cannot_be_paused_is_a_fault(cell: Cell, python: str) -> None:
    faults = {side: recorded.faults for side, _, recorded in pair(cell, python, inner="unpausable")}
    assert faults["candidate"] == ()
    (fault,) = faults["reference"]
    assert fault.startswith(
        "not_idle: the waiting engine was not idle: its scheduler was not paused"
    )
    assert "--energy-interleave launches" in fault


def test_an_engine_that_burns_cpu_while_it_waits_is_a_fault(
    cell: Cell, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        interleaved, "_MAX_WAITING_CORES", 0.05
    )  # a busy machine gives it no half of one
    faults = {
        side: recorded.faults for side, _, recorded in pair(cell, python, inner="busy_while_paused")
    }
    assert faults["candidate"] == ()
    assert faults["reference"][0].startswith("not_idle: the waiting engine was not idle: it used ")


def test_workers_of_several_gpus_may_poll_for_a_while(
    cell: Cell, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a core per GPU: an engine that burns one is idle if it runs on three."""
    monkeypatch.setenv("FAKE_GPUS", "GPU-a,GPU-b,GPU-c")
    assert {
        recorded.faults for _, _, recorded in pair(cell, python, inner="busy_while_paused", gpus=3)
    } == {()}


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("no_memory_for_two", "did not load with 0.45 of the GPU's memory"),
        ("small_cache_for_two", "KV cache holds 160 of the 1152 tokens that tiny bs=8 64/80 needs"),
    ],
)
def test_engines_that_do_not_fit_together(
    cell: Cell, python: str, sessions: list[int], fault: str, why: str
) -> None:
    with pytest.raises(NoFit, match=why):
        list(pair(cell, python, inner=fault))
    assert ended(sessions)
