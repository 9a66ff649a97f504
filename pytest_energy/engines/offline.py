"""vLLM's offline engine in a worker process: started, driven and, whatever happens, ended."""

import contextlib
import json
import os
import queue
import re
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pytest_energy.cell.workload import Plan, Workload
from pytest_energy.errors import EngineError
from pytest_energy.recording.recording import FAR, Client, check_series
from pytest_energy.safety import redact, untrusted

WORKER = Path(__file__).with_name("workers") / "vllm_worker.py"
_LOG_TAIL_BYTES = 4_000
_LOG_SEARCHED_BYTES = 200_000
_MEMORY_SHORT = re.compile(
    rb"out of memory|No available memory for the cache|KV cache is needed, which is larger|less than desired GPU memory utilization"
)
_EXIT_GRACE_S = 10.0
_MAX_LINE_BYTES = 1_000_000  # half a second of 50 µs steps has 250 kB
_MAX_WAITING_EVENTS = 256  # a worker that tells more than is read waits at its pipe
_WATCH_S = 1.0  # without a word from the worker, until its processes are looked at
_VLLM_TITLE = "VLLM::"  # of the processes that vLLM's own need


@dataclass(frozen=True)
class EngineReady:
    """What the worker reports once the engine is loaded.

    Attributes:
        versions: "vllm", "torch", "cuda", "python" and "packages" by name.
        settings: engine settings as vLLM resolved them.
        gpu_uuids: the GPUs that the engine runs on, in rank order; empty where it runs on none.
        platform: vLLM's name of the device it runs on.
        kv_cache_tokens: tokens that the KV cache holds; 0 where unknown.
        vocabulary_size: number of token ids.
        load_s: seconds from the start of the process.
        made_up: what was seen of made-up weights at work (vllm_worker.look_at); empty where they are the model's own or were not looked at.
    """

    versions: Mapping[str, Any]
    settings: Mapping[str, Any]
    gpu_uuids: tuple[str, ...]
    platform: str
    kv_cache_tokens: int
    vocabulary_size: int
    load_s: float
    synthetic_weights: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Steps:
    """Engine steps in order: when each returned (ns, CLOCK_MONOTONIC) and how many tokens it generated."""

    time_ns: tuple[int, ...]
    tokens: tuple[int, ...]
    finished: tuple[int, ...]


@dataclass(frozen=True)
class Rest:
    """What an engine without load says of itself.

    Attributes:
        tokens: that it ever generated.
        asleep: whether its scheduler was paused already; None where its vLLM has no such state.
    """

    tokens: int
    paused: bool | None


