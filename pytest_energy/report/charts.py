"""What is drawn: energy, throughput and power against batch size; the power-throughput plane; a launch's trace; the history.

Each chart shows its figures with their 95 % intervals, in the units of its axis titles, and says them in words beside.
"""

import bisect
import itertools
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pytest_energy.measure.conditions import STATIC_POWER_UNCERTAINTY_W
from pytest_energy.report.groups import Group, Move, Series
from pytest_energy.report.pictures import (
    GRID,
    INK,
    MUTED,
    SERIES,
    WIDTH_PX,
    Picture,
    printable,
    style,
)
from pytest_energy.report.results import HistoryEntry, Interval, Side
from pytest_energy.report.rows import percent
from pytest_energy.report.trace import Trace

MAX_SERIES = 8
MAX_PANELS = 6
_MARKERS = "osD^vPX*"
_STYLES = ("-", "--")
_MAX_LABEL = 48
_MANY_POINTS = 40  # drawn as a line with a band
_FEW = 10  # states of a baseline that are told, of its oldest and of its newest


@dataclass(frozen=True)
class _Look:
    colour: str
    marker: str
    line: str

    @classmethod
    def of(cls, number: int) -> "_Look":
        return cls(
            SERIES[number % len(SERIES)],
            _MARKERS[number % len(_MARKERS)],
            _STYLES[number // len(SERIES) % len(_STYLES)],
        )


def _new_figure(
    height_px: float, rows: int, columns: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH_PX / 72, height_px / 72), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    figure.get_layout_engine().set(w_pad=6 / 72, h_pad=4 / 72)  # type: ignore[union-attr, call-arg]
    return figure, list(axes.flat)


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    figure.legend(
        list(handles),
        [_short(label) for label in labels],
        loc="outside upper left",
        labelspacing=0.25,
        borderpad=0.1,
    )


def _short(label: str) -> str:
    """At most as long as the canvas is wide; Asian characters take the room of two."""
    label = printable(" ".join(label.split()))
    ends = list(
        itertools.accumulate(
            2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in label
        )
    )
    return (
        label
        if not ends or ends[-1] <= _MAX_LABEL
        else label[: bisect.bisect_left(ends, _MAX_LABEL)] + "…"
    )


def number(value: float) -> str:
    """Four significant digits, with thousands separators and no trailing exponent."""
    digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(digits, 9)}f}"


def told(figure: Interval, unit: str) -> str:
    """The figure with its interval, in words."""
    return f"{number(figure.value)} {unit} ({number(figure.low)} to {number(figure.high)})"


def _change(change: Interval) -> str:
    return f"{percent(change.value)} ({percent(change.low)} to {percent(change.high)})"


def drawn_series(group: Group) -> tuple[Series, ...]:
    """The first series, which the others are compared with, and the newest of the rest."""
    return (
        group.series
        if len(group.series) <= MAX_SERIES
        else (group.series[0], *group.series[1 - MAX_SERIES :])
    )


def _looks(group: Group) -> dict[str, _Look]:
    return {series.label: _Look.of(i) for i, series in enumerate(drawn_series(group))}


def _error_bars(axes: Axes, x: Sequence[float], figures: Sequence[Interval], look: _Look) -> Any:
    values = [figure.value for figure in figures]
    below = [figure.value - figure.low for figure in figures]
    above = [figure.high - figure.value for figure in figures]
    if len(figures) > _MANY_POINTS:
        return _band(axes, x, figures, look)
    return axes.errorbar(
        x,
        values,
        yerr=[below, above],
        color=look.colour,
        marker=look.marker,
        linestyle=look.line,
        capsize=3,
        elinewidth=1.2,
        zorder=3,
    )


def _band(axes: Axes, x: Sequence[float], figures: Sequence[Interval], look: _Look) -> Any:
    """Many figures: a line, and their intervals as a band about it."""
    low, high = [figure.low for figure in figures], [figure.high for figure in figures]
    axes.fill_between(x, low, high, color=look.colour, alpha=0.25, linewidth=0)
    return axes.plot(
        x,
        [figure.value for figure in figures],
        color=look.colour,
        linestyle=look.line,
        linewidth=1.2,
        zorder=3,
    )[0]


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
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))


