"""A stand-in for vLLM 0.5.4, whose engine is a V0.

It has no kinds of outputs: each holds all tokens of its request so far. A step computes prompts or
generates. The engine holds the parts of its configuration itself, its platform knows no UUIDs, and,
as in releases that came later, sleeping drops the KV cache. The engine argument `fault` may be
"short": requests end one token early.
"""

import os
from dataclasses import dataclass
from types import SimpleNamespace

__version__ = "0.5.4"


class SamplingParams:
    def __init__(self, temperature, max_tokens, ignore_eos, detokenize, logprobs=None):
        assert ignore_eos
        self.max_tokens, self.logprobs = max_tokens, logprobs


@dataclass
class EngineArgs:
    model: str = ""
    load_format: str = "auto"
    disable_log_stats: bool = False
    fault: str = ""


class LLMEngine:
    def __init__(self, arguments):
        self.fault, self.waiting, self.running, self.scheduler = arguments.fault, {}, {}, [None]
        self.model_config = SimpleNamespace(
            dtype="torch.bfloat16", quantization=None, max_model_len=96, enforce_eager=False,
            get_vocab_size=lambda: 100,
        )  # fmt: skip
        self.cache_config = SimpleNamespace(
            num_gpu_blocks=1000, block_size=16, enable_prefix_caching=False, cache_dtype="auto"
        )
        self.parallel_config = SimpleNamespace(
            world_size=1, tensor_parallel_size=1, pipeline_parallel_size=1
        )
        self.scheduler_config = SimpleNamespace(
            max_num_seqs=8, max_num_batched_tokens=2048, chunked_prefill_enabled=False
        )
        self.load_config = SimpleNamespace(load_format=arguments.load_format)
        self.device_config = SimpleNamespace(device_type="cpu")

    @classmethod
    def from_engine_args(cls, arguments):
        for name in filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")):
            int(name)
        return cls(arguments)

    def add_request(self, request_id, inputs, params):
        assert len(inputs["prompt_token_ids"]) > 1
        self.waiting[request_id] = [params.max_tokens - (self.fault == "short"), ()]

    def abort_request(self, request_id):
        for name in request_id:
            self.waiting.pop(name, None)
            self.running.pop(name, None)

    def is_sleeping(self):
        return False

    def sleep(self, level=1):
        raise AssertionError("the KV cache is lost")

    def stop_remote_worker_execution_loop(self):
        assert not self.running

    def step(self):
        scheduled, self.waiting = self.waiting or dict(self.running), {}
        self.running |= scheduled
        outputs = []
        for request_id, request in scheduled.items():
            request[1] = (*request[1], 1)
            finished = len(request[1]) == request[0]
            if finished:
                del self.running[request_id]
            completion = SimpleNamespace(token_ids=request[1])
            outputs.append(
                SimpleNamespace(request_id=request_id, outputs=[completion], finished=finished)
            )
        return outputs
