"""A server that is already running on this machine: measured, never ended."""

import contextlib
import datetime
import hashlib
import os
import socket
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_energy.cell.workload import Workload
from pytest_energy.engines.engine import EngineReady, Steps
from pytest_energy.engines.server import WORKER_GRACE_S, HttpEngine
from pytest_energy.engines.server_process import ANOTHER
from pytest_energy.engines.server_processes import engines_of, gpus_of, processes_of, start_of
from pytest_energy.engines.worker_process import cpu_s
from pytest_energy.errors import EngineError
from pytest_energy.safety import untrusted

_YEAR_9999_S = 2.5e11
_CONNECT_S = 10.0


class AttachedEngine(HttpEngine):
    """A running server: what it reports of itself is recorded, the rest as "unknown".

    Its GPUs are those that the processes which listen on its port, and their descendants, use.

    Args:
        url: http://host:port.
        gpu_uuids: its GPUs, if they cannot be seen; whatever is on them counts as the server's.
        vocabulary_size: token ids below it are sent.
        request_tokens: length of the longest request with its answer, which the server must accept;
            0 if not yet known.
        compute_processes: returns the processes on every GPU of this machine, by UUID.
        progress_timeout_s: longest wait for a token under load, and for an answer when attaching.
    """

    _min_vocabulary = 0  # the server does not report it

    def __init__(
        self,
        url: str,
        gpu_uuids: Sequence[str],
        vocabulary_size: int,
        request_tokens: int,
        compute_processes: Callable[[], Mapping[str, frozenset[int] | None]],
        progress_timeout_s: float,
    ) -> None:
        super().__init__(sys.executable, {}, progress_timeout_s, progress_timeout_s)
        self._url, self._named_gpus = url, tuple(gpu_uuids)
        self._vocabulary_size, self._request_tokens = vocabulary_size, request_tokens
        self._compute_processes = compute_processes
        self._processes: frozenset[int] = frozenset()
        self._engines: frozenset[int] = frozenset()  # those whose end is the server's
        self._start: str | None = None  # theirs
        self._reported: float | None = None  # the start, in seconds since 1970
        self._launch_id: str | None = None

    @property
    def launch_id(self) -> str | None:
        """The same for all measurements of one start of the server."""
        return self._launch_id

    def processes(self) -> frozenset[int]:
        """The server's processes when it was attached."""
        return self._processes

    def cpu_s(self) -> float:
        """See `Engine`; of the server's processes when it was attached."""
        return sum(map(cpu_s, self._processes))

    def generated(self) -> int:
        """See `Engine`; refused if the server has been restarted since it was attached."""
        self._check_start("count")
        return super().generated()

    def _load(self) -> EngineReady:
        host, port = address_of(self._url)
        host = reached(host, port)
        ready = self._load_with(
            self._load_timeout_s + WORKER_GRACE_S,
            "attach",
            host=host,
            port=port,
            api_key=os.environ.get("PYTEST_ENERGY_API_KEY"),
        )
        longest = ready.settings["max_model_len"]
        if type(longest) is int and longest < self._request_tokens:
            raise EngineError(
                "load",
                f"the server accepts {longest} tokens per request (max_model_len), but the test "
                f"needs {self._request_tokens}.\n"
                f"Restart it with --max-model-len {self._request_tokens}, or shorten the requests.",
            )
        gpu_uuids = self._find_gpus(port, host)
        self._launch_id = self._launch_of(gpu_uuids)
        return replace(ready, gpu_uuids=gpu_uuids, vocabulary_size=self._vocabulary_size)

    def _find_gpus(self, port: int, address: str) -> tuple[str, ...]:
        on_gpus, listening = self._compute_processes(), processes_of(port, address)
        gpu_uuids = self._named_gpus or gpus_of(listening, on_gpus)
        if not gpu_uuids and on_gpus:
            busy = [gpu for gpu, pids in on_gpus.items() if pids] or list(on_gpus)
            raise EngineError(
                "load",
                f"cannot tell which GPUs the server at {self._url} uses: none of the processes on "
                "a GPU belongs to it. It may run in a container, or on another machine behind a "
                "tunnel or proxy: then run pytest there.\n"
                f"Else name its GPUs: --energy-gpu UUID, one of {', '.join(busy)} (nvidia-smi -L)",
            )
        there = frozenset(pid for gpu in gpu_uuids for pid in on_gpus.get(gpu) or ())
        self._processes = listening | there if self._named_gpus else listening
        self._engines = engines_of(listening, there)
        return gpu_uuids

    def _launch_of(self, gpu_uuids: Sequence[str]) -> str:
        """The id of this start, the same whatever address leads to the server."""
        on = " ".join(sorted(gpu_uuids))
        if self._reported is not None:
            start = datetime.datetime.fromtimestamp(self._reported, datetime.UTC)
            digest = hashlib.sha256(f"{on} {self._reported}".encode()).hexdigest()
            return f"{start:%Y%m%dT%H%M%SZ}-{digest[:6]}"
        self._start = start_of(self._engines)
        if self._start is None:
            raise EngineError(
                "load",
                f"cannot tell this start of the server at {self._url} from another, so one launch "
                "could count as several: its /metrics has no process_start_time_seconds, and "
                "which processes are its own cannot be seen from here.\n"
                "Run pytest in the server's container, as its user, and end other programs on its "
                "GPUs.",
            )
        return f"server-{hashlib.sha256(f'{on} {self._start}'.encode()).hexdigest()[:12]}"

    def _ready(self, event: Mapping[str, Any]) -> EngineReady:
        started = event.get("started")
        if started is not None:
            self._reported = untrusted.number(started, "started", 0, _YEAR_9999_S)
        return super()._ready(event)

    def start_load(self, workload: Workload, batch_size: int) -> None:
        """See `Engine`; refused if the server has been restarted since it was attached."""
        self._check_start("run")
        super().start_load(workload, batch_size)

    def stop_load(self) -> tuple[Steps, int]:
        """See `Engine`; refused if the server has been restarted since it was attached."""
        stopped = super().stop_load()
        self._check_start("stop")
        return stopped

    def _check_start(self, stage: str) -> None:
        """A start that is reported is checked by the clients."""
        if start_of(self._engines) != self._start and self._reported is None:
            why = "the process that ran it has ended"
            raise EngineError(stage, ANOTHER.format(url=self._url, why=why))


def address_of(url: str) -> tuple[str, int]:
    """Host and port of http://host:port.

    Raises:
        ValueError: it is not such an address.
    """
    parts = urllib.parse.urlsplit(url)
    if (
        parts.scheme != "http"
        or not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
        or parts.port == 0
    ):
        raise ValueError("it is not http://host:port")  # without the URL, which may hold a password
    return parts.hostname, parts.port or 80


def reached(host: str, port: int) -> str:
    """The address of a host at which a server answers, so that all requests go to that one.

    A host may have several, with another server at each. The host itself if none answers.
    """
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host, port), timeout=_CONNECT_S) as connection,
    ):
        return str(connection.getpeername()[0])
    return host


def is_local(host: str) -> bool:
    """Whether all of a host's addresses belong to this machine, so that sockets can be bound.

    Raises:
        OSError: there is no such host.
    """
    for family, _, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address[0], 0))
            except OSError:
                return False
    return True
