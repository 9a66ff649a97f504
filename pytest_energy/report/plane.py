"""The power-throughput plane: where engines lie, and whether pace or work per token moved."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pytest_energy.measure.conditions import STATIC_POWER_UNCERTAINTY_W
from pytest_energy.report.drawing import (
    MAX_PANELS,
    MAX_SERIES,
    Mark,
    in_words,
    legend,
    marks_of,
    new_figure,
    range_of,
    set_ticks,
    tick,
    ticks_between,
)
from pytest_energy.report.groups import Group, Move
from pytest_energy.report.pictures import GRID, INK, MUTED, Picture, style
from pytest_energy.report.results import ReportedSide
from pytest_energy.report.words import change_in_words, listed, percent


@style()
def power_throughput_plane(name: str, group: Group) -> Picture:
    """Power against throughput, a panel per batch size, with an arrow per move.

    Energy per token is equal along lines from the origin; a change of mere pace leads along the
    dotted line.
    """
    moves, marks = _moves_to_draw(group)
    sizes = chosen(moves)
    rows = math.ceil(len(sizes) / 2)
    figure, all_axes = new_figure(84 + 18 * len(marks) + 218 * rows, rows, 2)
    for axes in all_axes[len(sizes) :]:
        figure.delaxes(axes)
    of_size = [[move for move in moves if move.batch_size == size] for size in sizes]
    has_static = False
    for axes, size_moves in zip(all_axes, of_size, strict=False):
        has_static |= _panel(axes, size_moves, marks)
    figure.supxlabel("throughput, tokens/s", fontsize=12.5)
    figure.supylabel("average power, W", fontsize=12.5)
    first = all_axes[0]
    handles = [
        first.plot([], [], color=mark.colour, marker=mark.marker, linestyle="")[0]
        for mark in marks.values()
    ]
    names = [*marks, "equal energy per token (J/token)"]
    handles += first.plot([], [], color=GRID, linewidth=1.4)
    if has_static:
        names.append("static power + dynamic energy × throughput")
        handles += first.plot([], [], color=MUTED, linestyle=":")
    legend(figure, handles, names)
    words = ". ".join(_move_in_words(move) for size_moves in of_size for move in size_moves)
    return Picture(
        name,
        f"Power against throughput, and which way it moved: {group.title}",
        _caption(group, moves, sizes),
        f"{words}. In brackets: 95 % intervals.",
        figure,
    )


def _caption(group: Group, moves: Sequence[Move], sizes: Sequence[int]) -> str:
    text = (
        "Down and to the right is better: lines of equal energy per token rise from the origin. "
        "A move along the dotted line (shaded: ± 20 W of static power) is a change of pace only; "
        "a move above it is more work per token. Bars are 95 % intervals."
    )
    unclear = sorted(
        {move.batch_size for move in moves if move.clear and move.reading in (None, "cannot tell")}
        & set(sizes)
    )
    if unclear:
        text += (
            f" At {listed('batch size', unclear)} the arrow may be either: "
            "the dotted line is not known well enough."
        )
    all_sizes = len({move.batch_size for move in group.moves})
    if all_sizes > len(sizes):
        text += f" {len(sizes)} of {all_sizes} batch sizes are drawn, those that moved most."
    return text


def chosen(moves: Sequence[Move]) -> tuple[int, ...]:
    """The batch sizes that have a panel, ascending; of too many, the largest clear moves'."""
    sizes = sorted({move.batch_size for move in moves})
    if len(sizes) <= MAX_PANELS:
        return tuple(sizes)
    moved = {
        size: max(_clear_move(move) for move in moves if move.batch_size == size) for size in sizes
    }
    return tuple(sorted(sorted(sizes, key=lambda size: (-moved[size], size))[:MAX_PANELS]))


def _clear_move(move: Move) -> float:
    """How far energy per token moved; zero if that may be chance."""
    return abs(math.log(move.change.value)) if move.clear and move.change else 0.0


