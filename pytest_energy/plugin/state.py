"""What the plugin remembers during one pytest run, and of one test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_energy.cell.cell import Cell
    from pytest_energy.measure.metric import Metric
    from pytest_energy.session import Session
    from pytest_energy.settings import Settings
    from pytest_energy.store.noise import Noise

# The metric that each fixture gates.
FIXTURES = {
    "energy": "joules_per_token",
    "throughput": "tokens_per_s",
    "idle_power": "idle_power_w",
}
IDLE = "idle_power"


@dataclass
class Run:
    """One pytest run.

    Attributes:
        settings: as the user asked for.
        header: the settings in force, in one line.
        session: measures and judges; None until tests with our fixtures are selected.
        noise: of each cell and metric whose noise was measured.
        selected_in_full: whether all collected tests of whole folders were selected.
        found: what each test found, by its metrics; of a test that was run again the last.
        warnings: of outputs that nothing depends on and that could not be written.
    """

    settings: Settings
    header: str
    session: Session | None = None
    noise: list[tuple[Cell, Metric, Noise]] = field(default_factory=list)
    selected_in_full: bool = False
    found: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def of_metrics(self) -> list[dict[str, Any]]:
        """What was found, one after the other: of each test each of its metrics."""
        return [of_metric for of_test in self.found.values() for of_metric in of_test]


RUN: pytest.StashKey[Run] = pytest.StashKey()
CELL: pytest.StashKey[Cell] = pytest.StashKey()
# By fixture; plain values, which travel between xdist's processes with the test's report.
FOUND: pytest.StashKey[dict[str, dict[str, Any]]] = pytest.StashKey()


def fixtures_of(item: object) -> list[str]:
    """Our fixtures among those that a test or its definition uses."""
    names = getattr(item, "fixturenames", ())
    return [name for name in FIXTURES if name in names and _is_ours(item, name)]


def _is_ours(item: object, name: str) -> bool:
    """Whether a fixture of this name is ours, or asks for ours; other projects have their own."""
    info = getattr(getattr(item, "definition", item), "_fixtureinfo", None)
    for found in reversed(info.name2fixturedefs.get(name, ()) if info else ()):
        if found.func.__module__.startswith("pytest_energy."):
            return True
        if name not in found.argnames:
            return False
    return True


def test_id(item: pytest.Item) -> str:
    """The item's node id as pytest takes it: xdist's --dist loadgroup appends a group to it."""
    return f"{item.parent.nodeid}::{item.name}" if item.parent else item.nodeid


def session_of(config: pytest.Config) -> Session:
    """The session of a run that has selected a test with our fixtures."""
    session = config.stash[RUN].session
    assert session is not None
    return session
