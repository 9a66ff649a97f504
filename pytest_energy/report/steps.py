"""What each update of a stored baseline changed: the step from one of its states to the next.

The gate judges an update by the test's own tolerance and launches, which a history does not keep.
So a step is judged by its 95 % interval and the default tolerance.
"""

import collections
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_energy.measure import spread
from pytest_energy.measure.metric import Metric, metrics_of
from pytest_energy.report.results import HistoryEntry, Interval, interval
from pytest_energy.report.words import change_in_words
from pytest_energy.verdict.rule import DEFAULT_TOLERANCE

TOLERANCE = DEFAULT_TOLERANCE[Metric.JOULES_PER_TOKEN]
_TONES = {"regressed": "bad", "improved": "good", "pass": "good", "inconclusive": "open"}


@dataclass(frozen=True)
class Step:
    """From a state to the next.

    Attributes:
        change: of J/token, or of power at idle, as a ratio.
        verdict: regressed, improved, pass or inconclusive.
    """

    change: Interval
    verdict: str

    @property
    def tone(self) -> str:
        """As `summary.tone`."""
        return _TONES[self.verdict]

    @property
    def in_words(self) -> str:
        """The change with its interval."""
        return change_in_words(self.change)


def step(before: HistoryEntry, after: HistoryEntry) -> Step:
    """The step between two states, whose errors are independent."""
    old, new = figure_of(before), figure_of(after)
    ratio = new.value / old.value
    up = math.hypot(math.log(new.high / new.value), math.log(old.value / old.low))
    down = math.hypot(math.log(new.value / new.low), math.log(old.high / old.value))
    change = interval(ratio, ratio * spread.exp(-down), ratio * spread.exp(up))
    metric = metrics_of(after.cell.key)[0]
    return Step(change, _verdict(change, DEFAULT_TOLERANCE[metric]))


def figure_of(state: HistoryEntry) -> Interval:
    """What the gate compares: J/token, or at idle W."""
    return state.joules_per_token or state.power_w


def _verdict(change: Interval, tolerance: float) -> str:
    """As the rule has it (verdict/rule.py), with the 95 % interval in place of its levels."""
    if change.value >= 1 + tolerance and change.low > 1:
        return "regressed"
    if change.value <= 1 / (1 + tolerance) and change.high < 1:
        return "improved"
    return "pass" if change.high < 1 + tolerance else "inconclusive"


def steps(states: Sequence[HistoryEntry]) -> list[Step | None]:
    """That to each state from the one before it of the same baseline; None to the first."""
    last: dict[tuple[str, object], HistoryEntry] = {}
    found: list[Step | None] = []
    for state in states:
        baseline = state.cell.key.canonical, state.gpu
        before = last.get(baseline)
        found.append(step(before, state) if before else None)
        last[baseline] = state
    return found


def newest(states: Sequence[HistoryEntry]) -> str:
    """Verdicts on the baselines' newest steps, "Newest steps: 3 pass"; empty without any."""
    of_baseline = {
        (state.cell.key.canonical, state.gpu): found.verdict
        for state, found in zip(states, steps(states), strict=True)
        if found
    }
    counts = collections.Counter(of_baseline.values())
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _TONES if counts[verdict])
    return f"Newest steps: {said}" if said else ""
