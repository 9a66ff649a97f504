"""What an engine is started with besides the suite's own settings."""

from collections.abc import Callable, Mapping
from typing import Any

from pytest_energy.errors import UsageError

_EQUAL_WORK: Mapping[str, Any] = {"enable_prefix_caching": False, "seed": 0}
_OFFLINE_BATCHED_TOKENS = 2048  # LLMEngine's default of max_num_batched_tokens


def engine_args(
    engine: str, given: Mapping[str, Any], batch_size: int, from_texts: bool
) -> dict[str, Any]:
    """Settings of an engine by its name; empty if someone else started it.

    Args:
        engine: its name.
        given: the cell's and the suite's settings, which win.
        batch_size: of the cell.
        from_texts: whether prompts are texts, which need the engine's tokenizer, or token ids.

    Raises:
        UsageError: there is no such engine.
    """
    if engine not in _ENGINE_ARGS:
        raise UsageError(f"engine {engine!r} is not one of {', '.join(map(repr, _ENGINE_ARGS))}")
    return _ENGINE_ARGS[engine](given, batch_size, from_texts)


def _offline(given: Mapping[str, Any], batch_size: int, from_texts: bool) -> dict[str, Any]:
    tokenizer = {} if from_texts else {"skip_tokenizer_init": True}
    return {**_EQUAL_WORK, **tokenizer, **given}


def _server(given: Mapping[str, Any], batch_size: int, from_texts: bool) -> dict[str, Any]:
    """`vllm serve` has other defaults than the offline engine."""
    batched = _OFFLINE_BATCHED_TOKENS
    if "max_model_len" in given:  # at most what the batch can hold
        batched = min(batched, given["max_model_len"] * given.get("max_num_seqs", batch_size))
    return {
        **_EQUAL_WORK,
        "generation_config": "vllm",  # the model's sampling defaults would make another load
        "max_num_batched_tokens": batched,
        **given,
    }


def _attached(given: Mapping[str, Any], batch_size: int, from_texts: bool) -> dict[str, Any]:
    return {}


_ENGINE_ARGS: Mapping[str, Callable[[Mapping[str, Any], int, bool], dict[str, Any]]] = {
    "offline": _offline,
    "server": _server,
    "attached": _attached,
}
