"""Qwen3 30B-A3B, a mixture of 128 experts of which each token uses 8; bf16, 256 tokens in and out.

All steps lie inside the CUDA graphs. Weights are "random": a router of vLLM's dummies sees next to
nothing. Whether its tokens spread over the experts as those of the model's own weights do is not
checked, so compare engines by it, and do not quote its J/token for the model. Weights take 61 GB,
the KV cache of 64 requests 3 GB.
"""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/qwen3-30b-a3b",
    weights="random",
    batch_sizes=[1, 8, 64],
    input_tokens=256,
    output_tokens=256,
    engine_args={"dtype": "bfloat16", "max_num_seqs": 256, "max_model_len": 1024},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
