"""Llama 3.1 8B, bf16, 512 tokens in and 256 out, as in chat; synthetic weights, no download."""

import pytest

pytestmark = pytest.mark.energy(
    model="models/llama-3.1-8b",
    weights="dummy",
    batch_sizes=[1, 8, 64, 256],
    engine_args={"dtype": "bfloat16"},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
