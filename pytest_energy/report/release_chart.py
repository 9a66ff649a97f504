"""J/token of each batch size over the releases, with their dates and the gate's verdicts."""

import datetime
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from pytest_energy.cell.key import CellKey
from pytest_energy.measure.metric import Metric
from pytest_energy.report.drawing import (
    MAX_PANELS,
    Mark,
    error_bars,
    in_words,
    legend,
    new_figure,
    number,
    range_of,
    shortened,
    tick,
)
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
from pytest_energy.report.published import Published
from pytest_energy.report.release_steps import ROLES, Step, first_verdict, mean_ratio
from pytest_energy.report.releases import Figures, Table, in_order
from pytest_energy.report.results import Interval, interval
from pytest_energy.report.words import percent

_ENERGY = Metric.JOULES_PER_TOKEN
_COLOURS = {"regressed": BAD, "improved": GOOD, "pass": GOOD, "inconclusive": OPEN}
_MARKERS = "sD^vP*"  # of published points
_NARROW = 7  # releases that a phone's width has room for
_LABEL_PX = 56


@functools.cache
def release_dates() -> Mapping[str, str]:
    """When releases of vLLM were published, "2026-07-14", by version; the file has its source."""
    file = Path(__file__).with_name("vllm_release_dates.json")
    return dict(json.loads(file.read_text(encoding="utf-8"))["dates"])


@style()
def over_releases(
    name: str,
    title: str,
    table: Table,
    figures: Sequence[Figures],
    published: Sequence[Published] = (),
) -> Picture:
    """A panel per batch size, a mark per release.

    Args:
        name, title: of the picture.
        table: that the figures are of.
        figures: those of one workload.
        published: points to draw beside them, if they are of the same model and batch size.
    """
    cells = list(dict.fromkeys(of.cell for of in figures))[:MAX_PANELS]
    beside = {
        key: [p for p in published if p.is_of(key, table.machine.gpu_name, table.machine.gpus)]
        for key in cells
    }
    named = {of.release for of in figures} | {p.vllm for of in beside.values() for p in of}
    releases = in_order(named)
    sources = list(dict.fromkeys(p.source for of in beside.values() for p in of))
    width = WIDTH_PX if len(releases) <= _NARROW else WIDE_PX
    height = 70 + 18 * (1 + len(sources)) + 130 * len(cells)
    figure, all_axes = new_figure(height, len(cells), 1, width, sharex=True)
    shown = range(0, len(releases), math.ceil(len(releases) * _LABEL_PX / (width - 60)))
    for axes, key in zip(all_axes, cells, strict=True):
        of_cell = {of.release: of for of in figures if of.cell == key}
        _measured(axes, [releases.index(release) for release in of_cell], [*of_cell.values()])
        _beside(axes, releases, sources, beside[key])
        what = f"batch size {key.batch_size:,}: energy per token, J (above: change, %)"
        _panel(axes, what, of_cell, beside[key])
        _changes(axes, [releases[i] for i in shown], releases, _before(table, key))
    _releases(all_axes[-1], releases, shown)
    first = all_axes[0]
    handles = [first.plot([], [], color=Mark.of(0).colour, marker="o")[0]]
    handles += [first.plot([], [], **_hollow(i))[0] for i in range(len(sources))]
    legend(figure, handles, ["measured here", *(f"published: {source}" for source in sources)])
    caption = (
        "Bars are 95 % intervals over engine launches. Above: the change from the release before, "
        "in the colour of the gate's verdict on it (green: improved or pass; red: regressed; "
        "brown: inconclusive)."
    )
    if sources:
        caption += " Published points are of other workloads and machines, and judge nothing."
    words = ". ".join(
        _in_words([of for of in figures if of.cell == key], _before(table, key), beside[key])
        for key in cells
    )
    return Picture(
        name,
        f"Energy per token over vLLM releases: {title}",
        caption,
        f"{words}. In brackets: 95 % intervals.",
        figure,
    )


def _measured(axes: Axes, at: Sequence[int], figures: Sequence[Figures]) -> None:
    error_bars(axes, at, [of.values[_ENERGY.value] for of in figures], Mark.of(0))


def _hollow(source: int) -> dict[str, Any]:
    return {
        "color": MUTED,
        "marker": _MARKERS[source % len(_MARKERS)],
        "markerfacecolor": "none",
        "linestyle": "",
    }


def _beside(
    axes: Axes, releases: Sequence[str], sources: Sequence[str], points: Sequence[Published]
) -> None:
    for i, source in enumerate(sources):
        of = [p for p in points if p.source == source]
        axes.plot(
            [releases.index(p.vllm) for p in of],
            [p.joules_per_token for p in of],
            **_hollow(i),
        )


def _panel(
    axes: Axes, title: str, figures: Mapping[str, Figures], points: Sequence[Published]
) -> None:
    exact = [_exact(p.joules_per_token) for p in points]
    low, high = range_of([*(of.values[_ENERGY.value] for of in figures.values()), *exact])
    axes.set_ylim(low, high + 0.3 * (high - low))  # room for the changes
    axes.set_title(title, color=INK)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    axes.grid(visible=False, axis="x")


def _exact(value: float) -> Interval:
    return interval(value, value, value)


def _before(table: Table, key: CellKey) -> dict[str, list[Step]]:
    """Steps from the release before, by release, as they are judged."""
    steps = table.judged(ROLES[0])
    return {release: of for (cell, release), of in steps.items() if cell == key}


def _changes(
    axes: Axes, shown: Sequence[str], releases: Sequence[str], steps: Mapping[str, Sequence[Step]]
) -> None:
    for release in shown:
        if release not in steps:
            continue
        change, verdict = _judged(steps[release])
        axes.annotate(
            change.removesuffix(" %"),
            (releases.index(release), 0.97),
            xycoords=("data", "axes fraction"),
            color=_COLOURS.get(verdict, MUTED),
            ha="center",
            va="top",
        )


def _judged(steps: Sequence[Step]) -> tuple[str, str]:
    """The change over GPUs, and the first of their verdicts."""
    return percent(mean_ratio(steps, _ENERGY)), first_verdict(steps, _ENERGY)[0]


def _releases(axes: Axes, releases: Sequence[str], shown: Sequence[int]) -> None:
    axes.set_xlim(-0.5, len(releases) - 0.5)
    axes.xaxis.set_major_locator(FixedLocator([float(i) for i in shown]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([_label(releases[i]) for i in shown])
    axes.set_xlabel("vLLM release, and when it was published")


def _label(release: str) -> str:
    version = release.partition(" ")[0]
    date = release_dates().get(version)
    name = shortened(release, 9)
    if date is None:
        return name
    day = datetime.date.fromisoformat(date)
    return f"{name}\n{day.day} {day:%b}\n{day.year}"


def _in_words(
    of_cell: Sequence[Figures], steps: Mapping[str, Sequence[Step]], points: Sequence[Published]
) -> str:
    words = []
    for of in of_cell:
        text = f"vLLM {of.release} {in_words(of.values[_ENERGY.value], 'J/token')}"
        judged = _judged(steps[of.release]) if of.release in steps else ()
        words.append(", ".join([text, *judged]))
    words += [f"{p.source}, vLLM {p.vllm}: {number(p.joules_per_token)} J/token" for p in points]
    return f"Batch size {of_cell[0].cell.batch_size}: {'; '.join(words)}"
