"""Synthetic weights of the usual size, and statistics of them: runs inside vLLM's own workers.

Each of vLLM's workers imports it before loading its model, as the worker_extension_cls that
vllm_worker.py sets. It imports torch, vllm and the standard library only, and changes nothing but
vLLM's dummy loader.

vLLM's own dummy weights are uniform between -0.001 and 0.001, those of norms among them, so
activations shrink from layer to layer: to some 1e-11 before the last projection of an MLP. bfloat16
holds that; FP8 rounds it to zero, and multiplying zeros draws less power (docs/generated/fp8.md).
Here matrices are normal with a deviation of 0.02, as models are initialized, and norms are 1.

Models with experts have larger embeddings (`pytest_energy_spread_tokens`); others have not.
"""

import itertools
import json

import torch
from pytest_energy_routing import RoutedExperts
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader import weight_utils

try:
    from vllm.model_executor.model_loader import dummy_loader
except ImportError:  # older ones
    dummy_loader = None

DEVIATION = 0.02
EMBEDDING_DEVIATION = 2.0  # of models with experts
_SEED = 1234
_ROWS = 256  # of a matrix that are checked; all of it comes from one distribution
_TOKENS = 64
_FP8_MAX = 448.0
_FP8_SMALLEST_SCALE = 1 / (_FP8_MAX * 512)  # vLLM's, of activations
_FP8_ROUNDS_TO_ZERO = 2.0**-10  # half of the smallest float8_e4m3fn
_calls = itertools.count()
_enlarged: list[torch.Tensor] = []


class UnsupportedWeights(Exception):
    """Weights that cannot be synthesized so that they do the work of real ones."""


@torch.no_grad()
def synthesise(param: torch.Tensor, *_: object, **__: object) -> None:
    """Fill one tensor of the model: what vLLM's initialize_single_dummy_weight is called for.

    Raises:
        UnsupportedWeights: it holds integers or floats of less than 16 bits, which are a
            checkpoint's own quantized weights.
    """
    if param.device.type == "meta" or param.ndim == 0:
        return  # made and quantized later, layer by layer; a scale of its own keeps its default
    if not torch.is_floating_point(param) or torch.finfo(param.dtype).bits < 16:
        raise UnsupportedWeights(
            f"config.json asks for weights that are quantized already ({param.dtype}), and such "
            "weights cannot be synthesized: most of them would be zero, or whatever memory held.\n"
            "Remove quantization_config from config.json and let vLLM quantize: "
            "engine_args={'quantization': 'fp8'}"
        )
    # Newer vLLMs set it for what must not be random.
    fixed = getattr(param, "dummy_weight_value", None)
    if param.ndim == 1 or fixed is not None:
        param.fill_(1.0 if fixed is None else fixed)
        return
    # Each with its own seed, on which ranks agree: equal layers would drive all tokens to the same
    # activations.
    generator = torch.Generator(device=param.device).manual_seed(_SEED + next(_calls))
    param.normal_(0.0, DEVIATION, generator=generator)


def synthesise_all(model: torch.nn.Module, *_: object, **__: object) -> None:
    """Fill all of the model: what an older vLLM's initialize_dummy_weights is called for.

    Raises:
        UnsupportedWeights: as `synthesise`.
    """
    for tensor in model.state_dict().values():
        synthesise(tensor)


if hasattr(dummy_loader, "initialize_single_dummy_weight"):
    for module in (weight_utils, dummy_loader):
        module.initialize_single_dummy_weight = synthesise
elif hasattr(dummy_loader, "initialize_dummy_weights"):
    dummy_loader.initialize_dummy_weights = synthesise_all
else:
    raise UnsupportedWeights(
        "this vLLM fills dummy weights in an unknown way.\n"
        "Load the model's own (weights='auto'), or, if it is not quantized, use vLLM's dummies "
        "(weights='dummy')."
    )


class SyntheticWeights(RoutedExperts):
    """Mixed into vLLM's worker; its methods are called by name, on all workers at once."""

    @torch.inference_mode()
    def pytest_energy_spread_tokens(self) -> None:
        """Enlarge the embeddings of a model with experts, so that routers tell tokens apart.

        Else what all tokens have in common, attention's mean of random ones above all, outgrows an
        embedding with a deviation of 0.02 in the first layers, and all tokens go to the same
        experts. benchmarks/expert_routing.py has the figures that the size rests on. Embeddings
        that are the output's matrix, too, stay: every token would be followed by itself.
        """
        if not getattr(self.model_config.hf_text_config, "tie_word_embeddings", False):
            for embedding in _embeddings(self.get_model()):
                embedding.mul_(EMBEDDING_DEVIATION / DEVIATION)
                _enlarged.append(embedding)

    @torch.inference_mode()
    def pytest_energy_weight_statistics(self) -> str:
        """Statistics as JSON.

        "norms": [least, greatest] of their weights. "deviation": [least, greatest] of the matrices
        of 16 bits and more, without enlarged embeddings. "zeros": the largest share of zeros in a
        matrix of 8 bits. "mlp": an entry for this worker's first and its last one, of what they
        make of `_TOKENS` random tokens of the size that a norm hands on: "inner", the deviation of
        the last projection's input; "rounded_to_zero", the share thereof that FP8 rounds to zero;
        "finite" and "zeros" of the output.
        """
        model = self.get_model()
        deviations, zeros, norms = [], [], []
        for name, param in model.named_parameters():
            if param.ndim == 1 and "norm" in name:
                norms += [float(param.min()), float(param.max())]
            if param.ndim < 2 or not param.numel() or "scale" in name.rpartition(".")[2]:
                continue
            if any(param is enlarged for enlarged in _enlarged):
                continue
            rows = param[:_ROWS].float()
            if param.element_size() > 1:
                deviations.append(float(rows.std()))
            elif param.dtype is not torch.uint8:  # which holds packed values of fewer bits
                zeros.append(float((rows == 0).float().mean()))
        mlps = [
            m
            for m in model.modules()
            if all(hasattr(m, name) for name in ("gate_up_proj", "act_fn", "down_proj"))
        ]
        dtype = self.model_config.dtype
        return json.dumps(
            {
                "norms": [min(norms), max(norms)] if norms else None,
                "deviation": [min(deviations), max(deviations)] if deviations else None,
                "zeros": max(zeros, default=None),
                "mlp": [
                    _mlp_statistics(mlp, dtype, self.device)
                    for mlp in mlps[:: max(1, len(mlps) - 1)]
                ],
            }
        )


def _embeddings(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Those of input tokens; of several GPUs, this one's part."""
    return [
        module.weight
        for module in model.modules()
        if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)
    ]


def _mlp_statistics(
    mlp: torch.nn.Module, dtype: torch.dtype, device: torch.device
) -> dict[str, object]:
    generator = torch.Generator(device=device).manual_seed(_SEED)
    tokens = torch.randn(
        _TOKENS, mlp.gate_up_proj.input_size, generator=generator, device=device
    ).to(dtype)
    inner = mlp.act_fn(mlp.gate_up_proj(tokens)[0])
    size = inner.float().abs()
    scale = (size.amax(dim=-1, keepdim=True) / _FP8_MAX).clamp(min=_FP8_SMALLEST_SCALE)
    out = mlp.down_proj(inner)[0].float()
    return {
        "inner": float(inner.float().std()),
        "rounded_to_zero": float((size / scale < _FP8_ROUNDS_TO_ZERO).float().mean()),
        "finite": bool(torch.isfinite(out).all()),
        "zeros": float((out == 0).float().mean()),
    }
