"""Llama 3.1 8B, bf16: prompts of 4,096 tokens, 256 out.

vLLM computes such a prompt in chunks of up to 2,048 tokens, outside the CUDA graphs. A chunk keeps
the GPU busy for several times as long as its host needs to launch it, so these cells should be
quiet all the same. Weights take 16 GB, the KV cache of 32 requests 18 GB.
"""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-8b",
    weights="dummy",
    batch_sizes=[1, 4, 32],
    input_tokens=4096,
    output_tokens=256,
    engine_args={"dtype": "bfloat16", "max_num_seqs": 256},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
