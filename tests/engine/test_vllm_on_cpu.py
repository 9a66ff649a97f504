"""The real vLLM's offline engine on a CPU: one launch, until its core is killed; see vllm_cpu."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_energy.cell.workload import Workload
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.engines.worker_process import command_of, session_members
from pytest_energy.errors import EngineError
from pytest_energy.measure import measurement
from tests.engine import vllm_cpu
from tests.engine.vllm_cpu import PYTHON

pytestmark = vllm_cpu.MARKS
WORKLOAD = Workload(input_tokens=64, output_tokens=64)
environment = pytest.fixture(scope="module", autouse=True)(vllm_cpu.environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vllm_cpu.save_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def engine(environment: None, folder: Path) -> Iterator[OfflineEngine]:
    arguments = {
        "model": str(folder / "tiny"),
        "load_format": "random",
        "enable_prefix_caching": False,
        "seed": 0,
        **vllm_cpu.ENGINE_ARGS,
    }
    with OfflineEngine(
        PYTHON, arguments, vllm_cpu.LOAD_TIMEOUT_S, vllm_cpu.PROGRESS_TIMEOUT_S
    ) as loaded:
        yield loaded
        loaded.close(grace_s=0.0)  # vLLM's own shutdown takes long; its end is a test of its own


def test_what_it_reports(engine: OfflineEngine) -> None:
    ready = engine.ready
    assert ready is not None
    assert ready.versions["vllm"]
    assert ready.vocabulary_size == 2048
    assert ready.settings["max_num_seqs"] == 8
    assert ready.versions["kernels"] == {"attention_backend": "CPU_ATTN"}
    assert ready.kv_cache_tokens > 8 * 256
    assert ready.gpu_uuids == ()


def test_synthetic_weights_have_the_usual_size(engine: OfflineEngine) -> None:
    assert engine.ready is not None
    found = engine.ready.synthetic_weights
    assert 0.5 < found["likeliest_above_even_nats"] < 3
    low, high = found["weight_deviation"]
    assert 0.019 < low <= high < 0.021
    assert found["norms"] == [1.0, 1.0]
    assert found["mlps"] == 2  # the first and the last layer
    assert found["rounded_to_zero_in_fp8"] < 0.01


def test_it_waits_without_tokens_and_without_a_busy_loop(
    engine: OfflineEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_cpu.check_idle(engine, vllm_cpu.cell(folder, "offline"), monkeypatch)


@pytest.mark.parametrize("batch_size", [2, 8])
def test_the_batch_is_full_and_requests_end_at_an_even_rate(
    engine: OfflineEngine, batch_size: int
) -> None:
    tokens, finished = vllm_cpu.drive(engine, WORKLOAD, batch_size)
    assert max(tokens) <= batch_size
    assert sum(tokens) / len(tokens) > 0.85 * batch_size
    assert abs(sum(finished) - sum(tokens) / 64) <= batch_size


def test_it_pauses_and_wakes_up_for_the_next_load(engine: OfflineEngine) -> None:
    first, second = engine.pause(), engine.pause()
    assert (first.paused, second.paused) == (False, True)
    assert second.tokens == first.tokens
    tokens, _ = vllm_cpu.drive(engine, WORKLOAD, 2)
    assert engine.pause().tokens == first.tokens + sum(tokens)


def test_lengths_from_distributions(
    engine: OfflineEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_cpu.check_lognormal(engine, folder, "offline", monkeypatch)


def test_prompts_from_a_file(
    engine: OfflineEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_cpu.check_prompts(engine, folder, "offline", monkeypatch)


def test_without_prefix_caching_a_shared_prefix_is_computed(
    engine: OfflineEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_cpu.check_shared_prefix(engine, "offline", folder, monkeypatch)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_prefill_alone_is_measured(
    engine: OfflineEngine, folder: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one token out: every step holds a prompt, and no token is decoded."""
    cell = vllm_cpu.cell(folder, "offline", input_tokens=255, output_tokens=1)
    recorded = vllm_cpu.record(engine, replace(cell, batch_size=batch_size), monkeypatch)
    measured = measurement.measure(recorded)
    assert measured.cycles is not None, measured.faults
    of_a_busy_host = ("power_unsampled", "batch_not_full", "unsteady")
    assert [fault for fault in measured.faults if not fault.startswith(of_a_busy_host)] == []


def test_its_core_is_killed(engine: OfflineEngine) -> None:
    """The last test of this launch. vLLM mostly waits for its core for ever."""
    session = engine.session_id
    titles = {pid: command_of(pid) for pid in session_members(session)}
    (core,) = (pid for pid, title in titles.items() if title.startswith("VLLM::EngineCore"))
    engine.start_load(WORKLOAD, 2)
    engine.take_steps()
    os.kill(core, signal.SIGKILL)
    # Now and then vLLM notices it itself.
    died = r"the engine's process VLLM::EngineCore \(pid \d+\) has died|EngineDeadError"
    with pytest.raises(EngineError, match=died):
        vllm_cpu.take_steps_for_ever(engine)
    engine.close(grace_s=0.0)
    vllm_cpu.check_ended(session)
