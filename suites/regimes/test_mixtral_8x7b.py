"""Mixtral 8x7B, 8 experts of which each token uses 2; bf16, prompts of 4,096 tokens, 512 out.

A public report (vllm#41306) has Mixtral 8x7B serve 19 % fewer tokens/s with vLLM 0.20 than with
0.19, while a dense 8B was unchanged. Prompts are computed in chunks outside the CUDA graphs.
Weights take 93 GB, the KV cache of 8 requests 5 GB: it fits one H200 (141 GB), not one H100.
"""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/mixtral-8x7b",
    weights="random",
    batch_sizes=[1, 8],
    input_tokens=4096,
    output_tokens=512,
    engine_args={"dtype": "bfloat16", "max_num_seqs": 256, "max_model_len": 8192},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
