"""How synthetic weights spread tokens over the experts of a mixture; runs where transformers does.

    VLLM_VENV/bin/python benchmarks/expert_routing.py

A smaller copy of Qwen3 30B-A3B (24 layers, a hidden size of 1,024, narrower experts) computes
4 × 256 random tokens on a CPU, and each layer's router is asked. The effective number of experts is
the exponential of the entropy of their shares: 128 if all are used alike. Figures are medians over
the layers after the first four.
"""

import math
import statistics

EXPERTS, PER_TOKEN, AFTER = 128, 8, 4
WEIGHTS = {  # deviation of matrices, of embeddings, the weight of norms
    "random": (0.02, 0.02, 1.0),
    "random, embeddings with a deviation of 1": (0.02, 1.0, 1.0),
}


def shares(matrix: float, embedding: float, norm: float) -> list[tuple[float, float, int]]:
    """Of each layer: effective experts, the largest share, and experts without a token."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=8192,
        hidden_size=1024,
        intermediate_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=128,
        moe_intermediate_size=192,
        num_experts=EXPERTS,
        num_experts_per_tok=PER_TOKEN,
        norm_topk_prob=True,
    )
    model = Qwen3MoeForCausalLM(config).to(torch.bfloat16).eval()
    for name, param in model.named_parameters():
        if param.ndim > 1:
            torch.nn.init.normal_(param, 0, embedding if "embed_tokens" in name else matrix)
        else:
            torch.nn.init.constant_(param, norm)
    with torch.no_grad():
        tokens = torch.randint(0, config.vocab_size, (4, 256))
        routers = model(tokens, output_router_logits=True).router_logits
    found = []
    for logits in routers:
        chosen = logits.float().topk(PER_TOKEN, dim=-1).indices.flatten()
        share = torch.bincount(chosen, minlength=EXPERTS) / len(chosen)
        entropy = -float((share[share > 0] * share[share > 0].log()).sum())
        found.append((math.exp(entropy), float(share.max()), int((share == 0).sum())))
    return found


def main() -> None:
    for name, deviations in WEIGHTS.items():
        effective, largest, unused = zip(*shares(*deviations)[AFTER:], strict=True)
        print(
            f"{name}: {statistics.median(effective):.0f} of {EXPERTS} experts, largest share "
            f"{100 * statistics.median(largest):.1f} %, {statistics.median(unused):.0f} unused"
        )


if __name__ == "__main__":
    main()
