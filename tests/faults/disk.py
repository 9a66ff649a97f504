"""A disk below pytest_energy.safety.files that fails on demand.

Every operation that changes files passes here first.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OPERATIONS = ("mkdir", "lock", "create", "write", "fsync", "chmod", "rename", "fsync of the folder")
Before = Callable[[str, Path], None]


class _File:
    """A file opened to be written, as os.fdopen gives it."""

    def __init__(self, file: Any, path: Path, before: Before) -> None:
        self._file, self._path, self._before = file, path, before

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: bytes) -> int:
        self._before("write", self._path)
        return int(self._file.write(content))


def _named(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}").readlink()


def watch(patch: pytest.MonkeyPatch, top: Path, before: Before) -> None:
    """Call `before(operation, path)` ahead of each operation below `top`, which it may fail."""
    real = {
        name: getattr(os, name)
        for name in ("mkdir", "open", "fsync", "chmod", "replace", "unlink", "fdopen")
    }
    mkstemp = tempfile.mkstemp

    def announce(operation: str, path: Any) -> None:
        path = Path.cwd() / path
        if path == top or top in path.parents:
            before(operation, path)

    def mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
        if not Path(path).exists():
            announce("mkdir", path)
        real["mkdir"](path, *args, **kwargs)

    def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if isinstance(path, Path) and flags & os.O_DIRECTORY:
            announce("lock", path)
        return int(real["open"](path, flags, *args, **kwargs))

    def made(*args: Any, **kwargs: Any) -> tuple[int, str]:
        if "dir" in kwargs and kwargs["dir"] is not None:
            announce("create", kwargs["dir"])
        return mkstemp(*args, **kwargs)

    def fdopen(handle: int, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = real["fdopen"](handle, mode, *args, **kwargs)
        path = _named(handle)
        return _File(file, path, announce) if mode == "wb" and top in path.parents else file

    def fsync(handle: int) -> None:
        path = _named(handle)
        announce("fsync of the folder" if path.is_dir() else "fsync", path)
        real["fsync"](handle)

    def chmod(path: Any, *args: Any, **kwargs: Any) -> None:
        announce("chmod", path)
        real["chmod"](path, *args, **kwargs)

    def replace(source: Any, target: Any, **kwargs: Any) -> None:
        announce("rename", target)
        real["replace"](source, target, **kwargs)

    def unlink(path: Any, **kwargs: Any) -> None:
        announce("unlink", path)
        real["unlink"](path, **kwargs)

    mine = {
        "mkdir": mkdir,
        "open": opened,
        "fsync": fsync,
        "chmod": chmod,
        "replace": replace,
        "unlink": unlink,
        "fdopen": fdopen,
    }
    for name, function in mine.items():
        patch.setattr(os, name, function)
    patch.setattr(tempfile, "mkstemp", made)


def fail(error: int, at: str, for_good: bool) -> Before:
    """A disk whose operations `at` fail with the error number; `for_good`: and all that follow."""
    failed: list[str] = []

    def before(operation: str, path: Path) -> None:
        if (failed and for_good) or operation == at:
            failed.append(operation)
            raise OSError(error, os.strerror(error), str(path))

    return before
