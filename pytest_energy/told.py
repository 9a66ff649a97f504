"""What stops several tests is told in full to the first and in short to the others."""

from collections.abc import Collection
from dataclasses import dataclass, field

from pytest_energy.cell.cell import Cell
from pytest_energy.errors import EnergyError
from pytest_energy.launch.failures import kind_of
from pytest_energy.measure.metric import Metric

_IN_FULL_AT = "... (in full at "
_SHORT_LINES = 3  # of a launch's failure


@dataclass
class Told:
    """The failures and errors of a run so far, each with the test that they stopped first."""

    _first: dict[str, tuple[Cell, Metric | None]] = field(default_factory=dict)

    def failure(self, failure: str, cell: Cell, metric: Metric | None = None) -> str:
        """A launch's failure, to others than the first that it leaves open in three lines."""
        return self._once(kind_of(failure), failure, _SHORT_LINES, cell, metric)

    def error(self, error: EnergyError, cell: Cell, metric: Metric) -> str:
        """An error, as of a damaged file, to others than the first that it stops in a line."""
        text = str(error)
        if _IN_FULL_AT in text:  # a launch's failure, which is told by its kind
            return text
        return self._once(text, text, 1, cell, metric)

    def take_back(self, cell: Cell, metrics: Collection[Metric]) -> None:
        """Tell in full anew what was told to the test of these metrics, which nobody is shown."""
        for kind, (first, of) in list(self._first.items()):
            if first.key == cell.key and (of is None or of in metrics):
                del self._first[kind]

    def _once(self, kind: str, text: str, most: int, cell: Cell, metric: Metric | None) -> str:
        first, of = self._first.setdefault(kind, (cell, metric))
        lines, is_first = text.splitlines(), first.key == cell.key and metric in (of, None)
        if is_first or len(lines) <= most + (most > 1):
            return text
        return "\n".join([*lines[:most], f"{_IN_FULL_AT}{first.name})"])
