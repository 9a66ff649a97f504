"""What people read in the terminal and in JUnit, made from judgements. Plain text in, plain text out."""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pytest_energy.cell.cell import Cell
from pytest_energy.measure.latency import LATENCIES
from pytest_energy.measure.measurement import mean_gpu_power_w
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import Spread, deviation_interval
from pytest_energy.safety import redact
from pytest_energy.store.baselines import Baseline, Update
from pytest_energy.store.noise import MIN_OWN_DEGREES, Noise
from pytest_energy.verdict.attribution import Split
from pytest_energy.verdict.comparison import Comparison
from pytest_energy.verdict.detectable import DETECTABLE_WITH, detectable
from pytest_energy.verdict.judgement import Judgement
from pytest_energy.verdict.rule import Terms, Verdict

UNIT = {Metric.JOULES_PER_TOKEN: "J/token", Metric.TOKENS_PER_S: "tokens/s"}
_COLUMNS = ("cell", "metric", "J/token", "W", "tokens/s", "baseline", "change", "verdict", "sees")
_NOISE_COLUMNS = (
    "cell",
    "metric",
    "launches",
    "between launches",
    "within",
    *(f"{n} finds" for n in DETECTABLE_WITH),
)
_LEFT = {"cell", "metric", "verdict"}
_MAX_CHANGES = 12
MAX_IMBALANCE = 0.10  # between GPUs; more is told. Boards of one model were found to differ by 11 %
_MAX_COLUMNS = 100  # of the table; names that would make it wider stand on lines of their own


@dataclass(frozen=True)
class Row:
    """One judged test, as plain values that survive JSON."""

    cell: str
    metric: str
    verdict: str
    green: bool
    joules_per_token: float | None = None
    joules_per_token_half_width: float | None = None
    power_w: float | None = None
    tokens_per_s: float | None = None
    baseline: float | None = None
    change: float | None = None
    change_half_width: float | None = None
    detects: float | None = None
    noise: str = ""
    warning: str = ""
    paired: bool = False
    periods: str = ""
    latencies: str = ""
    gpus: str = ""
    gpu_imbalance: float | None = None

    def properties(self) -> dict[str, str]:
        """JUnit properties, absent figures left out."""
        values: Mapping[str, float | None] = {
            "joules_per_token": self.joules_per_token,
            "power_w": self.power_w,
            "tokens_per_s": self.tokens_per_s,
            "change": self.change,
            "detects": self.detects,
            "gpu_imbalance": self.gpu_imbalance,
        }
        figures = {name: f"{value:.6g}" for name, value in values.items() if value is not None}
        return {**figures, "metric": self.metric, "verdict": self.verdict}

    def as_dict(self) -> dict[str, Any]:
        """For a report that travels between processes."""
        return asdict(self)


def row(
    cell: Cell, judgement: Judgement, update: Update | None = None, inconclusive_fails: bool = True
) -> Row:
    """The table's row for a judged test, or for an updated baseline.

    Args:
        cell: what was measured.
        judgement: on it.
        update: what became of the baseline, under an update.
        inconclusive_fails: False where a test that stays undecided shall pass.
    """
    sample, ratio, baseline = judgement.sample, judgement.ratio, judgement.baseline
    verdict, green = judgement.verdict.value, judgement.verdict.green
    if judgement.undecided and not judgement.blind and not inconclusive_fails:
        green = True
    if update is not None:
        verdict, green = ("created" if update.created else "changed"), True
    energy = sample.joules_per_token if sample else None
    return Row(
        cell=cell.name,
        metric=judgement.metric.value,
        verdict=verdict,
        green=green,
        joules_per_token=energy.value if energy else None,
        joules_per_token_half_width=energy.relative_half_width if energy else None,
        power_w=sample.power_w if sample else None,
        tokens_per_s=sample.tokens_per_s.value if sample else None,
        baseline=baseline.summary[judgement.metric.value] if baseline else None,
        change=ratio.value - 1 if ratio else None,
        change_half_width=ratio.relative_half_width if ratio else None,
        detects=judgement.smallest_detected if update is None and judgement.verdict.green else None,
        noise=judgement.noise.source if judgement.noise and ratio and update is None else "",
        paired=judgement.paired,
        periods=_periods(judgement),
        latencies=_latencies(judgement),
        gpus=gpu_shares(_gpu_power_w(judgement)),
        gpu_imbalance=imbalance(_gpu_power_w(judgement)),
    )


