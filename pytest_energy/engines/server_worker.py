"""Closed-loop load on an OpenAI-compatible server over HTTP, and the server itself, in a process of its own.

Runs under the interpreter that runs pytest and speaks the protocol of vllm_worker.py on its two pipes, so that recording and
turns need not know which engine there is. What differs:

    {"command": "load", "python": ..., "arguments": [...], "model": name, "port": n, "timeout_s": t, "files": folder or null}
        starts `vllm serve` in this process's session and waits until it is healthy; the folder is deleted if the parent dies
    {"command": "attach", "host": ..., "port": n, "api_key": text or null}
        → {"event": "ready", ...}        of a server that runs already: what it reports, "unknown" for the rest; it is never ended
    {"command": "tokenize", ...}
        asks the server itself, at /tokenize
    {"command": "run", ...}
        prompts from a file go to /v1/chat/completions as texts, which the server renders and tokenizes; others to /v1/completions
        → {"event": "steps", ...}        tokens as the clients received them, those within 5 ms as one step
    {"command": "stop"}
        lets the requests in flight end, asks the server for its own count of tokens
        → {"event": "steps", ...}        empty, while tokens still come
        → {"event": "stopped", "run": id, "time_ns": t, "client": {...}}      t: when the last token came
    {"command": "rest"}
        → {"event": "resting", "tokens": n, "paused": null}      tokens: the server's own count
"""

import asyncio
import contextlib
import http.client
import itertools
import json
import math
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_energy.engines.workers.vllm_worker import NO_TEMPLATE, REFUSED, Channel, kill_the_others

LAUNCHER = Path(__file__).with_name("workers") / "vllm_server.py"
HOST = "127.0.0.1"
GENERATED, PREEMPTED = "vllm:generation_tokens_total", "vllm:num_preemptions_total"
IN_FLIGHT = ("vllm:num_requests_running", "vllm:num_requests_waiting")
UNKNOWN = "unknown"
# Settings that vllm_worker.describe knows and a server does not report.
UNREPORTED = (
    "dtype", "quantization", "max_num_seqs", "max_num_batched_tokens", "async_scheduling", "enforce_eager", "cudagraph_mode",
    "tensor_parallel_size", "pipeline_parallel_size", "tokenizer",
)  # fmt: skip
_STEP_NS = (
    5_000_000  # tokens that come within it count as one step; a decode step of a batch takes longer
)
_FLUSH_S = 0.05
_END_GRACE_S = 8.0
_DEATH_GRACE_S = 1.0  # for a server to end after the first sign that it will
_COUNT_GRACE_S = 3.0  # for the server's own count to follow the last token
_BODY_BYTES = 500
_NO_TEMPLATE = re.compile(
    "default chat template is no longer allowed|chat_template is not set|must provide a chat template",
    re.I,
)
_ANSWER_BYTES = 16_000_000  # of a GET; vLLM's /metrics has some 100 kB
_EVENT_BYTES = (
    1_000_000  # of one event of a stream, and of the launcher's one line; they have some 500 bytes
)
_COUNTED = 2**53  # a counter of Prometheus is a float
_OPENING = 4  # tokens in which every prompt differs from the others
_CACHE_SIZES = ("num_gpu_blocks", "block_size")
_REMEDIES = {
    401: "It wants an API key, and none or a wrong one was sent. The key of an attached server is read from PYTEST_ENERGY_API_KEY.",
    403: "The API key has not the rights for this. The key of an attached server is read from PYTEST_ENERGY_API_KEY.",
    404: "It serves another model, or has no such path, as vLLM has.",
    429: "It, or something before it, limits how many requests it takes: lift the limit for this runner, or measure smaller batch_sizes.",
}


class Failure(Exception):
    """Something that ends the measurement; the message says what and, where it is known, what to do."""


class Refused(Failure):
    """A text that the server's tokenizer or chat template does not take."""


class Broken(Failure):
    """What a server does that is ending; how it ended says more, if it does."""


