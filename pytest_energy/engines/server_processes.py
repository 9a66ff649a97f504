"""Which processes are a running server's, and which of them tell its start from another."""

import contextlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import psutil

from pytest_energy.engines.cuda_device import uses_cuda

_ANY = ("0.0.0.0", "::")  # the first takes IPv4 alone
_STARTTIME = 19  # of /proc/PID/stat, counted from the field behind the command, see proc(5)


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


def gpus_of(
    processes: frozenset[int], on_gpus: Mapping[str, frozenset[int] | None]
) -> tuple[str, ...]:
    """The GPUs (UUIDs) that any of the processes is on."""
    return tuple(gpu for gpu, pids in on_gpus.items() if pids and pids & processes)


def engines_of(listening: frozenset[int], on_its_gpus: frozenset[int]) -> frozenset[int]:
    """The processes that run the server's engine: they end with it. Empty if they are not known.

    What listens may be a proxy, such as docker-proxy or ssh, and lives on when the server behind it
    is started anew. What is on a GPU may be another's.

    Args:
        listening: the processes that listen for the server, and their descendants.
        on_its_gpus: those on its GPUs, by the driver's ids, which are the host's.
    """
    own = listening & on_its_gpus or frozenset(pid for pid in listening if uses_cuda(pid))
    if own or not on_its_gpus or any(uses_cuda(pid) is False for pid in on_its_gpus):
        return own
    try:  # a program and what it starts are one group, unless it asks for more
        return on_its_gpus if len(set(map(os.getpgid, on_its_gpus))) == 1 else own
    except OSError:
        return own


def start_of(processes: Collection[int]) -> str | None:
    """When the first of them started, as no other start on this machine; None if that is hidden.

    In clock ticks since the boot with this id, because a stepped clock would move the time of day.
    Without the process id, which is another in each container.
    """
    starts = []
    for pid in processes:
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            starts.append(int(fields[_STARTTIME]))
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return f"{boot_id} {min(starts)}" if starts else None