def _gpu_power_w(judgement: Judgement) -> dict[str, float]:
    """Mean power of each GPU, by UUID; empty for one GPU, and beside the other metrics."""
    of_energy = judgement.sample is not None and judgement.metric is Metric.JOULES_PER_TOKEN
    return (
        mean_gpu_power_w(judgement.sample.launches)
        if judgement.sample is not None and of_energy
        else {}
    )


def imbalance(gpu_power_w: Mapping[str, float]) -> float | None:
    """How much more the GPU that takes most energy takes than the one that takes least, relative; None for fewer than two GPUs."""
    least = min(gpu_power_w.values(), default=0.0)
    return max(gpu_power_w.values()) / least - 1 if len(gpu_power_w) > 1 and least > 0 else None


def gpu_shares(gpu_power_w: Mapping[str, float]) -> str:
    """Each GPU's share of the energy, and a note where they differ by more than 10 %; empty for fewer than two GPUs."""
    unequal = imbalance(gpu_power_w)
    if unequal is None:
        return ""
    total_w = sum(gpu_power_w.values())
    shares = ", ".join(
        f"{uuid[:12]} {power / total_w:.1%} ({power:.0f} W)" for uuid, power in gpu_power_w.items()
    )
    if unequal <= MAX_IMBALANCE:
        return shares
    most, least = (
        max(gpu_power_w, key=gpu_power_w.__getitem__),
        min(gpu_power_w, key=gpu_power_w.__getitem__),
    )
    return f"{shares}; IMBALANCE: {most[:12]} takes {unequal:.1%} more energy than {least[:12]}"


def _latencies(judgement: Judgement) -> str:
    """What a server's clients saw, as means over launches; empty where there were none, and beside the other metrics."""
    launches = [
        m
        for m in (judgement.sample.launches if judgement.sample else ())
        if m.latencies_ms.keys() == {"ttft", "itl", "e2e"}
    ]
    if judgement.metric is not Metric.JOULES_PER_TOKEN or not launches:
        return ""

    def mean(name: str, statistic: str) -> str:
        return f"{sum(m.latencies_ms[name][statistic] for m in launches) / len(launches):#.3g}"

    return "; ".join(
        f"{text} {mean(name, 'p50')} ms (p99 {mean(name, 'p99')})"
        for name, text in LATENCIES.items()
    )


def _periods(judgement: Judgement) -> str:
    """How much turns and launches differ, and what is known of the engines that waited; empty without turns."""
    variation, sample = judgement.variation, judgement.sample
    if variation is None or sample is None:
        return ""
    text = f"new ÷ reference varies by {_degrees(variation.periods)} from turn to turn, by {_degrees(variation.pairs)} from pair to pair"
    text += f" where the turns alone would make {variation.by_periods:.2%}"
    if judgement.metric is not Metric.JOULES_PER_TOKEN:
        return text
    co_resident = [b for m in sample.launches for b in m.co_resident]
    text += f"; the engine at rest generated {sum(b.tokens for b in co_resident)} tokens and used "
    text += f"{sum(b.cpu_s for b in co_resident) / sum(b.seconds for b in co_resident):.1%} of a CPU core"
    added = [
        b.idle_power_w - b.idle_power_alone_w
        for b in co_resident
        if b.idle_power_w is not None and b.idle_power_alone_w is not None
    ]
    if added:
        text += (
            f"; loading the second engine moved the idle GPU by {sum(added) / len(added):+.1f} W"
        )
    return text


def _degrees(spread: Spread) -> str:
    return f"{spread.deviation:.2%} ({spread.degrees_of_freedom:.0f} df)"