class Server:
    """A server that this process started, or one that it found.

    Args:
        host, port: where it listens.
        model: the name that requests give.
        process: its main process; None for one that was found.
        api_key: sent with every request; None where it wants none.
    """

    def __init__(
        self,
        host: str,
        port: int,
        model: str,
        process: subprocess.Popen[bytes] | None = None,
        api_key: str | None = None,
    ) -> None:
        self.host, self.port, self.model, self.process = host, port, model, process
        self.headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}

    @property
    def url(self) -> str:
        """Where its paths begin."""
        return (
            f"http://[{self.host}]:{self.port}"
            if ":" in self.host
            else f"http://{self.host}:{self.port}"
        )

    def ended(self, wait_s: float = 0.0) -> str | None:
        """How the server ended; None while it runs, or where that cannot be seen."""
        if self.process is None:
            return None
        deadline = time.monotonic() + wait_s
        while (status := self.process.poll()) is None:
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.02)
        return (
            f"the server was ended by {signal.Signals(-status).name}"
            if status < 0
            else f"the server exited with status {status}"
        )

    def get(self, path: str, timeout_s: float = 10.0) -> tuple[int, str]:
        """Status and body of a GET.

        Raises:
            OSError, http.client.HTTPException: no answer.
            Failure: it has no end in sight.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request("GET", path, headers=self.headers)
            response = connection.getresponse()
            body = response.read(_ANSWER_BYTES + 1)
            if len(body) > _ANSWER_BYTES:
                raise Failure(
                    f"the server's answer to {path} is longer than {_ANSWER_BYTES / 1e6:g} MB: it is none of vLLM's"
                )
            return response.status, body.decode(errors="replace")
        finally:
            connection.close()

    def post(
        self, path: str, content: Mapping[str, Any], timeout_s: float = 60.0
    ) -> tuple[int, str]:
        """Status and body of a POST.

        Raises:
            OSError, http.client.HTTPException: no answer.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request(
                "POST",
                path,
                json.dumps(content),
                {"Content-Type": "application/json", **self.headers},
            )
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()

    def tokens(self, **text: Any) -> int:
        """How many tokens a prompt (`prompt`) or a chat (`messages`) has, by the server's own tokenizer and chat template.

        Raises:
            Refused: it does not take it.
            Failure: it does not answer, or answers nothing that vLLM would.
        """
        try:
            status, body = self.post(
                "/tokenize", {"model": self.model, "add_special_tokens": False, **text}
            )
        except (OSError, http.client.HTTPException) as error:
            raise Failure(
                self.ended(_DEATH_GRACE_S) or f"the server's /tokenize cannot be asked: {error!r}"
            ) from None
        if status in (400, 422):
            raise Refused(body[:_BODY_BYTES].strip())
        if status != 200:
            raise Failure(_refusal(status, "to /tokenize", body[:_BODY_BYTES]))
        try:
            count = json.loads(body)["count"]
        except (ValueError, KeyError, TypeError):
            count = None
        if type(count) is not int:
            raise Failure(
                f"the server's /tokenize answers nothing that vLLM would: {body[:_BODY_BYTES]}"
            )
        return count

    def counters(self) -> tuple[int, int | None]:
        """The server's own counts so far: tokens generated, and preemptions (None where it does not count them).

        Raises:
            Failure: there is no count of tokens.
        """
        try:
            status, text = self.get("/metrics")
        except (OSError, http.client.HTTPException) as error:
            raise Failure(
                self.ended(_DEATH_GRACE_S) or f"the server's /metrics cannot be read: {error!r}"
            ) from None
        generated = counter(text, GENERATED) if status == 200 else None
        if generated is None:
            raise Failure(
                f"the server's /metrics has no {GENERATED} (status {status}), so the tokens of its streams cannot be checked.\n"
                "Leave disable_log_stats at its default, false."
            )
        return generated, counter(text, PREEMPTED)

    def end(self) -> None:
        """Ask it to end, and wait for a moment; what is left is killed with the session. One that was found is left alone."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        self.ended(_END_GRACE_S)


def counter(metrics: str, name: str) -> int | None:
    """The sum of a counter over its labels in Prometheus' text format; None where it is not there, or no count."""
    values = re.findall(rf"^{re.escape(name)}(?:{{[^}}\n]*}})? ([0-9.eE+]+)", metrics, flags=re.M)
    try:
        total = math.fsum(map(float, values))
    except (ValueError, OverflowError):
        return None
    return round(total) if values and total < _COUNTED else None


