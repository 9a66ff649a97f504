"""A server as its clients' process sees it: started here or found, asked over HTTP, and ended."""

import contextlib
import http.client
import json
import math
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

LAUNCHER = Path(__file__).parent / "workers" / "vllm_server.py"
GENERATED, PREEMPTED = "vllm:generation_tokens_total", "vllm:num_preemptions_total"
_PROMPTS = "vllm:prompt_tokens_total"
_QUERIED, _CACHED = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
EVENT_BYTES = 1_000_000  # of one event of a stream, or the launcher's line; they have some 500
DEATH_GRACE_S = 1.0  # for a server to end after the first sign that it will
EXCERPT_BYTES = 500
_HOST = "127.0.0.1"
_END_GRACE_S = 8.0
_ANSWER_BYTES = 16_000_000  # of a GET; vLLM's /metrics has some 100 kB
_COUNTED = 2**53  # Prometheus's counters are floats
_START = re.compile(
    r"^process_start_time_seconds ([0-9]+(?:\.[0-9]+)?(?:e\+?[0-9]{1,2})?)$", flags=re.M
)
_KEY = "The key of an attached server is read from PYTEST_ENERGY_API_KEY."
_LIMIT = "If it needs longer: --energy-load-timeout SECONDS"
_UNREPORTED = (
    "the server started, but has not reported its engine's settings and GPUs: this vLLM makes its "
    "engine where that cannot be seen, as with several API servers, another front end or a V0 "
    "engine.\n"
    "Have it start a single API server in Python, or start it yourself and measure it: --energy-url"
)
ANOTHER = (
    "the server at {url} is another one than before: {why}. It was restarted, or several servers "
    "share the address.\nMeasure one server, while it keeps running."
)
_REDIRECTED = "It sends its clients to another address: give vLLM's own."
_PROXY = "A proxy answers, and does not reach vLLM: give vLLM's own address, or start it."
_REMEDIES = {
    **dict.fromkeys((301, 302, 303, 307, 308), _REDIRECTED),
    401: f"It requires an API key; none was sent, or it was wrong. {_KEY}",
    403: f"The API key does not permit this. {_KEY}",
    404: "It serves another model, or lacks an endpoint that vLLM provides.",
    429: "It, or a proxy in front of it, limits the number of requests: lift the limit for this "
    "runner, or measure smaller batch_sizes.",
    **dict.fromkeys((502, 504), _PROXY),
    503: "It is starting, or its engine has ended: read its log, and wait until it is healthy.",
}


class Failure(Exception):
    """Something that ends the measurement; the message says what and, if known, what to do."""


class RejectedText(Failure):
    """A text that the server's tokenizer or chat template does not accept."""


class Broken(Failure):
    """What a dying server does; how it ended says more, if it does end."""


class Counters(NamedTuple):
    """What a server has counted so far; None if it does not.

    Attributes:
        generated: tokens.
        preemptions: of requests.
        prompt_tokens: that it was sent.
        queried_tokens: of prompts, that its prefix cache was asked for; none if that is off.
        cached_tokens: of these, that it served.
    """

    generated: int
    preemptions: int | None
    prompt_tokens: int | None
    queried_tokens: int | None
    cached_tokens: int | None

    def since(self, before: "Counters", name: str) -> int | None:
        """What one of them has counted since `before`; None if it has not."""
        then, now = getattr(before, name), getattr(self, name)
        return None if then is None or now is None else now - then

    def served_since(self, before: "Counters") -> dict[str, int] | None:
        """Prompt tokens since `before`, and those from the prefix cache; None if not counted."""
        cached = self.since(before, "cached_tokens")
        tokens = self.since(before, "queried_tokens") or self.since(before, "prompt_tokens")
        if cached is None or tokens is None or not 0 <= cached <= tokens:
            return None
        return {"prompt_tokens": tokens, "cached_tokens": cached}