def period_lines(rows: Sequence[Row]) -> list[str]:
    """What is known of turns, one line per cell and metric that was measured in turns."""
    return [f"{r.cell}, {UNIT[Metric(r.metric)]}: {r.periods}" for r in rows if r.periods]


def latency_lines(rows: Sequence[Row]) -> list[str]:
    """What the clients of servers saw, one line per cell: medians and 99th percentiles."""
    return [f"{r.cell}: {r.latencies}" for r in rows if r.latencies]


def gpu_lines(rows: Sequence[Row]) -> list[tuple[str, bool]]:
    """Each GPU's share of the energy, one line per cell that ran on several, and whether they differ by more than 10 %."""
    return [
        (f"{r.cell}, energy by GPU: {r.gpus}", (r.gpu_imbalance or 0.0) > MAX_IMBALANCE)
        for r in rows
        if r.gpus
    ]


def table(rows: Sequence[Row]) -> list[tuple[str, Row | None]]:
    """Aligned lines, each with the row that it shows; a heading shows none.

    Where it would be wider than 100 columns they stand closer; where names are too long for that, a model's name stands on a line
    of its own above its rows.
    """
    paired = bool(rows) and all(r.paired for r in rows)
    columns = ["reference" if paired and name == "baseline" else name for name in _COLUMNS]
    texts = [columns, *(_texts(r) for r in rows)]
    for gap in ("  ", " "):
        heading, *lines = _aligned(texts, gap)
        if max(map(len, [heading, *lines])) <= _MAX_COLUMNS:
            return [(heading, None), *zip(lines, rows, strict=True)]
    models = [r.cell.rpartition(" ")[0] for r in rows]
    heading, *lines = _aligned(
        [columns, *(("  " + r.cell.rpartition(" ")[2], *_texts(r)[1:]) for r in rows)], " "
    )
    shown: list[tuple[str, Row | None]] = [(heading, None)]
    for before, model, line, r in zip(["", *models], models, lines, rows, strict=False):
        shown += [(model, None)] * (model != before) + [(line, r)]
    return shown


def colour(r: Row) -> dict[str, bool]:
    """The row's markup in pytest's terminal, by verdict: what changed stands out, what is undecided is yellow whether it fails or not."""
    if r.verdict == Verdict.INCONCLUSIVE.value:
        return {"yellow": True}
    return {
        "green": r.green,
        "red": not r.green,
        "bold": r.verdict in (Verdict.IMPROVED.value, Verdict.REGRESSED.value),
    }


