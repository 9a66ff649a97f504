"""vLLM's server (`vllm serve`), started, put under load over HTTP, and ended."""

import json
import socket
import sys
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pytest_energy.cell.model import has_tokenizer, model_config
from pytest_energy.cell.plan import Plan
from pytest_energy.cell.workload import Workload
from pytest_energy.engines import synthetic_tokenizer
from pytest_energy.engines.engine import Engine, EngineReady
from pytest_energy.errors import EngineError, UsageError
from pytest_energy.recording.recording import Client
from pytest_energy.recording.schema import client_from_json

WORKER_GRACE_S = 10.0  # so that the worker, which knows more, reports its own limit first
_PACKAGES = Path(__file__).parents[2]


class HttpEngine(Engine):
    """An engine whose worker is the clients of a server, and runs under this interpreter."""

    events: ClassVar[Mapping[str, set[str]]] = {
        **Engine.events,
        "stopped": {"run", "time_ns", "client"},
    }

    def worker_command(self, events_fd: int, commands_fd: int) -> list[str]:
        """See `Engine`."""
        code = (
            f"import sys; sys.path.append({str(_PACKAGES)!r}); "
            "from pytest_energy.engines.server_worker import main; main()"
        )
        # -P: nothing in the working directory may shadow a module.
        # -u: the log is whole when the process dies.
        return [sys.executable, "-P", "-u", "-c", code, str(events_fd), str(commands_fd)]

    def _client(self, event: Mapping[str, Any]) -> Client:
        try:
            return client_from_json(event["client"])
        except (KeyError, TypeError, ValueError) as error:
            raise self.worker.error(
                "stop", f"the worker's report of its clients is malformed: {error!r}"
            ) from None


class ServerEngine(HttpEngine):
    """One launch of `vllm serve` on a free port of the loopback interface.

    The worker starts the server under `python` in its own POSIX session, so that both end together.

    Args:
        python: the interpreter whose vLLM runs.
        engine_args: as for the offline engine, or options of `vllm serve`; "model" is required.
        load_timeout_s: limit for start and load together.
        progress_timeout_s: longest wait for a token under load.

    Raises (all methods):
        EngineError: with the stage and the end of the server's log.
    """

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
        # A name of our own: no other server that listens on this port will answer to it.
        self.served_model = f"pytest-energy-{uuid.uuid4().hex[:8]}"

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self._port}"

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
        model = str(arguments.pop("model"))
        try:
            ready = self._load_with(
                self._load_timeout_s + WORKER_GRACE_S,
                python=self._python,
                arguments=[model, *command_line({**arguments, **frontend})],
                model=self.served_model,
                port=self._port,
                timeout_s=self._load_timeout_s,
                files=tokenizer,
            )
        except EngineError as error:
            raise self._explained(error) from None
        tokenizer_used = "synthetic" if tokenizer else "the model's"
        return replace(ready, settings={**ready.settings, "tokenizer": tokenizer_used})

    def _explained(self, error: EngineError) -> EngineError:
        if "address already in use" not in str(error).lower():
            return error
        message = (
            f"another process took port {self._port} before the server could listen on it "
            f"({error.message}).\nRun the tests again: another free port will be chosen."
        )
        return EngineError("load", message, error.log_tail, error.out_of_memory)

    def _synthetic_tokenizer(self, arguments: Mapping[str, Any]) -> str | None:
        """A folder with a tokenizer for a model with synthetic weights that has none; else None."""
        folder = Path(str(arguments["model"]))
        if (
            arguments.get("load_format") != "dummy"
            or "tokenizer" in arguments
            or not folder.is_dir()
            or has_tokenizer(folder)
        ):
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
                f"{folder}/config.json has no vocab_size, which a synthetic tokenizer needs.\n"
                "Copy the model's tokenizer.json into this folder, or name a tokenizer: "
                "engine_args={'tokenizer': 'org/name'}",
            ) from None
        return self._files.name

    def prepare(self, workload: Workload, batch_size: int) -> Plan:
        """As `Engine.prepare`; a synthetic tokenizer cannot say how long a text is."""
        if workload.prompts_file is not None and self._files is not None:
            raise EngineError(
                "tokenize",
                "the model's folder has no tokenizer, so the prompts of "
                f"{workload.prompts_file.name} cannot be tokenized.\n"
                "Copy the model's tokenizer files, including its chat template, into the folder.",
            )
        return super().prepare(workload, batch_size)

    def close(self, grace_s: float) -> None:
        """See `Engine`."""
        try:
            super().close(grace_s)
        finally:
            if self._files is not None:
                self._files.cleanup()


def free_port() -> int:
    """A port of the loopback interface that nothing is listening on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command_line(settings: Mapping[str, Any]) -> list[str]:
    """Settings by their names in vllm.EngineArgs as options of `vllm serve`; None is left out."""
    words: list[str] = []
    for name, value in settings.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is False:
            words.append("--no-" + name.replace("_", "-"))
        elif isinstance(value, list | tuple):
            words += [option, *map(_word, value)]
        elif value is not None:
            words += [option, json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def _word(entry: Any) -> str:
    return json.dumps(entry) if isinstance(entry, dict | list) else str(entry)
