"""Llama 3.1 8B, bf16, on two GPUs: what the second costs shows beside ../host_bound."""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-8b",
    weights="dummy",
    batch_sizes=[8, 64, 256],
    engine_args={"dtype": "bfloat16", "tensor_parallel_size": 2},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