class Server:
    """A server that this process started, or one that it found.

    Args:
        host, port: where it listens.
        model: the name that requests give.
        process: its main process; None if it was found.
        api_key: sent with every request; None if it wants none.
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
        self.started: float | None = None  # of one that was found, if it reports that
        self._generated = 0  # tokens, when last asked
        self.headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}

    @property
    def url(self) -> str:
        """The beginning of its addresses."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def ended(self, wait_s: float = 0.0) -> str | None:
        """How the server ended; None while it runs, or if that cannot be seen."""
        if self.process is None:
            return None
        deadline = time.monotonic() + wait_s
        while (status := self.process.poll()) is None:
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.02)
        if status < 0:
            return f"the server was ended by {signal.Signals(-status).name}"
        return f"the server exited with status {status}"

    def get(self, path: str, timeout_s: float = 10.0) -> tuple[int, str]:
        """Status and body of a GET.

        Raises:
            OSError, http.client.HTTPException: no answer.
            Failure: the answer is too long.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request("GET", path, headers=self.headers)
            response = connection.getresponse()
            body = response.read(_ANSWER_BYTES + 1)
            if len(body) > _ANSWER_BYTES:
                limit = f"{_ANSWER_BYTES / 1e6:g} MB"
                raise Failure(f"the server's answer to {path} exceeds {limit}: this is not vLLM")
            return response.status, body.decode(errors="replace")
        finally:
            connection.close()

    def answers(self) -> bool:
        """Whether this very server, by the name of its model, answers."""
        try:
            models = json.loads(self.get("/v1/models", timeout_s=2.0)[1])["data"]
            return any(model["id"] == self.model for model in models)
        except (
            OSError, http.client.HTTPException, Failure, ValueError, KeyError, TypeError,
            RecursionError,
        ):  # fmt: skip
            return False

    def expect(self, path: str) -> str:
        """The body of a GET that must succeed.

        Raises:
            OSError, http.client.HTTPException: no answer.
            Failure: another status, or the answer is too long.
        """
        status, body = self.get(path)
        if status != 200:
            raise Failure(refusal(status, f"to {path}", body[:EXCERPT_BYTES]))
        return body

    def post(
        self, path: str, content: Mapping[str, Any], timeout_s: float = 60.0
    ) -> tuple[int, str]:
        """Status and body of a POST.

        Raises:
            OSError, http.client.HTTPException: no answer.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        headers = {"Content-Type": "application/json", **self.headers}
        try:
            connection.request("POST", path, json.dumps(content), headers)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()

    def tokens(self, **text: Any) -> int:
        """Tokens of a prompt (`prompt`) or a chat (`messages`), by the server's own tokenizer.

        Raises:
            RejectedText: the server does not accept it.
            Failure: it does not answer, or not as vLLM would.
        """
        content = {"model": self.model, "add_special_tokens": False, **text}
        try:
            status, body = self.post("/tokenize", content)
        except (OSError, http.client.HTTPException) as error:
            how = self.ended(DEATH_GRACE_S)
            raise Failure(how or f"the server's /tokenize does not answer: {error!r}") from None
        if status in (400, 422):
            raise RejectedText(body[:EXCERPT_BYTES].strip())
        if status != 200:
            raise Failure(refusal(status, "to /tokenize", body[:EXCERPT_BYTES]))
        try:
            count = json.loads(body)["count"]
        except (ValueError, KeyError, TypeError):
            count = None
        if type(count) is not int:
            answer = body[:EXCERPT_BYTES]
            raise Failure(f"the server's /tokenize does not answer as vLLM would: {answer}")
        return count

    def counters(self) -> Counters:
        """Its own count of tokens and more.

        Raises:
            Failure: it does not count tokens, or is no longer the one that was found.
        """
        try:
            status, text = self.get("/metrics")
        except (OSError, http.client.HTTPException) as error:
            how = self.ended(DEATH_GRACE_S)
            raise Failure(how or f"the server's /metrics cannot be read: {error!r}") from None
        generated = counter(text, GENERATED) if status == 200 else None
        if generated is None:
            raise Failure(
                f"the server's /metrics has no {GENERATED} (status {status}), so the tokens that "
                "clients count cannot be verified.\nLeave disable_log_stats at its default, false."
            )
        if self.started is not None and start_in(text) != self.started:
            why = "its /metrics reports another start"
            raise Failure(ANOTHER.format(url=self.url, why=why))
        if generated < self._generated:
            why = f"it counted {self._generated} tokens, and now {generated}"
            raise Failure(ANOTHER.format(url=self.url, why=why))
        self._generated = generated
        others = (counter(text, name) for name in (PREEMPTED, _PROMPTS, _QUERIED, _CACHED))
        return Counters(generated, *others)

    def end(self) -> None:
        """Ask a server that was started here to exit, and wait a moment.

        What is left of it is killed with the session.
        """
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        self.ended(_END_GRACE_S)


