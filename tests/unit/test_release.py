"""No step holds two prompts, in a model of vLLM's scheduler."""

import dataclasses
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence

import pytest

from pytest_energy.engines.workers.vllm_worker import Release

OUT = 256


@dataclasses.dataclass
class Request:
    """Tokens of its prompt and of its output that are still to come."""

    prompt: int
    output: int

    def take(self, budget: int) -> int:
        """Tokens of the prompt computed in a step."""
        chunk = min(self.prompt, budget)
        self.prompt -= chunk
        return chunk


@dataclasses.dataclass(frozen=True)
class Step:
    """Prompts that end in it, tokens it generates, tokens it computes."""

    prompts: int
    tokens: int
    computed: int


def schedule(running: list[Request], waiting: deque[Request], slots: int, budget: int) -> Step:
    """One step: decodes first, then prompts, first come first served."""
    decoding = [request for request in running if not request.prompt]
    budget -= len(decoding)
    computed, ended = len(decoding), []
    while len(running) < slots and waiting:
        running.append(waiting.popleft())
    for request in running:
        if request.prompt and budget:
            chunk = request.take(budget)
            budget, computed = budget - chunk, computed + chunk
            ended += [request] if not request.prompt else []
    for request in (*decoding, *ended):
        request.output -= 1
    return Step(len(ended), len(decoding) + len(ended), computed)


def play(
    slots: int,
    *,
    out: int = OUT,
    input_tokens: int = 256,
    delay: int = 3,
    jitter: Callable[[int], int] = lambda _: 0,
    stall: range = range(0),
    cycles: int = 6,
) -> list[list[Step]]:
    """The steps of each cycle; the first is warm-up.

    Args:
        delay: steps between the one after whose return a request is sent and its own first.
        jitter: added to it, by step.
        stall: steps of which the client hears only when it is over.
    """
    release, waiting, running = Release(slots, [[input_tokens, out]]), deque[Request](), []
    arriving, unseen, steps, total = Counter({0: release.start()}), [], [], 0
    in_flight = arriving[0]
    while total < slots * out * cycles:
        now = len(steps)
        waiting.extend(Request(input_tokens, out) for _ in range(arriving.pop(now, 0)))
        steps.append(schedule(running, waiting, slots, budget=max(2048, 2 * slots)))
        total += steps[-1].tokens
        unseen.append(sum(not request.output for request in running))
        running = [request for request in running if request.output]
        if now in stall:
            continue
        for finished in unseen:
            in_flight -= finished
            sent = release.after_step(finished, in_flight)
            in_flight += sent
            arriving[max(now + 1, now + delay + jitter(now))] += sent
        unseen.clear()
    return by_cycle(steps, slots * out)


def by_cycle(steps: Sequence[Step], tokens: int) -> list[list[Step]]:
    cycles, total = [], 0
    for step in steps:
        if total // tokens == len(cycles):
            cycles.append([])
        cycles[-1].append(step)
        total += step.tokens
    return cycles


def clumped(steps: Sequence[Step]) -> int:
    return sum(step.prompts > 1 for step in steps)


@pytest.mark.parametrize("slots", [1, 8, 64, 256])
@pytest.mark.parametrize("delay", [2, 3], ids=["async off", "async"])
def test_no_step_holds_two_prompts(slots: int, delay: int) -> None:
    warm_up, *cycles = play(slots, delay=delay)
    assert len(warm_up) <= 1.55 * (OUT + delay - 1)
    for steps in cycles[:5]:
        assert abs(len(steps) - (OUT + delay - 1)) <= 1
        assert clumped(steps) == 0
        # So every step lies within the CUDA graphs that vLLM captures.
        assert max(step.computed for step in steps) <= 512


@pytest.mark.parametrize("slots", [8, 64])
@pytest.mark.parametrize("seed", range(3))
def test_a_step_of_jitter_brings_no_two_together(slots: int, seed: int) -> None:
    draw = random.Random(seed)
    cycles = play(slots, jitter=lambda _: draw.choice((-1, 1)) if draw.random() < 0.02 else 0)
    assert [clumped(steps) for steps in cycles] == [0] * len(cycles)


@pytest.mark.parametrize("slots", [64, 256])
def test_what_a_stall_brings_together_is_parted_within_a_cycle(slots: int) -> None:
    cycles = play(slots, stall=range(700, 730), cycles=6)
    assert clumped(cycles[4]) == clumped(cycles[5]) == 0
    assert sum(map(clumped, cycles)) > 0


def test_jitter_of_the_start_does_not_stay() -> None:
    draw = random.Random(0)
    cycles = play(256, jitter=lambda step: int(step < 2 * OUT and draw.random() < 0.5))
    assert clumped(cycles[1]) > 0
    assert clumped(cycles[5]) == 0


@pytest.mark.parametrize(("slots", "out"), [(512, 256), (64, 16), (8, 1), (2, 1), (257, 256)])
def test_other_shapes_keep_the_batch_full(slots: int, out: int) -> None:
    steps = play(slots, out=out, input_tokens=4)[5]
    assert sum(step.tokens for step in steps) >= 0.9 * len(steps) * slots * out / (out + 2)


def test_requests_that_differ_in_length_start_and_follow_at_once() -> None:
    release = Release(8, [[4, 3], [4, 9]])
    assert release.start() == 8
    assert release.after_step(finished=5, in_flight=3) == 5
