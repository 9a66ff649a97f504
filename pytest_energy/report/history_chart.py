"""J/token of a stored baseline, state by state, with the verdict on each step."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from pytest_energy.report.drawing import (
    MAX_PANELS,
    Mark,
    error_bars,
    in_words,
    new_figure,
    range_of,
    shortened,
    tick,
)
from pytest_energy.report.groups import Group
from pytest_energy.report.pictures import (
    BAD,
    GOOD,
    INK,
    MUTED,
    OPEN,
    WIDE_PX,
    WIDTH_PX,
    Picture,
    style,
)
from pytest_energy.report.results import HistoryEntry
from pytest_energy.report.steps import TOLERANCE, Step, figure_of, steps
from pytest_energy.report.words import percent

_FEW = 10  # of a baseline's states, the oldest and the newest are in the words
_LABEL_PX = 90  # of a state
_COLOURS = {"good": GOOD, "bad": BAD, "open": OPEN}


def over_time(name: str, group: Group) -> tuple[Picture, Picture]:
    """How J/token of each batch size moved from one state of its baseline to the next.

    Returns:
        For a phone, the panels below each other; and for a desk.
    """
    return _over_time(name, group, WIDTH_PX), _over_time(f"{name}-wide", group, WIDE_PX)


@style()
def _over_time(name: str, group: Group, width_px: float) -> Picture:
    lines = [(size, states) for size, states in group.history if len(states) > 1]
    shown = (
        lines[:MAX_PANELS]
        if len(lines) <= MAX_PANELS
        else sorted(sorted(lines, key=lambda line: -_moved(line[1]))[:MAX_PANELS])
    )
    columns = 2 if width_px > WIDTH_PX and len(shown) > 1 else 1
    rows = math.ceil(len(shown) / columns)
    figure, all_axes = new_figure(40 + 200 * rows, rows, columns, width_px)
    for axes in all_axes[len(shown) :]:
        figure.delaxes(axes)
    for axes, (size, states) in zip(all_axes, shown, strict=False):
        _states(axes, size, states, int((width_px / columns - 60) // _LABEL_PX))
    figure.supxlabel(
        "state of the baseline: vLLM version, date, change from the one before", fontsize=12.5
    )
    caption = (
        "Bars or bands are 95 % intervals; those of earlier states rest on the runner's noise "
        "and their number of launches. Each step from the state before is judged by its interval "
        f"and a tolerance of {100 * TOLERANCE:g} %."
    )
    if len(lines) > len(shown):
        caption += f" {len(shown)} of {len(lines)} batch sizes are drawn, those that moved most."
    words = ". ".join(_states_in_words(size, states) for size, states in shown)
    return Picture(
        name,
        f"Energy per token over the baseline's history: {group.title}",
        caption,
        f"{words}. In brackets: 95 % intervals.",
        figure,
    )


def _states(axes: Axes, size: int, states: Sequence[HistoryEntry], room: int) -> None:
    figures = [figure_of(state) for state in states]
    error_bars(axes, range(len(states)), figures, Mark.of(0))
    axes.set_ylim(*range_of(figures))
    axes.set_title(f"batch size {size:,}: energy per token, J", color=INK)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    axes.set_xlim(-0.5, len(states) - 0.5)
    at = range(0, len(states), math.ceil(len(states) / room))
    axes.xaxis.set_major_locator(FixedLocator([float(i) for i in at]))
    axes.xaxis.set_minor_locator(NullLocator())
    names = [f"{shortened(states[i].vllm, 14)}\n{shortened(states[i].date[:10])}" for i in at]
    axes.set_xticklabels(names)
    axes.grid(visible=False, axis="x")
    found = steps(states)
    for i in at:
        step = found[i]
        text, colour = (
            ("first", MUTED)
            if step is None
            else (f"{percent(step.change.value)}\n{step.verdict}", _COLOURS[step.tone])
        )
        axes.annotate(
            text,
            (i, 0),
            (0, -44),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=colour,
            ha="center",
            va="top",
        )


def _states_in_words(size: int, states: Sequence[HistoryEntry]) -> str:
    words = list(map(_state_in_words, states, steps(states)))
    few = words if len(words) <= 2 * _FEW else [*words[:_FEW], *words[-_FEW:]]
    text = f"Batch size {size}: {'; '.join(few)}"
    if len(few) < len(words):
        text += f" ({len(words)} states, of which the first and the last {_FEW})"
    return text


def _state_in_words(state: HistoryEntry, step: Step | None) -> str:
    text = f"vLLM {state.vllm} {state.date[:10]} {in_words(figure_of(state), 'J/token')}"
    return f"{text}, {percent(step.change.value)}: {step.verdict}" if step else text


def _moved(states: Sequence[HistoryEntry]) -> float:
    values = [figure_of(state).value for state in states]
    return max(values) / min(values)
