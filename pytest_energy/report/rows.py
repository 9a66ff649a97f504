"""The table of the terminal's summary, and the lines below it. Plain text in, plain text out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_energy.cell.cell import Cell
from pytest_energy.measure.latency import LATENCIES
from pytest_energy.measure.measurement import mean_gpu_power_w
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.per_request import per_request
from pytest_energy.measure.spread import Spread
from pytest_energy.report import launches
from pytest_energy.report.gpu_shares import MAX_IMBALANCE, gpu_shares, imbalance
from pytest_energy.report.words import UNIT
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.baselines import Update
from pytest_energy.verdict.judgement import Judgement
from pytest_energy.verdict.rule import Verdict

_COLUMNS = (
    "cell",
    "metric",
    "J/token",
    "W",
    "tokens/s",
    "baseline",
    "change",
    "verdict",
    "detects",
)
_LEFT = {"cell", "metric", "verdict"}
_OF_METRIC = {
    "verdict",
    "green",
    "baseline",
    "change",
    "change_half_width",
    "detects",
    "noise",
    "warning",
    "periods",
}
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
    joules_per_total_token: float | None = None
    wh_per_1000_requests: float | None = None
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
    remarks: tuple[str, ...] = ()

    def named(self) -> dict[str, Any]:
        """What is known, each value by a name that the row of another metric does not use."""
        values = {name: value for name, value in self.as_dict().items() if name != "metric"}
        return {
            f"{self.metric}_{name}" if name in _OF_METRIC else name: value
            for name, value in values.items()
            if value not in (None, "", ())
        }

    def properties(self) -> dict[str, str]:
        """JUnit properties, absent figures left out."""
        wanted = {f"{self.metric}_{name}" for name in ("verdict", "change", "detects")}
        wanted |= {"joules_per_token", "joules_per_total_token", "wh_per_1000_requests"}
        wanted |= {"power_w", "tokens_per_s", "gpu_imbalance"}
        return {
            name: value if isinstance(value, str) else f"{value:.6g}"
            for name, value in self.named().items()
            if name in wanted
        }

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
        update: of the baseline; None without --energy-update.
        inconclusive_fails: False if an undecided test passes, with a warning.
    """
    candidate, ratio, reference = judgement.candidate, judgement.ratio, judgement.reference
    verdict, green = judgement.verdict.value, judgement.verdict.green
    if judgement.undecided and not judgement.blind and not inconclusive_fails:
        green = True
    if update is not None:
        verdict, green = ("created" if update.created else "changed"), True
    energy = candidate.joules_per_token if candidate else None
    quoted = per_request(energy.value, cell.key.workload) if energy else None
    gpu_power_w = _gpu_power_w(judgement)
    return Row(
        cell=cell.name,
        metric=judgement.metric.value,
        verdict=verdict,
        green=green,
        joules_per_token=energy.value if energy else None,
        joules_per_token_half_width=energy.relative_half_width if energy else None,
        power_w=candidate.power_w if candidate else None,
        tokens_per_s=candidate.tokens_per_s.value if candidate else None,
        joules_per_total_token=quoted.joules_per_total_token if quoted else None,
        wh_per_1000_requests=quoted.wh_per_1000_requests if quoted else None,
        baseline=getattr(reference.summary, judgement.metric.value) if reference else None,
        change=ratio.value - 1 if ratio else None,
        change_half_width=ratio.relative_half_width if ratio else None,
        detects=judgement.smallest_detected if update is None and judgement.verdict.green else None,
        noise=judgement.noise.source if judgement.noise and ratio and update is None else "",
        paired=judgement.paired,
        periods=_periods(judgement),
        latencies=_latencies(judgement),
        gpus=gpu_shares(gpu_power_w),
        gpu_imbalance=imbalance(gpu_power_w),
        remarks=(
            *_remarks(judgement),
            *launches.itself_lines(judgement.with_itself if update is None else ()),
        ),
    )


def _remarks(judgement: Judgement) -> tuple[str, ...]:
    """On single launches; empty for metrics other than J/token."""
    if judgement.metric is not Metric.JOULES_PER_TOKEN:
        return ()
    kept = judgement.candidate.launches if judgement.candidate else ()
    return tuple(launches.remarks(kept, judgement.left_out))


def _gpu_power_w(judgement: Judgement) -> dict[str, float]:
    """Mean power of each GPU by UUID; empty for one GPU, and for metrics other than J/token."""
    if judgement.candidate is None or judgement.metric is not Metric.JOULES_PER_TOKEN:
        return {}
    return mean_gpu_power_w(judgement.candidate.launches)


def _latencies(judgement: Judgement) -> str:
    """A server's latencies, as means over launches.

    Empty if none were recorded, and for metrics other than J/token.
    """
    measured = [
        m
        for m in (judgement.candidate.launches if judgement.candidate else ())
        if m.latencies_ms.keys() == LATENCIES.keys()
    ]
    if judgement.metric is not Metric.JOULES_PER_TOKEN or not measured:
        return ""

    def mean(name: str, statistic: str) -> str:
        return f"{sum(m.latencies_ms[name][statistic] for m in measured) / len(measured):#.3g}"

    return "; ".join(
        f"{text} {mean(name, 'p50')} ms (p99 {mean(name, 'p99')})"
        for name, text in LATENCIES.items()
    )


