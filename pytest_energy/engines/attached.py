"""A server that is already running on this machine: measured, never ended."""

import contextlib
import datetime
import hashlib
import os
import socket
import sys
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from pytest_energy.engines.engine import EngineReady
from pytest_energy.engines.server import WORKER_GRACE_S, HttpEngine
from pytest_energy.errors import EngineError
from pytest_energy.safety import untrusted

_YEAR_9999_S = 2.5e11
_CONNECT_S = 10.0
_ANY = ("0.0.0.0", "::")  # the first takes IPv4 alone
_STARTTIME = 19  # of /proc/PID/stat, counted from the field behind the command, see proc(5)


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
        self._launch_id: str | None = None

    @property
    def launch_id(self) -> str | None:
        """The same for all measurements of one start of the server."""
        return self._launch_id

    def processes(self) -> frozenset[int]:
        """The server's processes when it was attached."""
        return self._processes

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
        if self._launch_id is None:
            self._launch_id = self._launch_of_processes()
        return replace(ready, gpu_uuids=gpu_uuids, vocabulary_size=self._vocabulary_size)

    def _find_gpus(self, port: int, address: str) -> tuple[str, ...]:
        on_gpus = self._compute_processes()
        self._processes = processes_of(port, address)
        gpu_uuids = self._named_gpus or gpus_of(self._processes, on_gpus)
        if not gpu_uuids and on_gpus:
            busy = [gpu for gpu, pids in on_gpus.items() if pids] or list(on_gpus)
            raise EngineError(
                "load",
                f"cannot tell which GPUs the server at {self._url} uses: none of the processes on "
                "a GPU belongs to it. It may run in a container.\n"
                f"Name its GPUs: --energy-gpu UUID, one of {', '.join(busy)} (nvidia-smi -L)",
            )
        for gpu in self._named_gpus:
            self._processes |= on_gpus.get(gpu) or frozenset()
        return gpu_uuids

    def _launch_of_processes(self) -> str:
        """For a server that does not report its start: by its first process."""
        start = start_of(self._processes)
        if start is None:
            raise EngineError(
                "load",
                f"cannot tell this start of the server at {self._url} from another, so one launch "
                "could count as several: its /metrics has no process_start_time_seconds, and its "
                "processes cannot be seen from here.\n"
                "Run pytest in the server's container, as its user.",
            )
        return f"server-{hashlib.sha256(start.encode()).hexdigest()[:12]}"

    def _ready(self, event: Mapping[str, Any]) -> EngineReady:
        started = event.get("started")
        if started is not None:
            start = datetime.datetime.fromtimestamp(
                untrusted.number(started, "started", 0, _YEAR_9999_S), datetime.UTC
            )
            digest = hashlib.sha256(f"{self._url} {started}".encode()).hexdigest()
            self._launch_id = f"{start:%Y%m%dT%H%M%SZ}-{digest[:6]}"
        return super()._ready(event)


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


def processes_of(port: int, address: str) -> frozenset[int]:
    """The processes that listen at an address, and their descendants; empty if they are hidden.

    Whoever listens on the port at every address answers only where nobody listens at that alone.
    Processes in other network namespaces are not included, even if they listen on such a port.
    """
    found: set[int] = set()
    # Without a readable /proc/net nothing can be seen.
    with contextlib.suppress(OSError, RuntimeError, psutil.Error):
        listening = [c for c in psutil.net_connections("tcp") if _is_at(c, port)]
        for at in (address, *_ANY[":" in address :]):
            there = [c.pid for c in listening if c.laddr.ip.removeprefix("::ffff:") == at]
            for pid in filter(None, there):
                found |= _family(pid, port)
            if there:
                break
    return frozenset(found)


def _is_at(socket_: Any, port: int) -> bool:
    return bool(socket_.status == psutil.CONN_LISTEN and socket_.laddr.port == port)


def _family(pid: int, port: int) -> set[int]:
    """A process that listens on the port, the parents that share its socket, and all descendants.

    psutil names only one of the processes that share a socket, which may be a child of another.
    """
    with contextlib.suppress(psutil.Error):
        eldest = psutil.Process(pid)
        while (parent := eldest.parent()) is not None and _listens(parent, port):
            eldest = parent
        return {eldest.pid, *(child.pid for child in eldest.children(recursive=True))}
    return {pid}


def _listens(process: psutil.Process, port: int) -> bool:
    with contextlib.suppress(OSError, psutil.Error):
        return any(_is_at(socket_, port) for socket_ in process.net_connections("tcp"))
    return False


def start_of(processes: Iterable[int]) -> str | None:
    """Which process came first and when, as no other start of a process has it; None if hidden.

    In clock ticks since the boot with this id, because a stepped clock would move the time of day.
    """
    starts = []
    for pid in processes:
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            starts.append((int(fields[_STARTTIME]), pid))
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return f"{boot_id} {min(starts)}" if starts else None


def gpus_of(
    processes: frozenset[int], on_gpus: Mapping[str, frozenset[int] | None]
) -> tuple[str, ...]:
    """The GPUs (UUIDs) that any of the processes is on."""
    return tuple(gpu for gpu, pids in on_gpus.items() if pids and pids & processes)
