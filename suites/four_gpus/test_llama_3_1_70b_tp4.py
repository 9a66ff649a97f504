"""Llama 3.1 70B, bf16, on four GPUs: synthetic weights."""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-70b",
    weights="random",
    batch_sizes=[8, 64, 256],
    engine_args={"dtype": "bfloat16", "tensor_parallel_size": 4},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
