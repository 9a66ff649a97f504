"""A stand-in for vLLM that fails on demand, in ways that the real one cannot be made to show.

The engine argument `fault` chooses. While loading: crash_on_load, exit_on_load, kill_on_load,
hang_on_load, garbage_on_load, flood_on_load, deaf (hangs and ignores SIGTERM), no_memory_for_two
and small_cache_for_two (with less than half of the GPU's memory), two_replicas. Under load, after
FAULT_AFTER_STEPS: crash, kill, hang, short, garbage, malformed, fieldless, flood, core_dies (a
process of its own, for which it then waits in vain). Later: hang_at_stop, kill_at_stop,
kill_at_pause, unpausable, busy_while_paused (burns a CPU core), child (a process in a group of its
own that would outlive a naive kill). Of prompts: untemplated (no chat template), picky (accepts no
prompt that says "no"). Of synthetic weights: nan_logits, even_logits, deaf_to_the_end,
deaf_to_context (on which logits do not depend), flat_logits (as of vLLM's dummies), zero_weights,
vanishing (an MLP's activations round to zero), infinite, tiny_weights, no_norms. Of a mixture's
routers, if config.json says that it has experts: one_for_all (two experts get all tokens), silent
(vLLM does not tell), replayed (it ran them in CUDA graphs).

With enable_prefix_caching its cache holds every block of 16 tokens that it was sent.

Its tokenizer makes a token of every word. The variable FAULT_ON_IMPORT chooses kill or hang. Steps
come every STEP_S seconds; one that is late is made up for. VERSION is the version that it claims,
and ASYNC_SCHEDULING=0 makes that setting's default False.
"""

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

from vllm.transformers_utils.config import get_config

__version__ = os.environ.get("VERSION", "0.0.1")
STEP_S = float(os.environ.get("STEP_S", "0.001"))
ASYNC_SCHEDULING = os.environ.get("ASYNC_SCHEDULING", "1") == "1"
EXTENSIONS = ("pytest_energy_routing.RoutedExperts", "pytest_energy_weights.SyntheticWeights")
FAULT_AFTER_STEPS = int(os.environ.get("FAULT_AFTER_STEPS", "100"))

if os.environ.get("FAULT_ON_IMPORT") == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if os.environ.get("FAULT_ON_IMPORT") == "hang":
    time.sleep(1000)


class SamplingParams:
    def __init__(self, **kwargs):
        self.max_tokens = kwargs["max_tokens"]
        self.logprobs = kwargs.get("logprobs")


class EngineArgs:
    def __init__(self, worker_extension_cls=None, **kwargs):
        self.fault = kwargs.pop("fault", None)
        self.kwargs, self.worker_extension_cls = kwargs, worker_extension_cls


class Tokenizer:
    def __init__(self, fault):
        self.fault, self.chat_template = fault, None if fault == "untemplated" else "words"

    def apply_chat_template(self, messages, add_generation_prompt, tokenize):
        assert add_generation_prompt
        assert not tokenize
        if self.chat_template is None:
            raise ValueError("tokenizer.chat_template is not set")
        text = (
            " ".join(f"<{message['role']}> {message['content']}" for message in messages)
            + " <assistant>"
        )
        if self.fault == "picky" and " no " in text:
            raise ValueError("roles must alternate")
        return text

    def encode(self, text, add_special_tokens):
        assert not add_special_tokens
        return [len(word) % 100 for word in text.split()]


