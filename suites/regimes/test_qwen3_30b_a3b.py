"""Qwen3 30B-A3B, a mixture of 128 experts of which each token uses 8; bf16, 256 tokens in and out.

All steps lie inside the CUDA graphs. Weights are "random", with embeddings so large that tokens
spread over experts about as evenly as with the model's own weights (docs/measurements.md, Experts);
how they did is asked of the loaded engine, and reported. Weights take 61 GB, the KV cache of 64
requests 3 GB.
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
