"""Clients of an OpenAI-compatible server that keep a fixed number of requests in flight."""

import asyncio
import itertools
import json
import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_energy.engines.event_stream import EventStream
from pytest_energy.engines.server_process import (
    EVENT_BYTES,
    EXCERPT_BYTES,
    Broken,
    Failure,
    refusal,
)
from pytest_energy.engines.workers.vllm_worker import OPENING, opening

# Tokens within it count as one step; a decode step of a batch takes longer.
_STEP_NS = 5_000_000
_DONE = b"[DONE]"  # the data of a stream's last event
_NO_USAGE = (
    "a stream's chunk has no usage, so its tokens cannot be counted.\n"
    "The server must support stream_options.continuous_usage_stats, as vLLM does."
)
_ALL_TOKENS = 2**30  # more than any vocabulary has


def distribution(values_us: Sequence[int]) -> dict[str, list[int]]:
    """Values (µs) to three digits, and how often each occurred."""
    counted = Counter(round(value, min(0, 3 - len(str(value)))) for value in values_us)
    return {"value_us": sorted(counted), "count": [counted[value] for value in sorted(counted)]}


class Tally:
    """What the clients receive: tokens in steps, and latencies.

    Args:
        warm_up_tokens: latencies count from then on.
    """

    def __init__(self, warm_up_tokens: int) -> None:
        self._warm_up_tokens = warm_up_tokens
        self._times: list[int] = []
        self._tokens: list[int] = []
        self._finished: list[int] = []
        self._step_started_ns = 0
        self.total, self.last_ns = 0, time.monotonic_ns()
        self.closed = False
        self.first_token_us: list[int] = []
        self.inter_token_us: list[int] = []
        self.end_to_end_us: list[int] = []

    @property
    def warm(self) -> bool:
        """Whether latencies count."""
        return not self.closed and self.total >= self._warm_up_tokens

    def add(self, now_ns: int, tokens: int, finished: int) -> None:
        """Add tokens that came at `now_ns`; the first chunk of a chat holds none."""
        if not tokens and not finished:
            return
        self.total += tokens
        self.last_ns = now_ns
        if self.closed:
            return
        if now_ns - self._step_started_ns > _STEP_NS:
            self._step_started_ns = now_ns
            self._times.append(now_ns)
            self._tokens.append(tokens)
            self._finished.append(finished)
        else:
            self._times[-1] = now_ns
            self._tokens[-1] += tokens
            self._finished[-1] += finished

    def take(self) -> dict[str, list[int]]:
        """The steps not yet taken."""
        steps = {"time_ns": self._times, "tokens": self._tokens, "finished": self._finished}
        self._times, self._tokens, self._finished, self._step_started_ns = [], [], [], 0
        return steps

    def latencies(self) -> dict[str, dict[str, list[int]]]:
        """Distributions of the latencies counted."""
        return {
            "first_token": distribution(self.first_token_us),
            "inter_token": distribution(self.inter_token_us),
            "end_to_end": distribution(self.end_to_end_us),
        }


@dataclass(frozen=True)
class Request:
    """What a client asks for.

    Attributes:
        path: of the POST.
        body: of the POST.
        input_tokens: that the server must read.
        output_tokens: that it must generate.
    """

    path: str
    body: bytes
    input_tokens: int
    output_tokens: int


