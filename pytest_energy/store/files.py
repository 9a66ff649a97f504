"""How files of the store are read, and what to type if one is damaged."""

import contextlib
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pytest_energy.safety import untrusted
from pytest_energy.safety.files import is_hidden, link_to_nothing, visible
from pytest_energy.safety.schema import OtherVersion
from pytest_energy.safety.untrusted import Malformed
from pytest_energy.store.figures import MAX_BYTES

_Content = TypeVar("_Content")
_Launches = TypeVar("_Launches", bound=Sequence[Any])

_START = 10_000  # bytes of a file that tell whose it is
_FIGURES = re.compile(rb'"(joules_per_token|idle_power_w|power_w)"')
_CELLS = re.compile(rb'"cells"\s*:\s*([\[{])')  # a list in a noise file
# A line of JSON cannot begin like this.
_CONFLICT = re.compile(rb"^(?:<{7}|\|{7}|={7}|>{7})(?: .*)?\r?$", re.MULTILINE)


class Listing:
    """The files of one kind below a store's folder, looked for once until they may have changed.

    Args:
        folder: of the store.
        pattern: of the files' paths below it.
        error: what is raised if a folder cannot be looked into: what it holds is unknown.
    """

    def __init__(self, folder: Path, pattern: str, error: type[Exception]) -> None:
        self._folder, self._pattern, self._error = folder, pattern, error
        self._paths: list[Path] | None = None

    def forget(self) -> None:
        """Look again when next asked."""
        self._paths = None

    def paths(self, wanted: Callable[[Path], bool] = lambda _: True) -> list[Path]:
        """The files, sorted; each once, however many links, also hard ones, lead to it.

        Args:
            wanted: by which of its paths a file counts.
        """
        if self._paths is None:
            self._paths = _found(self._folder, self._pattern, self._error)
        by_file: dict[object, Path] = {}
        for path in filter(wanted, self._paths):
            by_file.setdefault(_identity(path), path)
        return list(by_file.values())

    def check_replaceable(self, path: Path) -> None:
        """Refuse to replace a file that has another name, which would keep the old content."""
        for other in self._paths or ():
            if other.resolve() != path.resolve() and _identity(other) == _identity(path):
                raise self._error(
                    f"{path} and {other} are one file under two names (a hard link), and "
                    "writing would part them.\n"
                    f"Nothing was written. Delete one: rm {shlex.quote(str(other))}"
                )


def _identity(path: Path) -> object:
    """What all names of one file have in common."""
    with contextlib.suppress(OSError):
        status = path.stat()
        if status.st_nlink > 1:
            return status.st_dev, status.st_ino
    return os.path.realpath(path)


def _found(folder: Path, pattern: str, error: type[Exception]) -> list[Path]:
    place = folder
    try:
        children = [child for child in folder.glob("*") if not is_hidden(child, folder)]
        for place in (folder, *children, *(child / "noise" for child in children)):
            dangling = _dangling(place, "part of the store")
            if dangling:
                raise error(dangling)
            if place.is_dir():
                any(place.iterdir())  # glob passes over a folder that cannot be read
        for place in visible(folder, "**/*"):
            misplaced = _misplaced(place, folder)
            if misplaced:
                raise error(misplaced)
        return visible(folder, pattern)
    except OSError as problem:
        raise error(_unreadable(place, "part of the store", problem)) from None


def _misplaced(path: Path, folder: Path) -> str | None:
    """The message for a file of ours where none of its kind is looked for, or in a folder or with
    an ending that differ from what is looked for in capitals; else None.
    """
    *folders, name = path.relative_to(folder).parts
    if not name.lower().endswith(".json") or not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(_START)
    cells = _CELLS.search(start)
    if cells is None or not _FIGURES.search(start):
        return None
    kind, below = ("noise", ["noise"]) if cells[1] == b"[" else ("baseline", [])
    if len(folders) == 1 + len(below) and folders[1:] == below and name.endswith(".json"):
        return None
    place = folder.joinpath(*(folders[:1] or ["GPU"]), *below, f"{path.stem}.json")
    return f"{path} is a {kind} file, and is not looked for there.\nMove it to {place}"


def _unreadable(path: Path, what: str, problem: OSError) -> str:
    return (
        f"{what} {path} cannot be read: {problem.strerror}.\n"
        "Make it readable, or give another store: --energy-baselines DIR"
    )


def _dangling(path: Path, what: str) -> str | None:
    """The message for a link that leads to nothing; None if it is none."""
    words, name = link_to_nothing(path), shlex.quote(str(path))
    if words is None:
        return None
    fetch = f"git annex get {name}" if "/annex/objects/" in words else "mount or fetch that"
    return (
        f"{what} {path} {words}.\nNothing was compared and nothing written. Make it lead to its "
        f"file again ({fetch}), or delete the link: rm {name}"
    )


def read(
    path: Path,
    what: str,
    parse: Callable[[Any], _Content],
    error: type[Exception],
    of_other_version: str,
) -> _Content:
    """The content of a file.

    Args:
        path: of the file.
        what: it is, for messages.
        parse: makes the content of plain JSON values; may raise Malformed or OtherVersion.
        error: what is raised.
        of_other_version: what to do with a file of another schema version.
    """
    try:
        content = untrusted.read(path, MAX_BYTES)
    except OSError as problem:
        raise error(_dangling(path, what) or _unreadable(path, what, problem)) from None
    except Malformed as problem:
        raise error(_damaged(path, what, problem, b"")) from None
    try:
        return parse(untrusted.parse(content))
    except OtherVersion as problem:
        raise error(f"{what} {path} {problem}.\n{of_other_version}") from None
    except Malformed as problem:
        raise error(_damaged(path, what, problem, content)) from None


def _damaged(path: Path, what: str, problem: Malformed, content: bytes) -> str:
    """What is wrong with a file, what that means, and what to type."""
    instead = untrusted.stand_in(content)
    if instead and not _CONFLICT.search(content):
        return (
            f"{what} {path} is {instead.what}.\n"
            f"Nothing was compared and nothing written. Fetch it: {instead.fetched_by}"
        )
    restore = (
        f"git checkout HEAD -- {shlex.quote(str(path))}\nIf it was committed like this, take an "
        f"earlier commit instead of HEAD: git log --oneline -- {shlex.quote(str(path))}\n"
        "If it was never committed, delete it and measure again."
    )
    conflict = _CONFLICT.search(content)
    if conflict:
        line = content.count(b"\n", 0, conflict.start()) + 1
        return (
            f"{what} {path} holds both sides of a merge (conflict marker in line {line}).\n"
            "Nothing was compared and nothing written. Take one side whole, and measure again "
            f"what the other side changed: {restore}"
        )
    return (
        f"{what} {path} is damaged: {problem}.\n"
        f"Nothing was compared and nothing written. Restore it: {restore}"
    )


def twice(what: str, one: str, other: str) -> str:
    """The message for what must stand once in the store, and stands in two places."""
    return (
        f"{what} stands twice in the store: in {one} and in {other}.\n"
        "Which of them counts is not known, so nothing was compared and nothing written. Delete "
        "the copy, or move it out of the store."
    )


def each_launch_once(launches: _Launches) -> _Launches:
    """A validator: a launch that stands twice, as after a merge by union, would count twice.

    Raises:
        ValueError: one does.
    """
    counts = Counter(launch.launch_id for launch in launches)
    again = next((launch_id for launch_id, count in counts.items() if count > 1), None)
    if again is not None:
        raise ValueError(f"launch {again} stands in it twice")
    return launches
