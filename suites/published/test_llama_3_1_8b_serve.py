"""Llama 3.1 8B, bf16, by `vllm serve` with the flags of ML.ENERGY's leaderboard v3.0 (0.11.1).

Lengths as in test_llama_3_1_8b.py. Unlike there one API server, not three, since only one reports
its engine; temperature 1 without top_p 0.95 and repetition_penalty 1.1; and no prompt is found in
the prefix cache, which is on, while v3.0's chats come turn by turn and, from max_num_seqs 256 on,
twice or more.
"""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-8b",
    weights="dummy",
    engine="server",
    input_tokens={"lognormal": {"median": 94, "sigma": 0.82, "max": 800}},
    output_tokens={"lognormal": {"median": 290, "sigma": 0.82, "max": 3072}},
)


def max_num_seqs(limit):
    return pytest.mark.energy(
        batch_sizes=[limit],
        engine_args={
            "dtype": "bfloat16",
            "max_num_seqs": limit,
            "max_num_batched_tokens": 8192,
            "max_model_len": 20480,
            "async_scheduling": True,
            "enable_prefix_caching": True,
        },
    )


@max_num_seqs(8)
def test_8(energy):
    energy.check()


@max_num_seqs(64)
def test_64(energy):
    energy.check()


@max_num_seqs(256)
def test_256(energy):
    energy.check()
