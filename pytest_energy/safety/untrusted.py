"""Files that anyone may have written: read within limits, JSON parsed strictly.

What passes is what the schemas above it can check (docs/files.md). Nothing is ever unpickled,
evaluated or fetched.
"""

import codecs
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

# What is parsed stays below some 200 MB; a real recording holds some 10,000 values.
MAX_VALUES = 2_000_000
_MAX_DEPTH = 20
_MAX_TEXT = 10_000
_MAX_NAME = 300  # the name of a folder has at most 255
_MAX_INTEGER = 2**64  # a bit mask of the driver's has 64 bits
# Control characters but tab and line end would steer a terminal, the others GitHub's runner, which
# reads commands from a log.
_STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|^\s*::|##\[", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Malformed(ValueError):
    """A file does not hold what it should; the message does not name the file."""


def read(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it cannot be read.
        Malformed: it is larger than `max_bytes`, or not a regular file: a pipe or device may never
            end.
    """

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has none

    with open(path, "rb", opener=without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Malformed("it is not a regular file")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise Malformed(f"it is larger than {max_bytes / 1e6:g} MB")
    return content


class StandIn(NamedTuple):
    """What stands in a file that Git keeps elsewhere, and the command that fetches the file."""

    beginning: bytes
    what: str
    fetched_by: str


_STAND_INS = (
    StandIn(
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, and not the file itself",
        "git lfs pull (in GitHub's actions/checkout, lfs: true)",
    ),
    StandIn(b"/annex/objects/", "a git-annex pointer, and not the file itself", "git annex get ."),
    StandIn(b"\0GITCRYPT\0", "encrypted by git-crypt", "git-crypt unlock"),
)


def stand_in(content: bytes) -> StandIn | None:
    """What Git has put in a file's place; None if nothing."""
    return next((found for found in _STAND_INS if content.startswith(found.beginning)), None)


def digest(content: bytes) -> str:
    """SHA-256 of a text, the same however Git checked out its line ends and an editor began it."""
    text = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")
    return hashlib.sha256(text).hexdigest()


def parse(content: bytes) -> Any:
    """JSON in UTF-8 with finite numbers of 64 bits, no name twice, short texts, little nesting.

    Raises:
        Malformed: it is something else.
    """
    value = load(content, MAX_VALUES)
    _check(value, 0)
    return value


def load(content: bytes, max_values: int) -> Any:
    """JSON in UTF-8 with no name twice and at most `max_values` values; texts may be anything.

    A byte order mark, which editors on Windows write, may stand before it.

    Raises:
        Malformed: it is something else.
    """
    if sum(content.count(mark) for mark in (b",", b"[", b"{")) > max_values:
        raise Malformed(f"it holds more than {max_values:,} values")
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object)
    except RecursionError:
        raise Malformed("it is nested too deeply") from None
    except Malformed:
        raise
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Malformed(f"it is truncated or not JSON ({place})") from None
    except ValueError:
        raise Malformed("it is not JSON in UTF-8") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Malformed("an object in it holds a name twice")
    return made


def _check(value: Any, depth: int) -> None:
    if type(value) is int:
        if not -_MAX_INTEGER < value < _MAX_INTEGER:
            raise Malformed("it holds a whole number of more than 64 bits")
    elif type(value) is float:
        if not math.isfinite(value):
            raise Malformed("it holds a number that is not finite")
    elif type(value) is str:
        _check_text(value)
    elif isinstance(value, list | dict):
        if depth >= _MAX_DEPTH:
            raise Malformed("it is nested too deeply")
        if isinstance(value, dict):
            for name in value:
                _check_text(name)
            value = value.values()
        for item in _deciding(value):
            _check(item, depth + 1)


def _deciding(values: Collection[Any]) -> Collection[Any]:
    """Of nothing but whole numbers the extremes, which decide; a recording has long lists."""
    if len(values) > 2 and set(map(type, values)) == {int}:
        return min(values), max(values)
    return values


def _check_text(text: str) -> None:
    if len(text) > _MAX_TEXT:
        raise Malformed(f"it holds a text of more than {_MAX_TEXT:,} characters")
    if _STEERS.search(text) or _SURROGATE.search(text):
        raise Malformed(f"it holds text with forbidden characters: {text[:80]!a}")


def printable(words: str) -> str:
    """A text from elsewhere without colours and characters that steer a terminal."""
    return _UNPRINTABLE.sub("\ufffd", _COLOUR.sub("", words))


def encodable(words: str) -> str:
    """A text that UTF-8 can hold, as it cannot every path."""
    return words.encode(errors="replace").decode()


def name(value: Any, what: str) -> str:
    """A short text that is not empty.

    Raises:
        Malformed: it is something else; `what` names it.
    """
    if type(value) is not str or not 0 < len(value) <= _MAX_NAME:
        raise Malformed(f"{what} is not a text of 1 to {_MAX_NAME} characters")
    return value


def integer(value: Any, what: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`.

    Raises:
        Malformed: it is something else; `what` names it.
    """
    if type(value) is not int or not low <= value <= high:
        raise Malformed(f"{what} is not a whole number from {low} to {high}")
    return value


def number(value: Any, what: str, low: float, high: float) -> float:
    """A number from `low` to `high`.

    Raises:
        Malformed: it is something else; `what` names it.
    """
    if type(value) not in (int, float) or not low <= value <= high:
        raise Malformed(f"{what} is not a number from {low:g} to {high:g}")
    return float(value)


def names(value: Any, what: str) -> tuple[str, ...]:
    """A list of short texts.

    Raises:
        Malformed: it is something else; `what` names it.
    """
    if not isinstance(value, list):
        raise Malformed(f"{what} is not a list")
    return tuple(name(entry, f"an entry of {what}") for entry in value)
