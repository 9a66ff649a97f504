"""Whether vLLM compiled while it loaded: a cold launch."""

import os
from pathlib import Path

from pytest_energy.safety.files import expanded, user_cache


def folder() -> Path:
    """Where vLLM keeps what it compiled (vllm/envs.py: VLLM_CACHE_ROOT)."""
    root = os.environ.get("VLLM_CACHE_ROOT")
    return (expanded(root) if root else user_cache() / "vllm") / "torch_compile_cache"


def files() -> int | None:
    """How many files the cache holds; None if it does not exist."""
    if not folder().is_dir():
        return None
    return sum(len(names) for _, _, names in os.walk(folder()))


def grown(before: int | None) -> bool | None:
    """Whether it holds more files than `before`; None if it never existed."""
    now = files()
    return None if now is None else now > (before or 0)
