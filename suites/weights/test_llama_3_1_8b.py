"""Llama 3.1 8B, bf16, 256 tokens in and 256 out, with vLLM's dummy weights and with random ones.

`pytest-energy sweep` compares what a release or a setting changes under the two: cells differ in
nothing but their weights. Those with dummy ones are cells of suites/test_llama_3_1_8b.py. A third
test, marked weights="auto", measures the weights of `model`, which then must be there.
"""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-8b",
    batch_sizes=[8, 64, 256],
    input_tokens=256,
    output_tokens=256,
    engine_args={"dtype": "bfloat16", "max_num_seqs": 256, "max_model_len": 1024},
)


@pytest.mark.energy(weights="dummy")
def test_dummy_weights(energy):
    energy.check()


@pytest.mark.energy(weights="random")
def test_random_weights(energy):
    energy.check()
