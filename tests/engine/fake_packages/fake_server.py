"""A small OpenAI-compatible server with vLLM's metrics that misbehaves on demand.

    python fake_server.py PORT [FAULT]

Faults from the start: unhealthy (503 for ever), refuse_401, refuse_429, refuse_500 (every
completion), uncounted (its metrics do not count tokens), locked (wants the API key "secret"), busy
(with others' requests), two_models, two_names (of one model), versionless (has no /version),
several (API servers, which do not report their start), rust (vLLM's Rust front end, which reports
neither its start nor its KV cache, and counts from the first request on), unsized (reports neither
its KV cache nor preemptions), uncached (does not count what its prefix cache serves), forgetful
(fails on a second prompt that begins like another).
After `FAULT_AFTER_TOKENS`: cut (the connection breaks in the middle of a stream), end (a stream
ends in the middle), die (the process is killed), hang (no more tokens), stop (the process is
stopped), short (a request ends a token early), silent (no usage in the stream), garbage (not JSON),
error (an error in the stream), restarted (reports a later start), miscount (its own count is off by
one), shared (another client's tokens count, too), preempt (it says that it preempted a request),
hang_at_stop (after 1,000 tokens requests do not end). Of prompts that are texts: untemplated (no
chat template), picky (accepts no prompt that says "no"), truncating (reads a token less than it
should); a salt of its own makes two prompts differ. `bundled` is not a fault: two tokens come in
one chunk. Standard library only.
"""

import asyncio
import json
import os
import signal
import sys
import time

FAULT_AFTER_TOKENS = 400
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Unavailable",
}


