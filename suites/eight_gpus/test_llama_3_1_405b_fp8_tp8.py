"""Llama 3.1 405B on eight GPUs: synthetic weights, quantized to FP8 by vLLM layer by layer."""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-405b",
    weights="random",
    batch_sizes=[8, 64, 256],
    engine_args={"dtype": "bfloat16", "quantization": "fp8", "tensor_parallel_size": 8},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
