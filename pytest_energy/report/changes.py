"""The changes of a report beside their tolerances: their order, and the worst."""

import math

from pytest_energy.measure.metric import Metric
from pytest_energy.report import summary
from pytest_energy.report.results import Entry, Interval, Results
from pytest_energy.report.words import UNIT, change_in_words

MAX_ROWS = 16  # in the picture; as many fit on a first screen


def compared(results: Results) -> list[Entry]:
    """Those with a change, in the order of the table."""
    order = {"bad": 0, "open": 1}
    found = [entry for entry in results.entries if entry.ratio is not None]
    return sorted(found, key=lambda entry: order.get(summary.tone(entry), 2))


def drawn(results: Results) -> dict[Metric, list[Entry]]:
    """The rows of each metric: all, or of too many the worst."""
    by_metric = {m: [e for e in compared(results) if e.metric == m.value] for m in Metric}
    found = {metric: entries for metric, entries in by_metric.items() if entries}
    for metric, entries in found.items():
        worst = sorted(entries, key=_loss, reverse=True)[: MAX_ROWS // len(found)]
        kept = set(map(id, worst))
        found[metric] = [entry for entry in entries if id(entry) in kept]
    return found


def draws_all(results: Results) -> bool:
    """Whether every change has a row."""
    return sum(map(len, drawn(results).values())) == len(compared(results))


def worst(results: Results) -> str:
    """Of each metric, the change that is furthest up to its tolerance, whatever its verdict."""
    found = []
    for metric in Metric:
        judged = [e for e in compared(results) if e.metric == metric.value and e.tolerance]
        if judged:
            entry = max(judged, key=_loss)
            change, verdict = change_in_words(ratio_of(entry)), entry.verdict
            found.append(
                f"{UNIT[metric]} {change} in {entry.cell.name} "
                f"({verdict}, tolerance {tolerance_of(entry)})"
            )
    return f"Worst: {'; '.join(found)}" if found else ""


def ratio_of(entry: Entry) -> Interval:
    """Of an entry that was compared."""
    assert entry.ratio is not None
    return entry.ratio


def _loss(entry: Entry) -> float:
    """The change for the worse, in tolerances if there is one."""
    change = math.log(ratio_of(entry).value)
    worse = change if Metric(entry.metric).is_cost else -change
    return worse / entry.tolerance if entry.tolerance else worse


def bound_of(entry: Entry) -> float | None:
    """The change in percent that fails."""
    if entry.tolerance is None:
        return None
    return 100 * entry.tolerance * (1 if Metric(entry.metric).is_cost else -1)


def tolerance_of(entry: Entry) -> str:
    """Of an entry that was judged: "+3 %", or "-10 %" for tokens/s."""
    return f"{bound_of(entry):+.3g} %"