class FakeServer:
    """Every `step_s` each running request gets a token, as in a real engine."""

    def __init__(
        self,
        model: str = "tiny",
        fault: str | None = None,
        step_s: float = 0.002,
        caches: bool = False,
    ) -> None:
        self.model, self.fault, self.step_s, self.caches = model, fault, step_s, caches
        self.cache: set[tuple[object, ...]] = set()
        self.prompt_tokens = self.queried = self.hits = 0
        self.tokens, self.started = 0, time.time()
        self.openings: set[tuple[object, ...]] = set()
        self._step: asyncio.Future[None] | None = None

    async def serve(self, port: int, host: str = "127.0.0.1") -> None:
        server = await asyncio.start_server(self._connection, host, port)
        self._step = asyncio.get_running_loop().create_future()
        async with server:
            while True:
                await asyncio.sleep(self.step_s)
                step, self._step = self._step, asyncio.get_running_loop().create_future()
                step.set_result(None)

    @property
    def _failing(self) -> bool:
        return self.tokens >= FAULT_AFTER_TOKENS

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path, _ = head.split(b" ", 2)
                lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
                length = next(
                    (int(value) for name, _, value in lines if name.lower() == b"content-length"), 0
                )
                body = await reader.readexactly(length)
                if self.fault == "locked" and b"Authorization: Bearer secret" not in head:
                    await self._answer(writer, 401, '{"error":"Unauthorized"}')
                    continue
                if method == b"POST" and path in (b"/v1/completions", b"/v1/chat/completions"):
                    await self._complete(json.loads(body), writer)
                elif method == b"POST" and path == b"/tokenize":
                    await self._tokenize(json.loads(body), writer)
                else:
                    await self._get(path.decode(), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _get(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/health":
            return await self._answer(writer, 503 if self.fault == "unhealthy" else 200, "")
        if path == "/v1/models":
            return await self._answer(writer, 200, json.dumps(self._models()))
        if path == "/version" and self.fault != "versionless":
            return await self._answer(writer, 200, json.dumps({"version": "0.0.1"}))
        if path == "/metrics":
            return await self._answer(writer, 200, self._metrics())
        await self._answer(writer, 404, '{"error":{"message":"Not Found"}}')

    def _models(self) -> dict[str, object]:
        names = [self.model, *(["other"] if self.fault in {"two_models", "two_names"} else [])]
        told = {"root": f"/models/{self.model}", "parent": None, "max_model_len": 96}
        models = [{"id": name, **({} if self.fault == "rust" else told)} for name in names]
        if self.fault == "two_models":
            models[1]["root"] = "/models/other"
        models.append({"id": "adapter", "root": "/adapters/a", "parent": self.model})
        return {"object": "list", "data": models}

    def _metrics(self) -> str:
        """As vLLM 0.32 reports them; which it leaves out is said in test_attached_server.py."""
        off = 1 if self.fault == "miscount" and self._failing else 0
        preempted = 1 if self.fault == "preempt" and self._failing else 0
        of_model = '{engine="0",model_name="m"}'
        lines = [f"vllm:num_requests_running{of_model} {3 if self.fault == 'busy' else 0}.0"]
        if self.fault != "uncounted" and (self.fault != "rust" or self.tokens):
            lines.append(f"vllm:generation_tokens_total{of_model} {self.tokens + off}.0")
        if self.fault != "unsized":
            lines.append(f"vllm:num_preemptions_total{of_model} {preempted}.0")
        lines.append(f"vllm:prompt_tokens_total{of_model} {self.prompt_tokens}.0")
        if self.fault not in {"rust", "uncached"}:
            lines.append(f"vllm:prefix_cache_queries_total{of_model} {self.queried}.0")
            lines.append(f"vllm:prefix_cache_hits_total{of_model} {self.hits}.0")
        if self.fault not in {"several", "rust"}:
            later_s = 60 if self.fault == "restarted" and self._failing else 0
            lines.append(f"process_start_time_seconds {self.started + later_s:.2f}")
        if self.fault not in {"rust", "unsized"}:
            lines.append(
                'vllm:cache_config_info{block_size="16",cache_dtype="auto",'
                'enable_prefix_caching="False",engine="0",num_gpu_blocks="1000"} 1.0'
            )
        return "\n".join([*lines, ""])

    async def _tokenize(self, request: dict[str, object], writer: asyncio.StreamWriter) -> None:
        assert request["model"] == self.model
        assert request["add_special_tokens"] is False
        if "messages" in request and self.fault == "untemplated":
            message = (
                "As of transformers v4.44, default chat template is no longer allowed, "
                "so you must provide a chat template"
            )
            return await self._answer(writer, 400, json.dumps({"error": {"message": message}}))
        count = len(words(request))
        if self.fault == "picky" and "no" in words(request):
            return await self._answer(
                writer, 400, json.dumps({"error": {"message": "roles must alternate"}})
            )
        await self._answer(
            writer, 200, json.dumps({"count": count, "max_model_len": 96, "tokens": [1] * count})
        )

    async def _answer(self, writer: asyncio.StreamWriter, status: int, body: str) -> None:
        content = body.encode()
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        await writer.drain()

    async def _complete(self, request: dict[str, object], writer: asyncio.StreamWriter) -> None:
        if self.fault and self.fault.startswith("refuse_"):
            return await self._answer(
                writer,
                int(self.fault[-3:]),
                json.dumps({"error": {"message": f"no ({self.fault})"}}),
            )
        if request["model"] != self.model:
            return await self._answer(
                writer, 404, json.dumps({"error": {"message": "The model does not exist."}})
            )
        chat = "messages" in request
        prompt, wanted = words(request) if chat else request["prompt"], request["max_tokens"]
        assert isinstance(prompt, list)
        assert isinstance(wanted, int)
        opening = (request["cache_salt"],) if chat else tuple(prompt[:16])
        if self.fault == "forgetful" and opening in self.openings:
            return await self._answer(writer, 500, "two prompts begin alike")
        self.openings.add(opening)
        self._look_up(prompt, opening if chat else ())
        read = len(prompt) - (self.fault == "truncating")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        done = 0
        if chat:
            usage = {"prompt_tokens": read, "total_tokens": read, "completion_tokens": 0}
            delta = {
                "index": 0,
                "delta": {"role": "assistant", "content": ""},
                "finish_reason": None,
            }
            self._chunk(
                writer,
                json.dumps(
                    {
                        "id": "chatcmpl-0",
                        "object": "chat.completion.chunk",
                        "choices": [delta],
                        "usage": usage,
                    }
                ),
            )
        while done < wanted:
            assert self._step is not None
            await self._step
            count = min(2, wanted - done) if self.fault == "bundled" else 1
            done += count
            self.tokens += count
            finish = "length" if done >= wanted else None
            if self._failing:
                finish = await self._misbehave(writer, done, wanted, finish)
            if finish == "end":
                break
            usage = {"prompt_tokens": read, "total_tokens": read + done, "completion_tokens": done}
            said: dict[str, object] = {"delta": {"content": " t100"}} if chat else {"text": " t100"}
            choice = {
                "index": 0,
                **said,
                "logprobs": None,
                "finish_reason": finish,
                "stop_reason": None,
                "token_ids": None,
            }
            chunk = {
                "id": "cmpl-0",
                "object": "text_completion",
                "created": 0,
                "model": self.model,
                "choices": [choice],
            }
            if not (self.fault == "silent" and self._failing):
                chunk["usage"] = usage
            self._chunk(writer, json.dumps(chunk))
            if finish:
                break
        if finish != "end":
            self._chunk(
                writer,
                json.dumps(
                    {
                        "id": "cmpl-0",
                        "object": "text_completion",
                        "created": 0,
                        "choices": [],
                        "usage": usage,
                    }
                ),
            )
            self._chunk(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def _look_up(self, prompt: list[object], salt: tuple[object, ...]) -> None:
        """Count what the prefix cache holds of a prompt, in blocks of 16; it then holds all."""
        self.prompt_tokens += len(prompt)
        if not self.caches:
            return
        blocks = [(*salt, *prompt[:end]) for end in range(16, len(prompt) + 1, 16)]
        known = [end for end, block in enumerate(blocks, 1) if block in self.cache]
        self.queried += len(prompt)
        self.hits += min(16 * max(known, default=0), (len(prompt) - 1) // 16 * 16)
        self.cache.update(blocks)

    async def _misbehave(
        self, writer: asyncio.StreamWriter, done: int, wanted: int, finish: str | None
    ) -> str | None:
        """What goes wrong with a token; returns its finish reason."""
        match self.fault:
            case "cut":
                raise ConnectionError
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "hang":
                await asyncio.sleep(1000)
            case "hang_at_stop" if finish and self.tokens > 1_000:
                await asyncio.sleep(1000)
            case "garbage":
                self._chunk(writer, "no JSON")
            case "error":
                self._chunk(
                    writer,
                    json.dumps(
                        {"error": {"message": "EngineCore encountered an issue", "code": 500}}
                    ),
                )
            case "short" if done == wanted - 1:
                return "stop"
            case "shared" if finish:
                self.tokens += 7
            case "end":
                return "end"
        return finish

    def _chunk(self, writer: asyncio.StreamWriter, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")


def words(request: dict[str, object]) -> list[str]:
    """The tokens of a text or a chat: its words, after its chat template."""
    if "messages" not in request:
        return str(request["prompt"]).split()
    messages = request["messages"]
    assert isinstance(messages, list)
    return (
        " ".join(f"<{message['role']}> {message['content']}" for message in messages)
        + " <assistant>"
    ).split()


if __name__ == "__main__":
    fault = sys.argv[2] if len(sys.argv) > 2 else None
    asyncio.run(
        FakeServer(fault=fault, step_s=float(os.environ.get("STEP_S", "0.002"))).serve(
            int(sys.argv[1])
        )
    )
