"""What tests ask, and why they failed: in full to the first, and in short to the others."""

from dataclasses import dataclass, field

from pytest_energy.cell.cell import Cell
from pytest_energy.errors import EnergyError, LaunchError
from pytest_energy.launch.failures import kind_of
from pytest_energy.measure.metric import Metric
from pytest_energy.verdict.judgement import Limits

_SHORT_LINES = 3  # of a launch's failure


@dataclass(frozen=True)
class Question:
    """What one test asks: a metric of a cell, and what it allows."""

    test: str
    cell: Cell
    metric: Metric
    limits: Limits


@dataclass
class Told:
    """The question whose test each cause of a failure was told to in full."""

    _first: dict[str, Question] = field(default_factory=dict)

    def before(self, cause: str, question: Question) -> Question | None:
        """The other question that was told this cause; None if this one is, or has been."""
        first = self._first.setdefault(cause, question)
        return None if first == question else first

    def failure(self, failure: str, question: Question) -> str:
        """A launch's failure, to others than the first that it leaves open in three lines."""
        return self._once(kind_of(failure), failure, _SHORT_LINES, question)

    def error(self, error: EnergyError, question: Question) -> str:
        """An error, as of a damaged file, to others than the first that it stops in a line."""
        text = str(error)
        if isinstance(error, LaunchError):
            return self.failure(text, question)
        return self._once(text, text, 1, question)

    def take_back(self, test: str) -> None:
        """Tell in full anew what was told to a test, which nobody is shown."""
        self._first = {cause: first for cause, first in self._first.items() if first.test != test}

    def _once(self, cause: str, text: str, most: int, question: Question) -> str:
        first, lines = self.before(cause, question), text.splitlines()
        if first is None or len(lines) <= most + (most > 1):
            return text
        return "\n".join([*lines[:most], f"... (in full at {first.cell.name})"])
