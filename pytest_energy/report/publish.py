"""A report's files in a folder.

Imports nothing heavy: whether a report can be made is checked before anything is measured.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_energy.errors import ResultsError
from pytest_energy.safety.files import unwritable, write_atomically

if TYPE_CHECKING:
    from pytest_energy.report.results import Results

_NEEDED = ("jinja2", "matplotlib")


def refuse_if_impossible(folder: Path) -> None:
    """Check before a measurement that the report can be made and written.

    Raises:
        ResultsError: a package is missing, or the folder cannot be written to.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ResultsError(
            f"a report needs {' and '.join(missing)}, which {verb} not installed.\n"
            "Install what reports need: pip install 'pytest-energy[report]'"
        )
    why = unwritable(folder)
    if why is not None:
        raise ResultsError(
            f"the report cannot go to {folder}: {why}.\n"
            "Give another folder, or make that one writable."
        )


def publish(results: "Results", folder: Path, recordings: Sequence[Path] = ()) -> list[Path]:
    """Write results.json, report.md, report.html and the pictures, each whole or not at all.

    Args:
        results: what is reported.
        folder: made if it does not exist.
        recordings: folders to search for the launches' recordings, for their power traces.

    Returns:
        The files' paths.

    Raises:
        OSError: a file could not be written.
    """
    from pytest_energy.report import gallery, markdown, page, pictures
    from pytest_energy.report.results_file import to_json

    shown = gallery.gallery(results, recordings)
    files = {
        "results.json": to_json(results),
        "report.md": markdown.page(results),
        "report.html": page.page(results, shown),
    }
    for picture in shown.pictures:
        files |= {
            f"pictures/{picture.name}-{theme}.svg": picture.svg(theme) for theme in pictures.THEMES
        }
    for name, text in files.items():
        write_atomically(folder / name, text.encode(errors="replace"))
    return [folder / name for name in files]
