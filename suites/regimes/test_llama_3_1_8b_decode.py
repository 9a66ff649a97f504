"""Llama 3.1 8B, bf16: decode alone, 16 tokens in and 512 out.

All steps lie inside the CUDA graphs, the prompts' too. Weights take 16 GB, the KV cache of 256
requests 18 GB.
"""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-8b",
    weights="dummy",
    batch_sizes=[1, 4, 64, 256],
    input_tokens=16,
    output_tokens=512,
    engine_args={"dtype": "bfloat16", "max_num_seqs": 256},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
