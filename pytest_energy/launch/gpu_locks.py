"""A lock per GPU, so that two runs on one host never measure each other.

A lock is flock(2) on a file named by the GPU's UUID. The kernel frees it when its holder dies, however it dies; the file
stays, and its text is only believed while the lock is held. Files lie in one folder of fixed name that all users share, so
no file in it is trusted: none is opened through a link, and none that is linked elsewhere is written.
"""

import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_energy.errors import LockError

# Not tempfile's: it follows TMPDIR, which jobs of one runner may have different, and then they would not see each other.
FOLDER = Path("/tmp/pytest-energy-locks")
_POLL_S = 0.5
_MAX_TEXT = 2_000
_UUID = re.compile(r"[A-Za-z0-9-]{1,80}")


@dataclass(frozen=True)
class Holder:
    """Who says to hold a lock: process id, the host whose number that is, since when (seconds of the epoch), what is measured."""

    pid: int
    host: str
    since_s: float
    measuring: str

    def __str__(self) -> str:
        then = time.localtime(self.since_s)
        today = time.strftime("%F", then) == time.strftime("%F")
        where = "" if self.host == platform.node() else f" on {self.host}"
        return f"pid {self.pid}{where} ({self.measuring} since {time.strftime('%H:%M' if today else '%F %H:%M', then)})"


_UNNAMED = "a process that has not said who it is"


class GpuLocks:
    """The locks that one run holds. Use `release` when nothing is left to measure; the end of the process does it, too.

    A run waits only while it holds none, or for the next in the order of UUIDs, so runs never wait for each other in a circle.

    Args:
        timeout_s: limit for all waiting of this run together.
    """

    def __init__(self, timeout_s: float) -> None:
        self._left_s = self._timeout_s = timeout_s
        self._held: dict[str, int] = {}
        self._left_behind: set[str] = set()

    @property
    def held(self) -> frozenset[str]:
        """UUIDs of the GPUs that are locked."""
        return frozenset(self._held)

    def acquire(
        self, uuids: Iterable[str], measuring: str, progress: Callable[[str], None]
    ) -> frozenset[str]:
        """Lock these GPUs, waiting for their holders; nothing of this run may be on a GPU.

        Returns those whose last holder died with the lock in its hands: what it started may still be about to end.

        Args:
            uuids: as NVML spells them; those that are held already stay so.
            measuring: what is to be measured, for those who wait.
            progress: told who is waited for.

        Raises:
            LockError: the time for waiting is used up, or a lock file cannot be used.
        """
        self._left_behind = set()
        wanted = sorted(uuids)
        missing = [uuid for uuid in wanted if uuid not in self._held]
        if self._held and not all(self._try(uuid, measuring) for uuid in missing):
            self.release()
        for uuid in wanted:
            if uuid not in self._held:
                self._wait(uuid, measuring, progress)
        return frozenset(self._left_behind)

    def keep(self, uuids: Iterable[str], measuring: str, progress: Callable[[str], None]) -> None:
        """Hold the locks of exactly these GPUs, on which the engine was found; free the others.

        Raises:
            LockError: as for `acquire`; or another run holds one of them, which is not waited for: the engine is on it.
        """
        wanted = set(uuids)
        for uuid in self.held - wanted:
            self._free(uuid)
        if not self._held:
            self.acquire(wanted, measuring, progress)
        for uuid in sorted(wanted - self.held):
            if not self._try(uuid, measuring):
                raise LockError(
                    f"the engine is on {uuid}, on which another run measures: {look(uuid)[1] or _UNNAMED}.\n"
                    "CUDA_VISIBLE_DEVICES did not name it: name GPUs by their UUIDs there (nvidia-smi -L)."
                )

    def release(self) -> None:
        """Free all locks."""
        for uuid in self.held:
            self._free(uuid)

    def _free(self, uuid: str) -> None:
        file = self._held.pop(uuid)
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
        os.close(file)

    def _wait(self, uuid: str, measuring: str, progress: Callable[[str], None]) -> None:
        started = time.monotonic()
        while not self._try(uuid, measuring):
            _, holder = look(uuid)
            waited = time.monotonic() - started
            if waited >= self._left_s:
                self._left_s = 0.0  # the run's other cells do not wait as long again
                self.release()
                raise LockError(
                    f"{uuid} is not free: {holder or _UNNAMED} holds it, and this run has waited {self._timeout_s:g} s in all.\n"
                    "Wait for it to end, or wait longer: --energy-lock-timeout SECONDS"
                )
            progress(f"{uuid[:12]}: waiting for {holder or _UNNAMED}, {waited:.0f} s")
            time.sleep(min(_POLL_S, self._left_s - waited))
        self._left_s = max(0.0, self._left_s - (time.monotonic() - started))

    def _try(self, uuid: str, measuring: str) -> bool:
        """Lock it if it is free; True when it is held."""
        if uuid in self._held:
            return True
        file = _open(uuid, create=True)
        try:
            if (
                not _lock(file, fcntl.LOCK_EX) or not os.fstat(file).st_nlink
            ):  # no link: it was deleted after it was opened
                os.close(file)
                return False
            if os.pread(file, 1, 0):
                self._left_behind.add(uuid)  # who frees a lock empties its file
            text = {
                "pid": os.getpid(),
                "host": platform.node(),
                "since_s": round(time.time()),
                "measuring": measuring[:80],
            }
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(text).encode() + b"\n", 0)
        except OSError as error:
            os.close(file)
            raise _unusable(uuid, error) from None
        self._held[uuid] = file
        return True


