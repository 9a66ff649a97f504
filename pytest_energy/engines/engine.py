"""What every engine does: load in a worker process, keep requests in flight, report steps."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pytest_energy.cell.plan import Plan
from pytest_energy.cell.prompts import Conversation
from pytest_energy.cell.workload import Workload
from pytest_energy.engines import compile_cache
from pytest_energy.engines.worker_process import WorkerProcess
from pytest_energy.errors import EngineError
from pytest_energy.recording import fingerprint
from pytest_energy.recording.experts import ExpertRouting, routing_from_json
from pytest_energy.recording.recording import Client, PrefixCache
from pytest_energy.recording.schema import prefix_cache_from_json, tokens_from_steps
from pytest_energy.recording.series import FAR
from pytest_energy.safety import untrusted

_EXIT_GRACE_S = 10.0
_STEP_SERIES = ("time_ns", "tokens", "finished")


@dataclass(frozen=True)
class EngineReady:
    """What the worker reports once the engine is loaded.

    Attributes:
        versions: "vllm", "torch", "cuda", "python", "packages" and "kernels" by name.
        settings: engine settings as vLLM resolved them.
        gpu_uuids: the GPUs that the engine runs on, in rank order; empty if it runs on none.
        kv_cache_tokens: tokens that the KV cache holds; 0 if unknown.
        vocabulary_size: number of token ids.
        synthetic_weights: what the check of synthetic weights found; empty if the weights are the
            model's own or were not checked.
        experts: how the routers spread tokens; None if the model has no experts, or was not asked.
    """

    versions: Mapping[str, Any]
    settings: Mapping[str, Any]
    gpu_uuids: tuple[str, ...]
    kv_cache_tokens: int
    vocabulary_size: int
    synthetic_weights: Mapping[str, Any] = field(default_factory=dict)
    experts: ExpertRouting | None = None


@dataclass(frozen=True)
class Steps:
    """Engine steps in order. Shapes (steps,).

    Attributes:
        time_ns: when each returned (CLOCK_MONOTONIC).
        tokens: generated in each.
        finished: requests that each ended.
    """

    time_ns: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    finished: tuple[int, ...] = ()

    def __add__(self, later: "Steps") -> "Steps":
        return Steps(*(getattr(self, name) + getattr(later, name) for name in _STEP_SERIES))


@dataclass(frozen=True)
class Idle:
    """What an engine without load reports.

    Attributes:
        tokens: that it has generated since its start.
        paused: whether its scheduler was paused already; None if its vLLM cannot pause.
    """

    tokens: int
    paused: bool | None


class Engine(ABC):
    """One engine launch. Use it as a context manager: leaving it leaves no process behind.

    Entering it starts and loads it. `start` before that lets the process import vLLM meanwhile.

    Args:
        python: the interpreter whose vLLM runs.
        engine_args: keyword arguments of vllm.EngineArgs.
        load_timeout_s: limit for start and load together.
        progress_timeout_s: longest wait for a token under load, or for an answer.

    Raises (all methods):
        EngineError: with the stage and the end of the engine's log.
    """

    # What each event of the worker must hold.
    events: ClassVar[Mapping[str, set[str]]] = {
        "ready": {"versions"},
        "tokenized": {"lengths"},
        "steps": {"run"},
        "stopped": {"run", "time_ns"},
        "idle": {"tokens", "paused"},
        "error": {"message"},
    }
    _min_vocabulary = 1

    def __init__(
        self,
        python: str,
        engine_args: Mapping[str, Any],
        load_timeout_s: float,
        progress_timeout_s: float,
    ) -> None:
        self._python, self._engine_args = python, dict(engine_args)
        self._load_timeout_s, self._progress_timeout_s = load_timeout_s, progress_timeout_s
        self.worker = WorkerProcess(self.worker_command, python, self.events, progress_timeout_s)
        self._run = 0
        self._tokenized: dict[str, list[tuple[int, int | None]]] = {}  # what the worker keeps
        self._last_step_ns = 0
        self.ready: EngineReady | None = None
        # Of the load that was last stopped; an engine without clients has none.
        self.client: Client | None = None
        self.prefix_cache: PrefixCache | None = None
        # How long the load took, s, and whether vLLM compiled; None if someone else started it.
        self.load_s: float | None = None
        self.compiled: bool | None = None

    @abstractmethod
    def worker_command(self, events_fd: int, commands_fd: int) -> list[str]:
        """The command line of the worker, which writes events and reads commands there."""

    @abstractmethod
    def _load(self) -> EngineReady:
        """Have the worker load the engine, by `_load_with`."""

    def __enter__(self) -> Self:
        started_s, compiled_files = time.monotonic(), compile_cache.files()
        try:
            self.start()
            self.ready = self._load()
            if self.launch_id is None:
                self.load_s = round(time.monotonic() - started_s, 3)
                self.compiled = compile_cache.grown(compiled_files)
            self.worker.watch()
        except BaseException:
            self.close(grace_s=0.0)
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(grace_s=_EXIT_GRACE_S if kind is None else 0.0)

    @property
    def launch_id(self) -> str | None:
        """Of this start of the engine, if someone else started it; None if this object did."""
        return None

    @property
    def session_id(self) -> int:
        """The POSIX session of the worker and all its children."""
        return self.worker.session_id

    def processes(self) -> frozenset[int]:
        """The engine's processes that are alive."""
        return self.worker.members()

    def cpu_s(self) -> float:
        """CPU time of all its processes so far, s; of ended ones, what their parents collected."""
        return self.worker.cpu_s()

    def start(self) -> None:
        """Start the worker, which imports vLLM, unless it is running."""
        if not self.worker.started:
            self.worker.start()
            self.worker.send("start", command="import")

    def close(self, grace_s: float) -> None:
        """End the engine; it may exit by itself within `grace_s`. May be called again."""
        self.worker.close(grace_s)

    def _load_with(self, limit_s: float, command: str = "load", **arguments: Any) -> EngineReady:
        self.worker.send("load", command=command, **arguments)
        event = self.worker.receive(
            "load", limit_s, f"the engine did not load within {limit_s:.0f} s"
        )
        try:
            return self._ready(event)
        except (KeyError, TypeError, ValueError) as error:
            raise self.worker.error(
                "load", f"the worker's report is incomplete: {error!r}"
            ) from None

    def _ready(self, event: Mapping[str, Any]) -> EngineReady:
        return _ready_from(event, self._min_vocabulary)

    def prepare(self, workload: Workload, batch_size: int) -> Plan:
        """The requests that `start_load` will send.

        Prompts from a file are tokenized, once, which may take seconds.

        Raises:
            EngineError: the model's chat template or max_model_len rules out a prompt.
        """
        assert self.ready is not None
        if workload.prompts_file is None:
            return workload.plan(batch_size)
        plan = workload.plan(batch_size, self._tokenize(workload, batch_size))
        limit = self.ready.settings.get("max_model_len")
        if type(limit) is int:
            _check_longest(workload, batch_size, plan, limit)
        return plan

    def _tokenize(self, workload: Workload, batch_size: int) -> list[tuple[int, int | None]]:
        """Tokens of each prompt drawn, and of its reply if it has one."""
        name = _prompts_name(workload, batch_size)
        if name not in self._tokenized:
            conversations = [_for_worker(drawn) for drawn in workload.drawn(batch_size)]
            self.worker.send("tokenize", command="tokenize", name=name, conversations=conversations)
            event = self._receive("tokenize", "answer")
            lengths = _lengths(event)
            if len(lengths) != len(conversations) or not all(tokens > 0 for tokens, _ in lengths):
                raise self.worker.error(
                    "tokenize", "the worker's report of its prompts is malformed"
                )
            self._tokenized[name] = lengths
        return self._tokenized[name]

    def start_load(self, workload: Workload, batch_size: int) -> None:
        """Put `batch_size` requests in flight and keep them there until `stop_load`."""
        assert self.ready is not None
        plan = self.prepare(workload, batch_size)
        self._run += 1
        self.client = self.prefix_cache = None
        self.worker.send(
            "run",
            command="run",
            run=self._run,
            first_wave=plan.first_wave,
            lengths=plan.lengths,
            warm_up_tokens=plan.warm_up_tokens,
            shared_prefix_tokens=workload.shared_prefix_tokens,
            prompts=workload.prompts(max(64, 2 * batch_size), self.ready.vocabulary_size)
            if workload.prompts_file is None
            else _prompts_name(workload, batch_size),
        )

    def take_steps(self) -> Steps:
        """The next steps; waits for them, `progress_timeout_s` at most."""
        while True:
            event = self._receive("run", "token")
            if self._belongs(event, "steps"):
                steps = self._steps(event)
                if not steps.time_ns:
                    raise self.worker.error("run", "the worker's report of its steps is empty")
                return steps

    def stop_load(self) -> tuple[Steps, int]:
        """Take the load off.

        Returns:
            The steps not yet taken, and when the last step of all had ended (ns).
        """
        self.worker.send("stop", command="stop")
        last_steps = Steps()
        while True:
            event = self._receive("stop", "answer")
            if self._belongs(event, "steps"):
                last_steps += self._steps(event)
            elif self._belongs(event, "stopped"):
                self.client = self._client(event)
                self.prefix_cache = _prefix_cache(self.worker, event)
                if type(event["time_ns"]) is not int or not 0 <= event["time_ns"] < FAR:
                    raise self.worker.error(
                        "stop", "the worker's report of its last step is malformed"
                    )
                return last_steps, event["time_ns"]

    def _receive(self, stage: str, waiting_for: str) -> dict[str, Any]:
        limit_s = self._progress_timeout_s
        return self.worker.receive(stage, limit_s, f"no {waiting_for} for {limit_s:.0f} s")

    def _belongs(self, event: Mapping[str, Any], kind: str) -> bool:
        """Whether it is such an event of this run; the worker may report on the one before."""
        return bool(event["event"] == kind and event["run"] == self._run)

    def _steps(self, event: Mapping[str, Any]) -> Steps:
        try:
            steps = tokens_from_steps({name: event.get(name) for name in _STEP_SERIES})
            if steps.time_ns and steps.time_ns[0] < self._last_step_ns:
                raise ValueError("it is older than the one before")
        except ValueError as error:
            raise self.worker.error(
                "run", f"the worker's report of its steps is malformed: {error}"
            ) from None
        if steps.time_ns:
            self._last_step_ns = steps.time_ns[-1]
        return Steps(steps.time_ns, steps.tokens, steps.finished)

    def _client(self, event: Mapping[str, Any]) -> Client | None:
        """What clients saw, from a "stopped" event."""
        return None

    def pause(self) -> Idle:
        """Pause the scheduler, if it is not paused already, until the next load."""
        return self._asked("pause")

    def generated(self) -> int:
        """Tokens since its start; changes nothing about the engine, and must have no load."""
        return self._asked("count").tokens

    def _asked(self, command: str) -> Idle:
        """What it reports of itself when paused or counted."""
        self.worker.send(command, command=command)
        while True:
            event = self._receive(command, "answer")
            if event["event"] == "idle":
                tokens, paused = event["tokens"], event["paused"]
                if type(tokens) is not int or not (paused is None or isinstance(paused, bool)):
                    raise self.worker.error(
                        command, f"the worker's report of its {command} is malformed"
                    )
                return Idle(tokens, paused)
            if event["event"] == "steps":
                raise self.worker.error(
                    command, "the engine kept generating after its load was stopped"
                )


