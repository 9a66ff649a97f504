"""The rule."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import ASSUMED_NOISE, NoiseFloor
from pytest_energy.verdict import comparison
from pytest_energy.verdict.comparison import Levels

FALSE_ALARMS_PER_RUN = 0.01  # probability of any, shared by all cells, metrics and looks of a run


MISSED_PER_CELL = 0.05  # probability of passing a change as large as the tolerance


class Verdict(enum.Enum):
    """Only `PASS` and `IMPROVED` (and, under an update, `UPDATED`) let a test pass."""

    PASS = "pass"
    IMPROVED = "improved"
    REGRESSED = "regressed"
    INCONCLUSIVE = "inconclusive"
    NO_BASELINE = "no baseline"
    NOT_COMPARABLE = "not comparable"
    INVALID = "invalid"

    @property
    def green(self) -> bool:
        """Whether the test passes."""
        return self in (Verdict.PASS, Verdict.IMPROVED)


DEFAULT_TOLERANCE: Mapping[Metric, float] = {
    Metric.JOULES_PER_TOKEN: 0.03,
    Metric.TOKENS_PER_S: 0.10,
}


# Of two engines in turns: throughput is not that of another day.
PAIRED_TOLERANCE: Mapping[Metric, float] = {
    Metric.JOULES_PER_TOKEN: 0.03,
    Metric.TOKENS_PER_S: 0.05,
}


MIN_PAIRS = 3


@dataclass(frozen=True)
class Rule:
    """What a run knows before it judges a cell.

    Attributes:
        comparisons: cells × metrics that this run judges; they share its false-alarm level.
        budget: engine launches at most; None where all launches there are are judged at once.
        noise: the runner's noise between launches, by metric.
        paired: whether the baseline's launches were made in turns with the new ones.
    """

    comparisons: int = 1
    budget: int | None = None
    noise: Mapping[Metric, NoiseFloor] = field(default_factory=lambda: ASSUMED_NOISE)
    paired: bool = False

    @property
    def first_look(self) -> int:
        """Launches before the first verdict."""
        return MIN_PAIRS if self.paired else 1

    def tolerance(self, metric: Metric, of_test: float | None) -> float:
        """The test's own, or else the default."""
        return (
            (PAIRED_TOLERANCE if self.paired else DEFAULT_TOLERANCE)[metric]
            if of_test is None
            else of_test
        )

    def last_look(self, launches: int) -> int:
        """How many launches a run has at its last look that has made so many."""
        return max(self.budget or 0, launches)

    def levels(self, launches: int) -> Levels:
        """The error levels of the look after so many launches."""
        if self.budget is None:
            return Levels(FALSE_ALARMS_PER_RUN / self.comparisons, MISSED_PER_CELL)
        return comparison.levels(
            launches,
            self.last_look(launches),
            self.comparisons,
            FALSE_ALARMS_PER_RUN,
            MISSED_PER_CELL,
            self.first_look,
        )
