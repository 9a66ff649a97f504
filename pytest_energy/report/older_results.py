"""results.json of older schema versions under the newest; what is wrong with one stays wrong."""

import re
from typing import Any

from pytest_energy.verdict import slowdown

_RENAMED_IN_2 = {
    "new": "candidate",
    "old": "reference",
    "turns": "periods",
    "beside": "co_resident",
    "smallest_change_caught": "detects",
}
_NOTHING = "no recorded version or setting"


def upgraded(content: dict[str, Any], version: int) -> dict[str, Any]:
    """The content of a file of this version.

    1 has other names, 1 and 2 lack energy per request, and until 3 `changed` is a text.
    """
    entries = content.get("entries")
    if not isinstance(entries, list):
        return content
    return {**content, "entries": [_entry(entry, version) for entry in entries]}


def _entry(entry: Any, version: int) -> Any:
    if not isinstance(entry, dict):
        return entry
    found = {_in_version_2(n): v for n, v in entry.items()} if version == 1 else dict(entry)
    if isinstance(found.get("changed"), str):
        found["changed"] = _changes(found["changed"])
    return found


def _in_version_2(name: str) -> str:
    """A field's name in version 2; one that version 1 does not have stays unknown."""
    unknown = name in _RENAMED_IN_2.values()
    return f"{name} (not in version 1)" if unknown else _RENAMED_IN_2.get(name, name)


def _changes(text: str) -> dict[str, Any]:
    """What a text such as "slower host (2 ms …); vllm: 1.0 → 2.0; and 3 more" says."""
    pieces = text.split("; ")
    slower = None
    if pieces[0].startswith(slowdown.CAUSES):
        cause, _, figures = pieces.pop(0).partition(" (")
        slower = {"cause": cause, "figures": figures.removesuffix(")")}
    more = 0
    if pieces and (left_out := re.fullmatch(r"and (\d{1,6}) more", pieces[-1])):
        pieces.pop()
        more = int(left_out[1])
    differences: dict[str, str] = {}
    last = ""
    for piece in pieces:
        name, colon, values = piece.partition(": ")
        if colon and " → " in values:
            differences[name], last = values, name
        elif last:  # a value that holds a semicolon
            differences[last] += f"; {piece}"
        elif piece not in ("", _NOTHING):
            differences[piece] = ""
    return {"slower": slower, "differences": differences, "more": more}
