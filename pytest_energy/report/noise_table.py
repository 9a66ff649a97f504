"""The noise between launches: what verdicts rest on, and what `pytest-energy noise` measured."""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence

from pytest_energy.cell.cell import Cell
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import Spread, deviation_interval
from pytest_energy.report.rows import Row
from pytest_energy.report.table import aligned
from pytest_energy.report.words import UNIT, count
from pytest_energy.store.noise import MIN_OWN_DEGREES, Noise
from pytest_energy.verdict.detectable import DETECTABLE_WITH, detectable
from pytest_energy.verdict.rule import Terms

_COLUMNS = (
    "cell",
    "metric",
    "launches",
    "between launches",
    "between cycles",
    *(f"n={n} detects" for n in DETECTABLE_WITH),
)


def noise_sources(judged: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, list[str]]]:
    """Each metric's sources of noise, once; with the names of their cells if it has several.

    Args:
        judged: metric, noise and cell of each judgement that rests on one.
    """
    cells: dict[tuple[str, str], list[str]] = {}
    for metric, noise, cell in judged:
        cells.setdefault((metric, noise), []).append(cell)
    sources = collections.Counter(metric for metric, _ in cells)
    return [
        (metric, noise, names if sources[metric] > 1 else [])
        for (metric, noise), names in cells.items()
    ]


def noise_lines(rows: Sequence[Row]) -> list[str]:
    """The noise that the verdicts rest on, one line per metric; if assumed, how to measure it."""
    sources: dict[str, dict[str, list[str]]] = {}
    for r in rows:
        if r.noise:
            sources.setdefault(r.metric, {}).setdefault(r.noise, []).append(r.cell)
    lines = [
        f"noise of {UNIT[Metric(metric)]} between launches: {_in_short(cells)}"
        for metric, cells in sources.items()
    ]
    if any("assumed" in noise for cells in sources.values() for noise in cells):
        lines.append(
            "an assumed noise takes more launches to raise an alarm: run pytest-energy noise"
        )
    return lines


def _in_short(cells: Mapping[str, Sequence[str]]) -> str:
    """A metric's sources of noise: one in full, several by what they have in common.

    Args:
        cells: names of cells by the source of their noise, such as "0.7% measured on this cell".
    """
    if len(cells) == 1:
        return next(iter(cells))
    kinds: dict[str, list[tuple[str, str]]] = {}
    for noise, names in cells.items():
        deviation, kind = re.findall(r"[^\s,]+", noise)[:2]
        kinds.setdefault(kind, []).extend((deviation, name) for name in names)
    texts = []
    for kind, found in kinds.items():
        deviations = sorted({deviation for deviation, _ in found}, key=lambda d: float(d[:-1]))
        low_to_high = " to ".join(dict.fromkeys((deviations[0].rstrip("%"), deviations[-1])))
        named = f" ({', '.join(name for _, name in found)})" if len(kinds) > 1 else ""
        texts.append(f"{low_to_high if len(deviations) > 1 else deviations[0]} {kind}{named}")
    return "; ".join(texts)


def noise_table(measured: Sequence[tuple[Cell, Metric, Noise]], comparisons: int) -> list[str]:
    """A runner's noise: deviations with 95 % intervals, and the changes that n launches detect.

    Args:
        measured: one entry per cell and metric.
        comparisons: that share the false-alarm level in "detects".
    """
    lines: list[Sequence[str]] = [_COLUMNS]
    lines += [_texts(cell, metric, noise, comparisons) for cell, metric, noise in measured]
    legend = (
        "n=N detects: the smallest change that N launches detect in 95 % of cases, "
        f"against a baseline of three, among {count(comparisons, 'comparison')}"
    )
    notes = [note for cell, metric, noise in measured for note in _notes(cell, metric, noise)]
    return [*aligned(lines), legend, *dict.fromkeys(notes)]


def _texts(cell: Cell, metric: Metric, noise: Noise, comparisons: int) -> tuple[str, ...]:
    changes = [detectable(noise, n, Terms(comparisons).levels(n).alarm) for n in DETECTABLE_WITH]
    return (
        cell.name,
        UNIT[metric],
        str(noise.launches),
        _deviation(noise.between),
        _deviation(noise.within),
        *("-" if change is None else f"{change:.1%}" for change in changes),
    )


def _notes(cell: Cell, metric: Metric, noise: Noise) -> list[str]:
    notes = []
    if noise.gpus:
        low, high = (100 * (ratio - 1) for ratio in noise.gpus)
        notes.append(
            f"{cell.name}, {UNIT[metric]}: GPUs lie {low:+.1f} % to {high:+.1f} % from their mean"
        )
    if noise.between and noise.between.degrees_of_freedom < MIN_OWN_DEGREES:
        missing = count(
            MIN_OWN_DEGREES - int(noise.between.degrees_of_freedom),
            "more launch",
            "more launches",
        )
        notes.append(f"{cell.name}: {missing} until it is judged by its own noise")
    return notes


def _deviation(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    low, high = deviation_interval(spread)
    return (
        f"{spread.deviation:.2%} "
        f"({100 * low:.2f} to {100 * high:.2f}, {spread.degrees_of_freedom:.0f} df)"
    )
