"""What a server that is already running reports of itself, over HTTP."""

import http.client
import json
import re
from pathlib import Path
from typing import Any

from pytest_energy.engines.server_process import EXCERPT_BYTES, Failure, Server, counter

UNKNOWN = "unknown"
_IN_FLIGHT = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_CACHE_SIZES = ("num_gpu_blocks", "block_size")
# Settings that vllm_worker.describe reports and a server does not.
_UNREPORTED = (
    "dtype", "quantization", "max_num_seqs", "max_num_batched_tokens", "async_scheduling",
    "enforce_eager", "cudagraph_mode", "tensor_parallel_size", "pipeline_parallel_size",
    "tokenizer",
)  # fmt: skip
_START = re.compile(
    r"^process_start_time_seconds ([0-9]+(?:\.[0-9]+)?(?:e\+?[0-9]{1,2})?)$", flags=re.M
)


def attach(host: str, port: int, api_key: str | None) -> tuple[Server, dict[str, Any]]:
    """Ask a running server what it is.

    Returns:
        The server, and the "ready" event.

    Raises:
        Failure: it does not answer, wants another key, serves no model or several, or is busy.
    """
    server = Server(host, port, "", api_key=api_key)
    try:
        server.expect("/health")
        models, metrics = server.expect("/v1/models"), server.expect("/metrics")
        status, version = server.get("/version")
    except (OSError, http.client.HTTPException) as error:
        raise Failure(
            f"nothing answers at {server.url} ({type(error).__name__}: {error}).\n"
            "Start the server, or give its address: --energy-url"
        ) from None
    served, vllm = served_models(models), version_of(version) if status == 200 else UNKNOWN
    if served is None or vllm is None:
        answer = models[:EXCERPT_BYTES]
        raise Failure(f"{server.url}/v1/models or /version does not answer as vLLM would: {answer}")
    server.model = _only_model(server, list(served))
    server.counters()
    in_flight = sum(counter(metrics, name) or 0 for name in _IN_FLIGHT)
    if in_flight:
        raise Failure(
            f"the server is busy with {in_flight} requests of other clients.\n"
            "Measure it while it serves no one else."
        )
    return server, _ready(server.model, vllm, served[server.model], metrics)


def _only_model(server: Server, names: list[str]) -> str:
    if len(names) != 1:
        listed = ", ".join(names[:10])
        raise Failure(
            f"the server at {server.url} serves {len(names)} models ({listed}), and only a server "
            "of one model can be measured.\nServe the model under test alone."
        )
    return names[0]


def _ready(model: str, vllm: str, max_model_len: Any, metrics: str) -> dict[str, Any]:
    cache = cache_config(metrics)
    blocks, block_size = (
        int(cache[name]) if re.fullmatch("[0-9]{1,12}", cache.get(name, "")) else 0
        for name in _CACHE_SIZES
    )
    started = _START.search(metrics)
    return {
        "event": "ready",
        "versions": {"vllm": vllm},
        "settings": {
            **dict.fromkeys(_UNREPORTED, UNKNOWN),
            # A fingerprint holds no path.
            "served_model": Path(model).name if model.startswith("/") else model,
            "max_model_len": max_model_len,
            "block_size": block_size or UNKNOWN,
            "kv_cache_dtype": cache.get("cache_dtype", UNKNOWN),
            "enable_prefix_caching": {"True": True, "False": False}.get(
                cache.get("enable_prefix_caching", ""), UNKNOWN
            ),
        },
        "kv_cache_tokens": blocks * block_size,
        "vocabulary_size": 0,
        "gpu_uuids": [],
        "started": float(started[1]) if started else None,
    }


def served_models(answer: str) -> dict[str, Any] | None:
    """The models that /v1/models lists, without adapters, each with its max_model_len.

    None if the answer is not vLLM's.
    """
    try:
        listed = json.loads(answer)["data"]
        served = {
            model["id"]: model.get("max_model_len", UNKNOWN)
            for model in listed
            if not model.get("parent")
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    sound = all(
        isinstance(name, str) and name and type(length) in (int, str)
        for name, length in served.items()
    )
    return served if sound else None


def version_of(answer: str) -> str | None:
    """What /version reports; None if the answer is not vLLM's."""
    try:
        version = json.loads(answer)["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return version if isinstance(version, str) and version else None


def cache_config(metrics: str) -> dict[str, str]:
    """The labels of vllm:cache_config_info, the KV cache's settings; empty if it is missing."""
    labels = re.search(r"^vllm:cache_config_info{([^}\n]{0,10000})}", metrics, flags=re.M)
    return dict(re.findall(r'\b([a-z_]{1,100})="([^"]*)"', labels[1])) if labels else {}
