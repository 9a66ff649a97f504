"""What people read in the terminal and in JUnit, made from judgements. Plain text in, plain text out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_energy.baselines import Baseline, Update
from pytest_energy.cell import Cell
from pytest_energy.gate import Judgement, Metric, Split, Verdict
from pytest_energy.statistics import Comparison

UNIT = {Metric.JOULES_PER_TOKEN: "J/token", Metric.TOKENS_PER_S: "tokens/s"}
_COLUMNS = ("cell", "metric", "J/token", "W", "tokens/s", "baseline", "change", "verdict")
_LEFT = {"cell", "metric", "verdict"}
_MAX_CHANGES = 12


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

    def properties(self) -> dict[str, str]:
        """JUnit properties, absent figures left out."""
        values: Mapping[str, float | None] = {
            "joules_per_token": self.joules_per_token,
            "power_w": self.power_w,
            "tokens_per_s": self.tokens_per_s,
            "change": self.change,
        }
        figures = {name: f"{value:.6g}" for name, value in values.items() if value is not None}
        return {**figures, "metric": self.metric, "verdict": self.verdict}

    def as_dict(self) -> dict[str, Any]:
        """For a report that travels between processes."""
        return asdict(self)


def row(cell: Cell, judgement: Judgement, update: Update | None = None) -> Row:
    """The table's row for a judged test, or for an updated baseline."""
    sample, ratio, baseline = judgement.sample, judgement.ratio, judgement.baseline
    verdict, green = judgement.verdict.value, judgement.verdict.green
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
    )


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as aligned lines under a heading; at most 100 columns for names of usual length."""
    cells = [_COLUMNS, *(_texts(r) for r in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
    lines = []
    for line in cells:
        parts = (
            text.ljust(width) if name in _LEFT else text.rjust(width) for name, text, width in zip(_COLUMNS, line, widths, strict=True)
        )
        lines.append("  ".join(parts).rstrip())
    return lines


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
    return (r.cell, UNIT[Metric(r.metric)], energy, figure(r.power_w, ".0f"), figure(r.tokens_per_s, ",.0f"), baseline, change, r.verdict)


def explain(cell: Cell, judgement: Judgement, rerun: str, replayed: bool) -> str:
    """Why a test fails: what, how sure, what moved, what differs, what to type next.

    Args:
        rerun: a command line that runs just this test, without options.
        replayed: whether recordings were judged, not a live engine.
    """
    lines = [f"{judgement.verdict.value.upper()}: {cell.name}, {UNIT[judgement.metric]}{_headline(judgement)}"]
    lines += [f"  {line}" for reason in judgement.reasons for line in reason.splitlines()]
    lines += [f"  {line}" for line in _why(judgement)]
    if judgement.ratio is not None:
        lines.append("  what changed: " + _changes(judgement.changed))
    lines += [f"  next: {line}" for line in _next(judgement, rerun, replayed)]
    return "\n".join(lines)


def _headline(judgement: Judgement) -> str:
    ratio, sample, baseline = judgement.ratio, judgement.sample, judgement.baseline
    if sample is None:
        return ""
    value = getattr(sample, judgement.metric.value).value
    pattern = "#.4g" if judgement.metric is Metric.JOULES_PER_TOKEN else ",.0f"
    text = f" {value:{pattern}}"
    if ratio is None or baseline is None:
        return f"{text} ({_launches(len(sample.launches))})"
    old = baseline.summary[judgement.metric.value]
    return (
        f" {text.strip()} is {_percent(ratio.value)} against the baseline's {old:{pattern}} "
        f"(95 % interval {_interval(ratio)}, tolerance {judgement.tolerance:.1%}; "
        f"{_launches(len(sample.launches))} against {len(baseline.launches)} of vLLM {baseline.environment.get('vllm', '?')})"
    )


def _why(judgement: Judgement) -> list[str]:
    sample, baseline = judgement.sample, judgement.baseline
    if judgement.ratio is None or sample is None or baseline is None:
        return []
    old = baseline.summary
    power = sample.power_w / old["power_w"]
    rate = sample.tokens_per_s.value / old["tokens_per_s"]
    lines = [
        f"power {sample.power_w:.0f} W ({_percent(power)}) ÷ throughput {sample.tokens_per_s.value:,.0f} tokens/s ({_percent(rate)})"
        f" = {sample.joules_per_token.value:#.4g} J/token"
    ]
    explained = judgement.verdict is Verdict.REGRESSED and not judgement.only_over_budget
    if explained and rate < power < 1:
        lines.append("power fell too, but throughput fell further: every token holds the GPU longer")
    if explained and judgement.metric is Metric.JOULES_PER_TOKEN:
        lines.append("reading: " + _reading(judgement.split))
    return lines


def _reading(split: Split | None) -> str:
    if split is None:
        return "cannot tell static from dynamic energy: clocks, power cap or temperature differ, or static power was not seen"
    words = {
        "static": "mostly static watts spread over fewer or more tokens: the engine's pace changed",
        "dynamic": "mostly work per token: other kernels or precision",
        "both": "both the engine's pace and the work per token changed",
        "cannot tell": "cannot tell static from dynamic energy within the uncertainty of the static power",
    }[split.reading]
    low, high = sorted((split.static_low, split.static_high))
    return f"{words} (static part {low:+.3g} to {high:+.3g} of {split.total:+.3g} J/token)"


def _changes(changed: Sequence[str]) -> str:
    if not changed:
        return "nothing that is recorded"
    shown = "; ".join(changed[:_MAX_CHANGES])
    more = len(changed) - _MAX_CHANGES
    return shown + (f"; and {more} more" if more > 0 else "")


def _next(judgement: Judgement, rerun: str, replayed: bool) -> list[str]:
    update = f"{rerun} --energy-update" + (" --energy-replay A B C   (recordings of at least three launches)" if replayed else "")
    if judgement.only_over_budget:
        return ["raise max_power_w in the test if the budget allows it; a baseline update does not change it"]
    match judgement.verdict:
        case Verdict.REGRESSED:
            return [
                f"measure again, with more launches: {rerun} --energy-launches 6",
                f"if the change is wanted: {update}",
            ]
        case Verdict.INCONCLUSIVE:
            return [f"measure with more launches: {rerun} --energy-launches 6"]
        case Verdict.NO_BASELINE:
            return [f"if the cell is new, store one: {update}"]
        case Verdict.NOT_COMPARABLE:
            return [f"run on the baseline's hardware, or store a baseline for this one: {update}"]
        case Verdict.INVALID:
            return [] if replayed else [f"put it right and measure again: {rerun}"]
    return []


def _launches(count: int) -> str:
    return "1 launch" if count == 1 else f"{count} launches"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %".replace("-0.0 %", "+0.0 %")


def _interval(ratio: Comparison) -> str:
    return f"{_percent(ratio.low)} to {_percent(ratio.high)}"


def unused(baselines: Sequence[Baseline]) -> list[str]:
    """One line per baseline that no test uses any more."""
    return [
        f"unused baseline: {b.gpu_name}, {b.key['model']}, batch size {b.key['batch_size']} "
        f"(engine args {', '.join(f'{k}={v}' for k, v in b.key['engine_args'].items())})"
        for b in baselines
    ]
