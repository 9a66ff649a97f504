"""Llama 3.1 8B, bf16, 256 tokens in and 256 out, by release: what `pytest-energy sweep` measures.

Its engine arguments are known to every vLLM from 0.5.4 on. Steps that hold a prompt lie inside
vLLM's CUDA graphs, which reach up to 512 tokens a step in most releases.
"""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-8b",
    weights="dummy",
    batch_sizes=[1, 8, 16, 32, 64, 128, 256],
    input_tokens=256,
    output_tokens=256,
    engine_args={"dtype": "bfloat16", "max_num_seqs": 256, "max_model_len": 1024},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
