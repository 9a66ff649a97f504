"""Each measured test in pytest-benchmark's table and --benchmark-json, as seconds per cycle.

Entries go to pytest-benchmark's session directly, not through its fixture, so that none of its
options (--benchmark-skip, --benchmark-only, --benchmark-disable) nor its behaviour under xdist can
turn a test green or skip it.
"""

from collections.abc import Sequence
from typing import Any

import pytest

from pytest_energy.evidence import Evidence
from pytest_energy.report.rows import Row

_SKIP_REASONS = ("--benchmark-only active", "--benchmark-skip active")


class _Entry:
    """The part of a benchmark fixture that pytest_benchmark.stats.Metadata reads."""

    def __init__(self, item: pytest.Item, extra_info: dict[str, Any]) -> None:
        callspec = getattr(item, "callspec", None)
        self.name, self.fullname, self.group = item.name, item.nodeid, "energy"
        self.param = callspec.id if callspec else None
        self.params = dict(callspec.params) if callspec else None
        self.extra_info, self.cprofile_stats, self.has_error = extra_info, None, False


def add(item: pytest.Item, evidence: Evidence, row: Row) -> None:
    """Add a test's cycles, if pytest-benchmark is active and there are any."""
    session = getattr(item.config, "_benchmarksession", None)
    times = [time for m in evidence.measurements if m.cycles for time in m.cycles.time_s]
    if session is None or not times:
        return
    from pytest_benchmark.stats import Metadata

    known = {
        name: value for name, value in row.as_dict().items() if value is not None and value != ""
    }
    shown = _Entry(item, known)
    entry: Any = Metadata(shown, iterations=1, options={})  # type: ignore[no-untyped-call]
    for time in times:
        entry.stats.update(time)
    session.benchmarks.append(entry)


def undo_skips(items: Sequence[pytest.Item]) -> None:
    """Take back the skip marks that pytest-benchmark's options put on `items`."""
    for item in items:
        item.own_markers[:] = [
            mark
            for mark in item.own_markers
            if mark.name != "skip"
            or not any(reason in str(mark.kwargs.get("reason")) for reason in _SKIP_REASONS)
        ]
