"""Llama 3.1 8B, bf16: prefill alone, prompts of 2,048 tokens and 1 token out.

J/token is the energy of a whole prompt. Each prompt fills a step (max_num_batched_tokens), outside
the CUDA graphs and still bound by the GPU. At batch size 1 the GPU waits for the next request; at 4
others wait for the GPU, and more would only wait longer. With test_llama_3_1_8b_decode.py it gives
the energy of an input and of an output token. Weights take 16 GB, the KV cache 1 GB.
"""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-8b",
    weights="dummy",
    batch_sizes=[1, 4],
    input_tokens=2048,
    output_tokens=1,
    engine_args={"dtype": "bfloat16", "max_num_seqs": 256},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