class RequestStream:
    """The requests of a load, in order.

    No two prompts go on alike behind their shared prefix, so that a server that caches prefixes has
    to compute each but for that.

    Args:
        model: the name that requests give.
        command: "run", see vllm_worker.
        tokenized: conversations by name.
    """

    def __init__(
        self,
        model: str,
        command: Mapping[str, Any],
        tokenized: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> None:
        self._first_wave, self._lengths = command["first_wave"], command["lengths"]
        self._sent = itertools.count()
        # The prompts of an earlier load may be cached, too.
        self._unique = itertools.count(random.randrange(10**12))
        # Set here, whatever the model's generation_config.json holds. To turn top_k off, older
        # servers refuse 0, and the Rust front end -1.
        request = {
            "model": model, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "temperature": 1.0, "top_p": 1.0, "top_k": _ALL_TOKENS, "min_p": 0.0,
            "repetition_penalty": 1.0,
        }  # fmt: skip
        self._head = json.dumps(request, separators=(",", ":")).encode()[:-1]
        self._texts: list[bytes] = []
        self._tails: list[bytes] = []
        prompts = command["prompts"]
        if isinstance(prompts, str):
            self._texts = [json.dumps(c["messages"]).encode() for c in tokenized[prompts]]
            return
        self._shared = command["shared_prefix_tokens"]
        self._prefix = b"".join(b"%d," % token for token in prompts[0][: self._shared])
        self._ids_of_opening = sorted(set(prompts[0]))
        # Pairs of prompt and length recur after this many requests.
        for number in range(math.lcm(len(prompts), len(self._lengths))):
            prompt = prompts[number % len(prompts)][: self._lengths[number % len(self._lengths)][0]]
            own = prompt[self._shared + OPENING :]
            self._tails.append(b"".join(b",%d" % token for token in own))

    def next(self) -> Request:
        """The next request."""
        sent = next(self._sent)
        number, left = self._first_wave[sent] if sent < len(self._first_wave) else (sent, None)
        input_tokens, output_tokens = self._lengths[number % len(self._lengths)]
        output_tokens = left or output_tokens
        if self._texts:
            path, prompt = "/v1/chat/completions", self._text(number)
        else:
            path, prompt = "/v1/completions", self._ids(number, input_tokens)
        body = b'%b,%b,"max_tokens":%d}' % (self._head, prompt, output_tokens)
        return Request(path, body, input_tokens, output_tokens)

    def _ids(self, number: int, input_tokens: int) -> bytes:
        own = min(OPENING, input_tokens - self._shared)
        tokens = opening(next(self._unique), self._ids_of_opening, own)
        return b'"prompt":[%b%b%b]' % (
            self._prefix,
            b",".join(b"%d" % token for token in tokens),
            self._tails[number % len(self._tails)],
        )

    def _text(self, number: int) -> bytes:
        """A text is sent as it is; its salt keeps it from matching a cached prefix."""
        text = self._texts[number % len(self._texts)]
        return b'"messages":%b,"cache_salt":"%d"' % (text, next(self._unique))


class ServerLoad:
    """`batch_size` clients, each of which sends its next request once one ends, until `stop`.

    Args:
        session: an aiohttp.ClientSession.
        requests: what they send.
        batch_size: number of clients.
        tally: what they receive.
    """

    def __init__(
        self, session: Any, requests: RequestStream, batch_size: int, tally: Tally
    ) -> None:
        self._session, self._requests = session, requests
        self._batch_size, self._tally = batch_size, tally
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.active = 0
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Have all clients send their first request."""
        self.active = self._batch_size
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._batch_size)]

    def stop(self) -> None:
        """Let no client send another request."""
        self._stopping = True

    async def cancel(self) -> None:
        """Abandon what is in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self) -> None:
        try:
            while not self._stopping:
                await self.send(self._requests.next())
        except Exception as error:
            self.failure = self.failure or error
        finally:
            self.active -= 1

    async def send(self, request: Request) -> None:
        """Send one request and tally its tokens.

        Raises:
            Failure: the server refused it, or answered other than was asked.
        """
        answer, stream = _Answer(request, self._tally), EventStream()
        async with self._session.post(request.path, data=request.body) as response:
            if response.status != 200:
                text = (await response.content.read(EXCERPT_BYTES)).decode(errors="replace")
                kind = Broken if response.status >= 500 else Failure
                raise kind(refusal(response.status, response.reason, text))
            async for piece in response.content.iter_any():
                answer.receive(stream.feed(piece), time.monotonic_ns())
                if len(stream.unfinished) > EVENT_BYTES:
                    raise Failure("a stream holds an event without an end: this is not vLLM")
        # [DONE] counts without the blank line that ends an event, too.
        answer.check([data.strip() for data in stream.feed(b"\n\n")] == [_DONE])


