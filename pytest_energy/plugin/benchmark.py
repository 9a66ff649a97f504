"""Each measured test in pytest-benchmark's table and --benchmark-json, as seconds per cycle.

Entries go to pytest-benchmark's session directly, not through its fixture, so that none of its
options (--benchmark-skip, --benchmark-only, --benchmark-disable) nor its behaviour under xdist can
turn a test green or skip it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from pytest_energy.evidence import Evidence
from pytest_energy.plugin.state import test_id
from pytest_energy.report.rows import Row

_SKIP_REASONS = ("--benchmark-only active", "--benchmark-skip active")


class _Shown:
    """The part of a benchmark fixture that pytest_benchmark.stats.Metadata reads."""

    def __init__(self, found: Mapping[str, Any], extra_info: dict[str, Any]) -> None:
        self.name, self.fullname, self.group = found["name"], found["fullname"], "energy"
        self.param, self.params = found["param"], found["params"]
        self.extra_info, self.cprofile_stats, self.has_error = extra_info, None, False


def of(item: pytest.Item, evidence: Evidence, row: Row) -> dict[str, Any]:
    """A test's cycles and figures, as plain values that travel between processes."""
    callspec = getattr(item, "callspec", None)
    params = {
        name: value if isinstance(value, str | int | float | None) else str(value)
        for name, value in (callspec.params if callspec else {}).items()
    }
    return {
        "name": item.name,
        "fullname": test_id(item),
        "param": callspec.id if callspec else None,
        "params": params or None,
        "extra_info": row.named(),
        "times_s": [
            float(time) for m in evidence.measurements if m.cycles for time in m.cycles.time_s
        ],
    }


def add(config: pytest.Config, tests: Iterable[Sequence[Mapping[str, Any]]]) -> None:
    """Add each test's cycles, if pytest-benchmark is active and its table or files are wanted.

    Args:
        config: of the process that reports; xdist's workers would write one file.
        tests: of each test what `of` gave for its metrics, which share their cycles.
    """
    session = getattr(config, "_benchmarksession", None)
    measured = [found for found in tests if found and found[0]["times_s"]]
    if session is None or not measured or not _is_wanted(config):
        return
    from pytest_benchmark.stats import Metadata

    for found in measured:
        extra_info = {
            name: value for of_one in found for name, value in of_one["extra_info"].items()
        }
        shown = _Shown(found[0], extra_info)
        entry: Any = Metadata(shown, iterations=1, options={})  # type: ignore[no-untyped-call]
        for time in found[0]["times_s"]:
            entry.stats.update(time)
        session.benchmarks.append(entry)


def _is_wanted(config: pytest.Config) -> bool:
    """Whether any of pytest-benchmark's options was given: its table and files are wanted then."""
    given = (
        *config.invocation_params.args,
        *config.getini("addopts"),
        *os.environ.get("PYTEST_ADDOPTS", "").split(),
    )
    return any(str(word).startswith("--benchmark-") for word in given)


def undo_skips(items: Sequence[pytest.Item]) -> None:
    """Take back the skip marks that pytest-benchmark's options put on `items`."""
    for item in items:
        item.own_markers[:] = [
            mark
            for mark in item.own_markers
            if mark.name != "skip"
            or not any(reason in str(mark.kwargs.get("reason")) for reason in _SKIP_REASONS)
        ]
