"""Files that are replaced whole or not at all, and that one process changes at a time."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: recordings can be judged there, and nothing be written
    HAS_LOCKS = False
else:
    HAS_LOCKS = True
NO_LOCKS = (
    "this system has no flock(2), so another process could change the same files, or measure on "
    "the same GPU, at the same time.\nRun it on Linux."
)

_WAIT_S = 30.0
_POLL_S = 0.02


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path`, or that a link there leads to, by `content`.

    After a crash, even of the machine, the file holds the old content or the new.

    Raises:
        OSError: nothing was replaced.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is reported
            temporary.unlink()
        raise
    # Without it, a power failure may bring back the old content; the file is replaced in any case.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def visible(folder: Path, pattern: str) -> list[Path]:
    """The files below a folder, sorted, without what editors and file managers leave there."""
    return sorted(
        path for path in folder.glob(pattern) if not is_hidden(path, folder) and not path.is_dir()
    )


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether an editor or file manager left what is below a folder."""
    return any(part.startswith((".", "~", "#")) for part in path.relative_to(folder).parts)


def link_to_nothing(path: Path) -> str | None:
    """What a path is, in words, if it is a link that leads nowhere; else None."""
    if not path.is_symlink() or path.exists():
        return None
    return f"is a link to {path.readlink()}, and nothing is there"


def expanded(path: str) -> Path:
    """With the home folder for ~; as it is, as shells leave it, if there is no such folder."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def user_cache() -> Path:
    """The user's folder for caches (XDG base directory specification).

    Relative, as vLLM has it, for a user without a home.
    """
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def unwritable(folder: Path) -> str | None:
    """Why files cannot be written to a folder, which may be yet to make; None if they can."""
    places = folder, *folder.absolute().parents
    existing = next(place for place in places if os.path.lexists(place))
    if not existing.exists():
        return f"{existing} is a link to nothing"
    if not existing.is_dir():
        return f"{existing} is not a folder"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"{existing} cannot be written to"


def in_words(error: OSError) -> str:
    """What failed, and where, without Python's notation."""
    if not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


@contextlib.contextmanager
def exclusively(folder: Path) -> Iterator[None]:
    """Let one process at a time read, change and write files below `folder`.

    The lock is flock(2) on the folder itself, so it adds no file, and the kernel releases it with
    its holder.

    Raises:
        TimeoutError: another process has held it for half a minute.
        OSError: the folder cannot be made or locked.
    """
    if not HAS_LOCKS:
        raise OSError(NO_LOCKS)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + _WAIT_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise TimeoutError(
                        f"another process has been changing files in {folder} for "
                        f"{_WAIT_S:.0f} s.\nWait for it to end, and run this again."
                    ) from None
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(handle)