def start_server(command: Mapping[str, Any]) -> tuple[Server, dict[str, Any]]:
    """Start `vllm serve` and wait until it is healthy. Returns it and what its launcher says of it.

    Raises:
        Failure: it did not start, load or become healthy.
    """
    timeout_s = float(command["timeout_s"])
    deadline = time.monotonic() + timeout_s
    facts_read, facts_write = os.pipe()
    # The key of another server must not lock us out of this one, which only this machine reaches.
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
    try:
        process = subprocess.Popen(
            [command["python"], "-u", str(LAUNCHER), str(facts_write), *command["arguments"]],
            stdin=subprocess.DEVNULL,
            pass_fds=(facts_write,),
            env=environment,
        )
    except OSError as error:
        raise Failure(
            f"cannot run {command['python']}: {error.strerror}.\nGive the path of a Python interpreter: --energy-python PATH"
        ) from None
    finally:
        os.close(facts_write)
    server = Server(HOST, int(command["port"]), command["model"], process)
    longer = "If it needs longer: --energy-load-timeout SECONDS"
    facts = _facts(
        server,
        facts_read,
        deadline,
        f"the server did not load its model within {timeout_s:.0f} s.\n{longer}",
    )
    answer = "nothing"
    while answer != "200":
        if time.monotonic() > deadline:
            raise Failure(
                f"the server loaded its model, but was not healthy within {timeout_s:.0f} s: /health last answered {answer}.\n{longer}"
            )
        if (how := server.ended()) is not None:
            raise Failure(how)
        try:
            answer = str(server.get("/health", timeout_s=2.0)[0])
        except (OSError, http.client.HTTPException) as error:
            answer = f"with {error!r}"
        time.sleep(0.05)
    return server, facts


def _facts(server: Server, facts_fd: int, deadline: float, too_late: str) -> dict[str, Any]:
    """The launcher's one line.

    Raises:
        Failure: it does not come, is an error, or none.
    """
    with os.fdopen(facts_fd, "rb") as pipe:
        line = b""
        while not line.endswith(b"\n"):
            if time.monotonic() > deadline:
                raise Failure(too_late)
            if not select.select([pipe], [], [], 0.1)[0]:
                continue
            data = os.read(pipe.fileno(), 65_536)
            if not data:
                raise Failure(
                    server.ended(5.0)
                    or "the server started, but does not say what it became. It must be one API server: engine_args={'api_server_count': 1}"
                )
            line += data
            if len(line) > _EVENT_BYTES:
                raise Failure("the server's launcher tells more than it should")
    try:
        facts: dict[str, Any] = json.loads(line)
        error = str(facts["message"]) if facts["event"] == "error" else None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Failure(f"the server's launcher tells something unreadable: {line[:80]!r}") from None
    if error is not None:
        raise Failure(error)
    return facts


