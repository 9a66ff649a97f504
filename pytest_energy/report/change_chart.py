"""Every change with its interval beside its tolerance: the picture that decides."""

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from pytest_energy.measure.metric import Metric
from pytest_energy.report import changes, summary
from pytest_energy.report.changes import bound_of, ratio_of, tolerance_of
from pytest_energy.report.drawing import legend, new_figure, shortened, ticks_between
from pytest_energy.report.pictures import (
    BAD,
    GOOD,
    INK,
    MUTED,
    OPEN,
    SERIES,
    Picture,
    printable,
    style,
)
from pytest_energy.report.results import Entry, Results
from pytest_energy.report.words import UNIT, change_in_words, percent, without_size

_ROW_PX = 24
_MARKS = {"bad": (BAD, "s"), "open": (OPEN, "D"), "good": (GOOD, "o"), "none": (SERIES[0], "o")}
_DASHED = (0, (4, 3))
_NAMES = {
    Metric.JOULES_PER_TOKEN: "energy per token",
    Metric.TOKENS_PER_S: "throughput",
    Metric.IDLE_POWER_W: "power at idle",
}
_MAX_LABEL = 26
_WIDTH_PX = 440.0  # its text has a page's size in half of a desk's page


@style()
def picture(results: Results) -> Picture | None:
    """A row per change, a panel per metric; None if nothing was compared."""
    rows, everything = changes.drawn(results), changes.compared(results)
    if not rows:
        return None
    count = sum(map(len, rows.values()))
    figure, all_axes = new_figure(
        60 + 62 * len(rows) + _ROW_PX * count,
        len(rows),
        width_px=_WIDTH_PX,
        gridspec_kw={"height_ratios": [len(of_metric) + 0.5 for of_metric in rows.values()]},
    )
    labels = _labels([entry for of_metric in rows.values() for entry in of_metric])
    for axes, (metric, entries) in zip(all_axes, rows.items(), strict=True):
        _panel(axes, metric, entries, labels)
    all_axes[-1].set_xlabel("change from the reference, %")
    verdicts = {entry.verdict: summary.tone(entry) for of in rows.values() for entry in of}
    if judged := {str(verdict): tone for verdict, tone in verdicts.items() if verdict}:
        handles = [
            all_axes[0].plot([], [], color=_MARKS[tone][0], marker=_MARKS[tone][1], linestyle="")[0]
            for tone in judged.values()
        ]
        legend(figure, handles, list(judged), columns=len(judged))
    left_out = len(everything) - count
    return Picture(
        "change",
        f"Change from the reference{' against the tolerance' if judged else ''}",
        "Bars are 95 % intervals."
        + (f" {left_out} smaller changes are in the table but not drawn." if left_out else ""),
        ". ".join(map(_in_words, (entry for of_metric in rows.values() for entry in of_metric)))
        + ". In brackets: 95 % intervals.",
        figure,
    )


def _labels(entries: Sequence[Entry]) -> dict[int, str]:
    """What distinguishes a row from the others, by the entry's id."""
    kinds = {(without_size(e.cell.name, e.cell.batch_size), e.gpu) for e in entries}
    engines = {e.engines[1] for e in entries if e.engines[1]}
    runs = {e.run for e in entries}
    found = {}
    for entry in entries:
        name = f"bs={entry.cell.batch_size}" if len(kinds) == 1 else entry.cell.name
        name = "idle" if len(kinds) == 1 and entry.idle else name
        if len(engines) > 1 and entry.engines[1]:
            name = f"{entry.engines[1]}, {name}"
        if len(runs) > 1:
            name = f"run {entry.run + 1}, {name}"
        found[id(entry)] = f"{shortened(name, _MAX_LABEL)}  {percent(ratio_of(entry).value)}"
    return found


def _in_words(entry: Entry) -> str:
    text = f"{entry.cell.name}, {UNIT[Metric(entry.metric)]}: {change_in_words(ratio_of(entry))}"
    if entry.tolerance is not None:
        text += f", tolerance {tolerance_of(entry)}"
    return f"{text}: {entry.verdict}" if entry.verdict else text


def _panel(axes: Axes, metric: Metric, entries: Sequence[Entry], labels: dict[int, str]) -> None:
    low, high = _limits(entries)
    axes.axvline(0, color=MUTED, linewidth=1)
    for row, entry in enumerate(entries):
        colour, marker = _MARKS[summary.tone(entry)]
        ratio = ratio_of(entry)
        value, left, right = (
            min(max(100 * (x - 1), 2 * low - high), 2 * high - low)
            for x in (ratio.value, ratio.low, ratio.high)
        )
        axes.errorbar(
            [value],
            [row],
            xerr=[[value - left], [right - value]],
            color=colour,
            marker=marker,
            capsize=3,
            elinewidth=1.6,
            zorder=3,
        )
        if (bound := bound_of(entry)) is not None:
            axes.plot(
                [bound] * 2, [row - 0.5, row + 0.5], color=INK, linestyle=_DASHED, linewidth=1
            )
    axes.set_xlim(low, high)
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.yaxis.set_major_locator(FixedLocator([float(row) for row in range(len(entries))]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticklabels([printable(labels[id(entry)]) for entry in entries])
    axes.xaxis.set_major_locator(FixedLocator(ticks_between(low, high, 7)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+,.3g}" if x else "0"))
    tolerances = {tolerance_of(entry) for entry in entries if entry.tolerance is not None}
    title = _NAMES[metric]
    if tolerances:
        title += f" (dashed: tolerance{f' {tolerances.pop()}' if len(tolerances) == 1 else ''})"
    # Above the rows' names, too, which may leave it too little room above the axes.
    axes.set_title(" ")
    place = axes.annotate(
        title,
        (0.014, 1),
        (0, 6),
        xycoords=("figure fraction", "axes fraction"),
        textcoords="offset points",
        color=INK,
    )
    place.set_in_layout(False)


def _limits(entries: Iterable[Entry]) -> tuple[float, float]:
    """Of the axis, in percent: every change and tolerance, and of very wide intervals a part."""
    figures = [ratio_of(entry) for entry in entries]
    marked = [0.0, *(100 * (figure.value - 1) for figure in figures)]
    marked += [bound for entry in entries if (bound := bound_of(entry)) is not None]
    least, most = min(marked), max(marked)
    span = max(most - least, 1.0)
    low = max(least - 3 * span, min(least, *(100 * (figure.low - 1) for figure in figures)))
    high = min(most + 3 * span, max(most, *(100 * (figure.high - 1) for figure in figures)))
    margin = 0.06 * (high - low or span)
    return low - margin, high + margin
