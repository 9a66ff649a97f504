"""The measured worker plus one command: send all requests at once and step until all have ended."""

import os
import sys
import time

from overhead_worker import load_worker


class AllAtOnce:
    """As many requests as there are lengths, of which the engine's scheduler holds back the rest.

    Attributes:
        full_ns: when so many had their first token that no further one fits.
        drained_ns: when all had, so that none waits.
    """

    def __init__(self, worker, engine, lengths, prompts, sampling, max_num_seqs):
        from vllm import SamplingParams

        self._engine, self._max_num_seqs = engine, max_num_seqs
        self.left, self._begun = len(lengths), set()
        self._requests = self.left
        self.full_ns = self.drained_ns = None
        for number, (input_tokens, output_tokens) in enumerate(lengths):
            params = SamplingParams(
                **sampling, max_tokens=output_tokens, ignore_eos=True, detokenize=False,
                **worker.output_kind("DELTA"),
            )  # fmt: skip
            prompt = {"prompt_token_ids": prompts[number % len(prompts)][:input_tokens]}
            engine.add_request(f"whole-{number}", prompt, params)

    def step(self):
        """Take one engine step; returns its end (ns), its tokens and its finished requests."""
        outputs = self._engine.step()
        now = time.monotonic_ns()
        tokens = finished = 0
        for output in outputs:
            tokens += len(output.outputs[0].token_ids)
            finished += bool(output.finished)
            self._begun.add(output.request_id)
        self.left -= finished
        if self.full_ns is None and len(self._begun) >= self._max_num_seqs:
            self.full_ns = now
        if self.drained_ns is None and len(self._begun) == self._requests:
            self.drained_ns = now
        return now, tokens, finished


def whole_run(worker, engine, channel, command):
    started_ns = time.monotonic_ns()
    loop = AllAtOnce(
        worker, engine, command["lengths"], command["prompts"], command["sampling"],
        command["max_num_seqs"],
    )  # fmt: skip
    ended_ns, tokens = worker.drive(loop, channel, command["run"], lambda _: not loop.left)
    channel.send(
        event="whole",
        marks_ns=[started_ns, loop.full_ns, loop.drained_ns, ended_ns],
    )
    return tokens


if __name__ == "__main__":
    worker = load_worker()
    channel = worker.Channel(int(sys.argv[1]), int(sys.argv[2]))
    worker.run = lambda engine, channel, command, _: whole_run(worker, engine, channel, command)
    os._exit(worker.serve(channel))