@style()
def against_batch_size(name: str, group: Group) -> Picture:
    """Energy per token, throughput, average power and the change of energy against batch size, a line per engine."""
    series, looks, sizes = drawn_series(group), _looks(group), group.batch_sizes
    has_change = any(move.change for move in group.moves)
    panels: list[tuple[str, Callable[[Side], Interval]]] = [
        ("energy per token, J", lambda side: side.joules_per_token),
        ("throughput, tokens/s", lambda side: side.tokens_per_s),
        ("average power, W", lambda side: side.power_w),
    ]
    rows = len(panels) + has_change
    figure, all_axes = _new_figure(64 + 18 * len(series) + 150 * rows, rows, sharex=True)
    bars = []
    for axes, (title, of) in zip(all_axes, panels, strict=False):
        for i, line in enumerate(series):
            co_resident = 1.025 ** (
                2 * i - len(series) + 1
            )  # intervals at one batch size stand beside each other
            x = [size * co_resident for size, _ in line.points]
            bars.append(
                _error_bars(axes, x, [of(side) for _, side in line.points], looks[line.label])
            )
        axes.set_title(title, color=INK)
    for axes in all_axes[:2]:
        _log_y(axes)
    all_axes[2].set_ylim(bottom=0)
    if has_change:
        _changes(all_axes[3], group, series, looks)
    bottom = all_axes[-1]
    bottom.set_xscale("log")
    bottom.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
    _ticks_at(bottom, sizes)
    bottom.set_xlabel("batch size (requests running concurrently)")
    _legend(figure, bars[: len(series)], [line.label for line in series])
    words = [
        f"{line.label}: "
        + "; ".join(
            f"batch size {size}: {told(side.joules_per_token, 'J/token')}, {told(side.tokens_per_s, 'tokens/s')}, {told(side.power_w, 'W')}"
            for size, side in line.points
        )
        for line in series
    ]
    words += [
        f"{m.new_label} at batch size {m.batch_size}: {_change(m.change)} J/token"
        for m in group.moves
        if m.change
    ]
    omitted = len(group.series) - len(series)
    return Picture(
        name,
        f"Energy per token, throughput and power against batch size: {group.title}",
        "Bars are 95 % intervals over engine launches."
        + (
            " The lowest panel shows energy per token by what it is compared with."
            if has_change
            else ""
        )
        + (f" {omitted} more engines are in results.json and not drawn." if omitted else ""),
        ". ".join(words) + ". In brackets: 95 % intervals.",
        figure,
    )


