"""A report on GitHub: in the job's summary, and as annotations of tests that regressed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_energy.safety.files import in_words

if TYPE_CHECKING:
    from pytest_energy.report.results import Entry, Results

# Limits of the runner: CreateStepSummaryCommand in FileCommandManager.cs, _maxCountPerIssueType and
# _maxIssueMessageLength in ExecutionContext.cs of https://github.com/actions/runner.
_MAX_SUMMARY_BYTES = 1024 * 1024
_MAX_ANNOTATIONS = 10
_MAX_CHARACTERS = 4096


def add_to_summary(results: "Results", path: Path) -> str | None:
    """Add the report to the summary of the job's step; why it was not added, or None."""
    from pytest_energy.report import markdown

    text = (markdown.page(results) + "\n").encode(errors="replace")
    what = "the energy report was not added to the job summary"
    try:
        with path.open("ab") as file:
            if file.tell() + len(text) > _MAX_SUMMARY_BYTES:
                return f"{what}: with it GitHub would drop all of the step's, which may have 1 MiB"
            file.write(text)
    except OSError as error:
        return f"{what} (GITHUB_STEP_SUMMARY): {in_words(error)}"
    return None


def annotations(entries: Sequence["Entry"]) -> list[str]:
    """Regressions as workflow commands; the last names those for which GitHub has no room.

    https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
    """
    regressed = [entry for entry in entries if entry.verdict == "regressed"]
    if len(regressed) <= _MAX_ANNOTATIONS:
        return [_annotation(entry) for entry in regressed]
    shown, rest = regressed[: _MAX_ANNOTATIONS - 1], regressed[_MAX_ANNOTATIONS - 1 :]
    title = f"{len(rest)} more tests regressed"
    message = "\n".join([f"{title}:", *(entry.what for entry in rest)])
    return [*map(_annotation, shown), _error(message, title=title)]


def _annotation(entry: "Entry") -> str:
    """An error at the test's line."""
    lines = [entry.what, entry.how_sure, *entry.reasons, entry.why]
    lines += [] if entry.changed is None else [f"what changed: {entry.changed.in_words}"]
    lines += [f"next: {text}" for text in entry.next]
    return _error(
        "\n".join(line for line in lines if line),
        file=entry.file or "",
        line=str(entry.line or 1),
        title=f"{entry.cell.name} {entry.verdict}",
    )


def _error(message: str, **properties: str) -> str:
    if len(message) > _MAX_CHARACTERS:
        message = f"{message[: _MAX_CHARACTERS - 1]}…"
    listed = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::error {listed}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