class _Answer:
    """The stream that answers one request."""

    def __init__(self, request: Request, tally: Tally) -> None:
        self._request, self._tally = request, tally
        self._started_warm = tally.warm
        self._started_ns = self._last_ns = time.monotonic_ns()
        self._done, self._total, self._ended = 0, -1, False
        self._reason: str | None = None
        self._prompt_tokens: int | None = None

    def receive(self, events: Sequence[bytes], now_ns: int) -> None:
        """Take in the data of the events that came together."""
        done, finished = self._done, False
        for data in events:
            finished |= self._take(data)
        self._count(now_ns, done, int(finished))

    def _take(self, data: bytes) -> bool:
        """Take in one event; whether the request has finished with it."""
        self._ended = self._ended or data.strip() == _DONE
        if self._ended:
            return False
        chunk = parsed(data)
        if not chunk.get("choices") and "usage" not in chunk:
            return False  # that the stream is alive
        self._total = generated(chunk, self._done, self._request.output_tokens)
        choice = first_choice(chunk)
        if choice is None:  # the whole request's usage, after its last token
            self._prompt_tokens = chunk["usage"].get("prompt_tokens")
            return False
        self._done, self._reason = self._total, choice.get("finish_reason")
        return self._reason is not None

    def _count(self, now_ns: int, done: int, finished: int) -> None:
        """Tally what came at `now_ns`, after `done` tokens."""
        tally, tokens = self._tally, self._done - done
        elapsed_us, since_us = (
            (now_ns - then_ns) // 1000 for then_ns in (self._started_ns, self._last_ns)
        )
        if tokens and tally.warm:
            if done:
                tally.inter_token_us += [since_us // tokens] * tokens
            elif self._started_warm:
                tally.first_token_us.append(elapsed_us)
        if tokens:
            self._last_ns = now_ns
        if finished and self._started_warm and tally.warm:
            tally.end_to_end_us.append(elapsed_us)
        tally.add(now_ns, tokens, finished)

    def check(self, at_done: bool) -> None:
        """Once the stream has ended.

        Args:
            at_done: whether it ended with a [DONE] that `receive` was not given.

        Raises:
            Failure: it was cut, or prompt or answer have another length than was asked.
        """
        length, wanted = self._request.output_tokens, self._request.input_tokens
        if not (self._ended or at_done):
            raise Broken(f"a stream was cut off after {self._done} of its {length} tokens")
        if not self._done == self._total == length:
            raise Failure(
                f"a request ended {length - min(self._done, self._total)} tokens short of its set "
                f"length of {length} (finish_reason {self._reason!r})"
            )
        if self._prompt_tokens is None:
            raise Failure(_NO_USAGE)
        if self._prompt_tokens != wanted:
            raise Failure(
                f"the server read {self._prompt_tokens} tokens of a prompt that has {wanted}.\n"
                "A proxy in front of it, or one of its settings, changes prompts (truncation, a "
                "chat template of its own): turn that off."
            )


def parsed(data: bytes) -> dict[str, Any]:
    """The chunk that is an event's data."""
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        chunk = None
    if not isinstance(chunk, dict):
        raise Failure(f"a stream holds something that is not a JSON object: {data[:80]!r}")
    if "error" in chunk:
        error = json.dumps(chunk["error"])[:EXCERPT_BYTES]
        raise Broken(f"the server failed in the middle of a stream: {error}")
    return chunk


def first_choice(chunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the chunk holds of the one completion that was asked for; None if nothing."""
    choices = chunk.get("choices")
    if not choices:
        return None
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise Failure(f"a stream's chunk has choices that vLLM never sends: {str(choices)[:80]}")
    return choices[0]


def generated(chunk: Mapping[str, Any], before: int, length: int) -> int:
    """Tokens that the request has received with this chunk, by the server's own count."""
    try:
        tokens = chunk["usage"]["completion_tokens"]
    except (KeyError, TypeError):
        tokens = None
    if type(tokens) is not int:
        raise Failure(_NO_USAGE)
    if tokens < before:
        raise Failure(f"the usage of a request fell from {before} to {tokens} tokens")
    if tokens > length:
        raise Failure(f"a request exceeded its set length of {length} by {tokens - length} tokens")
    return tokens
