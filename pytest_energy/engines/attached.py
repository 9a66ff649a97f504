"""A server that runs already: whether it is on this machine, which processes it has, on which GPUs they are. From /proc."""

import contextlib
import socket
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

_LISTENING = "0A"


def address_of(url: str) -> tuple[str, int]:
    """Host and port of http://host:port.

    Raises:
        ValueError: it is no such address.
    """
    parts = urllib.parse.urlsplit(url)
    if (
        parts.scheme != "http"
        or not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise ValueError("it is not http://host:port")  # without the URL, which may hold a password
    return parts.hostname, parts.port or 80


def is_local(host: str) -> bool:
    """Whether all of a host's addresses belong to this machine: only to these can a socket be bound.

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


def processes_of(port: int) -> frozenset[int]:
    """The processes that listen on a TCP port, and all their descendants; empty where they cannot be seen."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    found: set[int] = set()
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rpartition(")")[2].split()[1]
            )
            if any(_target(file) in inodes for file in (entry / "fd").iterdir()):
                found.add(int(entry.name))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return frozenset(found)


def _target(file: Path) -> str:
    with contextlib.suppress(OSError):  # closed meanwhile
        return str(file.readlink())
    return ""


def gpus_of(processes: frozenset[int], on_gpus: Mapping[str, frozenset[int]]) -> tuple[str, ...]:
    """The GPUs (UUIDs) that any of the processes is on."""
    return tuple(gpu for gpu, pids in on_gpus.items() if pids & processes)