def _moves_to_draw(group: Group) -> tuple[list[Move], dict[str, Mark]]:
    """The moves between as many engines as can be distinguished, and how the engines are drawn."""
    marks: dict[str, Mark] = marks_of(group) if len(group.series) <= MAX_SERIES else {}
    for move in sorted(group.moves, key=_clear_move, reverse=True):
        both = dict.fromkeys((move.reference_label, move.candidate_label))
        labels = [label for label in both if label not in marks]
        if len(marks) + len(labels) <= MAX_SERIES:
            marks |= {label: Mark.of(len(marks) + i) for i, label in enumerate(labels)}
    moves = [m for m in group.moves if m.reference_label in marks and m.candidate_label in marks]
    drawn = {label for move in moves for label in (move.reference_label, move.candidate_label)}
    return moves, {label: mark for label, mark in marks.items() if label in drawn}


def _move_in_words(move: Move) -> str:
    old, new = move.reference, move.candidate
    text = (
        f"Batch size {move.batch_size}, {move.reference_label} to {move.candidate_label}: "
        f"{in_words(old.power_w, 'W')} and {in_words(old.tokens_per_s, 'tokens/s')} to "
        f"{in_words(new.power_w, 'W')} and {in_words(new.tokens_per_s, 'tokens/s')}: "
        f"power {percent(new.power_w.value / old.power_w.value)}, "
        f"throughput {percent(new.tokens_per_s.value / old.tokens_per_s.value)}"
    )
    return text + (f", energy per token {change_in_words(move.change)}" if move.change else "")


def static_power_w(move: Move) -> float | None:
    """Mean over the launches of both sides; None if a launch lacks it, or it exceeds all power."""
    seen = [
        launch.static_power_w
        for side in (move.reference, move.candidate)
        for launch in side.launches
    ]
    known = [power_w for power_w in seen if power_w is not None]
    mean_w = sum(known) / len(known) if len(known) == len(seen) else None
    return mean_w if mean_w is not None and mean_w < move.reference.power_w.value else None


