"""How random weights spread tokens over a mixture's experts, by the size of its embeddings.

    VLLM_VENV/bin/python benchmarks/expert_routing.py suites/models/qwen3-30b-a3b 0.02 1 2 3

The model of a config.json computes two random prompts of 256 tokens in full size on a CPU, layer by
layer, with weights as the plugin's "random" ones (a deviation of 0.02, norms of 1) and embeddings
of each deviation given. The experts' own matrices are drawn once, and each layer has them in
another order, with their rows and columns permuted: drawing 30B weights takes longer than using
them. The effective number of experts of a layer is the exponential of the entropy of their shares.
"""

import functools
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

PROMPTS, LENGTH, DEVIATION, EPSILON = 2, 256, 0.02, 1e-6
Config = dict[str, Any]
Tensor = torch.Tensor


def weights(*shape: int) -> Tensor:
    """Random ones in bfloat16."""
    return torch.empty(*shape, dtype=torch.bfloat16).normal_(0, DEVIATION)


def norm(x: Tensor) -> Tensor:
    """RMSNorm with weights of 1."""
    x = x.float()
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON)).bfloat16()


def rotated(x: Tensor, base: float) -> Tensor:
    """With rotary positions."""
    half = torch.arange(0, x.shape[-1], 2).float() / x.shape[-1]
    angles = torch.cat([torch.arange(LENGTH).float()[:, None] * base**-half] * 2, -1)
    first, second = x.float().chunk(2, -1)
    return (x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()).bfloat16()


def attended(x: Tensor, c: Config, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
    """Causal attention; Qwen3 normalizes queries and keys, Mixtral does not."""
    size = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    query, key, value = (
        (x @ matrix.T).view(PROMPTS, LENGTH, -1, size).transpose(1, 2) for matrix in (q, k, v)
    )
    if c["model_type"] == "qwen3_moe":
        query, key = norm(query), norm(key)
    query, key = rotated(query, c["rope_theta"]), rotated(key, c["rope_theta"])
    seen = functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=True
    )
    return seen.transpose(1, 2).reshape(PROMPTS * LENGTH, -1) @ out.T


def effective(chosen: Tensor, experts: int) -> float:
    """The exponential of the entropy of the experts' shares."""
    share = torch.bincount(chosen.flatten(), minlength=experts) / chosen.numel()
    share = share[share > 0]
    return math.exp(-float((share * share.log()).sum()))


def routed(c: Config, deviations: list[float]) -> dict[float, list[float]]:
    """The effective number of experts of each layer, by the embeddings' deviation."""
    experts = c.get("num_experts") or c["num_local_experts"]
    hidden, inner = c["hidden_size"], c.get("moe_intermediate_size") or c["intermediate_size"]
    size = c.get("head_dim") or hidden // c["num_attention_heads"]
    heads, pairs = size * c["num_attention_heads"], size * c["num_key_value_heads"]
    tokens = torch.randn(PROMPTS * LENGTH, hidden)
    states = {deviation: (tokens * deviation).bfloat16() for deviation in deviations}
    gate_up, down = weights(experts, 2 * inner, hidden), weights(experts, hidden, inner)
    found: dict[float, list[float]] = {deviation: [] for deviation in deviations}
    for layer in range(c["num_hidden_layers"]):
        attend = functools.partial(
            attended, c=c, q=weights(heads, hidden), k=weights(pairs, hidden),
            v=weights(pairs, hidden), out=weights(hidden, heads),
        )  # fmt: skip
        router = weights(experts, hidden)
        rows, columns, order = (torch.randperm(n) for n in (hidden, hidden, experts))
        for deviation, before in states.items():
            state = before + attend(norm(before))
            x = norm(state)
            share, chosen = (x @ router.T).float().softmax(-1).topk(c["num_experts_per_tok"])
            share = (share / share.sum(-1, keepdim=True)).bfloat16()
            added = torch.zeros_like(x)
            for expert in range(experts):
                token, place = (chosen == expert).nonzero(as_tuple=True)
                gate, up = (x[token][:, rows] @ gate_up[order[expert]].T).chunk(2, -1)
                made = (functional.silu(gate) * up @ down[order[expert]].T)[:, columns]
                added.index_add_(0, token, made * share[token, place, None])
            states[deviation] = state + added
            found[deviation].append(effective(chosen, experts))
        print(layer, {name: round(of[-1], 1) for name, of in found.items()}, flush=True)
    return found


def main(folder: str, *deviations: str) -> None:
    torch.manual_seed(0)
    config = json.loads((Path(folder) / "config.json").read_text())
    with torch.no_grad():
        found = routed(config, [float(deviation) for deviation in deviations])
    for deviation, layers in found.items():
        mean = sum(layers) / len(layers)
        print(f"embeddings of {deviation}: {mean:.1f} on average, {min(layers):.1f} at least")


if __name__ == "__main__":
    main(*sys.argv[1:])