def _periods(judgement: Judgement) -> str:
    """How much periods and launches vary, and what the paused engines did.

    Empty if the engines did not alternate within a launch.
    """
    variation, candidate = judgement.variation, judgement.candidate
    if variation is None or candidate is None:
        return ""
    text = (
        f"candidate ÷ reference varies by {_degrees(variation.periods)} between periods "
        f"and by {_degrees(variation.pairs)} between pairs "
        f"({variation.by_periods:.2%} expected from the periods alone)"
    )
    if judgement.metric is not Metric.JOULES_PER_TOKEN:
        return text
    paused = [b for m in candidate.launches for b in m.co_resident]
    cpu_share = sum(b.cpu_s for b in paused) / sum(b.seconds for b in paused)
    text += (
        f"; the paused engine generated {sum(b.tokens for b in paused)} tokens "
        f"and used {cpu_share:.1%} of a CPU core"
    )
    added_w = [
        b.idle_power_w - b.idle_power_alone_w
        for b in paused
        if b.idle_power_w is not None and b.idle_power_alone_w is not None
    ]
    if added_w:
        mean_w = sum(added_w) / len(added_w)
        text += f"; loading the second engine changed the idle GPU's power by {mean_w:+.1f} W"
    return text


def _degrees(spread: Spread) -> str:
    return f"{spread.deviation:.2%} ({spread.degrees_of_freedom:.0f} df)"


def period_lines(rows: Sequence[Row]) -> list[str]:
    """How much periods and launches vary, one line per cell and metric that has periods."""
    return [f"{r.cell}, {UNIT[Metric(r.metric)]}: {r.periods}" for r in rows if r.periods]


def latency_lines(rows: Sequence[Row]) -> list[str]:
    """The latencies of servers, one line per cell: medians and 99th percentiles."""
    return [f"{r.cell}: {r.latencies}" for r in rows if r.latencies]


def remark_lines(rows: Sequence[Row]) -> list[str]:
    """What is to be known of single launches, one line each."""
    return list(dict.fromkeys(f"{r.cell}: {line}" for r in rows for line in r.remarks))


def gpu_lines(rows: Sequence[Row]) -> list[tuple[str, bool]]:
    """Each GPU's share of the energy, a line per cell that ran on several.

    Each line comes with whether the GPUs differ by more than 10 %.
    """
    return [
        (f"{r.cell}, energy by GPU: {r.gpus}", (r.gpu_imbalance or 0.0) > MAX_IMBALANCE)
        for r in rows
        if r.gpus
    ]


def table(rows: Sequence[Row]) -> list[tuple[str, Row | None]]:
    """Aligned lines, each with the row that it shows; a heading shows none.

    If they would be wider than 100 columns, the gaps shrink and an empty last column is left out;
    if that is not enough, model and workload stand on a line of their own above their rows.
    """
    paired = bool(rows) and all(r.paired for r in rows)
    columns = ["reference" if paired and name == "baseline" else name for name in _COLUMNS]
    texts = [_texts(r) for r in rows]
    empty = all(r.detects is None for r in rows)
    for gap, last in (("  ", None), (" ", None), (" ", -1 if empty else None)):
        heading, *lines = aligned([line[:last] for line in (columns, *texts)], gap)
        if max(map(len, [heading, *lines])) <= _MAX_COLUMNS:
            return [(heading, None), *zip(lines, rows, strict=True)]
    # "llama bs=8 512/256" stands as "  bs=8" below "llama 512/256".
    names = [r.cell.rsplit(" ", 2) for r in rows]
    above = [f"{model} {workload}" for model, _, workload in names]
    sizes = [(f"  {size}", *rest) for (_, size, _), (_, *rest) in zip(names, texts, strict=True)]
    heading, *lines = aligned([columns, *sizes], " ")
    shown: list[tuple[str, Row | None]] = [(heading, None)]
    for before, name, line, r in zip(["", *above], above, lines, rows, strict=False):
        shown += [(name, None)] * (name != before) + [(line, r)]
    return shown


def colour(r: Row) -> dict[str, bool]:
    """The row's markup in pytest's terminal: changes are bold, the undecided always yellow."""
    if r.verdict == Verdict.INCONCLUSIVE.value:
        return {"yellow": True}
    return {
        "green": r.green,
        "red": not r.green,
        "bold": r.verdict in (Verdict.IMPROVED.value, Verdict.REGRESSED.value),
    }


def aligned(lines: Sequence[Sequence[str]], gap: str = "  ") -> list[str]:
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


def unused(baselines: Sequence[Baseline]) -> list[str]:
    """One line per baseline that no test uses any more."""
    return [
        f"unused baseline: {b.gpu_name}, {b.key.model}, batch size {b.key.batch_size} "
        f"(engine args {', '.join(f'{k}={v}' for k, v in b.key.engine_args.items())})"
        for b in baselines
    ]
