"""Llama 3.1 8B, bf16, 256 tokens in and 256 out; synthetic weights, no download.

Steps that hold a prompt lie inside vLLM's CUDA graphs at all these batch sizes, so that the GPU,
and not the pace of its host, decides what a token costs (docs/measurements.md).
"""

import pytest

pytestmark = pytest.mark.energy(
    model="models/llama-3.1-8b",
    weights="dummy",
    batch_sizes=[1, 8, 64, 256],
    input_tokens=256,
    output_tokens=256,
    engine_args={"dtype": "bfloat16", "max_num_seqs": 256, "max_model_len": 1024},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
