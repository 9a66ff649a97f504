"""A worker process in a POSIX session of its own: commands in, events out, and its end."""

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
from collections.abc import Callable, Mapping
from typing import IO, Any

import psutil

from pytest_energy.errors import EngineError
from pytest_energy.safety import redact, untrusted

_LOG_TAIL_BYTES = 4_000
_LOG_TAIL_LINES = 25
_LOG_SEARCHED_BYTES = 200_000
_MEMORY_SHORT = re.compile(
    rb"out of memory|No available memory for the cache"
    rb"|KV cache is needed, which is larger|less than desired GPU memory utilization"
)
_MAX_LINE_BYTES = 1_000_000  # half a second of 50 µs steps has 250 kB
_MAX_WAITING_EVENTS = 256  # a worker that sends more than is read blocks at its pipe
_WATCH_S = 1.0  # of silence, until the engine's processes are checked
_EXIT_WAIT_S = 5.0
_VLLM_TITLE = "VLLM::"  # vLLM's title for processes that its main process depends on


class WorkerProcess:
    """A process that obeys commands and sends events, both as lines of JSON on private pipes.

    Args:
        command: its command line, given the descriptors to write events to and read commands from.
        python: the interpreter whose vLLM it runs, as messages name it.
        fields: what each kind of event must hold, by name.
        command_timeout_s: how long it may take to accept a command.

    Raises (all methods):
        EngineError: with the stage and the end of the process's log.
    """

    def __init__(
        self,
        command: Callable[[int, int], list[str]],
        python: str,
        fields: Mapping[str, set[str]],
        command_timeout_s: float,
    ) -> None:
        self._command, self._python, self._fields = command, python, fields
        self._command_timeout_s = command_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue(_MAX_WAITING_EVENTS)
        self._commands = -1
        self._log: Any = None
        self._needed: dict[int, str] = {}

    @property
    def session_id(self) -> int:
        """Its POSIX session, which all its children share."""
        assert self._process is not None
        return self._process.pid

    def members(self) -> frozenset[int]:
        """Process ids of its session that are alive."""
        return frozenset(session_members(self.session_id))

    def cpu_s(self) -> float:
        """CPU time of its session so far, s; see `cpu_s`."""
        return sum(map(cpu_s, self.members()))

    @property
    def started(self) -> bool:
        """Whether it was started and not yet closed."""
        return self._process is not None

    def start(self) -> None:
        """Start the process; `close` ends it."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives until close)
        events_read, events_write = os.pipe()
        commands_read, commands_write = os.pipe()
        command = self._command(events_write, commands_read)
        try:
            self._process = subprocess.Popen(
                command,
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
                f"cannot run {command[0]}: {error.strerror}.\n"
                "Give the path of a Python interpreter: --energy-python PATH",
            ) from None
        finally:
            os.close(events_write)
            os.close(commands_read)
        os.set_blocking(commands_write, False)
        self._commands = commands_write
        pipe = os.fdopen(events_read, "rb")
        threading.Thread(target=self.read_events, args=(pipe,), daemon=True).start()

    def read_events(self, pipe: IO[bytes]) -> None:
        """Queue the events of `pipe` for `receive`, until it ends or the process is closed."""
        with pipe:
            while line := pipe.readline(_MAX_LINE_BYTES):
                if not self._queue(self._parsed(line)):
                    return
        self._queue(None)

    def _parsed(self, line: bytes) -> dict[str, Any]:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict) and self._fields[event["event"]] <= set(event):
                return event
        return {"event": "error", "message": f"unreadable message from the worker: {line[:80]!r}"}

    def _queue(self, event: dict[str, Any] | None) -> bool:
        """Whether somebody may still ask for it."""
        while True:
            try:
                self._events.put(event, timeout=0.5)
                return True
            except queue.Full:
                if self._process is None:
                    return False

    def send(self, stage: str, **command: Any) -> None:
        """Send a command."""
        unsent = memoryview((json.dumps(command) + "\n").encode())
        deadline = time.monotonic() + self._command_timeout_s
        while unsent:
            left_s = max(0.0, deadline - time.monotonic())
            if not select.select([], [self._commands], [], left_s)[1]:
                limit = f"{self._command_timeout_s:.0f} s"
                raise self.error(stage, f"the worker did not accept a command within {limit}")
            try:
                unsent = unsent[os.write(self._commands, unsent) :]
            except OSError:
                while True:  # it may have said why before it ended
                    self.receive(stage, _EXIT_WAIT_S, "the worker closed its pipe")

    def receive(self, stage: str, timeout_s: float, overdue: str) -> dict[str, Any]:
        """The next event; `overdue` is the message if it does not come in time."""
        event = self._next_event(stage, timeout_s, overdue)
        if event is None:
            raise self._died(stage)
        if event["event"] == "error":
            message, stage = str(event["message"]), str(event.get("stage", stage))
            if "No module named 'vllm'" in message:
                raise EngineError(
                    stage,
                    f"{self._python} has no vLLM.\nInstall vLLM there, or name an interpreter that "
                    "has it: --energy-python /venv/bin/python",
                )
            raise self.error(stage, message)
        return event

    def _next_event(self, stage: str, timeout_s: float, overdue: str) -> dict[str, Any] | None:
        """None once the worker has closed its pipe."""
        deadline, dead = time.monotonic() + timeout_s, ""
        while True:
            try:
                left_s = max(0.0, deadline - time.monotonic())
                return self._events.get(timeout=min(_WATCH_S, left_s))
            except queue.Empty:
                if dead:  # and its worker, if it noticed, has had the time to say so
                    message = (
                        f"the engine's process {dead} has died, but vLLM is still waiting for it"
                    )
                    raise self.error(stage, message) from None
                if time.monotonic() >= deadline:
                    raise self.error(stage, overdue) from None
                alive = self.members()
                dead = ", ".join(
                    f"{title} (pid {pid})"
                    for pid, title in self._needed.items()
                    if pid not in alive
                )

    def watch(self) -> None:
        """From now on, the death of a process that vLLM depends on is an error."""
        titles = {pid: command_of(pid) for pid in self.members()}
        self._needed = {pid: text for pid, text in titles.items() if text.startswith(_VLLM_TITLE)}

    def _died(self, stage: str) -> EngineError:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_EXIT_WAIT_S)
        status = self._process.returncode
        if status is None:
            how = "the worker closed its pipe"
        elif status < 0:
            how = f"the worker was ended by {signal.Signals(-status).name}"
        else:
            how = f"the worker exited with status {status}"
        return self.error(stage, how)

    def error(self, stage: str, message: str) -> EngineError:
        """An error with the end of the log, both without secrets, since they go into reports."""
        # Without seeking: the worker writes at the very same offset.
        size = os.fstat(self._log.fileno()).st_size
        log = os.pread(self._log.fileno(), _LOG_SEARCHED_BYTES, max(0, size - _LOG_SEARCHED_BYTES))
        lines = log[-_LOG_TAIL_BYTES:].decode(errors="replace").splitlines()
        message, tail = (
            redact.secrets(untrusted.printable(text))
            for text in (message, "\n".join(lines[-_LOG_TAIL_LINES:]))
        )
        out_of_memory = bool(_MEMORY_SHORT.search(log + message.encode()))
        return EngineError(stage, message, tail, out_of_memory)

    def close(self, grace_s: float) -> None:
        """End the process and all its children; it may exit by itself within `grace_s`.

        May be called again.
        """
        process = self._process
        if process is None:
            return
        try:
            if grace_s:
                with contextlib.suppress(OSError):
                    os.write(self._commands, b'{"command":"exit"}\n')
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=grace_s)
        finally:  # also when the wait is interrupted
            self._process = None
            end_session(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_EXIT_WAIT_S)
            with contextlib.suppress(OSError):
                os.close(self._commands)
            self._log.close()


def session_members(session_id: int) -> list[int]:
    """Process ids of a POSIX session that are alive; zombies are not."""
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) == session_id and psutil.Process(pid).status() not in (
                psutil.STATUS_ZOMBIE,
                psutil.STATUS_DEAD,
            ):
                members.append(pid)
    return members


def command_of(pid: int) -> str:
    """A process's command line, or the title that it gave itself; empty if it has just ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline()).strip()
    return ""


def cpu_s(pid: int) -> float:
    """User and system time of a process and its collected children, s; 0 if it has just ended."""
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def end_session(session_id: int, timeout_s: float = 20.0) -> None:
    """Kill every process of a POSIX session; an engine's children may have process groups.

    The leader comes last: if this is interrupted (Ctrl-C, twice), the worker is still there to end
    the others when its command pipe closes.
    """
    deadline = time.monotonic() + timeout_s
    while (members := session_members(session_id)) and time.monotonic() < deadline:
        for pid in sorted(members, key=lambda pid: pid == session_id):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
