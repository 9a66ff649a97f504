"""How a mixture's routers spread tokens over its experts: runs inside vLLM's own workers.

Each of vLLM's workers imports it before loading its model, as the worker_extension_cls that
vllm_worker.py sets. It imports torch, the standard library and its neighbour only. It asks the
routers themselves, by the hook that vLLM has for returning routed experts, and takes the hook off
again: what is measured has none. The hook is Python, so steps that replay a CUDA graph pass it by.
Compiled code calls it on CUDA, where a layer of experts is one opaque operator; on a CPU only eager
code does.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
from pytest_energy_kernels import Kernels


class RoutedExperts(Kernels):
    """Mixed into vLLM's worker; its methods are called by name, on all workers at once."""

    def pytest_energy_watch_experts(self, experts: int) -> None:
        """Count what each router chooses, until `pytest_energy_routed_experts`."""
        self._pytest_energy_watched: list[tuple[Any, Any]] = []
        self._pytest_energy_routed: dict[str, dict[str, Any]] = {}
        for name, module in self.get_model().named_modules():
            router = getattr(module, "router", None)
            watched = any(router is other for other, _ in self._pytest_energy_watched)
            if watched or not hasattr(router, "set_capture_fn"):
                continue
            found = {"counts": torch.zeros(experts, dtype=torch.long), "per_token": 0}
            self._pytest_energy_watched.append((router, getattr(router, "capture_fn", None)))
            self._pytest_energy_routed[name] = found
            router.set_capture_fn(_counting(found))

    def pytest_energy_routed_experts(self) -> str:
        """Stop counting. As JSON by each layer's name: "counts", how often each expert was chosen,
        and "per_token", how many experts a token has; empty if this vLLM has no such hook.
        """
        for router, before in self._pytest_energy_watched:
            router.set_capture_fn(before)
        return json.dumps(
            {
                name: {**found, "counts": found["counts"].tolist()}
                for name, found in self._pytest_energy_routed.items()
            }
        )


def _counting(found: dict[str, Any]) -> Callable[[torch.Tensor], None]:
    def count(chosen: torch.Tensor) -> None:
        experts = len(found["counts"])
        ids = chosen.flatten().long()
        ids = ids[(ids >= 0) & (ids < experts)]  # others are padding
        found["counts"] += torch.bincount(ids, minlength=experts).cpu()
        found["per_token"] = chosen.shape[-1]

    return count
