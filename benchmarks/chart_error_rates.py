"""How often the chart of a GPU's reference launches gives a false alarm, and how soon a true one.

A month is thirty days, at one launch a day, after the eight that the band begins with. A run is
three months of an unchanged GPU, or one and a second in which it has changed by a step, or changes
by a little each day. Half of the variance between launches is common to all cells. Seeded.

    python -m benchmarks.chart_error_rates --runs 10000 \\
        --json benchmarks/results/chart-error-rates.json
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import simulation
from pytest_energy.measure.control_chart import MIN_POINTS, Point, alarms

MONTH = 30  # days
MONTHS = 3


@dataclass(frozen=True)
class Scenario:
    """A GPU.

    Attributes:
        deviation: of J/token between launches of one cell.
        cells: of a launch.
        tails: degrees of freedom of Student's t; 0 if launches are normally distributed.
        alternating: whether every other launch holds the first cell alone.
        runs_of: launches of one run, which share a deviate as large as their own; 1 if none do.
    """

    deviation: float = 0.005
    cells: int = 4
    tails: int = 0
    alternating: bool = False
    runs_of: int = 1


VARIANTS: dict[str, Scenario] = {
    "four cells": Scenario(),
    "one cell": Scenario(cells=1),
    "four cells, 2 % between launches": Scenario(deviation=0.02),
    "sixteen cells": Scenario(cells=16),
    "four cells, every other launch one of them": Scenario(alternating=True),
    "four cells, heavy tails (Student t, 4 degrees of freedom)": Scenario(tails=4),
    "four cells, two launches a run, runs differ as much": Scenario(runs_of=2),
}
CHANGES = {"+1 %": (0.01, False), "+2 %": (0.02, False), "+0.1 % a day": (0.001, True)}


def launches(s: Scenario, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Log J/token of launches; shape (count, cells)."""

    def deviates(*shape: int) -> NDArray[np.float64]:
        if not s.tails:
            return rng.standard_normal(shape)
        return rng.standard_t(s.tails, shape) / np.sqrt(s.tails / (s.tails - 2))

    own = np.sqrt(0.5) * (deviates(count, 1) + deviates(count, s.cells))
    if s.runs_of > 1:
        own = own + np.repeat(deviates(-(-count // s.runs_of), 1), s.runs_of, axis=0)[:count]
    return s.deviation * own


def points(s: Scenario, logs: NDArray[np.float64]) -> list[Point]:
    """As the chart has them."""
    whole = [{f"cell {i}": float(value) for i, value in enumerate(row)} for row in logs]
    first = [{"cell 0": cells["cell 0"]} for cells in whole]
    return [
        Point("", first[n] if s.alternating and n % 2 else cells) for n, cells in enumerate(whole)
    ]


def days_until_alarm(s: Scenario, logs: NDArray[np.float64]) -> float:
    """Days after the first eight launches; infinite without an alarm."""
    numbers = (number for number, _ in alarms(points(s, logs)))
    return next((float((n - MIN_POINTS) // s.runs_of + 1) for n in numbers), np.inf)


def false_alarms(s: Scenario, runs: int, months: int, seed: int) -> list[float]:
    """The share of months with an alarm, of those that none came before."""
    rng = np.random.default_rng(seed)
    count = MIN_POINTS + months * MONTH * s.runs_of
    days = np.array([days_until_alarm(s, launches(s, count, rng)) for _ in range(runs)])
    ends = [MONTH * month for month in range(1, months + 1)]
    return [float(np.mean(days[days > end - MONTH] <= end)) for end in ends]


def detection(s: Scenario, change: float, daily: bool, runs: int, seed: int) -> dict[str, float]:
    """Of a change after an unchanged month: the share found in a month, and the median of days."""
    rng = np.random.default_rng(seed)
    before, month = MIN_POINTS + MONTH * s.runs_of, MONTH * s.runs_of
    after = np.arange(month) // s.runs_of + 1 if daily else np.ones(month)
    changed = np.concatenate([np.zeros(before), change * after])[:, None]
    found = [
        days_until_alarm(s, launches(s, before + month, rng) + changed) - MONTH for _ in range(runs)
    ]
    days = np.array([day for day in found if day > 0])
    return {"found": float(np.isfinite(days).mean()), "days": float(np.median(days))}


def _row(task: tuple[str, int, int]) -> dict[str, Any]:
    name, runs, seed = task
    s = VARIANTS[name]
    row: dict[str, Any] = {"variant": name, "false_alarms": false_alarms(s, runs, MONTHS, seed)}
    for title, (change, daily) in CHANGES.items():
        row[title] = detection(s, change, daily, min(runs, 1000), seed)
    return row


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown."""
    heads = "GPU", *(f"false alarm, month {m}" for m in (1, MONTHS)), *CHANGES
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        rates = (f"{row['false_alarms'][month]:.2%}" for month in (0, -1))
        found = (_found(row[title]) for title in CHANGES)
        lines.append(f"| {' | '.join((row['variant'], *rates, *found))} |")
    return lines


def _found(of: dict[str, float]) -> str:
    days = f", day {of['days']:.0f}" if of["found"] > 0.5 else ""
    return f"{of['found']:.0%}{days}"


def main() -> None:
    arguments = simulation.options(__doc__, seed=20261129, processes=1)
    tasks = [
        (name, arguments.runs // 10 if number else arguments.runs, arguments.seed)
        for number, name in enumerate(VARIANTS)
    ]
    with ProcessPoolExecutor(arguments.processes) as pool:
        rows = list(pool.map(_row, tasks))
    simulation.keep(arguments, rows=rows)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