def attach(command: Mapping[str, Any]) -> tuple[Server, dict[str, Any]]:
    """Find out what a running server says of itself. Returns it and that.

    Raises:
        Failure: it does not answer, has another key, serves no model or several, or is at work.
    """
    server = Server(command["host"], int(command["port"]), "", api_key=command["api_key"])
    try:
        _asked(server, "/health")
        models, metrics = _asked(server, "/v1/models"), _asked(server, "/metrics")
        status, version = server.get("/version")
    except (OSError, http.client.HTTPException) as error:
        raise Failure(
            f"nothing answers at {server.url} ({type(error).__name__}: {error}).\nStart the server, or give its address: --energy-url"
        ) from None
    served, vllm = served_models(models), version_of(version) if status == 200 else UNKNOWN
    if served is None or vllm is None:
        raise Failure(
            f"{server.url}/v1/models or /version answers nothing that vLLM would: {models[:_BODY_BYTES]}"
        )
    names = list(served)
    if len(names) != 1:
        told = ", ".join(names[:10])
        raise Failure(
            f"the server at {server.url} serves {len(names)} models ({told}): which one was measured must be certain"
        )
    server.model = names[0]
    server.counters()
    in_flight = sum(counter(metrics, name) or 0 for name in IN_FLIGHT)
    if in_flight:
        raise Failure(
            f"the server is at work on {in_flight} requests of others.\nMeasure it when it serves no one else."
        )
    cache = cache_config(metrics)
    blocks, block_size = (
        int(cache[name]) if re.fullmatch("[0-9]{1,12}", cache.get(name, "")) else 0
        for name in _CACHE_SIZES
    )
    started = re.search(
        r"^process_start_time_seconds ([0-9]+(?:\.[0-9]+)?(?:e\+?[0-9]{1,2})?)$",
        metrics,
        flags=re.M,
    )
    return server, {
        "event": "ready",
        "versions": {"vllm": vllm},
        "settings": {
            **dict.fromkeys(UNREPORTED, UNKNOWN),
            "served_model": Path(server.model).name
            if server.model.startswith("/")
            else server.model,  # a fingerprint holds no path
            "max_model_len": served[server.model],
            "block_size": block_size or UNKNOWN,
            "kv_cache_dtype": cache.get("cache_dtype", UNKNOWN),
            "enable_prefix_caching": {"True": True, "False": False}.get(
                cache.get("enable_prefix_caching", ""), UNKNOWN
            ),
        },
        "kv_cache_tokens": blocks * block_size,
        "vocabulary_size": 0,
        "platform": UNKNOWN,
        "gpu_uuids": [],
        "started": float(started[1]) if started else None,
    }


