"""The noise between launches: what verdicts rest on, and what `pytest-energy noise` measured."""

from collections.abc import Sequence

from pytest_energy.cell.cell import Cell
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import Spread, deviation_interval
from pytest_energy.report.rows import Row
from pytest_energy.report.table import fitted, split_name, wrapped
from pytest_energy.report.words import UNIT, cells_in_short, count
from pytest_energy.store.noise import ASSUMED, MIN_OWN_DEGREES, Noise
from pytest_energy.verdict.detectable import DETECTABLE_WITH, detectable
from pytest_energy.verdict.rule import Terms

_COLUMNS = (
    *("cell", "metric", "launches", "launch sd, %", "cycle sd, %"),
    *(f"n={n}" for n in DETECTABLE_WITH),
)


def noise_lines(rows: Sequence[Row]) -> list[str]:
    """The noise that the verdicts rest on, one line per metric; if assumed, how to measure it."""
    found = [r for r in rows if r.noise]
    lines = []
    for metric in Metric:
        of_metric = [r for r in found if r.metric == metric.value]
        if of_metric:
            lines.append(f"noise of {UNIT[metric]} between launches: {_in_short(of_metric)}")
    if any(r.noise_kind == ASSUMED for r in found):
        lines.append(
            "an assumed noise takes more launches to raise an alarm: run pytest-energy noise"
        )
    return lines


def _in_short(rows: Sequence[Row]) -> str:
    """A metric's sources of noise: one in full, several as ranges, by how they are known."""
    if len({r.noise for r in rows}) == 1:
        return rows[0].noise
    kinds: dict[str, list[Row]] = {}
    for r in rows:
        kinds.setdefault(r.noise_kind, []).append(r)
    texts = []
    for kind, of in kinds.items():
        deviations = [r.noise_deviation for r in of]
        ends = (f"{100 * end:.2f}" for end in (min(deviations), max(deviations)))
        named = f" ({cells_in_short([r.cell for r in of])})" if len(kinds) > 1 else ""
        texts.append(f"{' to '.join(dict.fromkeys(ends))} % {kind}{named}")
    return "; ".join(texts)


def noise_table(measured: Sequence[tuple[Cell, Metric, Noise]], comparisons: int) -> list[str]:
    """A runner's noise: deviations, and the changes that n launches detect, in WIDTH columns.

    Args:
        measured: one entry per cell and metric.
        comparisons: that share the false-alarm level in "detects".
    """
    texts = [_COLUMNS, *(_texts(*of, comparisons) for of in measured)]
    heading, *rows = fitted(texts)
    lines, above = [heading], ""
    for (cell, _, _), row in zip(measured, rows, strict=True):
        if above != (above := split_name(cell.name)[0]):
            lines.append(above)
        lines.append(row)
    legend = (
        "sd: standard deviation, with its 95 % interval between launches; n=N: the smallest "
        "change, in %, that N launches detect in 95 % of cases, against a baseline of three, "
        f"among {count(comparisons, 'comparison')}"
    )
    notes = [note for cell, metric, noise in measured for note in _notes(cell, metric, noise)]
    return [*lines, *map(wrapped, dict.fromkeys([legend, *notes]))]


def _texts(cell: Cell, metric: Metric, noise: Noise, comparisons: int) -> tuple[str, ...]:
    changes = [detectable(noise, n, Terms(comparisons).levels(n).alarm) for n in DETECTABLE_WITH]
    return (
        split_name(cell.name)[1],
        UNIT[metric],
        str(noise.launches),
        _with_interval(noise.between),
        "-" if noise.within is None else f"{100 * noise.within.deviation:.2f}",
        *("-" if change is None else f"{100 * change:.1f}" for change in changes),
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


def _with_interval(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    low, high = deviation_interval(spread)
    return f"{100 * spread.deviation:.2f} ({100 * low:.2f} to {100 * high:.2f})"
