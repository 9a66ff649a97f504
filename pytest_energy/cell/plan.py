"""The requests of one load in the order in which they are sent, and the room that they need."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Plan:
    """The requests of one load, numbered in the order in which they are sent.

    Attributes:
        lengths: tokens in and out of request n are lengths[n mod len(lengths)]; one entry if all
            requests are alike, else a pass.
        first_wave: which request each slot of the batch begins with, and its tokens still to come.
    """

    lengths: tuple[tuple[int, int], ...]
    first_wave: tuple[tuple[int, int], ...]

    def cycles(self, tokens: int, finished: int) -> float:
        """Cycles, or blocks, after so many tokens and finished requests; the first is warm-up."""
        if len(self.lengths) == 1:
            return tokens / self.warm_up_tokens
        return max(0.0, (finished - len(self.first_wave)) / len(self.lengths))

    @property
    def warm_up_tokens(self) -> int:
        """Tokens of the warm-up: of a cycle, or of the first wave and a pass."""
        if len(self.lengths) == 1:
            return len(self.first_wave) * self.lengths[0][1]
        return sum(out for _, out in (*self.first_wave, *self.lengths))


def tokens_in_flight(
    lengths: Sequence[tuple[int, int]], batch_size: int, block_size: int, held_once: int = 0
) -> int:
    """Tokens for which `batch_size` requests in flight need room at most.

    A request counts with its whole length, in whole blocks, from its start on, so the cache never
    holds as much. Which requests meet is found by playing some passes, a token per step.

    Args:
        lengths: tokens in and out of the requests, in order, over and over.
        batch_size: requests in flight.
        block_size: tokens of a block of the cache.
        held_once: tokens of each that it holds once for all.
    """
    rooms = [
        -(-(tokens_in + out) // block_size) * block_size - held_once for tokens_in, out in lengths
    ]
    if len(lengths) == 1:
        return held_once + batch_size * rooms[0]
    # When the request in each slot ends, and which it is.
    slots = [(lengths[n % len(lengths)][1], n % len(lengths)) for n in range(batch_size)]
    heapq.heapify(slots)
    most = room = sum(rooms[n] for _, n in slots)
    for started in range(batch_size, batch_size + 3 * len(lengths)):
        number = started % len(lengths)
        ends, ended = slots[0]
        heapq.heapreplace(slots, (ends + lengths[number][1], number))
        room += rooms[number] - rooms[ended]
        most = max(most, room)
    return held_once + most


def held_once(shared_prefix_tokens: int | None, engine_settings: Mapping[str, Any]) -> int:
    """Tokens of a shared prefix in whole blocks, if the engine says that it caches prefixes."""
    if engine_settings.get("enable_prefix_caching") is not True:
        return 0
    block = block_size(engine_settings)
    return (shared_prefix_tokens or 0) // block * block


def block_size(engine_settings: Mapping[str, Any]) -> int:
    """Tokens of a block of the KV cache by the engine's settings; 1 if they do not say."""
    block = engine_settings.get("block_size")
    return block if type(block) is int and block > 0 else 1
