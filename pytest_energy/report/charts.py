"""Energy, throughput and power against batch size; the trace of a launch.

Each chart shows its figures with 95 % intervals, in the units of its axis titles, and comes with
them in words.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pytest_energy.report.drawing import (
    Mark,
    drawn_series,
    error_bars,
    in_words,
    legend,
    marks_of,
    new_figure,
    number,
    tick,
    ticks_between,
)
from pytest_energy.report.groups import Group, Series
from pytest_energy.report.pictures import INK, MUTED, SERIES, Picture, style
from pytest_energy.report.results import Interval, ReportedSide
from pytest_energy.report.trace import Trace
from pytest_energy.report.words import change_in_words, in_a_row

_DASHED = (0, (4, 3))
_PANEL_PX = 105  # the height of a panel's axes
_APART_PX = 3.2  # twice a line's width


@dataclass(frozen=True)
class _Panel:
    """A figure against batch size; `is_log` is the axis' scale, which else starts at zero."""

    name: str
    unit: str
    figure_of: Callable[[ReportedSide], Interval]
    is_log: bool

    @property
    def title(self) -> str:
        return f"{self.name}, {self.unit}{' (log scale)' if self.is_log else ''}"


_PANELS = (
    _Panel("energy per token", "J", lambda side: side.joules_per_token, is_log=True),
    _Panel("throughput", "tokens/s", lambda side: side.tokens_per_s, is_log=True),
    _Panel("power", "W", lambda side: side.power_w, is_log=False),
)


def against_batch_size(name: str, group: Group, with_change: bool = True) -> Picture | None:
    """Change of energy per token, energy per token, throughput and power, a line per engine.

    Args:
        name: of the picture.
        group: with series.
        with_change: whether the change has a panel.

    Returns:
        None if all lines coincide, so that no panel is left.
    """
    series = drawn_series(group)
    panels = [panel for panel in _PANELS if not _coincide(series, panel)]
    with_change = with_change and any(move.change for move in group.moves)
    return _drawn(name, group, panels, with_change) if panels or with_change else None


def not_drawn(group: Group) -> str:
    """Which panels are left out because they would show no difference; empty if none is."""
    names = [panel.name for panel in _PANELS if _coincide(drawn_series(group), panel)]
    if not names:
        return ""
    return f"Not drawn against batch size, as the engines' lines coincide: {in_a_row(names)}."


def _coincide(series: Sequence[Series], panel: _Panel) -> bool:
    """Whether several engines' lines are nowhere further apart than a line's width."""
    lines = [{size: panel.figure_of(side) for size, side in line.points} for line in series]
    if len(lines) < 2 or any(line.keys() != lines[0].keys() for line in lines):
        return False
    figures = [figure for line in lines for figure in line.values()]
    top, bottom = max(f.high for f in figures), min(f.low for f in figures)
    scale: Callable[[float], float] = math.log if panel.is_log else float
    span = scale(top) - (scale(bottom) if panel.is_log else 0.0)
    apart = max(
        max(scale(line[size].value) for line in lines)
        - min(scale(line[size].value) for line in lines)
        for size in lines[0]
    )
    return apart * _PANEL_PX <= _APART_PX * span


@style()
def _drawn(name: str, group: Group, panels: Sequence[_Panel], with_change: bool) -> Picture:
    series, marks, sizes = drawn_series(group), marks_of(group), group.batch_sizes
    rows = len(panels) + with_change
    figure, all_axes = new_figure(64 + 18 * len(series) + 150 * rows, rows, sharex=True)
    if with_change:
        _changes(all_axes[0], group, series, marks)
    for axes, panel in zip(all_axes[with_change:], panels, strict=True):
        for i, line in enumerate(series):
            shift = _shift(i, len(series))
            figures = [panel.figure_of(side) for _, side in line.points]
            x = [size * shift for size, _ in line.points]
            error_bars(axes, x, figures, marks[line.label])
        axes.set_title(panel.title, color=INK)
        if panel.is_log:
            _log_y(axes)
        else:
            axes.set_ylim(bottom=0)
    bottom = all_axes[-1]
    bottom.set_xscale("log")
    bottom.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
    _ticks_at(bottom, sizes)
    bottom.set_xlabel("batch size: requests running concurrently (log scale)")
    handles = [
        all_axes[0].plot([], [], color=mark.colour, marker=mark.marker, linestyle=mark.line)[0]
        for mark in (marks[line.label] for line in series)
    ]
    legend(figure, handles, [line.label for line in series])
    shown = [panel.name for panel in panels] or ["change of energy per token"]
    caption = "Bars are 95 % intervals over engine launches."
    if with_change:
        caption += " The change of energy per token is the one from the reference."
    omitted = len(group.series) - len(series)
    if omitted:
        caption += f" {omitted} more engines are in results.json but not drawn."
    return Picture(
        name,
        f"{in_a_row(shown).capitalize()} against batch size: {group.title}",
        caption,
        _series_in_words(group, series),
        figure,
    )


def _series_in_words(group: Group, series: Sequence[Series]) -> str:
    words = []
    for line in series:
        points = [
            f"batch size {size}: {in_words(side.joules_per_token, 'J/token')}, "
            f"{in_words(side.tokens_per_s, 'tokens/s')}, {in_words(side.power_w, 'W')}"
            for size, side in line.points
        ]
        words.append(f"{line.label}: {'; '.join(points)}")
    words += [
        f"{m.candidate_label} at batch size {m.batch_size}: {change_in_words(m.change)} J/token"
        for m in group.moves
        if m.change
    ]
    return ". ".join(words) + ". In brackets: 95 % intervals."