def _aligned(lines: Sequence[Sequence[str]], gap: str = "  ") -> list[str]:
    """Columns of texts, the first line their headings; figures are set flush right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    left = [name in _LEFT for name in lines[0]]
    return [
        gap.join(
            text.ljust(width) if flush else text.rjust(width)
            for text, width, flush in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    ]


def noise_sources(judged: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, list[str]]]:
    """What noise is told, once per metric and source, with the names of its cells where the metric has several sources.

    Args:
        judged: metric, noise and cell of each judgement that rests on one.
    """
    cells: dict[tuple[str, str], list[str]] = {}
    for metric, noise, cell in judged:
        cells.setdefault((metric, noise), []).append(cell)
    sources = collections.Counter(metric for metric, _ in cells)
    return [
        (metric, noise, names if sources[metric] > 1 else [])
        for (metric, noise), names in cells.items()
    ]


def noise_lines(rows: Sequence[Row]) -> list[str]:
    """What noise the verdicts rest on, one line per source, and how to measure it where it was assumed."""
    sources = noise_sources((r.metric, r.noise, r.cell) for r in rows if r.noise)
    lines = [
        f"noise of {UNIT[Metric(metric)]} between launches: {noise}"
        + (f" ({', '.join(names)})" if names else "")
        for metric, noise, names in sources
    ]
    if any("assumed" in noise for _, noise, _ in sources):
        lines.append(
            "an assumed noise raises no alarm on few launches: measure the runner's own with pytest-energy noise"
        )
    return lines


def noise_table(measured: Sequence[tuple[Cell, Metric, Noise]], comparisons: int) -> list[str]:
    """What is known of a runner's noise: deviations with their 95 % intervals, and the changes that so many launches find.

    Args:
        measured: one entry per cell and metric.
        comparisons: that share the false-alarm level in "finds".
    """
    lines: list[Sequence[str]] = [_NOISE_COLUMNS]
    notes = []
    for cell, metric, noise in measured:
        finds = [detectable(noise, n, Terms(comparisons).levels(n).alarm) for n in DETECTABLE_WITH]
        lines.append(
            (
                cell.name,
                UNIT[metric],
                str(noise.launches),
                _deviation(noise.between),
                _deviation(noise.within),
                *("-" if change is None else f"{change:.1%}" for change in finds),
            )
        )
        if noise.gpus:
            low, high = (100 * (ratio - 1) for ratio in noise.gpus)
            notes.append(
                f"{cell.name}, {UNIT[metric]}: GPUs lie {low:+.1f} % to {high:+.1f} % about their mean"
            )
        if noise.between and noise.between.degrees_of_freedom < MIN_OWN_DEGREES:
            missing = MIN_OWN_DEGREES - int(noise.between.degrees_of_freedom)
            notes.append(
                f"{cell.name}: {missing} more launches until it is judged by its own noise"
            )
    compared = "1 comparison" if comparisons == 1 else f"{comparisons} comparisons"
    heading = f"n finds: the smallest change that n launches find in 95 % of cases, against a baseline of three, among {compared}"
    return [*_aligned(lines), heading, *dict.fromkeys(notes)]


def _deviation(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    low, high = deviation_interval(spread)
    return f"{spread.deviation:.2%} ({100 * low:.2f} to {100 * high:.2f}, {spread.degrees_of_freedom:.0f} df)"


def _texts(r: Row) -> tuple[str, ...]:
    def figure(value: float | None, pattern: str) -> str:
        return "-" if value is None else format(value, pattern).replace("-0.0%", "+0.0%")

    energy = figure(r.joules_per_token, "#.4g")
    if r.joules_per_token_half_width is not None:
        energy += f" ±{r.joules_per_token_half_width:.1%}"
    change = figure(r.change, "+.1%")
    if r.change_half_width is not None:
        change += f" ±{100 * r.change_half_width:.1f}"
    is_energy = r.metric == Metric.JOULES_PER_TOKEN.value
    baseline = figure(r.baseline, "#.4g" if is_energy else ",.0f")
    detects = (
        ""
        if r.detects is None
        else f"{r.detects if is_energy else -r.detects / (1 + r.detects):+.1%}"
    )
    figures = (energy, figure(r.power_w, ".0f"), figure(r.tokens_per_s, ",.0f"), baseline, change)
    return (r.cell, UNIT[Metric(r.metric)], *figures, r.verdict, detects)


@dataclass(frozen=True)
class Explanation:
    """A judged test in words, in the order in which they are read; the texts are empty where there is nothing to say.

    Attributes:
        what: the verdict, the figure and what it is compared with.
        how_sure: interval, tolerance and launches of a comparison.
        reasons: what led to the verdict, one line each.
        split: the change as power ÷ throughput, and which of them moved.
        changed: what differs between the two sides; None where nothing was compared.
        next: what to type, one way a line.
    """

    what: str
    how_sure: str
    reasons: tuple[str, ...]
    split: str
    changed: str | None
    next: tuple[str, ...]


def explanation(name: str, judgement: Judgement, rerun: str, replayed: bool) -> Explanation:
    """Why a test has its verdict.

    Args:
        name: of the cell.
        judgement: on it.
        rerun: a command line that runs just this test, without options.
        replayed: whether recordings were judged, not a live engine.
    """
    return Explanation(
        what=f"{judgement.verdict.value.upper()}: {name}, {UNIT[judgement.metric]}{_headline(judgement)}",
        how_sure=_how_sure(judgement, f", tolerance {100 * judgement.tolerance:.1f} %"),
        reasons=tuple(
            line for reason in judgement.reasons for line in redact.home(reason).splitlines()
        ),
        split=_split(judgement),
        changed=None if judgement.ratio is None else _changes(judgement.changed),
        next=tuple(_next(judgement, rerun, replayed)),
    )


def comparison(name: str, judgement: Judgement, left_out: Sequence[str]) -> Explanation:
    """Two engines compared and not judged: the judgement's figures without its verdict.

    Args:
        name: of the cell.
        judgement: of one engine's launches by the other's; its verdict is not looked at.
        left_out: launches that are not in it, and why, one line each.
    """
    return Explanation(
        what=f"{name}, {UNIT[judgement.metric]}{_headline(judgement, 'reference')}",
        how_sure=_how_sure(judgement),
        reasons=tuple(left_out),
        split=_split(replace(judgement, verdict=Verdict.PASS)),
        changed=None if judgement.ratio is None else _changes(judgement.changed),
        next=(),
    )


def failure(judgement: Judgement, said: Explanation) -> str:
    """The explanation as the test's message; five lines for a regression: what, how sure, split, what changed, next."""
    how_sure, reasons = said.how_sure, said.reasons
    if judgement.only_over_budget:
        how_sure = ""  # of the budget nothing is estimated
    elif judgement.verdict is Verdict.REGRESSED:
        how_sure, reasons = "; ".join((how_sure, *reasons)), ()
    lines = [f"how sure: {how_sure}"] if how_sure else []
    lines += [*reasons, *([said.split] if said.split else [])]
    lines += [] if said.changed is None else [f"what changed: {said.changed}"]
    return "\n  ".join([said.what, *lines, *(f"next: {line}" for line in said.next)])