def look(uuid: str) -> tuple[bool, Holder | None]:
    """Whether somebody holds a GPU's lock, and who says to; None where the holder has not said. Writes nothing."""
    try:
        file = _open(uuid, create=False)
    except (FileNotFoundError, LockError):
        return False, None
    try:
        return (False, None) if _lock(file, fcntl.LOCK_SH) else (True, _read(file))
    except OSError:
        return False, None
    finally:
        os.close(file)


def _read(file: int) -> Holder | None:
    """What the holder wrote, if it is that: any user of this host may have written it."""
    try:
        text: Any = json.loads(os.pread(file, _MAX_TEXT, 0))
        pid, host, since_s, measuring = (
            text[name] for name in ("pid", "host", "since_s", "measuring")
        )
        sane = (
            type(pid) is int and type(since_s) is int and 0 < pid < 2**31 and 0 <= since_s < 2**32
        )
        if not sane or not all(
            isinstance(word, str) and word.isprintable() and len(word) <= 80
            for word in (host, measuring)
        ):
            return None
        return Holder(pid, host, since_s, measuring)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _lock(file: int, how: int) -> bool:
    """Three times: somebody who looks holds it for a moment."""
    for _ in range(3):
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.005)
    return False


def _unusable(uuid: str, error: OSError) -> LockError:
    return LockError(
        f"the lock of {uuid} cannot be used: {FOLDER / uuid}.lock: {error.strerror}.\n"
        f"Without it another run could measure on this GPU at the same time. {FOLDER} must be a folder that all may write to "
        f"(mode 1777), and its files writable for all: remove it when no run is active, and it is made anew."
    )


def _open(uuid: str, create: bool) -> int:
    """The lock file, opened to be written to where it may be made; never inherited by another program, never through a link.

    Raises:
        LockError: it cannot be used.
        FileNotFoundError: it is not there and may not be made.
    """
    if not _UUID.fullmatch(uuid):
        raise LockError(f"{uuid!r} is no GPU's UUID")
    try:
        folder = _open_folder(create)
        try:
            return _open_file(f"{uuid}.lock", folder, create)
        finally:
            os.close(folder)
    except FileNotFoundError as error:
        if create:
            raise _unusable(uuid, error) from None
        raise
    except OSError as error:
        raise _unusable(uuid, error) from None


def _open_folder(create: bool) -> int:
    if create:
        with contextlib.suppress(FileExistsError):
            FOLDER.mkdir()
            FOLDER.chmod(
                0o1777
            )  # for all users, whatever the umask; none may delete another's files
    return os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _open_file(name: str, folder: int, create: bool) -> int:
    mode = os.O_RDWR if create else os.O_RDONLY
    flags = (
        mode | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    )  # a pipe in its place must not hang us
    while True:
        try:
            # Without O_CREAT: with it Linux lets nobody open another user's file in such a folder (fs.protected_regular).
            file = os.open(name, flags, dir_fd=folder)
            break
        except FileNotFoundError:
            if not create:
                raise
        with contextlib.suppress(FileExistsError):
            file = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
            os.fchmod(file, 0o666)  # whatever the umask
            break
    about = os.fstat(file)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        os.close(file)
        raise OSError(errno.EINVAL, "it is no file of its own")
    return file
