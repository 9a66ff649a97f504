"""A report's files in a folder, and what of them GitHub shows. Light: it is asked before anything is measured."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_energy.errors import ResultsError
from pytest_energy.safety.files import write_atomically

if TYPE_CHECKING:
    from pytest_energy.report.results import Entry, Results

_NEEDED = ("jinja2", "matplotlib", "pandas", "pydantic")


def refuse_if_impossible(folder: Path) -> None:
    """Find out before it costs a measurement that the report could not be made or written.

    Raises:
        ResultsError: a package is missing, or the folder cannot be written to.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ResultsError(
            f"a report needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.\n"
            "Install what reports need: pip install 'pytest-energy[report]'"
        )
    standing = next(place for place in (folder, *folder.parents) if place.exists())
    if not standing.is_dir() or not os.access(standing, os.W_OK | os.X_OK):
        why = "is no folder" if not standing.is_dir() else "cannot be written to"
        raise ResultsError(
            f"the report cannot go to {folder}: {standing} {why}.\nGive another folder, or make that one writable."
        )


def publish(
    results: "Results", folder: Path, recordings: Sequence[Path] = (), csv: bool = False
) -> list[Path]:
    """Write results.json, report.md, report.html and the pictures; each file whole or not at all. Returns their paths.

    Args:
        results: what is reported.
        folder: made where it does not exist.
        recordings: folders to look for recordings of the launches in, for their power traces.
        csv: whether tables are written, too.

    Raises:
        OSError: a file could not be written.
    """
    from pytest_energy.report import gallery, markdown, page, pictures, tables
    from pytest_energy.report.results import to_json

    sections, not_drawn = gallery.sections(results, recordings)
    files = {
        "results.json": to_json(results),
        "report.md": markdown.page(results),
        "report.html": page.page(results, sections, not_drawn),
    }
    for section in sections:
        for picture in section.pictures:
            files |= {
                f"pictures/{picture.name}-{theme}.svg": picture.svg(theme)
                for theme in pictures.THEMES
            }
    if csv:
        files |= {
            f"{name}.csv": tables.csv(frame) for name, frame in tables.frames(results).items()
        }
    for name, text in files.items():
        write_atomically(folder / name, text.encode(errors="replace"))
    return [folder / name for name in files]


def annotation(entry: "Entry") -> str:
    """A regression as a GitHub workflow command: an error at the test's line.

    https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
    """
    lines = [entry.what, entry.how_sure, *entry.reasons, entry.why]
    lines += [] if entry.changed is None else [f"what changed: {entry.changed}"]
    lines += [f"next: {text}" for text in entry.next]
    message = "\n".join(line for line in lines if line)
    place = {
        "file": entry.file or "",
        "line": str(entry.line or 1),
        "title": f"{entry.cell.name} {entry.verdict}",
    }
    return f"::error {','.join(f'{name}={_property(value)}' for name, value in place.items())}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
