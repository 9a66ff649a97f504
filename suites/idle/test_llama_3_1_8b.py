"""Llama 3.1 8B, bf16, loaded and without a request: what the waiting engine costs in W.

The engine is that of suites/test_llama_3_1_8b.py. A launch takes its load and 50 s.
"""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-8b",
    weights="dummy",
    batch_sizes=[1, 8, 64, 256],
    input_tokens=256,
    output_tokens=256,
    engine_args={"dtype": "bfloat16", "max_num_seqs": 256, "max_model_len": 1024},
)


def test_idle_power(idle_power):
    idle_power.check()
