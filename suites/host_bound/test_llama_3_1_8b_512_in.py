"""Llama 3.1 8B, bf16, 512 tokens in and 256 out: from batch size 8 on the host decides, too.

A step that holds a prompt lies outside vLLM's CUDA graphs, at the pace at which the host launches
kernels; so launches vary by 0.4 to 2 %. Judge these cells interleaved (docs/usage.md).
"""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-8b",
    weights="dummy",
    batch_sizes=[1, 8, 64, 256],
    engine_args={"dtype": "bfloat16"},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