class LLMEngine:
    def __init__(self, arguments):
        self.fault, self.steps, self.requests, self.logprobs, self.due_s, self.arguments = (
            arguments.fault,
            0,
            {},
            {},
            0.0,
            arguments.kwargs,
        )
        limit = arguments.kwargs.get("max_num_seqs", 8)
        self.paused, self.sampled, self.routed = False, 0, None
        self.caches = arguments.kwargs.get("enable_prefix_caching", False)
        self.cached_tokens, self.cache = {}, set()
        co_resident = arguments.kwargs.get("gpu_memory_utilization", 0.9) < 0.5
        blocks = 10 if self.fault == "small_cache_for_two" and co_resident else 1000
        if self.fault == "core_dies":
            self.core = subprocess.Popen(["VLLM::EngineCore", "1000"], executable="/bin/sleep")
        compilation = SimpleNamespace(cudagraph_mode="NONE")
        self.vllm_config = SimpleNamespace(
            cache_config=SimpleNamespace(
                num_gpu_blocks=blocks,
                block_size=16,
                enable_prefix_caching=self.caches,
                cache_dtype="auto",
            ),
            scheduler_config=SimpleNamespace(
                max_num_seqs=limit,
                max_num_batched_tokens=2048,
                async_scheduling=arguments.kwargs.get("async_scheduling", ASYNC_SCHEDULING),
            ),
            parallel_config=SimpleNamespace(
                world_size=arguments.kwargs.get("tensor_parallel_size", 1),
                data_parallel_size=2 if self.fault == "two_replicas" else 1,
                tensor_parallel_size=arguments.kwargs.get("tensor_parallel_size", 1),
                pipeline_parallel_size=1,
                worker_extension_cls=arguments.worker_extension_cls,
            ),
            load_config=SimpleNamespace(load_format=arguments.kwargs.get("load_format", "auto")),
            model_config=SimpleNamespace(
                dtype="torch.bfloat16",
                quantization=arguments.kwargs.get("quantization"),
                max_model_len=96,
                enforce_eager=False,
                get_vocab_size=lambda: 100,
                hf_text_config=get_config(arguments.kwargs.get("model"), False),
            ),
            compilation_config=compilation,
        )

    @classmethod
    def from_engine_args(cls, arguments):
        if arguments.fault == "crash_on_load":
            raise ValueError("the weights are missing")
        if (
            arguments.fault == "no_memory_for_two"
            and arguments.kwargs.get("gpu_memory_utilization", 0.9) < 0.5
        ):
            print(
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB.",
                flush=True,
            )
            raise RuntimeError("Engine core initialization failed. See root cause above.")
        if arguments.fault == "garbage_on_load":
            os.write(int(sys.argv[1]), b"nonsense\n")
            time.sleep(1000)
        if arguments.fault == "flood_on_load":
            _flood()
        if arguments.fault == "kill_on_load":
            os.kill(os.getpid(), signal.SIGKILL)
        if arguments.fault == "exit_on_load":
            print("CUDA error: out of memory", flush=True)
            os._exit(7)
        if arguments.fault in ("hang_on_load", "deaf"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)
        if arguments.fault == "child":
            code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)"
            code += "\ntime.sleep(1000)"
            subprocess.Popen([sys.executable, "-c", code], process_group=0)
        return cls(arguments)

    def get_tokenizer(self):
        assert not self.arguments.get("skip_tokenizer_init")
        return Tokenizer(self.fault)

    def is_sleeping(self):
        return self.paused

    def sleep(self, level, mode="abort"):
        assert level == 0
        assert not self.requests
        if self.fault == "kill_at_pause":
            os.kill(os.getpid(), signal.SIGKILL)
        self.paused = self.fault != "unpausable"
        if self.fault == "busy_while_paused":
            threading.Thread(target=self._burn, daemon=True).start()

    def _burn(self):
        while self.paused:
            pass

    def wake_up(self, tags):
        assert tags == ["scheduling"]
        self.paused = False

    def add_request(self, request_id, prompt, params):
        assert not self.paused
        assert all(0 <= token < 100 for token in prompt["prompt_token_ids"])
        assert request_id not in self.requests
        if self.routed and self.fault != "replayed":
            self.routed = {
                name: tokens + len(prompt["prompt_token_ids"])
                for name, tokens in self.routed.items()
            }
        self.due_s = self.due_s if self.requests else time.monotonic()
        self.requests[request_id] = params.max_tokens
        self.cached_tokens[request_id] = self._look_up(prompt["prompt_token_ids"])
        self.logprobs[request_id] = (
            self._logprobs(prompt["prompt_token_ids"]) if params.logprobs else None
        )

    def _look_up(self, prompt):
        """Tokens of the prompt that the cache holds, which then holds all; the last is computed."""
        blocks = [tuple(prompt[:end]) for end in range(16, len(prompt) + 1, 16)]
        found = [len(block) for block in blocks if block in self.cache and len(block) < len(prompt)]
        self.cache.update(blocks if self.caches else ())
        return max(found, default=0)

    def abort_request(self, request_ids):
        if self.fault == "hang_at_stop":
            time.sleep(1000)
        if self.fault == "kill_at_stop":
            os.kill(os.getpid(), signal.SIGKILL)
        for request_id in request_ids:
            del self.requests[request_id]

    def step(self):
        self.due_s += STEP_S
        time.sleep(max(0.0, self.due_s - time.monotonic()))
        self.steps += 1
        if self.steps == FAULT_AFTER_STEPS:
            self._fail()
        outputs = []
        for request_id in list(self.requests):
            self.requests[request_id] -= 1
            finished = self.requests[request_id] == 0
            if (
                self.fault == "short"
                and self.steps > FAULT_AFTER_STEPS
                and self.requests[request_id] == 1
            ):
                finished = True
            if finished:
                del self.requests[request_id]
            output = SimpleNamespace(token_ids=[1], logprobs=self.logprobs[request_id])
            outputs.append(
                SimpleNamespace(
                    request_id=request_id,
                    outputs=[output],
                    finished=finished,
                    num_cached_tokens=self.cached_tokens[request_id],
                )
            )
        return outputs

    def _logprobs(self, prompt):
        """Of the three likeliest tokens of 100, which depend on the prompt, and the sampled one."""
        seen = (
            prompt[:-1]
            if self.fault == "deaf_to_the_end"
            else prompt[-1:]
            if self.fault == "deaf_to_context"
            else prompt
        )
        draw = random.Random(repr(seen))
        size = {"even_logits": 0.0, "flat_logits": 1e-5, "nan_logits": math.nan}.get(
            self.fault, 1.0
        )
        likeliest = draw.sample(range(100), 3)
        self.sampled += 1  # another one each time
        ranks = {200 + self.sampled: 40, **{token: rank for rank, token in enumerate(likeliest, 1)}}
        return [
            {
                token: SimpleNamespace(logprob=size * draw.random() - math.log(100), rank=rank)
                for token, rank in ranks.items()
            }
        ]

    def collective_rpc(self, method, args=()):
        """Of two workers, which share each layer."""
        if method == "pytest_energy_weight_statistics":
            return [self._weight_statistics()] * 2
        assert self.vllm_config.parallel_config.worker_extension_cls in EXTENSIONS
        if method == "pytest_energy_kernels":
            if self.fault == "layers_do_not_tell":
                raise RuntimeError("Call to collective_rpc method failed")
            return ['{"attention_backend": ["FAKE_ATTN"]}', '{"attention_backend": ["FAKE_ATTN"]}']
        if method == "pytest_energy_routed_experts":
            return [self._routed_experts()] * 2
        assert method in ("pytest_energy_spread_tokens", "pytest_energy_watch_experts")
        self.routed = {} if self.fault == "silent" else {"layer 0": 0, "layer 1": 0}
        self.experts = args[0] if args else None
        return [None] * 2

    def _routed_experts(self):
        """In layer 1 half of the choices fall on the first two experts."""
        draw, layers = random.Random(0), {}
        for name, tokens in self.routed.items():
            counts = [0] * self.experts
            for _ in range(2 * tokens):
                uneven = self.fault == "one_for_all" or (name == "layer 1" and draw.random() < 0.5)
                counts[draw.randrange(2 if uneven else self.experts)] += 1
            layers[name] = {"counts": counts, "per_token": 2}
        self.routed = None
        return json.dumps(layers)

    def _weight_statistics(self):
        mlp = {
            "inner": 1.0,
            "rounded_to_zero": 0.0003,
            "finite": self.fault != "infinite",
            "zeros": 0.0,
        }
        if self.fault == "vanishing":
            mlp.update(rounded_to_zero=1.0, zeros=1.0)
        deviation = 0.0006 if self.fault == "tiny_weights" else 0.02
        zeros = 0.977 if self.fault == "zero_weights" else 1e-5
        norms = [0.0, 1.0] if self.fault == "no_norms" else [1.0, 1.0]
        return json.dumps(
            {"norms": norms, "deviation": [deviation, deviation], "zeros": zeros, "mlp": [mlp]}
        )

    def _fail(self):
        events_fd = int(sys.argv[1])
        if self.fault == "crash":
            raise RuntimeError("EngineCore died")
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "core_dies":
            self.core.kill()
        if self.fault in ("hang", "core_dies"):
            time.sleep(1000)
        if self.fault == "garbage":
            os.write(events_fd, b'\xff\xfe nonsense\n{"no": "event"}\n')
        if self.fault == "malformed":
            os.write(events_fd, b'{"event":"steps","run":1}\n')
        if self.fault == "fieldless":
            os.write(events_fd, b'{"event":"steps"}\n')
        if self.fault == "flood":
            _flood()


def _flood():
    for _ in range(2000):
        os.write(int(sys.argv[1]), b"x" * 10_000)
