"""The files of a table of releases: Markdown, pictures, and CSV for pandas."""

import csv
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_energy.report import pictures, release_pictures, release_table
from pytest_energy.report.markdown import escape
from pytest_energy.report.pictures import Picture
from pytest_energy.report.published import Published
from pytest_energy.report.releases import Table
from pytest_energy.safety.files import write_atomically

_PICTURE = """\
<picture>
<source media="(prefers-color-scheme: dark)" srcset="{name}-dark.svg">
<img alt="{title}" src="{name}-light.svg">
</picture>"""


def publish(
    tables: Sequence[Table], folder: Path, published: Sequence[Published] = ()
) -> list[Path]:
    """Write releases.md, the CSV files and the pictures, each whole or not at all.

    weights.csv is there if cells that differ in nothing but their weights are compared.

    Returns:
        The files' paths.

    Raises:
        OSError: a file could not be written.
    """
    drawn = release_pictures.pictures(tables, published)
    files = {
        "releases.md": _page(tables, drawn),
        "releases.csv": _csv(release_table.figure_records(tables)),
        "verdicts.csv": _csv(release_table.step_records(tables)),
    }
    if any(table.under_weights for table in tables):
        files["weights.csv"] = _csv(release_table.weights_records(tables))
    for picture in drawn:
        files |= {
            f"pictures/{picture.name}-{theme}.svg": picture.svg(theme) for theme in pictures.THEMES
        }
    for name, text in files.items():
        write_atomically(folder / name, text.encode(errors="replace"))
    return [folder / name for name in files]


def _page(tables: Sequence[Table], drawn: Sequence[Picture]) -> str:
    blocks = ["# Energy per token over vLLM releases"]
    blocks += [release_table.markdown(table) for table in tables]
    for picture in drawn:
        blocks += shown(picture, "pictures")
    return "\n\n".join(blocks) + "\n"


def shown(picture: Picture, folder: str) -> list[str]:
    """Blocks of Markdown: a picture that lies in `folder`, with its title and caption."""
    return [
        f"### {escape(picture.title)}",
        _PICTURE.format(name=f"{folder}/{picture.name}", title=html.escape(picture.title)),
        escape(picture.caption),
    ]


def _csv(records: Sequence[dict[str, Any]]) -> str:
    """A column for every name; what a record lacks is empty."""
    text = io.StringIO()
    names = dict.fromkeys(name for record in records for name in record)
    writer = csv.DictWriter(text, [*names], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
