"""What the clients of a server count and time, on streams whose clock is known."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_energy.engines import server_load
from pytest_energy.engines.server_load import RequestStream, ServerLoad, Tally, distribution

MS = 1_000_000
Arrivals = Sequence[tuple[int, bytes]]  # when each piece of the answer's body comes (ms), and it


class Session:
    """As much of aiohttp's as a client uses; its answers come on a clock of its own."""

    def __init__(self, arrivals: Arrivals, monkeypatch: pytest.MonkeyPatch) -> None:
        self._arrivals, self._now_ns = arrivals, 1_000 * MS
        clock = SimpleNamespace(monotonic_ns=lambda: self._now_ns)
        monkeypatch.setattr(server_load, "time", clock)

    @asynccontextmanager
    async def post(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        started_ns = self._now_ns

        async def pieces() -> AsyncIterator[bytes]:
            for at_ms, data in self._arrivals:
                self._now_ns = started_ns + at_ms * MS
                yield data

        yield SimpleNamespace(status=200, content=SimpleNamespace(iter_any=pieces))


def chunk(done: int, last: bool = False) -> bytes:
    choice = {"text": " t", "finish_reason": "length" if last else None}
    return event({"choices": [choice], "usage": {"completion_tokens": done}})


def event(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


END = (
    event({"choices": [], "usage": {"completion_tokens": 4, "prompt_tokens": 3}})
    + b"data: [DONE]\n\n"
)
# Four tokens: after 30 ms, 2 ms, and two together after another 5 ms.
FOUR = [(30, chunk(1)), (32, chunk(2)), (37, chunk(4, last=True)), (38, END)]


def requests(output_tokens: int = 4) -> RequestStream:
    command = {
        "lengths": [[3, output_tokens]],
        "first_wave": [[0, output_tokens]],
        "prompts": [[1, 2, 3]],
    }
    return RequestStream("tiny", command, {})


def sent(arrivals: Arrivals, tally: Tally, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    stream = requests()
    load = ServerLoad(Session(arrivals, monkeypatch), stream, 1, tally)
    for _ in range(times):
        asyncio.run(load.send(stream.next()))


def test_latencies_are_those_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally(warm_up_tokens=0)
    sent(FOUR, tally, monkeypatch)
    assert tally.first_token_us == [30_000]
    assert tally.inter_token_us == [2_000, 5_000]  # tokens that come together have no time between
    assert tally.end_to_end_us == [37_000]
    assert tally.total == 4


def test_an_event_in_pieces_comes_with_its_last_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally(warm_up_tokens=0)
    first = chunk(1)
    sent([(30, first[:10]), (31, first[10:]), *FOUR[1:]], tally, monkeypatch)
    assert tally.first_token_us == [31_000]
    assert tally.inter_token_us == [1_000, 5_000]


def test_a_request_that_began_in_the_warm_up_has_no_latency_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tally = Tally(warm_up_tokens=2)
    sent(FOUR, tally, monkeypatch)
    assert (tally.first_token_us, tally.inter_token_us, tally.end_to_end_us) == ([], [5_000], [])
    sent(FOUR, tally, monkeypatch)
    assert (tally.first_token_us, tally.end_to_end_us) == ([30_000], [37_000])


def test_after_the_load_is_stopped_tokens_count_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tally = Tally(warm_up_tokens=0)
    tally.closed = True
    sent(FOUR, tally, monkeypatch)
    assert tally.total == 4
    assert tally.take() == {"time_ns": [], "tokens": [], "finished": []}
    assert (tally.first_token_us, tally.inter_token_us, tally.end_to_end_us) == ([], [], [])


def test_tokens_within_five_milliseconds_are_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally(warm_up_tokens=0)
    sent(FOUR, tally, monkeypatch, times=2)
    steps = tally.take()
    # Each request: two tokens 2 ms apart, and two together 5 ms later; the second starts at 38 ms.
    assert steps["tokens"] == [2, 2, 2, 2]
    assert steps["finished"] == [0, 1, 0, 1]
    assert steps["time_ns"] == [(1_000 + at) * MS for at in (32, 37, 70, 75)]


def test_distributions_keep_three_digits() -> None:
    assert distribution([12_345, 12_344, 7]) == {"value_us": [7, 12_300], "count": [1, 2]}
