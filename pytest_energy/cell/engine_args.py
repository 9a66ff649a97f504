"""What an engine is started with besides the suite's own settings."""

from collections.abc import Mapping
from typing import Any

_EQUAL_WORK: Mapping[str, Any] = {"enable_prefix_caching": False, "seed": 0}
_OFFLINE_BATCHED_TOKENS = 2048  # LLMEngine's default of max_num_batched_tokens


def offline_args(given: Mapping[str, Any], from_texts: bool) -> dict[str, Any]:
    """Settings of the offline engine.

    Args:
        given: the cell's and the suite's settings, which win.
        from_texts: whether prompts are texts, which need the engine's tokenizer, or token ids.
    """
    tokenizer = {} if from_texts else {"skip_tokenizer_init": True}
    return {**_EQUAL_WORK, **tokenizer, **given}


def server_args(given: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """Settings of `vllm serve`, whose own defaults differ from the offline engine's.

    Args:
        given: the cell's and the suite's settings, which win.
        batch_size: of the cell.
    """
    batched = _OFFLINE_BATCHED_TOKENS
    if "max_model_len" in given:  # at most what the batch can hold
        batched = min(batched, given["max_model_len"] * given.get("max_num_seqs", batch_size))
    return {
        **_EQUAL_WORK,
        "generation_config": "vllm",  # the model's sampling defaults would make another load
        "max_num_batched_tokens": batched,
        **given,
    }
