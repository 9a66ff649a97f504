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
from pytest_energy.engines.server_process import Failure

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
        "shared_prefix_tokens": 0,
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
    # Tokens that come together share the time since those before.
    assert tally.inter_token_us == [2_000, 2_500, 2_500]
    assert tally.end_to_end_us == [37_000]
    assert tally.total == 4


def test_an_event_in_pieces_comes_with_its_last_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally(warm_up_tokens=0)
    first = chunk(1)
    sent([(30, first[:10]), (31, first[10:]), *FOUR[1:]], tally, monkeypatch)
    assert tally.first_token_us == [31_000]
    assert tally.inter_token_us == [1_000, 2_500, 2_500]


def test_a_request_that_began_in_the_warm_up_has_no_latency_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tally = Tally(warm_up_tokens=2)
    sent(FOUR, tally, monkeypatch)
    assert (tally.first_token_us, tally.end_to_end_us) == ([], [])
    assert tally.inter_token_us == [2_500, 2_500]
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


@pytest.mark.parametrize(
    ("arrivals", "latencies_us"),
    [
        # Speculative decoding and stream_interval: several tokens in a chunk.
        ([(30, chunk(1)), (36, chunk(4, last=True)), (38, END)], [2_000] * 3),
        # Two chunks in one read, because the client was busy.
        ([*FOUR[:1], (36, chunk(2) + chunk(4, last=True)), (38, END)], [2_000] * 3),
        # A chunk without a token, such as one that only finishes, is no arrival of any.
        ([*FOUR[:2], (34, chunk(2)), (36, chunk(4)), (37, chunk(4, last=True)), (38, END)],
         [2_000] * 3),
        # All in one: nothing is known of the time between them.
        ([(30, chunk(4, last=True)), (38, END)], []),
    ],
)  # fmt: skip
def test_inter_token_latency_is_per_token(
    arrivals: Arrivals, latencies_us: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = Tally(warm_up_tokens=0)
    sent(arrivals, tally, monkeypatch)
    assert tally.inter_token_us == latencies_us
    assert tally.total == 4


STREAM = b"".join(piece for _, piece in FOUR)


@pytest.mark.parametrize(
    "stream",
    [
        STREAM.replace(b"\n", b"\r\n"),
        STREAM.replace(b"\n", b"\r"),
        STREAM.replace(b"data: ", b"event: message\nid: 7\nretry: 10\ndata: "),
        STREAM.replace(b"data: ", b"data:"),
        STREAM.replace(b'{"choices"', b'{\ndata: "choices"'),
        STREAM.replace(b"[DONE]", b"[DONE] "),
        STREAM.removesuffix(b"\n\n"),
        b"data: \n\ndata\n\n: ping\n\n" + STREAM,
        STREAM.replace(b"data: [DONE]", b"event: ping\ndata: {}\n\ndata: [DONE]"),
        b"\xef\xbb\xbf" + STREAM,
        STREAM + b"data: after the end\n\n",
    ],
    ids=[
        "CRLF", "CR", "other fields", "no space after the colon", "data on two lines",
        "a space after [DONE]", "no blank line after [DONE]", "empty data and comments", "pings",
        "a byte order mark", "something after [DONE]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_event_streams_of_every_form(
    stream: bytes, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standard's forms, and what servers and proxies send, in pieces of any size.

    https://html.spec.whatwg.org/multipage/server-sent-events.html, 9.2.5 and 9.2.6: lines end in CR
    LF, LF or CR, a blank line ends an event, one space after the colon is dropped, lines of data
    are joined, comments and events without data are ignored.
    """
    tally = Tally(warm_up_tokens=0)
    pieces = [(30, stream[at : at + size]) for at in range(0, len(stream), size)]
    sent(pieces, tally, monkeypatch)
    assert tally.total == 4


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (STREAM[: STREAM.index(b"data: [DONE]")], "was cut off after 4 of its 4 tokens"),
        (STREAM[: len(chunk(1)) + 30], "was cut off after 1 of its 4 tokens"),
        (chunk(1) + b'event: error\r\ndata: {"error": "out of memory"}\r\n\r\n', "out of memory"),
        (chunk(1) + b"data: overloaded\n\n", "not a JSON object: b'overloaded'"),
        (STREAM.replace(b', "prompt_tokens": 3', b""), "has no usage"),
        (b"data: {" + b"x" * 1_000_001, "an event without an end"),
        ((b"data: " + b"x" * 100 + b"\n") * 11_000, "an event without an end"),
    ],
    ids=["no end", "half a chunk", "an error", "no JSON", "no usage", "a line", "lines"],
)
def test_streams_that_are_refused(
    stream: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [(30, stream[at : at + 65_536]) for at in range(0, len(stream), 65_536)]
    with pytest.raises(Failure, match=message):
        sent(pieces, Tally(warm_up_tokens=0), monkeypatch)


def test_distributions_keep_three_digits() -> None:
    assert distribution([12_345, 12_344, 7]) == {"value_us": [7, 12_300], "count": [1, 2]}
