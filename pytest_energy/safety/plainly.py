"""Legible output on streams that lack some characters, as under LC_ALL=C. Light."""

import codecs
import io
from typing import Any, Final

_PLAIN = {
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "±": "+/-",
    "−": "-",
    "–": "-",
    "×": "x",
    "÷": "/",
    "·": "|",
    "µ": "u",
    "°": " ",
    "…": "...",
    "“": '"',
    "”": '"',
}
_NAME: Final = "pytest_energy.plainly"  # of the error handler


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Handler of characters that a stream cannot encode, for `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in lacking), error.end


codecs.register_error(_NAME, _plain)


def show(*streams: Any) -> None:
    """From now on write what these streams cannot encode in ASCII, or as a question mark."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and not _encodes_all(stream.encoding):
            stream.reconfigure(errors=_NAME)


def _encodes_all(encoding: str) -> bool:
    return codecs.lookup(encoding).name.startswith("utf-")