def _headline(judgement: Judgement, other: str | None = None) -> str:
    ratio, sample, baseline = judgement.ratio, judgement.sample, judgement.baseline
    if sample is None:
        return ""
    value = getattr(sample, judgement.metric.value).value
    pattern = "#.4g" if judgement.metric is Metric.JOULES_PER_TOKEN else ",.0f"
    if ratio is None or baseline is None:
        return f" {value:{pattern}} ({_launches(len(sample.launches))})"
    old = baseline.summary[judgement.metric.value]
    other = other or ("reference" if judgement.paired else "baseline")
    return f" {value:{pattern}} is {percent(ratio.value)} against the {other}'s {old:{pattern}}"


def _how_sure(judgement: Judgement, tolerance: str = "") -> str:
    ratio, sample, baseline = judgement.ratio, judgement.sample, judgement.baseline
    if ratio is None or sample is None or baseline is None:
        return ""
    new = (
        f"{len(sample.launches)} pairs"
        if judgement.paired
        else f"{_launches(len(sample.launches))} against {len(baseline.launches)}"
    )
    engine = f"vLLM {baseline.environment.vllm or '?'}"
    return f"95 % interval {_interval(ratio)}{tolerance}; {new} of {engine}"


def _split(judgement: Judgement) -> str:
    sample, baseline = judgement.sample, judgement.baseline
    if judgement.ratio is None or sample is None or baseline is None:
        return ""
    old = baseline.summary
    power = sample.power_w / old["power_w"]
    rate = sample.tokens_per_s.value / old["tokens_per_s"]
    figures = (
        f"power {sample.power_w:.0f} W ({percent(power)}) ÷ throughput {sample.tokens_per_s.value:,.0f} tokens/s ({percent(rate)})"
        f" = {sample.joules_per_token.value:#.4g} J/token"
    )
    if judgement.verdict is not Verdict.REGRESSED or judgement.only_over_budget:
        return figures
    clauses = (
        ["power fell too, but throughput fell further: every token holds the GPU longer"]
        if rate < power < 1
        else []
    )
    told = judgement.split is not None and judgement.split.reading != "cannot tell"
    if judgement.metric is Metric.JOULES_PER_TOKEN and (told or not clauses):
        clauses.append(_reading(judgement.split))
    return "; ".join((figures, *clauses))