def _panel(axes: Axes, moves: Sequence[Move], marks: dict[str, Mark]) -> bool:
    """Draw one batch size; returns whether the static power is known."""
    sides = {
        label: side
        for m in moves
        for label, side in ((m.reference_label, m.reference), (m.candidate_label, m.candidate))
    }
    x_low, x_high = range_of([side.tokens_per_s for side in sides.values()])
    y_low, y_high = range_of([side.power_w for side in sides.values()])
    axes.set_xlim(x_low, x_high)
    axes.set_ylim(y_low, y_high)
    axes.grid(visible=False)
    axes.set_title(f"batch size {moves[0].batch_size:,}", color=INK)
    _equal_energy(axes, [(*_point(m.reference), *_point(m.candidate)) for m in moves])
    has_static = _line_of_pace(axes, moves[0])
    for label, side in sides.items():
        _engine(axes, side, marks[label])
    is_path = len({move.reference_label for move in moves}) > 1  # of which no part may be missing
    for move in moves:
        _arrow(axes, move, marks[move.candidate_label].colour, is_path)
    for axis, low, high in ((axes.xaxis, x_low, x_high), (axes.yaxis, y_low, y_high)):
        room = max(2, min(4, 24 // len(f"{high:,.3g}")))
        set_ticks(axis, ticks_between(low, high, room))
    return has_static


def _point(side: ReportedSide) -> tuple[float, float]:
    return side.tokens_per_s.value, side.power_w.value


def _engine(axes: Axes, side: ReportedSide, mark: Mark) -> None:
    power, rate = side.power_w, side.tokens_per_s
    axes.errorbar(
        [rate.value],
        [power.value],
        xerr=[[rate.value - rate.low], [rate.high - rate.value]],
        yerr=[[power.value - power.low], [power.high - power.value]],
        color=mark.colour,
        marker=mark.marker,
        capsize=2.5,
        elinewidth=1.2,
        zorder=4,
    )


def _line_of_pace(axes: Axes, move: Move) -> bool:
    """Where engines lie that do the reference's work per token; False if that is unknown."""
    static_w = static_power_w(move)
    if static_w is None:
        return False
    gpus = max(1, *(len(launch.gpu_power_w) for launch in move.candidate.launches))
    uncertainty_w = STATIC_POWER_UNCERTAINTY_W * gpus
    rate, power_w = _point(move.reference)
    x = np.array(axes.get_xlim())
    low, middle, high = (
        w + (power_w - w) / rate * x
        for w in (static_w - uncertainty_w, static_w, static_w + uncertainty_w)
    )
    axes.plot(x, middle, color=MUTED, linestyle=":", zorder=2)
    axes.fill_between(x, low, high, color=MUTED, alpha=0.18, linewidth=0, zorder=1)
    return True


def _arrow(axes: Axes, move: Move, colour: str, is_path: bool) -> None:
    """From the reference to the candidate; without room for it a line if it is part of a path."""
    start, end = _point(move.reference), _point(move.candidate)
    spans = [high - low for low, high in (axes.get_xlim(), axes.get_ylim())]
    shares = ((b - a) / span for a, b, span in zip(start, end, spans, strict=True))
    if math.hypot(*shares) <= 0.12:
        if is_path:
            axes.plot(*zip(start, end, strict=True), color=colour, linewidth=1.4, zorder=3)
        return
    axes.annotate(
        "",
        xy=end,
        xytext=start,
        arrowprops={
            "arrowstyle": "-|>",
            "color": colour,
            "shrinkA": 4,
            "shrinkB": 4,
            "linewidth": 1.4,
        },
        zorder=3,
    )


def _equal_energy(axes: Axes, moves: Sequence[tuple[float, float, float, float]]) -> None:
    """Lines of equal J/token, labelled where they are furthest from any move.

    Args:
        axes: with its limits set.
        moves: tokens/s and W of start and end, each.
    """
    (x_low, x_high), (y_low, y_high) = axes.get_xlim(), axes.get_ylim()
    steepest = y_high / max(x_low, 1e-9)
    lowest, highest = y_low / x_high, min(steepest, 4 * y_high / x_high)  # steeper ones only crowd
    labels: list[tuple[float, float]] = []
    for energy in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(lowest, highest):
        if energy <= 0 or not lowest < energy < steepest:
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
        place = _place_of_label(axes, energy, moves)
        if place is None or any(math.dist(place, other) < 0.3 for other in labels):
            continue
        labels.append(place)
        x = x_low + place[0] * (x_high - x_low)
        axes.text(
            x,
            energy * x,
            tick(energy),
            color=MUTED,
            fontsize=10.5,
            ha="center",
            va="bottom",
            rotation_mode="anchor",
            rotation=math.degrees(math.atan(energy)),
            transform_rotates_text=True,
            zorder=1,
        )


def _place_of_label(
    axes: Axes, energy: float, moves: Sequence[tuple[float, float, float, float]]
) -> tuple[float, float] | None:
    """Where a line of equal energy is labelled, as shares of the axes; None if it is too short."""
    (x_low, x_high), (y_low, y_high) = axes.get_xlim(), axes.get_ylim()
    x_span, y_span = x_high - x_low, y_high - y_low
    # The visible part that leaves room for the label below the panel's title.
    start = max(x_low, y_low / energy)
    end = min(x_high, (y_low + 0.86 * y_span) / energy)
    if (end - start) / x_span < 0.25:
        return None
    points = [
        (x0 + t * (x1 - x0), y0 + t * (y1 - y0))
        for x0, y0, x1, y1 in moves
        for t in np.linspace(0, 1, 9)
    ]

    def distance(x: float) -> float:
        return min(math.hypot((x - px) / x_span, (energy * x - py) / y_span) for px, py in points)

    x = max((start + share * (end - start) for share in (0.84, 0.6, 0.4, 0.2)), key=distance)
    return (x - x_low) / x_span, (energy * x - y_low) / y_span
