"""Reading and writing results.json."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pytest_energy.errors import ResultsError
from pytest_energy.report.older_results import upgraded
from pytest_energy.report.results import SCHEMA_VERSION, Entry, HistoryEntry, Results, Run
from pytest_energy.safety import untrusted
from pytest_energy.safety.schema import OtherVersion, checked, version_of

_READ_VERSIONS = (1, 2, 3, SCHEMA_VERSION)
_MAX_BYTES = 10_000_000  # an entry has some 2.5 kB
_MAX_VALUES = 500_000
_RESULTS = TypeAdapter(Results)


def to_json(results: Results) -> str:
    """The file's text; equal for equal results."""
    return _RESULTS.dump_json(results, indent=1).decode() + "\n"


def read(path: Path) -> Results:
    """The results in a file.

    Raises:
        ResultsError: it cannot be read, is larger than 10 MB, has another schema version or holds
            no results.
    """
    try:
        content = untrusted.load(untrusted.read(path, _MAX_BYTES), _MAX_VALUES)
        _refuse_files_of_the_store(path, content)
        version = version_of(content, _READ_VERSIONS)
        if version != SCHEMA_VERSION:
            content = {**upgraded(content, version), "schema_version": SCHEMA_VERSION}
        return checked(_RESULTS, content)
    except OSError as error:
        raise ResultsError(
            f"results file {path} cannot be read: {error.strerror}.\n"
            "Give a results.json that --energy-report wrote."
        ) from None
    except OtherVersion as error:
        raise ResultsError(
            f"results file {path} {error}.\n"
            "Make the report with the pytest-energy that wrote it, or from the recordings."
        ) from None
    except untrusted.Malformed as error:
        raise ResultsError(
            f"results file {path} is damaged or not a results.json: {error}.\n"
            "Nothing was written. "
            "Fetch it again, leave it out, or make the report from the recordings."
        ) from None


def _refuse_files_of_the_store(path: Path, content: Any) -> None:
    """Say which command reads a file of baselines or noise."""
    if not isinstance(content, dict) or "cells" not in content:
        return
    kind, up, command = (
        ("baselines", 2, "history {} -o DIR")
        if isinstance(content["cells"], dict)
        else ("a runner's noise", 3, "report RECORDINGS --baselines {} -o DIR")
    )
    store = os.path.normpath(path.joinpath(*[".."] * up))
    raise ResultsError(
        f"{path} is a file of {kind}, not a results.json.\n"
        f"The command that reads it: pytest-energy {command.format(store)}"
    )


def together(several: Sequence[Results]) -> Results:
    """The results of several runs as one, in the order given."""
    runs: list[Run] = []
    entries: list[Entry] = []
    history: dict[str, HistoryEntry] = {}
    for results in several:
        entries += [replace(entry, run=entry.run + len(runs)) for entry in results.entries]
        runs += results.runs
        # Runs that share a store share its history.
        history.update({repr(state): state for state in results.history})
    energies = tuple(
        dict.fromkeys(found for results in several for found in results.prefill_decode)
    )
    return Results(SCHEMA_VERSION, tuple(runs), tuple(entries), tuple(history.values()), energies)
