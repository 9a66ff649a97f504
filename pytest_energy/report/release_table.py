"""vLLM releases side by side as text: for the terminal, as Markdown, and as rows for pandas."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_energy.cell.key import CellKey
from pytest_energy.measure.metric import UNDER_LOAD, Metric
from pytest_energy.measure.spread import geometric_mean
from pytest_energy.report.gpu_chart import named
from pytest_energy.report.markdown import escape
from pytest_energy.report.release_noise import POWER
from pytest_energy.report.release_steps import ROLES, Step, first_verdict, mean_ratio
from pytest_energy.report.release_weights import OWN, UnderWeights
from pytest_energy.report.releases import Table
from pytest_energy.report.results import Interval
from pytest_energy.report.table import WIDTH, fitted, split_name, wrapped
from pytest_energy.report.words import UNIT, count, percent

_ENERGY, _RATE = Metric.JOULES_PER_TOKEN, Metric.TOKENS_PER_S
_FIGURES = (
    *("cell", "vLLM", "J/token", "change, %", "W", "change, %", "tokens/s", "change, %", "n"),
)
_WEIGHTS = "cell", "vLLM", "under", "change, %", "under", "change, %", "apart, %"
_STEPS = "cell", "vLLM", "J/token", "W", "tokens/s", "static", "dynamic", "detects"
_BEYOND_USE = 10.0  # relative: by three launches, two of which are of one release


@dataclass(frozen=True)
class Part:
    """A part of a table: what it shows, its columns, its rows by cell's name, how to read it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    legend: str


def parts(table: Table) -> list[Part]:
    """Figures, then what there is: steps, the verdicts on each metric, what weights change."""
    found = [_figures(table)]
    if table.steps:
        found += [_steps(table), *(_verdicts(table, metric) for metric in UNDER_LOAD)]
    if table.under_weights:
        found += [_weights(table, metric) for metric in UNDER_LOAD]
    return found


def lines(table: Table) -> list[str]:
    """The table in 80 columns."""
    shown = [wrapped(f"{table.machine}: {_gpus(table)}")]
    for part in parts(table):
        heading, *rows = _in_width([part.columns, *(row for _, row in part.rows)])
        shown += ["", part.title, *heading]
        above = ""
        for (name, _), row in zip(part.rows, rows, strict=True):
            if above != (above := split_name(name)[0]):
                shown.append(above)
            shown += row
        shown.append(wrapped(part.legend))
    return [*shown, *map(wrapped, table.notes)]


def _in_width(texts: Sequence[Sequence[str]]) -> list[list[str]]:
    """The lines of each row; where the table were too wide, settings have one below the figures."""
    aligned = fitted(texts)
    if max(map(len, aligned)) <= WIDTH:
        return [[line] for line in aligned]
    parted = [text[1].partition(" ")[::2] for text in texts]
    figures = fitted(
        [(row[0], release, *row[2:]) for row, (release, _) in zip(texts, parted, strict=True)]
    )
    indent = " " * (figures[0].index(texts[0][1]) + 2)
    return [
        [line, *([indent + settings] if settings else [])]
        for line, (_, settings) in zip(figures, parted, strict=True)
    ]


def markdown(table: Table) -> str:
    """The table as Markdown."""
    blocks = [f"## {escape(str(table.machine))}", escape(_gpus(table)) + "."]
    for part in parts(table):
        blocks.append(f"### {escape(part.title)}")
        rows = [f"| {' | '.join(part.columns)} |", "|---|---|" + "---:|" * (len(part.columns) - 2)]
        size = ""
        for name, row in part.rows:
            size = name if row[0] else size
            texts = [size if row[0] else "", *row[1:]]
            rows.append(f"| {' | '.join(map(escape, texts))} |")
        blocks += ["\n".join(rows), escape(part.legend)]
    if table.notes:
        blocks.append("\n".join(f"- {escape(line)}" for line in table.notes))
    return "\n\n".join(blocks)


def _gpus(table: Table) -> str:
    names = ", ".join(map(named, table.gpus))
    return f"{count(len(table.gpus), 'GPU')} ({names})" if table.machine.gpus == 1 else names


