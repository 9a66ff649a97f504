"""Llama 3.1 8B, bf16: an agent's calls, 2,048 tokens in and 512 out, few at a time.

The first 1,600 tokens of all prompts are one system prompt, which the prefix cache holds. The other
448 are each prompt's own, and a step that computes them stays inside the CUDA graphs. Weights take
16 GB, the KV cache of 4 requests 1.3 GB.
"""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-8b",
    weights="dummy",
    batch_sizes=[1, 2, 4],
    input_tokens=2048,
    shared_prefix_tokens=1600,
    output_tokens=512,
    engine_args={"dtype": "bfloat16", "enable_prefix_caching": True, "max_num_seqs": 256},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
