"""What FP8 makes of the activations in a layer of Llama 3.1 whose weights are synthetic.

    PYTHON benchmarks/fp8_dummies.py        PYTHON has torch, as vLLM's does; a minute, no GPU

Computed in float32 with FP8's roundings: one scale a matrix for weights and one a token for
activations, with vLLM's least scale of 1 / (448 × 512), as vLLM quantizes with quantization="fp8".
"dummy": uniform between -0.001 and 0.001, norms too, as vLLM's dummy loader fills them; "random":
normal, deviation 0.02, norms 1. Attention is taken to be even.
"""

import torch

FP8, LARGEST = torch.float8_e4m3fn, 448.0
TOKENS, KEYS = 32, 1024
SHAPES = {"llama-3.1-8b": (4096, 14_336), "llama-3.1-70b": (8192, 28_672)}


def filled(kind: str, *shape: int) -> torch.Tensor:
    return (
        torch.empty(shape).uniform_(-1e-3, 1e-3)
        if kind == "dummy"
        else torch.empty(shape).normal_(0, 0.02)
    )


def quantized(x: torch.Tensor) -> tuple[torch.Tensor, float]:
    """With FP8's roundings, one scale a row; and the share that became zero."""
    scale = (x.abs().amax(dim=-1, keepdim=True) / LARGEST).clamp(min=1 / (LARGEST * 512))
    rounded = (x / scale).clamp(-LARGEST, LARGEST).to(FP8).float()
    return rounded * scale, float((rounded == 0).float().mean())


def product(kind: str, x: torch.Tensor, rows: int) -> torch.Tensor:
    """Of `x` and a synthetic matrix of `rows` rows, filled block by block."""
    blocks = []
    for start in range(0, rows, 1024):
        block = filled(kind, min(1024, rows - start), x.shape[-1])
        scale = (1e-3 if kind == "dummy" else 0.11) / LARGEST
        blocks.append(x @ ((block / scale).clamp(-LARGEST, LARGEST).to(FP8).float() * scale).T)
    return torch.cat(blocks, dim=-1)


def row(name: str, kind: str) -> str:
    """Of what enters each projection: root mean square, and the share that FP8 makes zero."""
    width, inner = SHAPES[name]
    torch.manual_seed(0)
    hidden = filled(kind, TOKENS, width)
    normed = (
        hidden
        * torch.rsqrt(hidden.square().mean(dim=-1, keepdim=True) + 1e-5)
        * (filled(kind, width) if kind == "dummy" else 1.0)
    )
    x, qkv_zeros = quantized(normed)
    attended = product(kind, x, KEYS).mean(dim=0, keepdim=True)
    activated = torch.nn.functional.silu(product(kind, x, inner)) * product(kind, x, inner)
    figures = [
        (normed, qkv_zeros),
        (attended, quantized(attended)[1]),
        (activated, quantized(activated)[1]),
    ]
    return (
        f"| {name} | {kind} | "
        + " | ".join(f"{float(v.square().mean().sqrt()):.2g} | {zeros:.2%}" for v, zeros in figures)
        + " |"
    )


def main() -> None:
    serialized = torch.empty(10_000_000).uniform_(-1e-3, 1e-3).half().to(FP8).float()
    zeros = float((serialized == 0).float().mean())
    print(f"FP8 weights that the dummy loader fills directly: {zeros:.1%} zeros\n")
    print(
        "| model | weights | QKV and gate, up: rms | zeros | output projection: rms | zeros "
        "| down: rms | zeros |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name in SHAPES:
        for kind in ("dummy", "random"):
            print(row(name, kind), flush=True)


if __name__ == "__main__":
    main()
