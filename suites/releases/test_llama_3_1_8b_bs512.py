"""The same at batch size 512, outside the CUDA graphs, in a launch of its own.

So many requests need another engine setting, which would change the cells of the smaller sizes.
"""

import pytest

pytestmark = pytest.mark.energy(
    model="../models/llama-3.1-8b",
    weights="dummy",
    batch_sizes=[512],
    input_tokens=256,
    output_tokens=256,
    engine_args={"dtype": "bfloat16", "max_num_seqs": 512, "max_model_len": 1024},
)


def test_energy(energy):
    energy.check()


def test_throughput(throughput):
    throughput.check()
