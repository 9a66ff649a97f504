"""A lock per GPU, so that two runs on one host never measure each other.

A lock is flock(2) on a file named after the GPU's UUID. The kernel frees it when its holder dies,
however it dies. The file stays, and its text is believed only while the lock is held. All users
share one folder of fixed name, so no file in it is trusted: none is opened through a link, and none
that has another hard link is written.
"""

import contextlib
import errno
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
from pytest_energy.safety.files import HAS_LOCKS, NO_LOCKS

if HAS_LOCKS:
    import fcntl

# Not tempfile's, which follows TMPDIR: jobs of one runner may have different ones.
FOLDER = Path("/tmp/pytest-energy-locks")
_POLL_S = 0.5
_MAX_TEXT = 2_000
_UUID = re.compile(r"[A-Za-z0-9-]{1,80}")


@dataclass(frozen=True)
class Holder:
    """Who claims to hold a lock.

    Attributes:
        pid: process id on `host`.
        host: name of the host; containers have their own.
        since_s: seconds since the epoch.
        measuring: what is measured.
    """

    pid: int
    host: str
    since_s: float
    measuring: str

    def __str__(self) -> str:
        then = time.localtime(self.since_s)
        today = time.strftime("%F", then) == time.strftime("%F")
        where = "" if self.host == platform.node() else f" on {self.host}"
        since = time.strftime("%H:%M" if today else "%F %H:%M", then)
        return f"pid {self.pid}{where} ({self.measuring} since {since})"


_UNNAMED = "an unnamed process"


class GpuLocks:
    """The locks that one run holds, until `release` or the end of the process.

    A run waits only while it holds none, or for the next in the order of UUIDs, so runs never wait
    for each other in a circle.

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
        """Lock these GPUs, waiting for their holders; this run must have nothing on a GPU.

        Returns those whose last holder died while it held the lock: what it started may not have
        ended yet.

        Args:
            uuids: as NVML spells them; those that are held stay held.
            measuring: what will be measured, for those who wait.
            progress: called with a few words on whom the run waits for.

        Raises:
            LockError: the time for waiting is used up, or a lock file cannot be used.
        """
        if not HAS_LOCKS:
            raise LockError(NO_LOCKS)
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
        """Hold exactly these GPUs, on which the engine runs; free the others.

        Raises:
            LockError: as for `acquire`; or another run holds one of them, which is not waited for,
                because the engine is already there.
        """
        wanted = set(uuids)
        for uuid in self.held - wanted:
            self._free(uuid)
        if not self._held:
            self.acquire(wanted, measuring, progress)
        for uuid in sorted(wanted - self.held):
            if not self._try(uuid, measuring):
                raise LockError(
                    f"the engine is on {uuid}, on which another run measures: "
                    f"{look(uuid)[1] or _UNNAMED}.\nCUDA_VISIBLE_DEVICES does not name that GPU: "
                    "give UUIDs there (nvidia-smi -L)."
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
                    f"{uuid} is not free: {holder or _UNNAMED} holds it, and this run has waited "
                    f"{self._timeout_s:g} s in all.\n"
                    "Run again when it has ended, or wait longer: --energy-lock-timeout SECONDS"
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
            # Without a link it was deleted after it was opened.
            if not _lock(file, fcntl.LOCK_EX) or not os.fstat(file).st_nlink:
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
    """Whether a run holds a GPU's lock, and who claims to; None if the holder has not said.

    Writes nothing.
    """
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
    """What the holder wrote, if it looks like it: any user of this host may have written it."""
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
    """Try three times: whoever looks holds the lock for a moment."""
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
        "Without it another run could measure on this GPU at the same time. "
        f"{FOLDER} must be a folder that all users may write to (mode 1777), and so must its files "
        "be. Remove it while no run is active: the next run makes it."
    )


def _open(uuid: str, create: bool) -> int:
    """The lock file, opened for writing if it may be made; never inherited, never through a link.

    Raises:
        LockError: it cannot be used.
        FileNotFoundError: it does not exist and may not be made.
    """
    if not HAS_LOCKS:
        raise LockError(NO_LOCKS)
    if not _UUID.fullmatch(uuid):
        raise LockError(f"{uuid!r} is not a GPU's UUID")
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
            # For all users, whatever the umask; none may delete another's files.
            FOLDER.chmod(0o1777)
    return os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _open_file(name: str, folder: int, create: bool) -> int:
    # O_NONBLOCK: a pipe in its place must not hang us.
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_RDWR if create else os.O_RDONLY)
    while True:
        try:
            # Without O_CREAT: with it, Linux lets nobody open another user's file in such a folder
            # (fs.protected_regular).
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
        raise OSError(errno.EINVAL, "it is not a regular file with one name")
    return file
