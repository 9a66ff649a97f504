"""Which of vLLM's kernels a loaded model runs: runs inside vLLM's own workers.

Each of vLLM's workers imports it before loading its model, as the worker_extension_cls that
vllm_worker.py sets. It imports the standard library only, and only reads. vLLM chooses kernels by
GPU, model, release and installed packages, and its settings say "auto" whatever it chose.
"""

import json
from typing import Any

# vLLM's classes, as its argument moe_backend calls them.
_MOE_BACKENDS = {
    "TritonExperts": "triton",
    "FlashInferExperts": "flashinfer_cutlass",
    "TrtLlmBf16Experts": "flashinfer_trtllm",
}


class Kernels:
    """Mixed into vLLM's worker; its methods are called by name, on all workers at once."""

    def pytest_energy_kernels(self) -> str:
        """As JSON the layers' kernels, by the argument of vLLM's that chooses them: lists."""
        found: dict[str, set[str]] = {}
        for module in self.get_model().modules():
            for name, kernel in (*_attention(module), *_experts(module)):
                found.setdefault(name, set()).add(kernel)
        return json.dumps({name: sorted(kernels) for name, kernels in found.items()})


def _attention(module: Any) -> list[tuple[str, str]]:
    ask = getattr(module, "get_attn_backend", None)
    backend = ask() if callable(ask) else getattr(module, "attn_backend", None)
    if not hasattr(backend, "get_name"):
        return []
    version = getattr(getattr(module, "impl", None), "vllm_flash_attn_version", None)
    found = [("attention_backend", str(backend.get_name()).removesuffix("_VLLM_V1"))]
    return [*found, ("flash_attn_version", str(version))] if version is not None else found


def _experts(module: Any) -> list[tuple[str, str]]:
    kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
    experts = getattr(kernel, "fused_experts", None)
    if experts is None:
        return []
    name = type(experts).__name__
    return [("moe_backend", _MOE_BACKENDS.get(name, name))]