def _once(
    keyed: Sequence[tuple[CellKey, Sequence[str]]], name: Callable[[CellKey], str]
) -> list[tuple[str, Sequence[str]]]:
    """Rows by their cell's name, with the cell in front in the first row of each."""
    found: list[tuple[str, Sequence[str]]] = []
    above = None
    for key, row in keyed:
        size = "" if key == above else split_name(key.name)[1]
        found.append((name(key), (size, *row)))
        above = key
    return found


def _figures(table: Table) -> Part:
    rows = []
    for of in table.figures:
        texts = [of.release]
        for name, pattern in ((_ENERGY.value, "#.4g"), (POWER, ".0f"), (_RATE.value, ",.0f")):
            ratio = of.ratios.get(name)
            texts += [format(of.values[name].value, pattern), _with_half(ratio) if ratio else "-"]
        rows.append((of.cell, [*texts, str(len(of.shown))]))
    over = " of the GPUs that launched all, then over these" if len(table.gpus) > 1 else ""
    if any(of.by_ratio for of in table.figures):
        over += f" (of a release that others launched: {table.reference}'s times its change)"
    both = " (mean of those that launched both)" if len(table.gpus) > 1 else ""
    legend = (
        f"Geometric means over n launches{over}. change: from vLLM {table.reference} on the same "
        f"GPU{both}, ± 95 % over {_over(table)}, for all cells and releases together."
    )
    if any(not of.ratios for of in table.figures if of.release != table.reference):
        legend += " -: no GPU launched both, and figures of different GPUs do not compare."
    return Part(
        f"Releases, against vLLM {table.reference}",
        _FIGURES,
        _once(rows, table.name),
        legend + _assumed({of.cell: of.noise_assumed for of in table.figures if of.ratios}),
    )


def _assumed(cells: Mapping[CellKey, bool]) -> str:
    """In which cells the noise is assumed, by whether it is."""
    sizes, measured = (
        list(dict.fromkeys(key.batch_size for key, found in cells.items() if found is assumed))
        for assumed in (True, False)
    )
    if not sizes:
        return ""
    if not measured:
        return " Noise is assumed."
    if {*sizes} & {*measured}:
        return f" Noise is assumed in {sum(cells.values())} of {len(cells)} cells."
    return f" Noise is assumed at batch size {', '.join(map(str, sizes))}, measured at the others."


def _over(table: Table) -> str:
    """What the intervals of ratios are of."""
    cells = {of.cell: of.of_blocks for of in table.figures if of.ratios}
    if cells and all(cells.values()):
        return "GPUs and launches"
    sizes = dict.fromkeys(str(key.batch_size) for key, known in cells.items() if known)
    if not sizes:
        return "launches"
    return f"launches (over GPUs, too, at batch size {', '.join(sizes)})"


def _with_half(ratio: Interval) -> str:
    half = (ratio.high - ratio.low) / 2
    return f"{_points(ratio.value)} ±{_at_most(half, f'{100 * half:.1f}')}"


def _at_most(share: float, points: str) -> str:
    """A share of many digits tells no more than that next to nothing is known."""
    return points if share < _BEYOND_USE else f">{100 * _BEYOND_USE:,.0f}"


def _points(ratio: float) -> str:
    return percent(ratio).removesuffix(" %")


def _steps(table: Table) -> Part:
    judged, alone = table.judged(ROLES[0]), table.in_role(ROLES[0])
    rows = [
        (key, [release, *_step(alone[key, release], judged[key, release])])
        if (key, release) in judged
        else (key, [release, *["-"] * (len(_STEPS) - 2)])
        for key, release in table.judged(ROLES[2])
    ]
    legend = (
        "J/token = W ÷ tokens/s. static: what the pace alone changed, static power ÷ tokens/s; "
        "dynamic: work per token; both in % of J/token before; -: not known, conditions differ, "
        "or no GPU launched both. detects: the smallest rise of J/token that these launches show "
        "in 95 % of cases."
    )
    return Part("Steps from the release before, %", _STEPS, _once(rows, table.name), legend)