class OfflineEngine:
    """One engine launch. Use as a context manager; leaving it leaves no process behind.

    Entering it starts and loads it. `start` before that lets the process import vLLM while something else goes on.

    Args:
        python: the interpreter whose vLLM runs.
        engine_args: keyword arguments of vllm.EngineArgs.
        load_timeout_s: limit for start and load together.
        progress_timeout_s: longest wait for a token while under load.

    Raises (all methods):
        EngineError: with the stage and the end of the engine's log.
    """

    worker = WORKER
    _min_vocabulary = 1
    # What each event of the worker must hold.
    fields: ClassVar[dict[str, set[str]]] = {
        "ready": {"versions"}, "tokenized": {"lengths"}, "steps": {"run"}, "stopped": {"run", "time_ns"},
        "resting": {"tokens", "paused"}, "error": {"message"},
    }  # fmt: skip

    def __init__(
        self,
        python: str,
        engine_args: Mapping[str, Any],
        load_timeout_s: float,
        progress_timeout_s: float,
    ) -> None:
        self._python, self._engine_args = python, dict(engine_args)
        self._load_timeout_s, self._progress_timeout_s = load_timeout_s, progress_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue(_MAX_WAITING_EVENTS)
        self._commands = -1
        self._log: Any = None
        self._run = 0
        self._vital: dict[int, str] = {}
        self._tokenized: dict[
            str, list[tuple[int, int | None]]
        ] = {}  # what the worker keeps, by name
        self._last_step_ns = 0
        self.ready: EngineReady | None = None
        self.client: Client | None = (
            None  # of the load that was last taken off; an engine without clients has none
        )

    def __enter__(self) -> "OfflineEngine":
        try:
            self.start()
            self.ready = self._load()
            self._vital = {
                pid: title
                for pid in session_members(self.session_id)
                if (title := command_of(pid)).startswith(_VLLM_TITLE)
            }
        except BaseException:
            self._close(grace_s=0.0)
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._close(grace_s=_EXIT_GRACE_S if kind is None else 0.0)

    @property
    def launch_id(self) -> str | None:
        """Of this engine start, where it is known from elsewhere; None for one that this object made."""
        return None

    def processes(self) -> frozenset[int]:
        """The engine's processes that are alive."""
        return frozenset(session_members(self.session_id))

    @property
    def session_id(self) -> int:
        """The worker's session (POSIX), which all its children share."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process, which imports vLLM; once, however often it is called. `__exit__` ends it."""
        if self._process is not None:
            return
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives until close)
        events_read, events_write = os.pipe()
        commands_read, commands_write = os.pipe()
        try:
            self._process = subprocess.Popen(
                self._worker_command(events_write, commands_read),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(events_write, commands_read),
                start_new_session=True,
            )
        except OSError as error:
            os.close(events_read)
            os.close(commands_write)
            self._log.close()
            raise EngineError(
                "start",
                f"cannot run {self._python}: {error.strerror}.\nGive the path of a Python interpreter: --energy-python PATH",
            ) from None
        finally:
            os.close(events_write)
            os.close(commands_read)
        os.set_blocking(commands_write, False)
        self._commands = commands_write
        threading.Thread(
            target=self._read_events, args=(os.fdopen(events_read, "rb"),), daemon=True
        ).start()
        self._send("start", command="import")

    def _worker_command(self, events_fd: int, commands_fd: int) -> list[str]:
        # -u: the log is whole when the process dies.
        return [self._python, "-u", str(self.worker), str(events_fd), str(commands_fd)]

    def _read_events(self, pipe: Any) -> None:
        with pipe:
            while line := pipe.readline(_MAX_LINE_BYTES):
                try:
                    event = json.loads(line)
                    if not isinstance(event, dict) or not self.fields[event["event"]] <= set(event):
                        raise ValueError
                except (ValueError, KeyError, TypeError, RecursionError):
                    event = {
                        "event": "error",
                        "message": f"unreadable message from the worker: {line[:80]!r}",
                    }
                if not self._hand_over(event):
                    return
        self._hand_over(None)

    def _hand_over(self, event: dict[str, Any] | None) -> bool:
        """Whether somebody may still ask for it."""
        while True:
            try:
                self._events.put(event, timeout=0.5)
                return True
            except queue.Full:
                if self._process is None:
                    return False

    def _send(self, stage: str, **command: Any) -> None:
        """Write a command; a worker that does not read is given up after `progress_timeout_s`."""
        rest = memoryview((json.dumps(command) + "\n").encode())
        deadline = time.monotonic() + self._progress_timeout_s
        while rest:
            _, writable, _ = select.select(
                [], [self._commands], [], max(0.0, deadline - time.monotonic())
            )
            if not writable:
                raise self._error(
                    stage, f"the worker takes no command for {self._progress_timeout_s:.0f} s"
                )
            try:
                rest = rest[os.write(self._commands, rest) :]
            except OSError:
                raise self._died(stage) from None

    def _receive(self, stage: str, timeout_s: float, waiting_for: str) -> dict[str, Any]:
        event = self._next_event(stage, timeout_s, waiting_for)
        if event is None:
            raise self._died(stage)
        if event["event"] == "error":
            message, stage = str(event["message"]), str(event.get("stage", stage))
            if "No module named 'vllm'" in message:
                message = (
                    f"{self._python} has no vLLM.\nInstall it there, or name the interpreter of the environment that has it: "
                    "--energy-python /venv/bin/python"
                )
                raise EngineError(stage, message)
            raise self._error(stage, message)
        return event

    def _next_event(self, stage: str, timeout_s: float, waiting_for: str) -> dict[str, Any] | None:
        """What the worker says next; None when it has closed its pipe."""
        deadline, dead = time.monotonic() + timeout_s, ""
        while True:
            try:
                return self._events.get(
                    timeout=max(0.0, min(_WATCH_S, deadline - time.monotonic()))
                )
            except queue.Empty:
                if dead:  # and had its worker anything to say of it, it has had the time
                    raise self._error(
                        stage,
                        f"the engine's process {dead} is dead, and its vLLM waits for it in vain",
                    ) from None
                if time.monotonic() >= deadline:
                    raise self._error(stage, f"no {waiting_for} for {timeout_s:.0f} s") from None
                alive = session_members(self.session_id)
                dead = ", ".join(
                    f"{title} (pid {pid})" for pid, title in self._vital.items() if pid not in alive
                )

    def _died(self, stage: str) -> EngineError:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        status = self._process.returncode
        if status is None:
            how = "the worker closed its pipe"
        elif status < 0:
            how = f"the worker was ended by {signal.Signals(-status).name}"
        else:
            how = f"the worker exited with status {status}"
        return self._error(stage, how)

    def _error(self, stage: str, message: str) -> EngineError:
        # Without seeking: the worker writes at the very same offset.
        size = os.fstat(self._log.fileno()).st_size
        log = os.pread(self._log.fileno(), _LOG_SEARCHED_BYTES, max(0, size - _LOG_SEARCHED_BYTES))
        tail = "\n".join(log[-_LOG_TAIL_BYTES:].decode(errors="replace").splitlines()[-25:])
        message, tail = (
            redact.secrets(untrusted.printable(text)) for text in (message, tail)
        )  # both go into reports
        return EngineError(
            stage, message, tail, out_of_memory=bool(_MEMORY_SHORT.search(log + message.encode()))
        )

    def _load(self) -> EngineReady:
        return self._load_with(self._load_timeout_s, engine_args=self._engine_args)

    def _load_with(self, limit_s: float, command: str = "load", **arguments: Any) -> EngineReady:
        started = time.monotonic()
        self._send("load", command=command, **arguments)
        event = self._receive("load", limit_s, "engine")
        try:
            return self._ready(event, time.monotonic() - started)
        except (KeyError, TypeError, ValueError) as error:
            raise self._error("load", f"the worker's report is incomplete: {error!r}") from None

    def _ready(self, event: Mapping[str, Any], load_s: float) -> EngineReady:
        facts = untrusted.parse(
            json.dumps(event).encode()
        )  # all of it is kept, so it must be what a recording may hold
        synthetic_weights = facts.get("synthetic_weights") or {}
        for name, value in (
            ("versions", facts["versions"]),
            ("settings", facts["settings"]),
            ("synthetic_weights", synthetic_weights),
        ):
            if not isinstance(value, dict):
                raise ValueError(f"{name} is no object")
        return EngineReady(
            versions=facts["versions"],
            settings=facts["settings"],
            gpu_uuids=untrusted.names(facts["gpu_uuids"], "gpu_uuids"),
            platform=str(facts["platform"]),
            kv_cache_tokens=untrusted.integer(facts["kv_cache_tokens"], "kv_cache_tokens", 0, FAR),
            vocabulary_size=untrusted.integer(
                facts["vocabulary_size"], "vocabulary_size", self._min_vocabulary, 10**9
            ),
            load_s=load_s,
            synthetic_weights=synthetic_weights,
        )

    def prepare(self, workload: Workload, batch_size: int) -> Plan:
        """The requests that `start_load` will send; prompts from a file are tokenized, once, which may take seconds.

        Raises:
            EngineError: the model's chat template or max_model_len does not take a prompt.
        """
        assert self.ready is not None
        if workload.prompts_file is None:
            return workload.plan(batch_size)
        plan, drawn = (
            workload.plan(batch_size, self._tokenize(workload, batch_size)),
            workload.drawn(batch_size),
        )
        longest, (tokens_in, out) = max(
            enumerate(plan.lengths), key=lambda numbered: sum(numbered[1])
        )
        limit = self.ready.settings.get("max_model_len")
        if type(limit) is int and tokens_in + out > limit:
            file, line = workload.prompts_file.name, drawn[longest].line
            raise EngineError(
                "tokenize",
                f"line {line} of {file} is too long: {tokens_in} tokens in and {out} out, the engine takes {limit} (max_model_len).\n"
                f"Take the line out, or let requests be longer: engine_args={{'max_model_len': {tokens_in + out}}} (or start a server that "
                f"runs already anew, with --max-model-len {tokens_in + out}).",
            )
        return plan

    def _tokenize(self, workload: Workload, batch_size: int) -> list[tuple[int, int | None]]:
        name = _prompts_name(workload, batch_size)
        if name not in self._tokenized:
            conversations = [
                {
                    "line": c.line,
                    "messages": [{"role": role, "content": text} for role, text in c.messages],
                    "reply": c.reply,
                }
                for c in workload.drawn(batch_size)
            ]
            self._send("tokenize", command="tokenize", name=name, conversations=conversations)
            event = self._receive("tokenize", self._progress_timeout_s, "answer")
            try:
                lengths = [
                    (int(tokens), None if reply is None else int(reply))
                    for tokens, reply in event["lengths"]
                ]
            except (KeyError, TypeError, ValueError):
                lengths = []
            if len(lengths) != len(conversations) or not all(tokens > 0 for tokens, _ in lengths):
                raise self._error("tokenize", "the worker's report of its prompts is malformed")
            self._tokenized[name] = lengths
        return self._tokenized[name]

    def start_load(self, workload: Workload, batch_size: int) -> None:
        """Put `batch_size` requests in flight and keep them there until `stop_load`."""
        assert self.ready is not None
        plan = self.prepare(workload, batch_size)
        of_file = workload.prompts_file is not None
        self._run += 1
        self.client = None
        self._send(
            "run",
            command="run",
            run=self._run,
            first_wave=plan.first_wave,
            lengths=plan.lengths,
            warm_up_tokens=plan.warm_up_tokens,
            prompts=_prompts_name(workload, batch_size)
            if of_file
            else workload.prompts(max(64, 2 * batch_size), self.ready.vocabulary_size),
        )

    def take_steps(self) -> Steps:
        """The next steps; waits for them, `progress_timeout_s` at most."""
        while True:
            event = self._receive("run", self._progress_timeout_s, "token")
            if self._is_of_this_run(event, "steps"):
                steps = self._steps(event)
                if not steps.time_ns:
                    raise self._error("run", "the worker's report of its steps holds none")
                return steps

    def _is_of_this_run(self, event: Mapping[str, Any], name: str) -> bool:
        return bool(event["event"] == name and event["run"] == self._run)

    def _steps(self, event: Mapping[str, Any]) -> Steps:
        series: dict[str, Any] = {
            name: event.get(name) for name in ("time_ns", "tokens", "finished")
        }
        try:
            for name, values in series.items():
                if not isinstance(values, list) or not all(type(value) is int for value in values):
                    raise ValueError(f"{name} is no list of integers")
                check_series(name, values, "steps")
            if len(set(map(len, series.values()))) > 1 or (
                series["time_ns"] and series["time_ns"][0] < self._last_step_ns
            ):
                raise ValueError("they are not in order")
        except ValueError as error:
            raise self._error(
                "run", f"the worker's report of its steps is malformed: {error}"
            ) from None
        self._last_step_ns = series["time_ns"][-1] if series["time_ns"] else self._last_step_ns
        return Steps(**{name: tuple(values) for name, values in series.items()})

    def stop_load(self) -> tuple[Steps, int]:
        """Take the load off. Returns the steps not yet taken and the time (ns) at which the last one had ended."""
        self._send("stop", command="stop")
        rest = Steps((), (), ())
        while True:
            event = self._receive("stop", self._progress_timeout_s, "answer")
            if self._is_of_this_run(event, "steps"):
                more = self._steps(event)
                rest = Steps(
                    rest.time_ns + more.time_ns,
                    rest.tokens + more.tokens,
                    rest.finished + more.finished,
                )
            elif self._is_of_this_run(event, "stopped"):
                self.client = self._client(event)
                if type(event["time_ns"]) is not int or not 0 <= event["time_ns"] < FAR:
                    raise self._error("stop", "the worker's report of its last step is malformed")
                return rest, event["time_ns"]

    def _client(self, event: Mapping[str, Any]) -> Client | None:
        """What a "stopped" event tells of the clients."""
        return None

    def rest(self) -> Rest:
        """Pause the scheduler, if it is not paused already, until the next load."""
        self._send("rest", command="rest")
        while True:
            event = self._receive("rest", self._progress_timeout_s, "answer")
            if event["event"] == "resting":
                if type(event["tokens"]) is not int or not (
                    event["paused"] is None or isinstance(event["paused"], bool)
                ):
                    raise self._error("rest", "the worker's report of its rest is malformed")
                return Rest(event["tokens"], event["paused"])
            if event["event"] == "steps":
                raise self._error(
                    "rest", "the engine went on generating after its load was taken off"
                )

    def cpu_s(self) -> float:
        """CPU time of all its processes so far, s (user and system; of those that ended only what their parents collected)."""
        return sum(_cpu_s(pid) for pid in session_members(self.session_id))

    def _close(self, grace_s: float) -> None:
        """End the worker and all its children; it may end by itself within `grace_s`. Safe to call again."""
        process = self._process
        if process is None:
            return
        try:
            if grace_s:  # what is to be killed need not be asked
                with contextlib.suppress(OSError):
                    os.write(self._commands, b'{"command":"exit"}\n')
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=grace_s)
        finally:  # also when the wait is interrupted
            self._process = None
            end_session(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            with contextlib.suppress(OSError):
                os.close(self._commands)
            self._log.close()


def _prompts_name(workload: Workload, batch_size: int) -> str:
    assert workload.prompts_file is not None
    return f"{workload.prompts_file.sha256}-{workload.seed}-{batch_size}"


def session_members(session_id: int) -> list[int]:
    """Process ids of the POSIX session `session_id` that are alive (zombies are not), from /proc."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session_id and fields[0] not in "ZX":
                    members.append(int(entry.name))
    return members


def command_of(pid: int) -> str:
    """A process' command line, from /proc, or the title that it gave itself; empty where it has just ended."""
    with contextlib.suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
            .strip()
        )
    return ""


def _cpu_s(pid: int) -> float:
    """User and system time of a process and of its children that ended, from /proc; 0 where it has just ended."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def end_session(session_id: int, timeout_s: float = 20.0) -> None:
    """Kill every process of a session; children of an engine may sit in groups of their own.

    Its leader comes last: should this be interrupted (Ctrl-C, twice), the worker is there to end the others when its pipe closes.
    """
    deadline = time.monotonic() + timeout_s
    while (members := session_members(session_id)) and time.monotonic() < deadline:
        for pid in sorted(members, key=lambda pid: pid == session_id):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
