"""Small valid contents of every kind of file, from what the repository ships."""

import gzip
import json
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

_RECORDINGS = (
    "h200-sxm-141gb/vllm-0.25.1-gate/*/llama-3.1-8b-bs64*.json.gz",
    "h100-sxm-80gb/vllm-0.25.1-against-itself/candidate/*/*-turn0.json.gz",
)
_STEPS = 60


def _json(path: Path) -> Any:
    content = path.read_bytes()
    return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)


def _trimmed(content: dict[str, Any]) -> dict[str, Any]:
    """The recording with its engine steps merged into some `_STEPS`, so that it is small."""
    tokens = content["tokens"]
    every = max(1, len(tokens["tokens"]) // _STEPS)
    groups = [slice(i, i + every) for i in range(0, len(tokens["tokens"]), every)]
    return {
        **content,
        "tokens": {
            name: [sum(values[group]) for group in groups] for name, values in tokens.items()
        },
    }


def recordings() -> list[dict[str, Any]]:
    """As JSON values: of an engine alone, a period of two, and of a server (invented clients)."""
    alone, period = (
        _trimmed(_json(sorted((ROOT / "recordings").glob(pattern))[0])) for pattern in _RECORDINGS
    )
    total = sum(alone["tokens"]["tokens"])
    latencies = {
        name: {"value_us": [low, 2 * low], "count": [90, 10]}
        for name, low in (
            ("first_token", 20_000),
            ("inter_token", 8_000),
            ("end_to_end", 2_000_000),
        )
    }
    client = {
        **latencies,
        "cpu_cores": 0.3,
        "streamed_tokens": total,
        "server_tokens": total,
        "preemptions": 0,
    }
    server = {**alone, "key": {**alone["key"], "engine": "server"}, "client": client}
    return [alone, period, server]


def baseline() -> Any:
    """A store's file, two cells of it, the second with a history and a reason."""
    content = _json(ROOT / "baselines/nvidia-h200/llama-3.1-8b.gpu-809fd233.json")
    first, second = list(content["cells"].items())[:2]
    earlier = {
        "date": "2026-01-01T00:00:00+00:00",
        "vllm": "0.19.0",
        **second[1]["summary"],
        "update_reason": "wanted",
    }
    return {
        **content,
        "cells": {
            first[0]: first[1],
            second[0]: {**second[1], "history": [earlier], "update_reason": "wanted, too"},
        },
    }


def noise() -> Any:
    """A runner's noise."""
    content = _json(ROOT / "baselines/nvidia-h200/noise/llama-3.1-8b.json")
    return {
        **content,
        "cells": [{**cell, "launches": cell["launches"][:8]} for cell in content["cells"][:2]],
    }


def results() -> list[Any]:
    """results.json of a run and of a history."""
    return [_json(ROOT / f"docs/examples/{name}/results.json") for name in ("eager", "history")]


def config() -> Any:
    """A model's config.json."""
    return {
        **_json(ROOT / "suites/models/llama-3.1-8b/config.json"),
        "text_config": {"vocab_size": 1000},
    }


def marker() -> Any:
    """The arguments of a marker."""
    return {
        "model": "tiny",
        "batch_sizes": [1, 8],
        "input_tokens": {"lognormal": {"median": 512, "sigma": 0.6, "max": 2048}},
        "output_tokens": 256,
        "engine_args": {"dtype": "bfloat16", "compilation_config": {"level": 3}},
        "tolerance": 0.03,
        "max_power_w": 500,
    }


def events() -> list[Any]:
    """What the worker of a server says in one launch, in order."""
    settings = {"dtype": "bfloat16", "max_model_len": 96, "block_size": 16}
    ready = {
        "event": "ready",
        "versions": {"vllm": "0.0.1", "packages": {"torch": "2"}},
        "settings": settings,
        "kv_cache_tokens": 16_000,
        "vocabulary_size": 100,
        "platform": "cuda",
        "experts": {
            "experts": 8,
            "per_token": 2,
            "layers": 2,
            "tokens": 2048,
            "effective": 7.5,
            "least_effective": 7.25,
        },
        "gpu_uuids": ["GPU-1"],
        "started": 1.7e9,
    }
    steps = {
        "event": "steps",
        "run": 1,
        "time_ns": [1000, 2000],
        "tokens": [8, 8],
        "finished": [0, 1],
    }
    stopped = {
        "event": "stopped",
        "run": 1,
        "time_ns": 5000,
        "client": recordings()[2]["client"],
        "prefix_cache": {"prompt_tokens": 640, "cached_tokens": 480},
    }
    resting = {"event": "resting", "tokens": 16, "paused": None}
    failed = {"event": "error", "stage": "run", "message": "RuntimeError: EngineCore died"}
    return [ready, steps, {**steps, "time_ns": [3000, 4000]}, stopped, resting, failed]


def chunks() -> list[Any]:
    """The chunks of one stream of a server, three tokens."""
    usage = [
        {"prompt_tokens": 4, "total_tokens": 4 + done, "completion_tokens": done}
        for done in (1, 2, 3, 3)
    ]
    choices = [
        [{"index": 0, "text": " t", "finish_reason": reason}] for reason in (None, None, "length")
    ] + [[]]
    return [
        {"id": "cmpl-0", "choices": chosen, "usage": used}
        for chosen, used in zip(choices, usage, strict=True)
    ]


MODELS = {
    "object": "list",
    "data": [{"id": "tiny", "max_model_len": 96}, {"id": "adapter", "parent": "tiny"}],
}
METRICS = """\
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{model_name="m"} 1.25e+06
vllm:num_preemptions_total{model_name="m"} 0.0
process_start_time_seconds 1.76e+09
vllm:num_requests_running{model_name="m"} 0.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",enable_prefix_caching="False",\
num_gpu_blocks="1000"} 1.0
"""
