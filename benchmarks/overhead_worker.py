"""The measured worker plus one command: alternate its loop with a bare one, on the same load."""

import importlib.util
import os
import sys
import time
from pathlib import Path

WORKER = Path(__file__).parents[1] / "pytest_energy" / "engines" / "workers" / "vllm_worker.py"
SETTLE_STEPS = 10  # after a hand-over, not timed


class Unknown(int):
    """What is left of a request that the bare loop has advanced: not known, so not checked."""

    def __sub__(self, other):
        return self

    def __bool__(self):
        return False


def load_worker():
    spec = importlib.util.spec_from_file_location("vllm_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    sys.modules["vllm_worker"] = module
    spec.loader.exec_module(module)
    return module


def bare(engine, prompts, params, tokens_wanted, prefix):
    """The least that keeps a closed loop going: step, count, replace."""
    tokens = added = 0
    while tokens < tokens_wanted:
        for output in engine.step():
            tokens += len(output.outputs[0].token_ids)
            if output.finished:
                engine.add_request(
                    f"{prefix}-{added}", {"prompt_token_ids": prompts[added % len(prompts)]}, params
                )
                added += 1
    return tokens


def overhead(worker, engine, channel, command):
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    lengths, prompts = command["lengths"], command["prompts"]
    output_tokens = lengths[0][1]
    batch_size = len(command["first_wave"])
    cycle = batch_size * output_tokens
    params = SamplingParams(
        temperature=1.0,
        max_tokens=output_tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    loop = worker.ClosedLoop(engine, f"b{batch_size}", command["first_wave"], lengths, prompts, 0)
    worker.drive(loop, channel, 0, lambda total: total >= cycle)
    for number, arm in enumerate(command["arms"]):
        channel.send(event="segment", arm=arm)
        channel.receive()
        states = engine.output_processor.request_states
        if arm != "bare":
            loop._remaining = {state.external_req_id: Unknown() for state in states.values()}
            for _ in range(SETTLE_STEPS):
                loop.step()
            started, total = time.monotonic(), 0

            def count(so_far):
                nonlocal total
                total = so_far
                return so_far >= cycle

            worker.drive(loop, channel, 0, count)
        else:
            bare(engine, prompts, params, SETTLE_STEPS * batch_size, f"s{batch_size}-{number}")
            started = time.monotonic()
            total = bare(engine, prompts, params, cycle, f"n{batch_size}-{number}")
        channel.send(event="result", arm=arm, tokens_per_s=total / (time.monotonic() - started))
    engine.abort_request(
        [state.external_req_id for state in engine.output_processor.request_states.values()]
    )
    channel.send(event="stopped", run=0, time_ns=time.monotonic_ns())
    return 0


if __name__ == "__main__":
    worker = load_worker()
    channel = worker.Channel(int(sys.argv[1]), int(sys.argv[2]))
    serve_run = worker.run
    worker.run = lambda engine, channel, command, tokenized: (
        overhead(worker, engine, channel, command)
        if command.get("arms")
        else serve_run(engine, channel, command, tokenized)
    )
    os._exit(worker.serve(channel))
