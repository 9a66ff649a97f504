"""The worker of a server: starts or finds it, and is its clients, in a process of its own.

Runs under the interpreter that runs pytest and obeys the commands of vllm_worker.py. Different are:

    {"command": "load", "python": ..., "arguments": [...], "model": name, "port": n,
     "timeout_s": t, "files": folder or null}
        starts `vllm serve` in this process's session and waits until it is healthy; the folder is
        deleted if the parent dies
    {"command": "attach", "host": ..., "port": n, "api_key": text or null}
        → {"event": "ready", ...}    of a running server, which is never ended
    {"command": "tokenize", ...}     by the server, at /tokenize
    {"command": "run", ...}
        prompts from a file go to /v1/chat/completions as texts, which the server renders and
        tokenizes; others to /v1/completions
        → {"event": "steps", ...}    tokens as the clients received them, those within 5 ms as one
                                     step
    {"command": "stop"}
        lets the requests in flight end, and asks the server for its own count of tokens
        → {"event": "steps", ...}    empty, while tokens still come
        → {"event": "stopped", "run": id, "time_ns": t, "client": {...}, "prefix_cache": ...}
           t: of the last token; prefix_cache: by the server's own count
    {"command": "pause"} or {"command": "count"}
        → {"event": "idle", "tokens": n, "paused": null}    tokens: the server's own count
"""

import asyncio
import os
import re
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_energy.engines.running_server import attach
from pytest_energy.engines.server_load import RequestStream, ServerLoad, Tally
from pytest_energy.engines.server_process import (
    DEATH_GRACE_S,
    Broken,
    Counters,
    Failure,
    RejectedText,
    Server,
    start_server,
)
from pytest_energy.engines.workers.vllm_worker import (
    NO_TEMPLATE,
    REJECTED,
    Channel,
    kill_the_others,
)

_FLUSH_S = 0.05
_COUNT_GRACE_S = 3.0  # for the server's own count to follow the last token
_NO_TEMPLATE = re.compile(
    "default chat template is no longer allowed|chat_template is not set"
    "|must provide a chat template",
    re.I,
)
# What the clients need to know of conversations, by the name of their file.
Tokenized = dict[str, Sequence[Mapping[str, Any]]]


def tokenize(
    server: Server, conversations: Sequence[Mapping[str, Any]]
) -> list[tuple[int, int | None]]:
    """Tokens of each prompt under the server's chat template, and of each reply (None if none).

    Raises:
        Failure: the server has no chat template, or does not accept a line.
    """
    lengths = []
    for conversation in conversations:
        try:
            prompt = server.tokens(messages=conversation["messages"])
            reply = conversation["reply"]
            lengths.append((prompt, None if reply is None else server.tokens(prompt=reply)))
        except RejectedText as error:
            if _NO_TEMPLATE.search(str(error)):
                raise Failure(NO_TEMPLATE) from None
            raise Failure(REJECTED.format(line=conversation["line"], error=error)) from None
    return lengths


async def drive(
    server: Server, channel: Channel, command: Mapping[str, Any], tokenized: Tokenized
) -> None:
    """Keep the load on the server until the next command comes, and stream the steps.

    Raises:
        Failure: the server ended, refused, cut a stream or miscounted.
    """
    import aiohttp

    run = command["run"]
    requests = RequestStream(server.model, command, tokenized)
    before = server.counters()
    warm: asyncio.Task[Counters] | None = None
    tally = Tally(int(command["warm_up_tokens"]))
    async with aiohttp.ClientSession(
        server.url,
        connector=aiohttp.TCPConnector(limit=0),
        headers={"Content-Type": "application/json", **server.headers},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
    ) as session:
        load = ServerLoad(session, requests, len(command["first_wave"]), tally)
        cpu_s, started_s = time.process_time(), time.monotonic()
        load.start()
        try:
            while not channel.has_command():
                await _watch(load, server)
                _send_steps(channel, run, tally)
                if warm is None and tally.warm:
                    warm = asyncio.create_task(asyncio.to_thread(server.counters))
            tally.closed = True
            _send_steps(channel, run, tally)
            cpu_cores = (time.process_time() - cpu_s) / (time.monotonic() - started_s)
            load.stop()
            seen = tally.total
            while load.active:
                await _watch(load, server)
                if tally.total > seen:  # so that the parent sees that there is progress
                    seen = tally.total
                    channel.send(event="steps", run=run, time_ns=[], tokens=[], finished=[])
        finally:
            await load.cancel()
    when_warm, after = await _told(warm), _counted(server, before, tally)
    client = {
        **tally.latencies(),
        "cpu_cores": round(cpu_cores, 4),
        "streamed_tokens": tally.total,
        "server_tokens": after.generated - before.generated,
        "preemptions": after.since(before, "preemptions"),
    }
    channel.send(
        event="stopped",
        run=run,
        time_ns=tally.last_ns,
        client=client,
        prefix_cache=after.served_since(when_warm) if when_warm else None,
    )