def _step(steps: Sequence[Step], judged: Sequence[Step]) -> list[str]:
    """Means over GPUs; what one of them does not know is left open.

    Args:
        steps: on each GPU.
        judged: the same, or the one over GPUs.
    """
    energy = mean_ratio(judged, _ENERGY)
    power = geometric_mean([step.power for step in judged])
    texts = [_points(ratio) for ratio in (energy, power, mean_ratio(judged, _RATE))]
    static = [share for step in steps if (share := static_share(step)) is not None]
    detected = [found for step in judged if (found := _detected(step)) is not None]
    if len(static) < len(steps):
        texts += ["-", "-"]
    else:
        middle, half = (math.fsum(part) / len(static) for part in zip(*static, strict=True))
        texts += [f"{100 * middle:+.1f} ±{100 * half:.1f}", f"{100 * (energy - 1 - middle):+.1f}"]
    if len(detected) < len(judged):
        return [*texts, "-"]
    most = max(detected)
    return [*texts, _at_most(most, f"{100 * most:+.1f}")]


def static_share(step: Step) -> tuple[float, float] | None:
    """The static part of a step over J/token before, and what it is uncertain by; or None."""
    judged = step.judgements[_ENERGY]
    if judged.split is None or judged.reference is None:
        return None
    before = geometric_mean(judged.reference.joules_per_token)
    low, high = judged.split.static_low, judged.split.static_high
    return (low + high) / 2 / before, (high - low) / 2 / before


def _detected(step: Step) -> float | None:
    return step.judgements[_ENERGY].smallest_detected


def _verdicts(table: Table, metric: Metric) -> Part:
    by_role = [table.judged(role) for role in ROLES]
    rows = []
    for (key, release), of_best in by_role[-1].items():
        of_others = [of.get((key, release)) for of in by_role[:-1]]
        texts = [_verdict(steps, metric) if steps else "-" for steps in of_others]
        rows.append((key, [release, *texts, _best(of_best, metric)]))
    legend = (
        f"The gate's rule on {UNIT[metric]}, {_judged_on(table)}, at a risk of 1 % of a false "
        f"alarm among all {table.comparisons} comparisons of releases"
        + (
            "; 1/2: on one GPU of two."
            if any("/" in text for _, row in rows for text in row)
            else "."
        )
        + " best so far: on its GPU." * (len(table.gpus) > 1 and not table.over_gpus)
    )
    judged = [step for of in by_role[-1].values() for step in of]
    assumed = {step.cell: metric in step.assumed for step in judged}
    if any(assumed.values()):
        legend += f"{_assumed(assumed)} Launches that vary more raise more alarms."
    title = f"Verdicts on {UNIT[metric]}, against an earlier release"
    columns = ("cell", "vLLM", *(f"{role}, %" for role in ROLES))
    return Part(title, columns, _once(rows, table.name), legend)


def _judged_on(table: Table) -> str:
    if not table.over_gpus:
        return "each GPU for itself"
    over = "over the GPUs that launched both releases"
    others = any(
        len(step.over) == 1 for role in ROLES for of in table.judged(role).values() for step in of
    )
    return f"{over}, if three did, else each GPU for itself" if others else over


def _verdict(steps: Sequence[Step], metric: Metric) -> str:
    """The change, and the first of the GPUs' verdicts in the order of PRECEDENCE."""
    first, number = first_verdict(steps, metric)
    share = f" {number}/{len(steps)}" if number < len(steps) else ""
    return f"{_points(mean_ratio(steps, metric))} {first}{share}"


def _best(steps: Sequence[Step], metric: Metric) -> str:
    """The verdict against the best release so far, which GPUs may not agree on, and which it is."""
    for role, short in ((ROLES[0], "as before"), (ROLES[1], "as first")):
        if all(role in step.roles for step in steps):
            return short
    names = ", ".join(dict.fromkeys(step.against for step in steps))
    return f"{_verdict(steps, metric)} ({names})"