def _check_longest(workload: Workload, batch_size: int, plan: Plan, limit: int) -> None:
    """Raises an EngineError if a prompt of a file and its answer exceed max_model_len."""
    assert workload.prompts_file is not None
    longest = max(range(len(plan.lengths)), key=lambda number: sum(plan.lengths[number]))
    tokens_in, tokens_out = plan.lengths[longest]
    needed = tokens_in + tokens_out
    if needed > limit:
        line = workload.drawn(batch_size)[longest].line
        raise EngineError(
            "tokenize",
            f"line {line} of {workload.prompts_file.name} is too long: {tokens_in} input and "
            f"{tokens_out} output tokens, but the engine accepts {limit} (max_model_len).\n"
            f"Remove the line, or raise the limit: engine_args={{'max_model_len': {needed}}}; "
            f"restart a server that is already running with --max-model-len {needed}.",
        )


def _ready_from(event: Mapping[str, Any], min_vocabulary: int) -> EngineReady:
    # All of it is kept, so it must be what a recording may hold.
    facts = untrusted.parse(json.dumps(event).encode())
    facts["synthetic_weights"] = facts.get("synthetic_weights") or {}
    for name in ("versions", "settings", "synthetic_weights"):
        if not isinstance(facts[name], dict):
            raise ValueError(f"{name} is not an object")
    return EngineReady(
        versions=fingerprint.checked_versions(facts["versions"]),
        settings=facts["settings"],
        gpu_uuids=untrusted.names(facts["gpu_uuids"], "gpu_uuids"),
        kv_cache_tokens=untrusted.integer(facts["kv_cache_tokens"], "kv_cache_tokens", 0, FAR),
        vocabulary_size=untrusted.integer(
            facts["vocabulary_size"], "vocabulary_size", min_vocabulary, 10**9
        ),
        synthetic_weights=facts["synthetic_weights"],
        experts=routing_from_json(facts.get("experts")),
    )


def _prefix_cache(worker: WorkerProcess, event: Mapping[str, Any]) -> PrefixCache | None:
    """What the prefix cache did, from a "stopped" event."""
    try:
        return prefix_cache_from_json(event.get("prefix_cache"))
    except ValueError as error:
        raise worker.error(
            "stop", f"the worker's report of its prefix cache is malformed: {error}"
        ) from None


def _lengths(event: Mapping[str, Any]) -> list[tuple[int, int | None]]:
    """Tokens of prompts and replies, from a "tokenized" event; empty if it is malformed."""
    try:
        return [
            (int(tokens), None if reply is None else int(reply))
            for tokens, reply in event["lengths"]
        ]
    except (KeyError, TypeError, ValueError):
        return []


def _for_worker(drawn: Conversation) -> dict[str, Any]:
    messages = [{"role": role, "content": text} for role, text in drawn.messages]
    return {"line": drawn.line, "messages": messages, "reply": drawn.reply}


def _prompts_name(workload: Workload, batch_size: int) -> str:
    assert workload.prompts_file is not None
    return f"{workload.prompts_file.sha256}-{workload.seed}-{batch_size}"