def _shift(i: int, lines: int) -> float:
    """A factor that keeps the intervals of several lines at one batch size apart."""
    return float(1.025 ** (2 * i - lines + 1))


def _changes(axes: Axes, group: Group, series: Sequence[Series], marks: dict[str, Mark]) -> None:
    changes: dict[str, list[tuple[int, Interval]]] = {}
    for move in group.moves:
        if move.change:
            changes.setdefault(move.candidate_label, []).append((move.batch_size, move.change))
    labels = [line.label for line in series if line.label in changes]
    axes.axhline(1, color=MUTED, linewidth=1)
    for i, label in enumerate(labels):
        x = [size * _shift(i, len(labels)) for size, _ in changes[label]]
        error_bars(axes, x, [change for _, change in changes[label]], marks[label])
    tolerances = {move.tolerance for move in group.moves}
    title = "change of energy per token, %"
    if len(tolerances) == 1 and (tolerance := tolerances.pop()) is not None:
        axes.axhline(1 + tolerance, color=MUTED, linewidth=1, linestyle=_DASHED)
        title += f" (dashed: tolerance, {100 * tolerance:+.3g} %)"
    axes.set_title(title, color=INK)
    low, high = (100 * (ratio - 1) for ratio in axes.get_ylim())
    percents = ticks_between(low, high, 5)
    axes.yaxis.set_major_locator(FixedLocator([1 + percent / 100 for percent in percents]))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent_tick))


def _percent_tick(ratio: float, _: object) -> str:
    return "0" if abs(ratio - 1) < 1e-9 else f"{100 * (ratio - 1):+.3g}"


def _ticks_at(axes: Axes, batch_sizes: Sequence[int]) -> None:
    """Label as many batch sizes as there is room for."""
    low, high = math.log(batch_sizes[0]), math.log(batch_sizes[-1])
    room = 0.085 * max(high - low, 1e-9)
    shown: list[int] = []
    for size in batch_sizes:
        if not shown or math.log(size) - math.log(shown[-1]) >= room:
            shown.append(size)
    axes.xaxis.set_major_locator(FixedLocator([float(size) for size in shown]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def _log_y(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.15, high * 1.15)
    steps = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(tick))


@style()
def launch_trace(name: str, traces: Sequence[Trace]) -> Picture:
    """Power during one launch, cell by cell, with its cycles."""
    figure, all_axes = new_figure(54 + 164 * len(traces), len(traces))
    for axes, trace in zip(all_axes, traces, strict=True):
        _trace(axes, trace)
    all_axes[-1].set_xlabel("seconds since the load began")
    handles = [
        all_axes[0].plot([], [], color=SERIES[0])[0],
        all_axes[0].plot([], [], color=SERIES[1], linewidth=2)[0],
        all_axes[0].plot([], [], color=MUTED, linestyle=_DASHED)[0],
    ]
    names = [
        "energy counter, half-second means",
        "mean of a whole cycle (numbered)",
        "the load stops",
    ]
    legend(figure, handles, names)
    first = traces[0]
    cycle = (
        "A cycle is a block of finished requests: the same ones in each."
        if first.in_blocks
        else "A cycle is batch size × output tokens: every slot of the batch has finished one "
        "request and begun another."
    )
    return Picture(
        name,
        f"Power during one launch of {first.engine} on {first.gpu_name}",
        f"Launch {first.launch_id}. {cycle} Before the first cycle comes the warm-up; "
        "after the dashed line the GPU is idle but still hot.",
        ". ".join(_trace_in_words(trace) for trace in traces if trace.cycles_s) + ".",
        figure,
    )


def _trace(axes: Axes, trace: Trace) -> None:
    top = 1.22 * max(trace.power_w)
    for i, (start, end) in enumerate(trace.cycles_s):
        axes.axvspan(start, end, color=SERIES[0], alpha=0.22 if i % 2 else 0.10, linewidth=0)
        mean_w = trace.cycle_power_w[i]
        axes.plot([start, end], [mean_w, mean_w], color=SERIES[1], linewidth=2, zorder=4)
        if end - start > 0.04 * trace.time_s[-1]:
            axes.text(
                (start + end) / 2,
                0.97 * top,
                f"{i + 1}",
                color=MUTED,
                fontsize=10.5,
                ha="center",
                va="top",
            )
    axes.step(trace.time_s, trace.power_w, where="pre", color=SERIES[0], linewidth=1.1, zorder=3)
    axes.axvline(trace.load_stopped_s, color=MUTED, linewidth=1, linestyle=_DASHED)
    axes.set_ylim(0, top)
    axes.set_xlim(trace.time_s[0], trace.time_s[-1])
    axes.set_title(f"batch size {trace.batch_size:,}: power, W", color=INK)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def _trace_in_words(trace: Trace) -> str:
    mean_s = sum(end - start for start, end in trace.cycles_s) / len(trace.cycles_s)
    powers_w = ", ".join(f"{power_w:.0f}" for power_w in trace.cycle_power_w)
    text = (
        f"Batch size {trace.batch_size}: {len(trace.cycles_s)} cycles of {number(mean_s)} s "
        f"on average, with a mean power of {powers_w} W"
    )
    if trace.static_power_w is not None:
        text += f"; {trace.static_power_w:.0f} W just after the load"
    return text
