"""The table of the terminal's summary: one row per cell. Plain text in, plain text out."""

import textwrap
from collections.abc import Sequence

from pytest_energy.measure.metric import Metric
from pytest_energy.report.rows import Row
from pytest_energy.report.words import PRECEDENCE, UNIT

WIDTH = 80  # columns that are enough for all but the widest figures
_COLUMNS = (
    *("cell", "J/token", "change, %", "tokens/s", "change, %", "W", "change, %", "verdict"),
    "detects, %",
)
_LEFT = {"cell", "metric", "release", "set back", "under", "verdict", "vLLM"}
_ALWAYS = ("cell", "verdict")

Markup = dict[str, bool]


def table(rows: Sequence[Row]) -> list[tuple[str, Markup]]:
    """Aligned lines, each with its markup in pytest's terminal.

    "llama bs=8 512/256" stands as "  bs=8" below "llama 512/256", and with its test if other cells
    have this name, as with other engine arguments. A cell's row has the first of its
    tests' verdicts in the order of PRECEDENCE; if they differ, a line below tells which metric has
    which. Columns without any figure are left out. Engines at idle have a table of their own above
    that of the cells under load, with which they share no column but W.
    """
    idle = [r for r in rows if r.metric == Metric.IDLE_POWER_W.value]
    if idle and len(idle) < len(rows):
        return [*table(idle), *table([r for r in rows if r not in idle])]
    cells = by_cell(rows)
    heading, *lines = fitted(_without_empty([_COLUMNS, *map(_texts, cells)]))
    shown: list[tuple[str, Markup]] = [(heading, {"bold": True})]
    above, keys = "", {(r.cell, r.key) for r in rows}
    names = [name for name, _ in keys]
    for of_cell, line in zip(cells, lines, strict=True):
        heading, _ = split_name(of_cell[0].cell)
        of_test = f" ({of_cell[0].test})" if names.count(of_cell[0].cell) > 1 else ""
        if above != (above := f"{heading}{of_test}"):
            shown.append((above, {}))
        shown.append((line, colour(of_cell)))
        if len({r.verdict for r in of_cell}) > 1:
            each = ", ".join(f"{UNIT[Metric(r.metric)]} {r.verdict}" for r in of_cell)
            shown.append((f"    {each}", colour(of_cell)))
    return shown


def split_name(cell: str) -> tuple[str, str]:
    """A cell's name as the line above its rows, which it shares with other sizes, and its row."""
    if cell.endswith(" idle"):
        return cell.removesuffix(" idle"), "  idle"
    model, size, workload = cell.rsplit(" ", 2)
    return f"{model} {workload}", f"  {size}"


def wrapped(line: str) -> str:
    """A line below the table, in WIDTH columns; what follows is indented."""
    return "\n".join(
        textwrap.wrap(
            line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    )


def by_cell(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each cell together, one per metric, in the order of the metrics.

    What xdist's workers measured on GPUs of their own stays apart.
    """
    cells: list[dict[str, Row]] = []
    for r in rows:
        fits = (of for of in cells if all(_of_one_measurement(r, other) for other in of.values()))
        of_cell = next(fits, None)
        if of_cell is None:
            cells.append(of_cell := {})
        of_cell[r.metric] = r
    return [[of[m.value] for m in Metric if m.value in of] for of in cells]


def _of_one_measurement(one: Row, other: Row) -> bool:
    """Whether two metrics were judged of the same launches, as far as both were measured."""
    if one.key != other.key or one.metric == other.metric:
        return False
    unmeasured = not (one.engines and other.engines)
    return unmeasured or (one.on, one.joules_per_token) == (other.on, other.joules_per_token)


def colour(of_cell: Sequence[Row]) -> Markup:
    """A cell's markup: changes are bold, the undecided always yellow."""
    verdict = _verdict(of_cell)
    if verdict == "inconclusive":
        return {"yellow": True}
    green = all(r.green for r in of_cell)
    return {"green": green, "red": not green, "bold": verdict in ("improved", "regressed")}


def fitted(texts: Sequence[Sequence[str]]) -> list[str]:
    """Columns of texts, the first line their headings, in WIDTH columns if that can be."""
    wide = _aligned(texts, "  ")
    return wide if max(map(len, wide)) <= WIDTH else _aligned(texts, " ")


def _aligned(lines: Sequence[Sequence[str]], gap: str) -> list[str]:
    """Figures are set flush right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    left = [name in _LEFT for name in lines[0]]
    return [
        gap.join(
            text.ljust(width) if flush else text.rjust(width)
            for text, width, flush in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    ]


def _without_empty(lines: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Without the columns that hold no figure; the first line are their headings."""
    kept = [
        name in _ALWAYS or any(line[i] not in ("", "-") for line in lines[1:])
        for i, name in enumerate(lines[0])
    ]
    return [tuple(text for text, keep in zip(line, kept, strict=True) if keep) for line in lines]


def _verdict(of_cell: Sequence[Row]) -> str:
    return min((r.verdict for r in of_cell), key=PRECEDENCE.index)


def _texts(of_cell: Sequence[Row]) -> tuple[str, ...]:
    """A cell's figures, in the order of _COLUMNS."""
    metrics = {r.metric: r for r in of_cell}
    one = of_cell[0]  # the figures themselves are the same in both
    energy = _figure(one.joules_per_token, "#.4g")
    if one.joules_per_token_half_width is not None and all(r.change is None for r in of_cell):
        energy += f" ±{100 * one.joules_per_token_half_width:.1f} %"
    changes = {m: _change(metrics.get(m.value)) for m in Metric}
    detects = [_detects(r) for r in of_cell if r.detects is not None]
    return (
        split_name(one.cell)[1],
        energy,
        changes[Metric.JOULES_PER_TOKEN],
        _figure(one.tokens_per_s, ",.0f"),
        changes[Metric.TOKENS_PER_S],
        _figure(one.power_w, ".0f"),
        changes[Metric.IDLE_POWER_W],
        _verdict(of_cell),
        " ".join(detects),
    )


def _change(r: Row | None) -> str:
    """In percent, with the half width of its interval in points."""
    if r is None or r.change is None:
        return "-"
    text = _percent(r.change)
    return text if r.change_half_width is None else f"{text} ±{100 * r.change_half_width:.1f}"


def _detects(r: Row) -> str:
    assert r.detects is not None
    is_cost = Metric(r.metric).is_cost
    return _percent(r.detects if is_cost else -r.detects / (1 + r.detects))


def _figure(value: float | None, pattern: str) -> str:
    return "-" if value is None else format(value, pattern)


def _percent(change: float) -> str:
    text = f"{100 * change:+.1f}"
    return "+0.0" if text == "-0.0" else text
