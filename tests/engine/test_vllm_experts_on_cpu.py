"""The real vLLM's mixtures of experts on a CPU: how tokens spread over experts; see vllm_cpu."""

import json
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.errors import EngineError
from pytest_energy.recording import recording_file
from tests.engine import vllm_cpu

pytestmark = vllm_cpu.MARKS
environment = pytest.fixture(scope="module", autouse=True)(vllm_cpu.environment)
EXPERTS, LAYERS = 16, 3
QWEN = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "head_dim": 64,
    "mlp_only_layers": [],
    "moe_intermediate_size": 128,
    "norm_topk_prob": True,
    "num_experts": EXPERTS,
}
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": EXPERTS,
    "sliding_window": None,
}
# A plugin, which vLLM loads in all its processes: only one row of each router is not zero.
ONE_ROW = """
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

    def install():
        load = DummyModelLoader.load_weights

        def load_weights(self, model, *arguments):
            load(self, model, *arguments)
            for name, param in model.named_parameters():
                if ".gate." in name:
                    param.data[1:] = 0

        DummyModelLoader.load_weights = load_weights
"""


def mixture(folder: Path, architecture: dict[str, Any], load_format: str) -> OfflineEngine:
    """An engine of a tiny model."""
    config = vllm_cpu.CONFIG | {"num_hidden_layers": LAYERS, "num_experts_per_tok": 2}
    vllm_cpu.save_project(folder)
    (folder / "tiny" / "config.json").write_text(json.dumps(config | architecture))
    arguments = {"model": str(folder / "tiny"), "load_format": load_format}
    return OfflineEngine(
        vllm_cpu.PYTHON,
        arguments | vllm_cpu.ENGINE_ARGS,
        vllm_cpu.LOAD_TIMEOUT_S,
        vllm_cpu.PROGRESS_TIMEOUT_S,
    )


@pytest.mark.parametrize(
    ("architecture", "load_format"),
    [
        (QWEN, "random"),
        pytest.param(MIXTRAL, "random", marks=pytest.mark.nightly),
        pytest.param(QWEN, "dummy", marks=pytest.mark.nightly),
    ],
)
def test_a_router_that_spreads_tokens_is_recorded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: dict[str, Any],
    load_format: str,
) -> None:
    with mixture(tmp_path, architecture, load_format) as engine:
        assert engine.ready is not None
        assert engine.ready.versions["kernels"].keys() == {"attention_backend", "moe_backend"}
        seen = engine.ready.experts
        assert seen is not None
        assert (seen.experts, seen.per_token, seen.layers) == (EXPERTS, 2, LAYERS)
        assert seen.tokens is not None
        assert 2048 <= seen.tokens < 2048 + 256
        assert seen.effective is not None
        assert seen.least_effective is not None
        assert 0.8 * EXPERTS < seen.least_effective <= seen.effective < EXPERTS
        if load_format == "random":
            low, high = engine.ready.synthetic_weights["weight_deviation"]
            assert 0.019 < low <= high < 0.021  # all but the embeddings
        cell = vllm_cpu.cell(tmp_path, "offline", input_tokens=64, output_tokens=16)
        recorded = vllm_cpu.record(engine, cell, monkeypatch)
        engine.close(grace_s=0.0)
    assert recorded.environment.experts == seen
    recording_file.write(recorded, tmp_path / "a.json.gz")
    assert recording_file.read(tmp_path / "a.json.gz") == recorded
    without = replace(recorded.environment, experts=None)
    assert "experts" not in without.plain


@pytest.mark.nightly
def test_a_degenerate_router_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one_row.py").write_text(textwrap.dedent(ONE_ROW))
    package = tmp_path / "one_row-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: one-row\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[vllm.general_plugins]\none_row = one_row:install\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    what = r"tokens use [1-4]\.\d of a layer's 16 experts(.|\n)*nothing was measured(.|\n)*auto"
    with pytest.raises(EngineError, match=what), mixture(tmp_path, QWEN, "random"):
        pass