def served_models(answer: str) -> dict[str, Any] | None:
    """The models that /v1/models lists, adapters aside, each with its max_model_len; None where the answer is none of vLLM's."""
    try:
        listed = json.loads(answer)["data"]
        served = {
            model["id"]: model.get("max_model_len", UNKNOWN)
            for model in listed
            if not model.get("parent")
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return (
        served
        if all(
            isinstance(name, str) and name and type(length) in (int, str)
            for name, length in served.items()
        )
        else None
    )


def version_of(answer: str) -> str | None:
    """What /version says; None where the answer is none of vLLM's."""
    try:
        version = json.loads(answer)["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return version if isinstance(version, str) and version else None


def cache_config(metrics: str) -> dict[str, str]:
    """The labels of vllm:cache_config_info, the KV cache's settings; empty where it is not there."""
    labels = re.search(r"^vllm:cache_config_info{([^}\n]{0,10000})}", metrics, flags=re.M)
    return dict(re.findall(r'\b([a-z_]{1,100})="([^"]*)"', labels[1])) if labels else {}


def _asked(server: Server, path: str) -> str:
    """What a server answers to a path that it must know."""
    status, body = server.get(path)
    if status != 200:
        raise Failure(_refusal(status, f"to {path}", body[:_BODY_BYTES]))
    return body


def distribution(values_us: Sequence[int]) -> dict[str, list[int]]:
    """Values (µs) to three digits, each with how often it came."""
    counted = Counter(round(value, min(0, 3 - len(str(value)))) for value in values_us)
    return {"value_us": sorted(counted), "count": [counted[value] for value in sorted(counted)]}


class Tally:
    """What the clients receive: tokens in steps, and how long they waited for them.

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
        """Tokens that came at `now_ns`; a chat begins with a chunk that holds none."""
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


def tokenize(
    server: Server, conversations: Sequence[Mapping[str, Any]]
) -> list[tuple[int, int | None]]:
    """Tokens of each prompt under the server's chat template, and of each reply (None where there is none).

    Raises:
        Failure: it has no chat template, or does not take a line.
    """
    lengths = []
    for conversation in conversations:
        try:
            prompt = server.tokens(messages=conversation["messages"])
            reply = conversation["reply"]
            lengths.append((prompt, None if reply is None else server.tokens(prompt=reply)))
        except Refused as refused:
            if _NO_TEMPLATE.search(str(refused)):
                raise Failure(NO_TEMPLATE) from None
            raise Failure(REFUSED.format(line=conversation["line"], error=refused)) from None
    return lengths


@dataclass(frozen=True)
class Request:
    """What a client asks for: where, the body up to the end, how long prompt and answer are."""

    path: str
    body: bytes
    input_tokens: int
    output_tokens: int


class Requests:
    """The requests of a load, in order. No two prompts begin alike, so that a server that caches prefixes has to read each whole.

    Args:
        model: the name that requests give.
        command: "run".
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
        self._unique = itertools.count(
            random.randrange(10**12)
        )  # an earlier load's prompts may be cached, too
        # What a model's generation_config.json may set is set here, so that nothing interferes.
        request = {
            "model": model, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
        }  # fmt: skip
        self._head = json.dumps(request, separators=(",", ":")).encode()[:-1]
        self._texts: list[bytes] = []
        self._tails: list[bytes] = []
        if isinstance(command["prompts"], str):
            self._texts = [
                json.dumps(conversation["messages"]).encode()
                for conversation in tokenized[command["prompts"]]
            ]
            return
        prompts = command["prompts"]
        self._opening = sorted(set(prompts[0]))
        # Which prompt and which length meet comes again after so many requests.
        for number in range(math.lcm(len(prompts), len(self._lengths))):
            prompt = prompts[number % len(prompts)][: self._lengths[number % len(self._lengths)][0]]
            self._tails.append(b"".join(b",%d" % token for token in prompt[_OPENING:]))

    def next(self) -> Request:
        """The next one."""
        sent = next(self._sent)
        number, left = self._first_wave[sent] if sent < len(self._first_wave) else (sent, None)
        input_tokens, output_tokens = self._lengths[number % len(self._lengths)]
        output_tokens = left or output_tokens
        if self._texts:
            path, prompt = "/v1/chat/completions", self._text(number)
        else:
            path, prompt = "/v1/completions", self._ids(number, input_tokens)
        return Request(
            path,
            b'%b,%b,"max_tokens":%d}' % (self._head, prompt, output_tokens),
            input_tokens,
            output_tokens,
        )

    def _ids(self, number: int, input_tokens: int) -> bytes:
        unique, ids = next(self._unique), self._opening
        opening = b",".join(
            b"%d" % ids[unique // len(ids) ** place % len(ids)]
            for place in range(min(_OPENING, input_tokens))
        )
        return b'"prompt":[%b%b]' % (opening, self._tails[number % len(self._tails)])

    def _text(self, number: int) -> bytes:
        """A text is sent as it is; what a server caches goes by the salt, too."""
        return b'"messages":%b,"cache_salt":"%d"' % (
            self._texts[number % len(self._texts)],
            next(self._unique),
        )


class Load:
    """`batch_size` clients, each of which asks again as soon as it was answered, until `stop`."""

    def __init__(self, session: Any, requests: Requests, batch_size: int, tally: Tally) -> None:
        self._session, self._requests, self._batch_size, self._tally = (
            session,
            requests,
            batch_size,
            tally,
        )
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.active = 0
        self.failure: BaseException | None = None

    def start(self) -> None:
        """All clients ask for the first time."""
        self.active = self._batch_size
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._batch_size)]

    def stop(self) -> None:
        """Let no client ask again."""
        self._stopping = True

    async def cancel(self) -> None:
        """Take back what is in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self) -> None:
        try:
            while not self._stopping:
                await self._request(self._requests.next())
        except Exception as error:
            self.failure = self.failure or error
        finally:
            self.active -= 1

    async def _request(self, request: Request) -> None:
        tally, warm, length = self._tally, self._tally.warm, request.output_tokens
        started_ns = last_ns = time.monotonic_ns()
        done, total, reason, ended, rest, prompt_tokens = 0, -1, None, False, b"", None
        async with self._session.post(request.path, data=request.body) as response:
            if response.status != 200:
                text = (await response.content.read(_BODY_BYTES)).decode(errors="replace")
                raise (Broken if response.status >= 500 else Failure)(
                    _refusal(response.status, response.reason, text)
                )
            async for data in response.content.iter_any():
                now_ns = time.monotonic_ns()
                *events, rest = _split(rest + data)
                for event in events:
                    if event == b"data: [DONE]":
                        ended = True
                    if ended or not event.startswith(b"data: "):
                        continue
                    chunk = _parsed(event)
                    total = _generated(chunk, done, length)
                    choice = _choice(chunk)
                    if choice is None:
                        prompt_tokens = chunk["usage"].get("prompt_tokens")
                        continue  # the whole request's usage, after its last token
                    reason = choice.get("finish_reason")
                    count = total - done
                    if count and tally.warm:
                        if done and now_ns > last_ns:
                            tally.inter_token_us.append((now_ns - last_ns) // 1000)
                        elif warm and not done:
                            tally.first_token_us.append((now_ns - started_ns) // 1000)
                    done, last_ns = total, now_ns
                    if reason is not None and warm and tally.warm:
                        tally.end_to_end_us.append((now_ns - started_ns) // 1000)
                    tally.add(now_ns, count, int(reason is not None))
        if not ended:
            raise Broken(f"a stream was cut: {done} of its {length} tokens came, then it ended")
        if not done == total == length:
            raise Failure(
                f"a request ended {length - min(done, total)} tokens off its set length of {length} (finish_reason {reason!r})"
            )
        _check_prompt(request, prompt_tokens)


def _check_prompt(request: Request, prompt_tokens: int | None) -> None:
    if prompt_tokens != request.input_tokens:
        raise Failure(
            f"the server read {prompt_tokens} tokens of a prompt that has {request.input_tokens}: it does not do what was asked.\n"
            "Something before it, or one of its settings, changes prompts (truncation, a chat template of its own): turn that off."
        )


def _split(data: bytes) -> list[bytes]:
    """Events of a stream, the last of which may not be whole yet."""
    events = data.split(b"\n\n")
    if len(events[-1]) > _EVENT_BYTES:
        raise Failure("a stream holds an event without an end: it is none of vLLM's")
    return events


def _parsed(event: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(event[6:])
    except (ValueError, RecursionError):
        chunk = None
    if not isinstance(chunk, dict):
        raise Failure(f"a stream holds something that is no JSON object: {event[:80]!r}")
    if "error" in chunk:
        raise Broken(
            f"the server failed in the middle of a stream: {json.dumps(chunk['error'])[:_BODY_BYTES]}"
        )
    return chunk


def _choice(chunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the chunk says of the one completion that was asked for; None where it says nothing."""
    choices = chunk.get("choices")
    if not choices:
        return None
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise Failure(f"a stream's chunk has choices that are none of vLLM's: {str(choices)[:80]}")
    return choices[0]


def _generated(chunk: Mapping[str, Any], before: int, length: int) -> int:
    """How many tokens of its request have come with this chunk and those before it, by the server's own account."""
    try:
        tokens = chunk["usage"]["completion_tokens"]
    except (KeyError, TypeError):
        tokens = None
    if type(tokens) is not int:
        raise Failure(
            "a stream's chunk has no usage, so its tokens cannot be counted.\n"
            "The server must know stream_options.continuous_usage_stats, as vLLM does."
        )
    if tokens < before:
        raise Failure(f"the usage of a request fell from {before} to {tokens} tokens")
    if tokens > length:
        raise Failure(f"a request ended {tokens - length} tokens over its set length of {length}")
    return tokens


def _refusal(status: int, reason: str | None, body: str) -> str:
    remedy = _REMEDIES.get(status, "")
    what = "failed on" if status >= 500 else "refused"
    return f"the server {what} a request: {status} {reason or ''}: {body.strip()}" + (
        f"\n{remedy}" if remedy else ""
    )


async def drive(
    server: Server,
    channel: Channel,
    command: Mapping[str, Any],
    tokenized: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Keep the load on the server until the next command comes, and stream the steps.

    Raises:
        Failure: the server ended, refused, cut a stream or miscounted.
    """
    import aiohttp

    run, batch_size = command["run"], len(command["first_wave"])
    requests = Requests(server.model, command, tokenized)
    generated, preempted = server.counters()
    tally = Tally(int(command["warm_up_tokens"]))
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Content-Type": "application/json", **server.headers}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
    async with aiohttp.ClientSession(
        server.url, connector=connector, headers=headers, timeout=timeout
    ) as session:
        load = Load(session, requests, batch_size, tally)
        cpu_s, started_s = time.process_time(), time.monotonic()
        load.start()
        try:
            while not channel.has_command():
                await _watch(load, server)
                _send_steps(channel, run, tally)
            tally.closed = True
            _send_steps(channel, run, tally)
            cpu_s, seconds = time.process_time() - cpu_s, time.monotonic() - started_s
            load.stop()
            seen = tally.total
            while load.active:
                await _watch(load, server)
                if tally.total > seen:  # so that the parent sees that there is progress
                    seen = tally.total
                    channel.send(event="steps", run=run, time_ns=[], tokens=[], finished=[])
        finally:
            await load.cancel()
    deadline = time.monotonic() + _COUNT_GRACE_S
    now_generated, now_preempted = server.counters()
    while now_generated - generated < tally.total and time.monotonic() < deadline:
        time.sleep(0.05)
        now_generated, now_preempted = server.counters()
    channel.send(
        event="stopped",
        run=run,
        time_ns=tally.last_ns,
        client={
            "first_token": distribution(tally.first_token_us),
            "inter_token": distribution(tally.inter_token_us),
            "end_to_end": distribution(tally.end_to_end_us),
            "cpu_cores": round(cpu_s / seconds, 4),
            "streamed_tokens": tally.total,
            "server_tokens": now_generated - generated,
            "preemptions": None
            if preempted is None or now_preempted is None
            else now_preempted - preempted,
        },
    )


def _send_steps(channel: Channel, run: int, tally: Tally) -> None:
    steps = tally.take()
    if steps["time_ns"]:
        channel.send(event="steps", run=run, **steps)


async def _watch(load: Load, server: Server) -> None:
    """Let the clients work for a moment.

    Raises:
        Failure: one of them failed, or the server ended.
    """
    import aiohttp

    await asyncio.sleep(_FLUSH_S)
    failure = load.failure
    if isinstance(failure, aiohttp.ClientError | OSError):
        failure = Broken(
            f"a connection to the server failed, with {load.active} others in flight: {type(failure).__name__}: {failure}"
        )
    how = server.ended(wait_s=_DEATH_GRACE_S if isinstance(failure, Broken) else 0.0)
    if how is not None:
        raise Failure(f"{how} while requests were in flight")
    if failure is not None:
        raise failure


class _Channel(Channel):
    """The pipes to the parent; what it put on disk for the server goes when it dies."""

    files: str | None = None

    def parent_gone(self) -> None:
        """Leave nothing behind."""
        if self.files is not None:
            shutil.rmtree(self.files, ignore_errors=True)
        super().parent_gone()


def serve(channel: _Channel) -> int:
    """Obey commands until told to exit; every failure is an event that names its stage."""
    stage, server = "start", None
    tokenized: dict[str, Sequence[Mapping[str, Any]]] = {}
    try:
        while True:
            command = channel.receive()
            name = command["command"]
            if name == "load":
                stage = "load"
                channel.files = command["files"]
                server, facts = start_server(command)
                channel.send(**facts)
            elif name == "attach":
                stage = "load"
                server, facts = attach(command)
                channel.send(**facts)
            elif name == "tokenize":
                stage = "tokenize"
                assert server is not None
                channel.send(event="tokenized", lengths=tokenize(server, command["conversations"]))
                tokenized[command["name"]] = command["conversations"]
            elif name == "run":
                stage = "run"
                assert server is not None
                asyncio.run(drive(server, channel, command, tokenized))
            elif name == "rest":
                stage = "rest"
                assert server is not None
                channel.send(event="resting", tokens=server.counters()[0], paused=None)
            elif name == "exit":
                if server is not None:
                    server.end()
                return 0
    except Failure as failure:
        channel.send(event="error", stage=stage, message=str(failure))
        return 3
    except BaseException as error:
        channel.send(
            event="error",
            stage=stage,
            message=f"{type(error).__name__}: {error}",
            traceback=traceback.format_exc(),
        )
        return 3


def main() -> None:
    """Started by pytest_energy.engines.server.ServerEngine."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (most, most)
    )  # a connection per client; the usual soft limit is 1024
    status = serve(_Channel(int(sys.argv[1]), int(sys.argv[2])))
    sys.stdout.flush()
    sys.stderr.flush()
    kill_the_others()  # the parent does so, too, but it may be killed before
    os._exit(status)
