"""What all charts share: figures, legends, axes, error bars, and figures in words."""

import bisect
import itertools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from pytest_energy.report.groups import Group, Series
from pytest_energy.report.pictures import SERIES, WIDTH_PX, printable
from pytest_energy.report.results import Interval

MAX_SERIES = 8
MAX_PANELS = 8
_MARKERS = "osD^vPX*"
_LINES = ("-", "--")
_MAX_LABEL = 48
_MANY_POINTS = 40  # drawn as a line with a band


@dataclass(frozen=True)
class Mark:
    """How a series is drawn."""

    colour: str
    marker: str
    line: str

    @classmethod
    def of(cls, number: int) -> "Mark":
        """That of the series with this number, from 0."""
        return cls(
            SERIES[number % len(SERIES)],
            _MARKERS[number % len(_MARKERS)],
            _LINES[number // len(SERIES) % len(_LINES)],
        )


def drawn_series(group: Group) -> tuple[Series, ...]:
    """The first series, which the others are compared with, and the newest of the rest."""
    return (
        group.series
        if len(group.series) <= MAX_SERIES
        else (group.series[0], *group.series[1 - MAX_SERIES :])
    )


def marks_of(group: Group) -> dict[str, Mark]:
    """Of the series that are drawn, by label."""
    return {series.label: Mark.of(i) for i, series in enumerate(drawn_series(group))}


def new_figure(
    height_px: float, rows: int, columns: int = 1, width_px: float = WIDTH_PX, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with its axes, row by row."""
    figure = Figure(figsize=(width_px / 72, height_px / 72), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    figure.get_layout_engine().set(w_pad=6 / 72, h_pad=4 / 72)  # type: ignore[union-attr, call-arg]
    return figure, list(axes.flat)


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int = 1) -> None:
    """One for the whole figure, above its panels."""
    figure.legend(
        list(handles),
        [shortened(label) for label in labels],
        loc="outside upper left",
        labelspacing=0.25,
        borderpad=0.1,
        ncols=columns,
        columnspacing=1.2,
        handletextpad=0.5,
    )


def shortened(label: str, most: int = _MAX_LABEL) -> str:
    """Cut to the canvas's width; wide East Asian characters count as two."""
    label = printable(" ".join(label.split()))
    widths = (2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in label)
    ends = list(itertools.accumulate(widths))
    if not ends or ends[-1] <= most:
        return label
    return label[: bisect.bisect_left(ends, most)] + "…"


def error_bars(axes: Axes, x: Sequence[float], figures: Sequence[Interval], mark: Mark) -> Any:
    """Figures with their intervals; many of them as a line with a band. Returns what was drawn."""
    if len(figures) > _MANY_POINTS:
        return _band(axes, x, figures, mark)
    below = [figure.value - figure.low for figure in figures]
    above = [figure.high - figure.value for figure in figures]
    return axes.errorbar(
        x,
        [figure.value for figure in figures],
        yerr=[below, above],
        color=mark.colour,
        marker=mark.marker,
        linestyle=mark.line,
        capsize=3,
        elinewidth=1.2,
        zorder=3,
    )


def _band(axes: Axes, x: Sequence[float], figures: Sequence[Interval], mark: Mark) -> Any:
    low, high = [figure.low for figure in figures], [figure.high for figure in figures]
    axes.fill_between(x, low, high, color=mark.colour, alpha=0.25, linewidth=0)
    return axes.plot(
        x,
        [figure.value for figure in figures],
        color=mark.colour,
        linestyle=mark.line,
        linewidth=1.2,
        zorder=3,
    )[0]


def range_of(figures: Sequence[Interval]) -> tuple[float, float]:
    """The intervals with a margin, and at least a tenth of their middle.

    So small an axis would make noise look like a leap.
    """
    low, high = min(figure.low for figure in figures), max(figure.high for figure in figures)
    middle, half = (low + high) / 2, max((high - low) / 2 * 1.25, (low + high) / 2 * 0.05)
    return max(0.0, middle - half), middle + half


def ticks_between(low: float, high: float, number: int) -> list[float]:
    """At most about `number` round values of an axis, none outside."""
    values = MaxNLocator(number, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(value) for value in values if low <= value <= high]


def set_ticks(axis: Any, values: Sequence[float]) -> None:
    """Only these, with round labels."""
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_major_formatter(FuncFormatter(tick))


def tick(value: float, _: object = None) -> str:
    """A round figure in few characters."""
    return f"{value:,.10g}" if value == 0 or 1e-4 <= abs(value) < 1e7 else f"{value:.3g}"


def number(value: float) -> str:
    """Four significant digits, with thousands separators and without an exponent."""
    digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(digits, 9)}f}"


def in_words(figure: Interval, unit: str) -> str:
    """The figure with its interval."""
    return f"{number(figure.value)} {unit} ({number(figure.low)} to {number(figure.high)})"