READING: Mapping[str, str] = {
    "static": "mostly static watts spread over fewer or more tokens: the engine's pace changed",
    "dynamic": "mostly work per token: other kernels or precision",
    "both": "both the engine's pace and the work per token changed",
    "cannot tell": "cannot tell static from dynamic energy within the uncertainty of the static power",
}
NO_READING = "cannot tell static from dynamic energy: clocks, power cap or temperature differ, or static power was not seen"


def _reading(split: Split | None) -> str:
    if split is None:
        return NO_READING
    low, high = sorted((split.static_low, split.static_high))
    digits = max(0, 1 - math.floor(math.log10(abs(split.total)))) if split.total else 4
    return f"{READING[split.reading]} (static part {low:+.{digits}f} to {high:+.{digits}f} of {split.total:+.{digits}f} J/token)"


def _changes(changed: Sequence[str]) -> str:
    if not changed:
        return "nothing that is recorded"
    shown = "; ".join(changed[:_MAX_CHANGES])
    more = len(changed) - _MAX_CHANGES
    return shown + (f"; and {more} more" if more > 0 else "")


def _next(judgement: Judgement, rerun: str, replayed: bool) -> list[str]:
    update = f"{rerun} --energy-update" + (
        " --energy-replay A B C   (recordings of at least three launches)" if replayed else ""
    )
    if judgement.only_over_budget:
        return [
            f"raise {' and '.join(judgement.over)} in the test if the budget allows it; a baseline update does not change it"
        ]
    attached = (
        judgement.sample is not None and judgement.sample.launches[0].key.engine == "attached"
    )
    if attached and not replayed and judgement.verdict is not Verdict.INVALID:
        return [
            f"measure again: {rerun}",
            "a server that runs is one launch: restart it, keep each with --energy-record DIR, and judge or store them together: "
            "--energy-engine attached --energy-replay A B C   (--energy-update)",
        ]
    match judgement.verdict:
        case Verdict.REGRESSED:
            return [
                f"if the change is wanted: {update}"
                if replayed
                else f"measure again: {rerun}   (--energy-update, if the change is wanted)"
            ]
        case Verdict.INCONCLUSIVE:
            ways = []
            if judgement.noise is not None and not judgement.noise.measured:
                ways.append(
                    f"measure this runner's noise, once: pytest-energy noise {rerun.removeprefix('pytest ')}"
                )
            more = f"record more {'pairs' if judgement.paired else 'launches'} and replay all of them together"
            ways.append(
                more if replayed else f"measure with more launches: {rerun} --energy-launches 10"
            )
            if judgement.paired:
                return ways
            return [
                *ways,
                "or compare both engines in turns on this GPU: --energy-reference-python OLD (docs/usage.md, Two engines in turns)",
            ]
        case Verdict.NO_BASELINE:
            return [f"if the cell is new, store one: {update}"]
        case Verdict.NOT_COMPARABLE if (
            judgement.sample and judgement.sample.launches[0].co_resident
        ):
            return [
                "judge it with its reference: --energy-replay DIR/candidate --energy-reference-replay DIR/reference"
            ]
        case Verdict.NOT_COMPARABLE:
            return [f"run on the baseline's hardware, or store a baseline for this one: {update}"]
        case Verdict.INVALID:
            return [] if replayed else [f"put it right and measure again: {rerun}"]
    return []


def _launches(count: int) -> str:
    return "1 launch" if count == 1 else f"{count} launches"


def percent(ratio: float) -> str:
    """A ratio as a relative change, "+6.0 %" for 1.06."""
    return f"{100 * (ratio - 1):+.1f} %".replace("-0.0 %", "+0.0 %")


def _interval(ratio: Comparison) -> str:
    return f"{percent(ratio.low)} to {percent(ratio.high)}"


def unused(baselines: Sequence[Baseline]) -> list[str]:
    """One line per baseline that no test uses any more."""
    return [
        f"unused baseline: {b.gpu_name}, {b.key.model}, batch size {b.key.batch_size} "
        f"(engine args {', '.join(f'{k}={v}' for k, v in b.key.engine_args.items())})"
        for b in baselines
    ]
