"""vLLM's server, started, driven over HTTP and, whatever happens, ended."""

import datetime
import hashlib
import json
import os
import socket
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pytest_energy.cell.model import model_config
from pytest_energy.cell.workload import Plan, Workload
from pytest_energy.engines import attached, synthetic_tokenizer
from pytest_energy.engines.offline import EngineReady, OfflineEngine
from pytest_energy.errors import EngineError, UsageError
from pytest_energy.recording.recording import Client, client_from_json
from pytest_energy.safety import untrusted

_PACKAGES = Path(__file__).parents[2]
_YEAR_9999_S = 2.5e11
_WORKER_GRACE_S = 10.0  # the worker's own limit is the one that is told


class ServerEngine(OfflineEngine):
    """One launch of `vllm serve` on a free port of the loopback interface, behind the interface of the offline engine.

    The worker runs under this interpreter: it starts the server under `python` in its own session, so that both end together,
    and is the server's clients.

    Args:
        python: the interpreter whose vLLM runs.
        engine_args: as for the offline engine, options of `vllm serve` among them; "model" is required.
        load_timeout_s: limit for start and load together.
        progress_timeout_s: longest wait for a token while under load.

    Raises (all methods):
        EngineError: with the stage and the end of the server's log.
    """

    fields: ClassVar[dict[str, set[str]]] = {
        **OfflineEngine.fields,
        "stopped": {"run", "time_ns", "client"},
    }

    def __init__(
        self,
        python: str,
        engine_args: Mapping[str, Any],
        load_timeout_s: float,
        progress_timeout_s: float,
    ) -> None:
        super().__init__(python, engine_args, load_timeout_s, progress_timeout_s)
        self._files: tempfile.TemporaryDirectory[str] | None = None
        self._port = 0
        # A name of our own: no other server that may come to listen on this port will answer to it.
        self.served_model = f"pytest-energy-{uuid.uuid4().hex[:8]}"

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self._port}"

    def _worker_command(self, events_fd: int, commands_fd: int) -> list[str]:
        code = f"import sys; sys.path.append({str(_PACKAGES)!r}); from pytest_energy.engines.server_worker import main; main()"
        # -P: nothing in the working directory may shadow a module. -u: the log is whole when the process dies.
        return [sys.executable, "-P", "-u", "-c", code, str(events_fd), str(commands_fd)]

    def _load(self) -> EngineReady:
        arguments = dict(self._engine_args)
        tokenizer = self._synthetic_tokenizer(arguments)
        if tokenizer is not None:
            arguments["tokenizer"] = tokenizer
        self._port = free_port()
        frontend = {
            "host": "127.0.0.1",
            "port": self._port,
            "served_model_name": self.served_model,
            "disable_uvicorn_access_log": True,
        }
        ready = self._load_with(
            self._load_timeout_s + _WORKER_GRACE_S,
            python=self._python,
            arguments=[str(arguments.pop("model")), *command_line({**arguments, **frontend})],
            model=self.served_model,
            port=self._port,
            timeout_s=self._load_timeout_s,
            files=tokenizer,
        )
        return replace(
            ready,
            settings={**ready.settings, "tokenizer": "synthetic" if tokenizer else "the model's"},
        )

    def _synthetic_tokenizer(self, arguments: Mapping[str, Any]) -> str | None:
        """A folder with a tokenizer where the weights are made up, too, and the model's folder has none."""
        folder = Path(str(arguments["model"]))
        synthetic_weights = (
            arguments.get("load_format") == "dummy"
            and folder.is_dir()
            and not synthetic_tokenizer.has_tokenizer(folder)
        )
        if not synthetic_weights or "tokenizer" in arguments:
            return None
        self._files = tempfile.TemporaryDirectory(
            prefix="pytest-energy-", ignore_cleanup_errors=True
        )
        try:
            synthetic_tokenizer.write(Path(self._files.name), model_config(folder)[0])
        except UsageError as error:
            raise EngineError("load", str(error)) from None
        except KeyError:
            raise EngineError(
                "load",
                f"{folder}/config.json names no vocab_size, so no tokenizer can be made up.\n"
                "Put the model's tokenizer.json beside it, or name one: engine_args={'tokenizer': 'org/name'}",
            ) from None
        return self._files.name

    def prepare(self, workload: Workload, batch_size: int) -> Plan:
        """As for the offline engine; a tokenizer that was made up has no say in how long a text is."""
        if workload.prompts_file is not None and self._files is not None:
            raise EngineError(
                "tokenize",
                f"the model's folder has no tokenizer, so the prompts of {workload.prompts_file.name} have no length in tokens.\n"
                "Copy the model's tokenizer files there, its chat template with them.",
            )
        return super().prepare(workload, batch_size)

    def _error(self, stage: str, message: str) -> EngineError:
        error = super()._error(stage, message)
        if stage == "load" and "address already in use" in str(error).lower():
            taken = (
                f"port {self._port} was taken before the server could listen on it ({message}).\n"
                "Another process was faster. Run it again: a port that is free then will be chosen."
            )
            return EngineError(stage, taken, error.log_tail, error.out_of_memory)
        return error

    def _client(self, event: Mapping[str, Any]) -> Client:
        try:
            return client_from_json(event["client"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._error(
                "stop", f"the worker's report of its clients is malformed: {error!r}"
            ) from None

    def _close(self, grace_s: float) -> None:
        try:
            super()._close(grace_s)
        finally:
            if self._files is not None:
                self._files.cleanup()


class AttachedEngine(ServerEngine):
    """A server that runs already on this machine: measured, never ended.

    What it reports of itself is recorded, the rest as "unknown". Its GPUs are those that the processes which listen on its port
    and their descendants are on.

    Args:
        url: http://host:port.
        gpu_uuids: its GPUs, where they cannot be seen; what is on them is then taken for the server's.
        vocabulary_size: token ids below it are sent.
        request_tokens: length of the longest request with its answer, which the server must take; 0 where it is not known yet.
        compute_processes: tells the processes on every GPU of this machine, by UUID.
        progress_timeout_s: longest wait for a token while under load, and for an answer when attaching.
    """

    _min_vocabulary = 0  # the server does not tell

    def __init__(
        self,
        url: str,
        gpu_uuids: Sequence[str],
        vocabulary_size: int,
        request_tokens: int,
        compute_processes: Callable[[], Mapping[str, frozenset[int]]],
        progress_timeout_s: float,
    ) -> None:
        super().__init__(sys.executable, {}, progress_timeout_s, progress_timeout_s)
        self._url, self._told_gpus = url, tuple(gpu_uuids)
        self._vocabulary_size, self._request_tokens = vocabulary_size, request_tokens
        self._compute_processes = compute_processes
        self._processes: frozenset[int] = frozenset()
        self._launch_id: str | None = None

    @property
    def launch_id(self) -> str | None:
        """The same for all that is measured on one start of the server, which is one launch however often it is measured."""
        return self._launch_id

    def processes(self) -> frozenset[int]:
        """The server's processes as they were when it was found."""
        return self._processes

    def _load(self) -> EngineReady:
        host, port = attached.address_of(self._url)
        ready = self._load_with(
            self._load_timeout_s + _WORKER_GRACE_S,
            "attach",
            host=host,
            port=port,
            api_key=os.environ.get("PYTEST_ENERGY_API_KEY"),
        )
        longest = ready.settings["max_model_len"]
        if type(longest) is int and longest < self._request_tokens:
            raise EngineError(
                "load",
                f"the server takes {longest} tokens a request (max_model_len), the test asks for {self._request_tokens}",
            )
        on_gpus = self._compute_processes()
        self._processes = attached.processes_of(port)
        gpu_uuids = self._told_gpus or attached.gpus_of(self._processes, on_gpus)
        if not gpu_uuids and on_gpus:
            busy = [gpu for gpu, pids in on_gpus.items() if pids] or list(on_gpus)
            raise EngineError(
                "load",
                f"which GPUs the server at {self._url} uses cannot be seen from here: none of the processes on a GPU is one of its own. "
                f"It may run in a container.\nName them: --energy-gpu UUID, one of {', '.join(busy)} (nvidia-smi -L)",
            )
        if self._told_gpus:
            self._processes |= {pid for gpu in self._told_gpus for pid in on_gpus.get(gpu, ())}
        return replace(ready, gpu_uuids=gpu_uuids, vocabulary_size=self._vocabulary_size)

    def _ready(self, event: Mapping[str, Any], load_s: float) -> EngineReady:
        started = event.get("started")
        if started is not None:
            start = datetime.datetime.fromtimestamp(
                untrusted.number(started, "started", 0, _YEAR_9999_S), datetime.UTC
            )
            digest = hashlib.sha256(f"{self._url} {started}".encode()).hexdigest()
            self._launch_id = f"{start:%Y%m%dT%H%M%SZ}-{digest[:6]}"
        return super()._ready(event, load_s)


def free_port() -> int:
    """A port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command_line(settings: Mapping[str, Any]) -> list[str]:
    """Settings by their names in vllm.EngineArgs as options of `vllm serve`; None leaves an option out."""
    words: list[str] = []
    for name, value in settings.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is False:
            words.append("--no-" + name.replace("_", "-"))
        elif isinstance(value, list | tuple):
            words += [
                option,
                *(
                    json.dumps(entry) if isinstance(entry, dict | list) else str(entry)
                    for entry in value
                ),
            ]
        elif value is not None:
            words += [option, json.dumps(value) if isinstance(value, dict) else str(value)]
    return words