async def _told(counters: asyncio.Task[Counters] | None) -> Counters | None:
    """What was asked for under load; None if the server was too busy to answer, or not asked."""
    try:
        return await counters if counters is not None else None
    except Failure:
        return None


def _counted(server: Server, before: Counters, tally: Tally) -> Counters:
    """The server's own count, once it has followed the tokens that clients received."""
    deadline = time.monotonic() + _COUNT_GRACE_S
    after = server.counters()
    while after.generated - before.generated < tally.total and time.monotonic() < deadline:
        time.sleep(0.05)
        after = server.counters()
    return after


def _send_steps(channel: Channel, run: int, tally: Tally) -> None:
    steps = tally.take()
    if steps["time_ns"]:
        channel.send(event="steps", run=run, **steps)


async def _watch(load: ServerLoad, server: Server) -> None:
    """Let the clients work for a moment.

    Raises:
        Failure: one of them failed, or the server ended.
    """
    import aiohttp

    await asyncio.sleep(_FLUSH_S)
    failure = load.failure
    if isinstance(failure, aiohttp.ClientError | OSError):
        failure = Broken(
            f"a connection to the server failed, with {load.active} others in flight: "
            f"{type(failure).__name__}: {failure}"
        )
    how = server.ended(wait_s=DEATH_GRACE_S if isinstance(failure, Broken) else 0.0)
    if how is not None:
        raise Failure(f"{how} while requests were in flight")
    if failure is not None:
        raise failure


class FileChannel(Channel):
    """The pipes to the parent; if it dies, what it wrote for the server is deleted."""

    files: str | None = None

    def parent_gone(self) -> None:
        """Leave nothing behind."""
        if self.files is not None:
            shutil.rmtree(self.files, ignore_errors=True)
        super().parent_gone()


class Worker:
    """Obeys commands; the stage of the last one is that of a failure."""

    def __init__(self, channel: FileChannel) -> None:
        self._channel = channel
        self._server: Server | None = None
        self._tokenized: Tokenized = {}
        self.stage = "start"

    @property
    def server(self) -> Server:
        """The server, once it is loaded or attached."""
        assert self._server is not None
        return self._server

    def obey(self, command: Mapping[str, Any]) -> None:
        """Raises: Failure, see there."""
        name, channel = command["command"], self._channel
        if name in ("load", "attach"):
            self.stage = "load"
            if name == "load":
                channel.files = command["files"]
                self._server, ready = start_server(command)
            else:
                key = command["api_key"]
                self._server, ready = attach(command["host"], int(command["port"]), key)
            channel.send(**ready)
        elif name == "tokenize":
            self.stage = name
            lengths = tokenize(self.server, command["conversations"])
            self._tokenized[command["name"]] = command["conversations"]
            channel.send(event="tokenized", lengths=lengths)
        elif name == "run":
            self.stage = name
            asyncio.run(drive(self.server, channel, command, self._tokenized))
        elif name in ("pause", "count"):
            self.stage = name
            channel.send(event="idle", tokens=self.server.counters().generated, paused=None)

    def end(self) -> None:
        """End a server that was started here."""
        if self._server is not None:
            self._server.end()


def serve(channel: FileChannel) -> int:
    """Obey commands until "exit"; every failure is an event that names its stage."""
    worker = Worker(channel)
    try:
        while (command := channel.receive())["command"] != "exit":
            worker.obey(command)
        worker.end()
        return 0
    except Failure as failure:
        channel.send(event="error", stage=worker.stage, message=str(failure))
        return 3
    except BaseException as error:
        message = f"{type(error).__name__}: {error}"
        trace = traceback.format_exc()
        channel.send(event="error", stage=worker.stage, message=message, traceback=trace)
        return 3


def main() -> None:
    """Started by pytest_energy.engines.server.HttpEngine."""
    # A connection per client; the usual soft limit is 1024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    status = serve(FileChannel(int(sys.argv[1]), int(sys.argv[2])))
    sys.stdout.flush()
    sys.stderr.flush()
    kill_the_others()  # so does the parent, unless it is killed first
    os._exit(status)
