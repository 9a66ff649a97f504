"""What a server that is already running reports of itself, over HTTP."""

import contextlib
import http.client
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_energy.engines.server_process import (
    EXCERPT_BYTES,
    GENERATED,
    PREEMPTED,
    Failure,
    Server,
    counter,
    start_in,
)

UNKNOWN = "unknown"
_IN_FLIGHT = ("vllm:num_requests_running", "vllm:num_requests_waiting")
# Settings that vllm_worker.describe reports and a server does not.
_UNREPORTED = (
    "dtype", "quantization", "max_num_seqs", "max_num_batched_tokens", "async_scheduling",
    "enforce_eager", "cudagraph_mode", "tensor_parallel_size", "pipeline_parallel_size",
    "tokenizer",
)  # fmt: skip


def attach(host: str, port: int, api_key: str | None) -> tuple[Server, dict[str, Any]]:
    """Ask a running server what it is.

    Returns:
        The server, and the "ready" event.

    Raises:
        Failure: it does not answer, or not as vLLM would, wants another key, serves no model or
            several, or is busy.
    """
    server = Server(host, port, "", api_key=api_key)
    try:
        server.expect("/health")
        models, metrics = server.expect("/v1/models"), server.expect("/metrics")
        status, version = server.get("/version")
    except OSError as error:
        raise Failure(
            f"nothing answers at {server.url} ({type(error).__name__}: {error}).\n"
            "Start the server, or give its address: --energy-url"
        ) from None
    except http.client.HTTPException as error:
        raise Failure(
            f"what answers at {server.url} does not speak HTTP ({type(error).__name__}).\n"
            "It may want https, or be another program. Give vLLM's own port: --energy-url"
        ) from None
    served, vllm = served_models(models), version_of(version) if status == 200 else None
    if served is None or vllm is None:
        # Launches of different versions must not count as those of one engine.
        answer = (models if served is None else version)[:EXCERPT_BYTES]
        path = "/v1/models" if served is None else "/version"
        raise Failure(
            f"{server.url}{path} does not answer as vLLM would: {answer}\n"
            "Measure vLLM's own server, not a proxy in front of it."
        )
    server.model, server.started = _only_model(server, served), start_in(metrics)
    in_flight = sum(counter(metrics, name) or 0 for name in _IN_FLIGHT)
    if in_flight:
        raise Failure(
            f"the server is busy with {in_flight} requests of other clients.\n"
            "Measure it while it serves no one else."
        )
    if counter(metrics, GENERATED) is None:
        # vLLM's Rust front end shows a counter once it has counted.
        request = {"model": server.model, "prompt": [1], "max_tokens": 1}
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.post("/v1/completions", request)
    preempted = server.counters().preemptions
    ready = _ready(server.model, vllm, served[server.model], metrics)
    if preempted is None and not ready["kv_cache_tokens"]:
        raise Failure(
            f"the server's /metrics has neither vllm:cache_config_info nor {PREEMPTED}, so it "
            "cannot be known whether its KV cache holds the batch.\n"
            "Measure vLLM's own server, not a proxy in front of it."
        )
    return server, ready


def _only_model(server: Server, served: Mapping[str, Mapping[str, Any]]) -> str:
    """The name to ask for: the first of several names of one model, by which vLLM answers."""
    roots = {model.get("root") for model in served.values()}
    if len(served) != 1 and (len(roots) != 1 or None in roots):
        listed = ", ".join(list(served)[:10])
        raise Failure(
            f"the server at {server.url} serves {len(served)} models ({listed}) without a common "
            "root, and only a server of one model can be measured.\n"
            "Serve the model under test alone, under one name."
        )
    return next(iter(served))


def _ready(name: str, vllm: str, model: Mapping[str, Any], metrics: str) -> dict[str, Any]:
    caches = cache_configs(metrics)
    cache = caches[0] if caches else {}
    return {
        "event": "ready",
        "versions": {"vllm": vllm},
        "settings": {
            **dict.fromkeys(_UNREPORTED, UNKNOWN),
            # A fingerprint holds no path.
            "served_model": Path(name).name if name.startswith("/") else name,
            "max_model_len": model.get("max_model_len", UNKNOWN),
            "block_size": _size(cache, "block_size") or UNKNOWN,
            "kv_cache_dtype": cache.get("cache_dtype", UNKNOWN),
            "enable_prefix_caching": {"True": True, "False": False}.get(
                cache.get("enable_prefix_caching", ""), UNKNOWN
            ),
        },
        "kv_cache_tokens": sum(
            _size(cache, "num_gpu_blocks") * _size(cache, "block_size") for cache in caches
        ),
        "vocabulary_size": 0,
        "gpu_uuids": [],
        "started": start_in(metrics),
    }


def _size(cache: Mapping[str, str], name: str) -> int:
    """A label of a KV cache's settings; 0 if it is no number."""
    return int(cache[name]) if re.fullmatch("[0-9]{1,12}", cache.get(name, "")) else 0


def served_models(answer: str) -> dict[str, dict[str, Any]] | None:
    """The models that /v1/models lists, without adapters, by name.

    None if the answer is not vLLM's.
    """
    try:
        listed = json.loads(answer)["data"]
        served = {model["id"]: model for model in listed if not model.get("parent")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    sound = all(
        isinstance(name, str)
        and name
        and type(model.get("max_model_len", UNKNOWN)) in (int, str)
        and type(model.get("root")) in (str, type(None))
        for name, model in served.items()
    )
    return served if sound else None


def version_of(answer: str) -> str | None:
    """What /version reports; None if the answer is not vLLM's."""
    try:
        version = json.loads(answer)["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return version if isinstance(version, str) and version else None


def cache_configs(metrics: str) -> list[dict[str, str]]:
    """The labels of vllm:cache_config_info, the settings of each engine's KV cache."""
    found = re.findall(r"^vllm:cache_config_info{([^}\n]{0,10000})}", metrics, flags=re.M)
    return [dict(re.findall(r'\b([a-z_]{1,100})="([^"]*)"', labels)) for labels in found]