def _weights(table: Table, metric: Metric) -> Part:
    rows = [
        (of.against, [of.release, *_under_both(of, metric), _with_half(of.apart[metric.value])])
        for of in table.under_weights
    ]
    own = " auto: the model's own." if OWN in table.weights else ""
    legend = (
        f"change: from vLLM {table.reference} on the same GPU, under weights of two kinds.{own} "
        f"apart: the second ratio over the first, ± 95 % over {_over(table)}, for all these rows "
        f"together. {_carries_over(table.under_weights, metric)}"
    )
    title = f"Does a change of {UNIT[metric]} carry over between weights?"
    return Part(title, _WEIGHTS, _once(rows, table.name_without_weights), legend)


def _under_both(of: UnderWeights, metric: Metric) -> list[str]:
    both = (of.against, of.ratios_against), (of.cell, of.ratios)
    return [text for key, of in both for text in (key.weights, _points(of[metric.value]))]


def _carries_over(compared: Sequence[UnderWeights], metric: Metric) -> str:
    """What follows from all rows."""
    name = metric.value
    within = max(of.alike_within(name) for of in compared)
    alike = f"all are alike within {math.ceil(1000 * within) / 10:.1f} %"
    differing = [of for of in compared if of.differs(name)]
    if not differing:
        return f"No ratio differs between weights: {alike}."
    most = max(differing, key=lambda of: abs(math.log(of.apart[name].value)))
    key, more = most.cell, "s" * (len(differing) == 1)
    return (
        f"{len(differing)} of {count(len(compared), 'ratio')} differ{more} between weights, most "
        f"that of vLLM {most.release} at bs={key.batch_size} under weights={key.weights} "
        f"({_with_half(most.apart[name])} %); {alike}."
    )


def weights_records(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """A row per kind of GPUs, cell, release, and weights that are compared with others."""
    return [
        {
            **_place(table, of.cell, of.release),
            "reference": table.reference,
            "against_weights": of.against.weights,
            "gpus": len(of.on),
            **{f"{name}_ratio": value for name, value in of.ratios.items()},
            **{f"{name}_ratio_against": value for name, value in of.ratios_against.items()},
            **_flat(of.apart, "_apart"),
        }
        for table in tables
        for of in table.under_weights
    ]


def figure_records(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """A row per kind of GPUs, cell and release."""
    return [
        {
            **_place(table, of.cell, of.release),
            "reference": table.reference,
            "gpus": len(of.on),
            "launches": len(of.shown),
            **_flat(of.values, ""),
            "ratio_gpus": of.ratio_gpus,
            **_flat(of.ratios, "_ratio"),
        }
        for table in tables
        for of in table.figures
    ]


def _flat(intervals: Mapping[str, Interval], suffix: str) -> dict[str, float]:
    return {
        f"{name}{suffix}{end}": value
        for name, of in intervals.items()
        for end, value in (("", of.value), ("_low", of.low), ("_high", of.high))
    }


def _place(table: Table, key: CellKey, release: str) -> dict[str, Any]:
    return {
        "gpu_name": table.machine.gpu_name,
        "power_limit": table.machine.power_limit,
        "cell": key.name,
        "cell_slug": key.slug,
        "batch_size": key.batch_size,
        "weights": key.weights,
        "vllm": release,
    }


def step_records(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """A row per verdict: kind of GPUs, cell, GPU (or several), release, earlier one and metric."""
    return [
        {
            **_place(table, step.cell, step.release),
            "gpus": len(step.over),
            "gpu_uuids": " ".join(uuid for gpus in step.over for uuid in gpus),
            "against": step.against,
            "roles": ", ".join(step.roles),
            "metric": metric.value,
            "verdict": judged.verdict.value,
            "ratio": judged.ratio.value if judged.ratio else None,
            "smallest_detected": judged.smallest_detected,
            "tolerance": judged.tolerance,
            "power_ratio": step.power,
            "static_share": share[0] if (share := static_share(step)) else None,
            "comparisons": step.comparisons,
        }
        for table in tables
        for step in (*table.over_gpus, *table.steps)
        for metric, judged in step.judgements.items()
    ]
