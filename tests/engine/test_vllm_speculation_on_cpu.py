"""The real vLLM on a CPU with speculative decoding; see vllm_cpu.

The test tells vLLM nothing of how many drafts to accept: on a CPU it cannot be told.
"""

import json
from pathlib import Path

import pytest

from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.measure.measurement import measure
from tests.engine import vllm_cpu
from tests.engine.vllm_cpu import PYTHON

pytestmark = [*vllm_cpu.MARKS, pytest.mark.nightly]
environment = pytest.fixture(scope="module", autouse=True)(vllm_cpu.environment)


def test_drafts_of_synthetic_weights_cost_time_and_bring_hardly_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = vllm_cpu.save_project(tmp_path)
    drafts = {"architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 512}
    # EAGLE-3 reads the target's layers 2, n/2 and n - 3.
    for name, own in (
        ("tiny", {"num_hidden_layers": 8}),
        ("drafter", {"num_hidden_layers": 1, **drafts}),
    ):
        config = vllm_cpu.save_config(folder / name) / "config.json"
        config.write_text(json.dumps({**vllm_cpu.CONFIG, **own}))
    model, drafter = folder / "tiny", folder / "drafter"
    cell = vllm_cpu.cell(folder, "offline", input_tokens=32, output_tokens=64)
    speculative = {"method": "eagle3", "model": str(drafter), "num_speculative_tokens": 3}
    arguments = {**cell.launch_args, "model": str(model), "speculative_config": speculative}
    with OfflineEngine(
        PYTHON, arguments, vllm_cpu.LOAD_TIMEOUT_S, vllm_cpu.PROGRESS_TIMEOUT_S
    ) as engine:
        m = measure(vllm_cpu.record(engine, cell, monkeypatch))
    assert m.valid, m.faults
    assert m.step_times is not None
    tokens_a_step = 1 / m.step_times.steps_per_token
    assert 0.9 * cell.batch_size < tokens_a_step < 1.5 * cell.batch_size
