"""Files that anyone may have written: read within limits, JSON parsed strictly, keys and fingerprints checked.

What a reader lets through is what everything above it can work with (docs/files.md). Nothing is ever unpickled,
evaluated or fetched.
"""

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

MAX_VALUES = (
    2_000_000  # so that what is parsed stays below some 200 MB; a real recording holds some 10,000
)
_MAX_DEPTH = 20
_MAX_TEXT = 10_000
_MAX_NAME = 300  # the name of a folder has at most 255
_MAX_SHORT = 100
_MAX_INTEGER = 2**64  # a bit mask of the driver's has 64 bits
# Control characters but tab and line end would steer a terminal, the others GitHub's runner, which reads commands from a log.
_STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|^\s*::|##\[", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Malformed(ValueError):
    """A file does not hold what it should; the message says what is wrong with it, without the file's name."""


def read(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it cannot be read.
        Malformed: it is larger than `max_bytes`, or no regular file (a pipe or device would be waited for, or never end).
    """

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)

    with open(path, "rb", opener=without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Malformed("it is no regular file")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise Malformed(f"it is larger than {max_bytes / 1e6:g} MB")
    return content


def parse(content: bytes) -> Any:
    """JSON in UTF-8, as this package writes it: finite numbers of 64 bits, no name twice, short texts, little nesting.

    Raises:
        Malformed: it is no such JSON.
    """
    if sum(content.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise Malformed(f"it holds more than {MAX_VALUES:,} values")
    try:
        value = json.loads(content.decode(), object_pairs_hook=_object)
    except RecursionError:
        raise Malformed("it is nested too deeply") from None
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(f"it is truncated or not JSON: {error}") from None
    _check(value, 0)
    return value


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
        for item in value:
            _check(item, depth + 1)


def _check_text(text: str) -> None:
    if len(text) > _MAX_TEXT:
        raise Malformed(f"it holds a text of more than {_MAX_TEXT:,} characters")
    if _STEERS.search(text) or _SURROGATE.search(text):
        raise Malformed(f"it holds a text that must not be shown: {text[:80]!a}")


def printable(words: str) -> str:
    """A text from elsewhere to show: without colours, and without characters that steer a terminal or cannot be written."""
    return _UNPRINTABLE.sub("\ufffd", _COLOUR.sub("", words))


def name(value: Any, what: str) -> str:
    """A short text that is not empty.

    Raises:
        Malformed: it is none; `what` names it.
    """
    if type(value) is not str or not 0 < len(value) <= _MAX_NAME:
        raise Malformed(f"{what} is no text of 1 to {_MAX_NAME} characters")
    return value


def short(value: Any, what: str) -> str:
    """A text of a few words, such as a date or a version.

    Raises:
        Malformed: it is none; `what` names it.
    """
    if len(name(value, what)) > _MAX_SHORT:
        raise Malformed(f"{what} is longer than {_MAX_SHORT} characters")
    return str(value)


def text(value: Any, what: str) -> str:
    """A text of any length that is allowed.

    Raises:
        Malformed: it is none; `what` names it.
    """
    if type(value) is not str:
        raise Malformed(f"{what} is no text")
    return value


def integer(value: Any, what: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`.

    Raises:
        Malformed: it is none; `what` names it.
    """
    if type(value) is not int or not low <= value <= high:
        raise Malformed(f"{what} is no whole number from {low} to {high}")
    return value


def number(value: Any, what: str, low: float, high: float) -> float:
    """A number from `low` to `high`.

    Raises:
        Malformed: it is none; `what` names it.
    """
    if type(value) not in (int, float) or not low <= value <= high:
        raise Malformed(f"{what} is no number from {low:g} to {high:g}")
    return float(value)


def objects(value: Any, what: str) -> list[dict[str, Any]]:
    """A list of objects.

    Raises:
        Malformed: it is none; `what` names it.
    """
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise Malformed(f"{what} is no list of objects")
    return value


def names(value: Any, what: str) -> tuple[str, ...]:
    """A list of short texts.

    Raises:
        Malformed: it is none; `what` names it.
    """
    if not isinstance(value, list):
        raise Malformed(f"{what} is no list")
    return tuple(name(entry, f"an entry of {what}") for entry in value)