def counter(metrics: str, name: str) -> int | None:
    """The sum of a Prometheus counter over its labels; None if it is not there, or not a count."""
    values = re.findall(rf"^{re.escape(name)}(?:{{[^}}\n]*}})? ([0-9.eE+]+)", metrics, flags=re.M)
    try:
        total = math.fsum(map(float, values))
    except (ValueError, OverflowError):
        return None
    return round(total) if values and total < _COUNTED else None


def start_in(metrics: str) -> float | None:
    """When the server's process started, in seconds since 1970; None if that is not reported."""
    found = _START.search(metrics)
    return float(found[1]) if found else None


def refusal(status: int, reason: str | None, body: str) -> str:
    """The message for an answer with an error status."""
    what = "failed on" if status >= 500 else "refused"
    message = f"the server {what} a request: {status} {reason or ''}: {body.strip()}"
    return f"{message}\n{_REMEDIES[status]}" if status in _REMEDIES else message


def start_server(command: Mapping[str, Any]) -> tuple[Server, dict[str, Any]]:
    """Start `vllm serve` and wait until it is healthy.

    Args:
        command: "load", see server_worker.

    Returns:
        The server, and what its launcher reports.

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
            f"cannot run {command['python']}: {error.strerror}.\n"
            "Give the path of a Python interpreter: --energy-python PATH"
        ) from None
    finally:
        os.close(facts_write)
    server = Server(_HOST, int(command["port"]), command["model"], process)
    too_late = f"the server did not load its model within {timeout_s:.0f} s.\n{_LIMIT}"
    facts = _facts(server, facts_read, deadline, too_late)
    wait_until_healthy(server, deadline, timeout_s)
    return server, facts


def wait_until_healthy(server: Server, deadline: float, timeout_s: float) -> None:
    """Ask /health until it answers 200.

    Args:
        server: has loaded its model.
        deadline: on time.monotonic().
        timeout_s: the whole limit, for the message.

    Raises:
        Failure: the server ended, or the deadline has passed.
    """
    answer = "nothing"
    while answer != "200":
        if time.monotonic() > deadline:
            raise Failure(
                f"the server loaded its model, but was not healthy within {timeout_s:.0f} s: "
                f"/health last answered {answer}.\n{_LIMIT}"
            )
        if (how := server.ended()) is not None:
            raise Failure(how)
        try:
            answer = str(server.get("/health", timeout_s=2.0)[0])
        except (OSError, http.client.HTTPException) as error:
            answer = f"with {error!r}"
        time.sleep(0.05)


def _facts(server: Server, facts_fd: int, deadline: float, too_late: str) -> dict[str, Any]:
    """The launcher's one line.

    Raises:
        Failure: it does not come, is an error, or is not what the launcher writes.
    """
    line = _line(server, facts_fd, deadline, too_late)
    try:
        facts: dict[str, Any] = json.loads(line)
        error = str(facts["message"]) if facts["event"] == "error" else None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Failure(f"unreadable message from the server's launcher: {line[:80]!r}") from None
    if error is not None:
        raise Failure(error)
    return facts


def _line(server: Server, facts_fd: int, deadline: float, too_late: str) -> bytes:
    with os.fdopen(facts_fd, "rb") as pipe:
        line = b""
        while not line.endswith(b"\n"):
            if time.monotonic() > deadline:
                raise Failure(too_late)
            answers = server.answers()  # asked first: it does so after it has reported
            if not select.select([pipe], [], [], 0.5)[0]:
                if answers:
                    raise Failure(_UNREPORTED)
                continue
            data = os.read(pipe.fileno(), 65_536)
            if not data:
                raise Failure(server.ended(5.0) or _UNREPORTED)
            line += data
            if len(line) > EVENT_BYTES:
                raise Failure("the message from the server's launcher is too long")
        return line