def _changes(axes: Axes, group: Group, series: Sequence[Series], looks: dict[str, _Look]) -> None:
    compared = [
        line for line in series if any(m.new_label == line.label and m.change for m in group.moves)
    ]
    axes.axhline(1, color=MUTED, linewidth=1)
    for i, line in enumerate(compared):
        moves = [m for m in group.moves if m.new_label == line.label and m.change]
        co_resident = 1.025 ** (2 * i - len(compared) + 1)
        changes = [m.change for m in moves if m.change]
        _error_bars(axes, [m.batch_size * co_resident for m in moves], changes, looks[line.label])
    limits = {move.tolerance for move in group.moves}
    title = "change of energy per token, %"
    if len(limits) == 1 and (limit := limits.pop()) is not None:
        axes.axhline(1 + limit, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        title += f" (dashed: tolerance, {100 * limit:+.3g} %)"
    axes.set_title(title, color=INK)
    low, high = (100 * (ratio - 1) for ratio in axes.get_ylim())
    ticks = [
        tick
        for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
        if low <= tick <= high
    ]
    axes.yaxis.set_major_locator(FixedLocator([1 + tick / 100 for tick in ticks]))
    axes.yaxis.set_major_formatter(
        FuncFormatter(
            lambda ratio, _: "0" if abs(ratio - 1) < 1e-9 else f"{100 * (ratio - 1):+.3g}"
        )
    )


def chosen(moves: Sequence[Move]) -> tuple[int, ...]:
    """The batch sizes with a panel of their own, ascending: all of them, or those that moved most for sure, then the others."""
    sizes = sorted({move.batch_size for move in moves})
    if len(sizes) <= MAX_PANELS:
        return tuple(sizes)

    moved = {
        size: max(_moved_for_sure(move) for move in moves if move.batch_size == size)
        for size in sizes
    }
    return tuple(sorted(sorted(sizes, key=lambda size: (-moved[size], size))[:MAX_PANELS]))


def _moved_for_sure(move: Move) -> float:
    """How far energy per token moved, zero where that may be chance."""
    return abs(math.log(move.change.value)) if move.clear and move.change else 0.0


def _moves_to_draw(group: Group) -> tuple[list[Move], dict[str, _Look]]:
    """All moves, or those between as many engines as can be told apart, and how the engines look."""
    looks: dict[str, _Look] = _looks(group) if len(group.series) <= MAX_SERIES else {}
    for move in sorted(group.moves, key=_moved_for_sure, reverse=True):
        labels = [
            label for label in dict.fromkeys((move.old_label, move.new_label)) if label not in looks
        ]
        if len(looks) + len(labels) <= MAX_SERIES:
            looks |= {label: _Look.of(len(looks) + i) for i, label in enumerate(labels)}
    moves = [move for move in group.moves if move.old_label in looks and move.new_label in looks]
    drawn = {label for move in moves for label in (move.old_label, move.new_label)}
    return moves, {label: look for label, look in looks.items() if label in drawn}


@style()
def power_throughput_plane(name: str, group: Group) -> Picture:
    """Where each engine lies, how the change moved it, along which lines energy per token is equal, and where mere pace would lead."""
    moves, looks = _moves_to_draw(group)
    sizes = chosen(moves)
    rows = math.ceil(len(sizes) / 2)
    figure, all_axes = _new_figure(84 + 18 * len(looks) + 218 * rows, rows, 2)
    for axes in all_axes[len(sizes) :]:
        figure.delaxes(axes)
    static_seen = False
    for axes, size in zip(all_axes, sizes, strict=False):
        static_seen = (
            _plane(axes, size, [move for move in moves if move.batch_size == size], looks)
            or static_seen
        )
    figure.supxlabel("throughput, tokens/s", fontsize=12.5)
    figure.supylabel("average power, W", fontsize=12.5)
    handles = [
        all_axes[0].plot([], [], color=look.colour, marker=look.marker, linestyle="")[0]
        for look in looks.values()
    ]
    names = list(looks)
    handles += all_axes[0].plot([], [], color=GRID, linewidth=1.4)
    names.append("equal energy per token (J/token)")
    if static_seen:
        handles += all_axes[0].plot([], [], color=MUTED, linestyle=":")
        names.append("static power + dynamic energy × throughput")
    _legend(figure, handles, names)
    omitted = len({move.batch_size for move in group.moves}) - len(sizes)
    untold = sorted(
        {move.batch_size for move in moves if move.clear and move.reading in (None, "cannot tell")}
        & set(sizes)
    )
    return Picture(
        name,
        f"Power against throughput, and which way it moved: {group.title}",
        "Down and to the right is better: lines of equal energy per token rise from the origin. A move along the dotted line "
        "(shaded: the static power's uncertainty of ± 20 W) is a change of pace only; one above it, more work per token. "
        "Bars are 95 % intervals."
        + (
            f" At batch size {', '.join(map(str, untold))} the two cannot be told apart, whatever the arrow suggests."
            if untold
            else ""
        )
        + (
            f" Drawn are {len(sizes)} of {len(sizes) + omitted} batch sizes, those that moved most."
            if omitted
            else ""
        ),
        ". ".join(_move_in_words(move) for move in moves if move.batch_size in sizes)
        + ". In brackets: 95 % intervals.",
        figure,
    )


def _move_in_words(move: Move) -> str:
    power, rate = (
        move.new.power_w.value / move.old.power_w.value,
        move.new.tokens_per_s.value / move.old.tokens_per_s.value,
    )
    text = (
        f"Batch size {move.batch_size}, {move.old_label} to {move.new_label}: {told(move.old.power_w, 'W')} and "
        f"{told(move.old.tokens_per_s, 'tokens/s')} to {told(move.new.power_w, 'W')} and {told(move.new.tokens_per_s, 'tokens/s')}: "
        f"power {percent(power)}, throughput {percent(rate)}"
    )
    return text + (f", energy per token {_change(move.change)}" if move.change else "")


def static_power_w(move: Move) -> float | None:
    """Mean of the launches of both sides; None where one of them did not see it, or where no power is left for the tokens."""
    seen = [launch.static_power_w for side in (move.old, move.new) for launch in side.launches]
    known = [power for power in seen if power is not None]
    mean = math.fsum(known) / len(known) if known and len(known) == len(seen) else None
    return mean if mean is not None and mean < move.old.power_w.value else None


def _plane(axes: Axes, size: int, moves: Sequence[Move], looks: dict[str, _Look]) -> bool:
    sides = {
        label: side for m in moves for label, side in ((m.old_label, m.old), (m.new_label, m.new))
    }
    x_low, x_high = _range([side.tokens_per_s for side in sides.values()])
    y_low, y_high = _range([side.power_w for side in sides.values()])
    axes.set_xlim(x_low, x_high)
    axes.set_ylim(y_low, y_high)
    axes.grid(visible=False)
    axes.set_title(f"batch size {size:,}", color=INK)
    _equal_energy(
        axes,
        [
            (
                m.old.tokens_per_s.value,
                m.old.power_w.value,
                m.new.tokens_per_s.value,
                m.new.power_w.value,
            )
            for m in moves
        ],
    )
    x = np.array([x_low, x_high])
    static_w = static_power_w(moves[0])
    if static_w is not None:
        old = moves[0].old
        uncertainty_w = STATIC_POWER_UNCERTAINTY_W * max(
            1, *(len(launch.gpu_power_w) for launch in moves[0].new.launches)
        )
        line = [
            w + (old.power_w.value - w) / old.tokens_per_s.value * x
            for w in (static_w - uncertainty_w, static_w, static_w + uncertainty_w)
        ]
        axes.plot(x, line[1], color=MUTED, linestyle=":", zorder=2)
        axes.fill_between(x, line[0], line[2], color=MUTED, alpha=0.18, linewidth=0, zorder=1)
    for label, side in sides.items():
        power, rate, look = side.power_w, side.tokens_per_s, looks[label]
        axes.errorbar(
            [rate.value], [power.value],
            xerr=[[rate.value - rate.low], [rate.high - rate.value]], yerr=[[power.value - power.low], [power.high - power.value]],
            color=look.colour, marker=look.marker, capsize=2.5, elinewidth=1.2, zorder=4,
        )  # fmt: skip
    for move in moves:
        start, end = (
            (side.tokens_per_s.value, side.power_w.value) for side in (move.old, move.new)
        )
        if _apart(start, end, (x_high - x_low, y_high - y_low)):
            axes.annotate(
                "", xy=end, xytext=start,
                arrowprops={"arrowstyle": "-|>", "color": looks[move.new_label].colour, "shrinkA": 4, "shrinkB": 4, "linewidth": 1.4},
                zorder=3,
            )  # fmt: skip
    for axis, low, high in ((axes.xaxis, x_low, x_high), (axes.yaxis, y_low, y_high)):
        room = max(2, min(4, 24 // len(f"{high:,.3g}")))
        axis.set_major_locator(
            FixedLocator(
                [
                    t
                    for t in MaxNLocator(room, steps=[1, 2, 5, 10]).tick_values(low, high)
                    if low <= t <= high
                ]
            )
        )
        axis.set_major_formatter(FuncFormatter(_tick))
    return static_w is not None


def _tick(value: float, _: object = None) -> str:
    """A round figure in few characters."""
    return f"{value:,.10g}" if value == 0 or 1e-4 <= abs(value) < 1e7 else f"{value:.3g}"


def _apart(
    start: tuple[float, float], end: tuple[float, float], spans: tuple[float, float]
) -> bool:
    """Whether there is room for an arrow between two points."""
    return (
        math.hypot(*((b - a) / span for a, b, span in zip(start, end, spans, strict=True))) > 0.12
    )


def _range(figures: Sequence[Interval]) -> tuple[float, float]:
    """The intervals with a margin, and a tenth of their middle at least, so that no noise looks like a leap."""
    low, high = min(figure.low for figure in figures), max(figure.high for figure in figures)
    middle, half = (low + high) / 2, max((high - low) / 2 * 1.25, (low + high) / 2 * 0.05)
    return max(0.0, middle - half), middle + half


def _equal_energy(axes: Axes, moves: Sequence[tuple[float, float, float, float]]) -> None:
    """Lines of equal J/token, labelled where they are furthest from any move (tokens/s and W of its start and end)."""
    (x_low, x_high), (y_low, y_high) = axes.get_xlim(), axes.get_ylim()
    lowest, highest = y_low / x_high, y_high / max(x_low, 1e-9)
    highest = min(highest, 4 * y_high / x_high)  # near the vertical they only crowd
    labels: list[tuple[float, float]] = []
    for energy in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(lowest, highest):
        if energy <= 0 or not lowest < energy < y_high / max(x_low, 1e-9):
            continue
        axes.plot(
            [x_low, x_high],
            [energy * x_low, energy * x_high],
            color=GRID,
            linewidth=1.2,
            zorder=0,
            scalex=False,
            scaley=False,
        )
        # What is seen of it, and leaves room for the label below the panel's title.
        start, end = (
            max(x_low, y_low / energy),
            min(x_high, (y_low + 0.86 * (y_high - y_low)) / energy),
        )
        if (end - start) / (x_high - x_low) < 0.25:
            continue

        def room(x: float, energy: float = energy) -> float:
            points = [
                (x0 + t * (x1 - x0), y0 + t * (y1 - y0))
                for x0, y0, x1, y1 in moves
                for t in np.linspace(0, 1, 9)
            ]
            return min(
                math.hypot((x - px) / (x_high - x_low), (energy * x - py) / (y_high - y_low))
                for px, py in points
            )

        x = max((start + share * (end - start) for share in (0.84, 0.6, 0.4, 0.2)), key=room)
        place = (x - x_low) / (x_high - x_low), (energy * x - y_low) / (y_high - y_low)
        if any(math.dist(place, other) < 0.3 for other in labels):
            continue
        labels.append(place)
        axes.text(
            x, energy * x, _tick(energy), color=MUTED, fontsize=10.5, ha="center", va="bottom", rotation_mode="anchor",
            rotation=math.degrees(math.atan(energy)), transform_rotates_text=True, zorder=1,
        )  # fmt: skip


@style()
def launch_trace(name: str, traces: Sequence[Trace]) -> Picture:
    """Power during one launch, cell by cell, with its cycles."""
    figure, all_axes = _new_figure(54 + 164 * len(traces), len(traces))
    for axes, trace in zip(all_axes, traces, strict=True):
        top = 1.22 * max(trace.power_w)
        for i, (start, end) in enumerate(trace.cycles_s):
            axes.axvspan(start, end, color=SERIES[0], alpha=0.22 if i % 2 else 0.10, linewidth=0)
            axes.plot(
                [start, end], [trace.cycle_power_w[i]] * 2, color=SERIES[1], linewidth=2, zorder=4
            )
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
        axes.step(
            trace.time_s, trace.power_w, where="pre", color=SERIES[0], linewidth=1.1, zorder=3
        )
        axes.axvline(trace.load_stopped_s, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_ylim(0, top)
        axes.set_xlim(trace.time_s[0], trace.time_s[-1])
        axes.set_title(f"batch size {trace.batch_size:,}: power, W", color=INK)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    all_axes[-1].set_xlabel("seconds since the load began")
    handles = [
        all_axes[0].plot([], [], color=SERIES[0])[0],
        all_axes[0].plot([], [], color=SERIES[1], linewidth=2)[0],
        all_axes[0].plot([], [], color=MUTED, linestyle=(0, (4, 3)))[0],
    ]
    _legend(
        figure,
        handles,
        [
            "energy counter, over half a second each",
            "mean of a whole cycle (numbered)",
            "the load stops",
        ],
    )
    first = traces[0]
    words = [
        f"Batch size {trace.batch_size}: {len(trace.cycles_s)} cycles of "
        f"{number(sum(end - start for start, end in trace.cycles_s) / len(trace.cycles_s))} s on average, their mean power "
        + ", ".join(f"{power:.0f}" for power in trace.cycle_power_w)
        + " W"
        + (
            ""
            if trace.static_power_w is None
            else f"; {trace.static_power_w:.0f} W just after the load"
        )
        for trace in traces
        if trace.cycles_s
    ]
    return Picture(
        name,
        f"Power during one launch of {first.engine} on {first.gpu_name}",
        f"Launch {first.launch_id}. "
        + (
            "A cycle is a block of finished requests, as many and the same ones in each. "
            if first.in_blocks
            else "A cycle is batch size × output tokens: every slot of the batch has finished one request and begun another. "
        )
        + "What precedes the first cycle is warm-up; what follows the dashed line shows the hot GPU without load.",
        ". ".join(words) + ".",
        figure,
    )


@style()
def over_time(name: str, group: Group) -> Picture:
    """How J/token of each batch size moved from one state of its baseline to the next."""
    lines = [(size, states) for size, states in group.history if len(states) > 1]
    shown = (
        lines[:MAX_PANELS]
        if len(lines) <= MAX_PANELS
        else sorted(sorted(lines, key=lambda line: -_moved(line[1]))[:MAX_PANELS])
    )
    figure, all_axes = _new_figure(64 + 150 * len(shown), len(shown))
    for axes, (size, states) in zip(all_axes, shown, strict=True):
        figures = [state.joules_per_token for state in states]
        _error_bars(axes, range(len(states)), figures, _Look.of(0))
        axes.set_ylim(*_range(figures))
        axes.set_title(f"batch size {size:,}: energy per token, J", color=INK)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        axes.set_xlim(-0.5, len(states) - 0.5)
        _releases(axes, states)
    all_axes[-1].set_xlabel("state of the baseline: vLLM version and date, oldest first")
    words = [
        f"Batch size {size}: "
        + ", ".join(
            f"vLLM {s.vllm} {s.date[:10]} {told(s.joules_per_token, 'J/token')}"
            for s in _few(states)
        )
        + (
            f" ({len(states)} states, the first and the newest are told)"
            if len(states) > 2 * _FEW
            else ""
        )
        for size, states in shown
    ]
    omitted = len(lines) - len(shown)
    return Picture(
        name,
        f"Energy per token over the baseline's history: {group.title}",
        "Bars or bands are 95 % intervals; those of earlier states rest on the runner's noise and their number of launches."
        + (
            f" Drawn are {len(shown)} of {len(lines)} batch sizes, those that moved most."
            if omitted
            else ""
        ),
        ". ".join(words) + ". In brackets: 95 % intervals.",
        figure,
    )


def _few(states: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    return list(states) if len(states) <= 2 * _FEW else [*states[:_FEW], *states[-_FEW:]]


def _moved(states: Sequence[HistoryEntry]) -> float:
    values = [state.joules_per_token.value for state in states]
    return max(values) / min(values)


def _releases(axes: Axes, states: Sequence[HistoryEntry]) -> None:
    """Label states by version and date, as many as there is room for."""
    step = math.ceil(len(states) / 5)
    at = range(0, len(states), step)
    axes.xaxis.set_major_locator(FixedLocator([float(i) for i in at]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([printable(f"{states[i].vllm[:14]}\n{states[i].date[:10]}") for i in at])
    axes.grid(visible=False, axis="x")
