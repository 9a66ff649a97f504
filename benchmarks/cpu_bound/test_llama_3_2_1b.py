"""Llama 3.2 1B, bf16: so small that the host's CPU sets the pace, and launches differ more."""

import pytest

pytestmark = pytest.mark.energy(
    model="models/llama-3.2-1b",
    weights="dummy",
    batch_sizes=[64],
    engine_args={"dtype": "bfloat16"},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
