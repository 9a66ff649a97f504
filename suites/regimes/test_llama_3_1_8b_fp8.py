"""Llama 3.1 8B, quantized to FP8 by vLLM, 256 tokens in and 256 out.

All steps lie inside the CUDA graphs. vLLM's own dummies would round to zero in FP8, so weights are
"random". They take 9 GB, the KV cache of 256 requests 17 GB.
"""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-8b",
    weights="random",
    batch_sizes=[1, 8, 64, 256],
    input_tokens=256,
    output_tokens=256,
    engine_args={"dtype": "bfloat16", "quantization": "fp8", "max_num_seqs": 256},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
