"""What people read in the terminal and in JUnit, made from judgements. Plain text in, plain text out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_energy.baselines import Baseline, Update
from pytest_energy.cell import Cell
from pytest_energy.gate import Judgement, Metric, Split, Verdict
from pytest_energy.noise import DETECTABLE_WITH, MIN_OWN_DEGREES, Noise
from pytest_energy.statistics import Comparison, Spread, deviation_interval

UNIT = {Metric.JOULES_PER_TOKEN: "J/token", Metric.TOKENS_PER_S: "tokens/s"}
_COLUMNS = ("cell", "metric", "J/token", "W", "tokens/s", "baseline", "change", "verdict", "sees")
_NOISE_COLUMNS = ("cell", "metric", "launches", "between launches", "within", *(f"{n} finds" for n in DETECTABLE_WITH))
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
    catches: float | None = None
    noise: str = ""
    warning: str = ""
    paired: bool = False
    turns: str = ""

    def properties(self) -> dict[str, str]:
        """JUnit properties, absent figures left out."""
        values: Mapping[str, float | None] = {
            "joules_per_token": self.joules_per_token,
            "power_w": self.power_w,
            "tokens_per_s": self.tokens_per_s,
            "change": self.change,
            "smallest_change_caught": self.catches,
        }
        figures = {name: f"{value:.6g}" for name, value in values.items() if value is not None}
        return {**figures, "metric": self.metric, "verdict": self.verdict}

    def as_dict(self) -> dict[str, Any]:
        """For a report that travels between processes."""
        return asdict(self)


def row(cell: Cell, judgement: Judgement, update: Update | None = None, inconclusive_fails: bool = True) -> Row:
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
        catches=judgement.smallest_caught if update is None and judgement.verdict.green else None,
        noise=judgement.noise.source if judgement.noise and ratio and update is None else "",
        paired=judgement.paired,
        turns=_turns(judgement),
    )


def _turns(judgement: Judgement) -> str:
    """How much turns and launches differ, and what is known of the engines that waited; empty without turns."""
    variation, sample = judgement.variation, judgement.sample
    if variation is None or sample is None:
        return ""
    text = f"new ÷ reference varies by {_degrees(variation.turns)} from turn to turn, by {_degrees(variation.pairs)} from pair to pair"
    text += f" where the turns alone would make {variation.by_turns:.2%}"
    if judgement.metric is not Metric.JOULES_PER_TOKEN:
        return text
    beside = [b for m in sample.launches for b in m.beside]
    text += f"; the engine at rest generated {sum(b.tokens for b in beside)} tokens and used "
    text += f"{sum(b.cpu_s for b in beside) / sum(b.seconds for b in beside):.1%} of a CPU core"
    added = [b.idle_power_w - b.idle_power_alone_w for b in beside if b.idle_power_w is not None and b.idle_power_alone_w is not None]
    if added:
        text += f"; loading the second engine moved the idle GPU by {sum(added) / len(added):+.1f} W"
    return text


def _degrees(spread: Spread) -> str:
    return f"{spread.deviation:.2%} ({spread.degrees_of_freedom:.0f} df)"


def turn_lines(rows: Sequence[Row]) -> list[str]:
    """What is known of turns, one line per cell and metric that was measured in turns."""
    return [f"{r.cell}, {UNIT[Metric(r.metric)]}: {r.turns}" for r in rows if r.turns]


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as aligned lines under a heading; some 100 columns for names of usual length."""
    paired = bool(rows) and all(r.paired for r in rows)
    columns = ["reference" if paired and name == "baseline" else name for name in _COLUMNS]
    return _aligned([columns, *(_texts(r) for r in rows)])


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns of texts, the first line their headings; figures are set flush right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    left = [name in _LEFT for name in lines[0]]
    return [
        "  ".join(text.ljust(width) if flush else text.rjust(width) for text, width, flush in zip(line, widths, left, strict=True)).rstrip()
        for line in lines
    ]


def noise_lines(rows: Sequence[Row]) -> list[str]:
    """What noise the verdicts rest on, one line per source, and how to measure it where it was assumed."""
    cells: dict[tuple[str, str], list[str]] = {}
    for r in rows:
        if r.noise:
            cells.setdefault((r.metric, r.noise), []).append(r.cell)
    lines = []
    for (metric, noise), names in cells.items():
        alone = sum(other == metric for other, _ in cells) == 1
        lines.append(f"noise of {UNIT[Metric(metric)]} between launches: {noise}" + ("" if alone else f" ({', '.join(names)})"))
    if any("assumed" in noise for _, noise in cells):
        lines.append("an assumed noise raises no alarm on few launches: measure the runner's own with pytest-energy noise")
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
        finds = [noise.detectable(n, comparisons) for n in DETECTABLE_WITH]
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
        if noise.boards:
            low, high = (100 * (ratio - 1) for ratio in noise.boards)
            notes.append(f"{cell.name}, {UNIT[metric]}: boards lie {low:+.1f} % to {high:+.1f} % about their mean")
        if noise.between and noise.between.degrees_of_freedom < MIN_OWN_DEGREES:
            missing = MIN_OWN_DEGREES - int(noise.between.degrees_of_freedom)
            notes.append(f"{cell.name}: {missing} more launches until it is judged by its own noise")
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
    catches = "" if r.catches is None else f"{r.catches if is_energy else -r.catches / (1 + r.catches):+.1%}"
    figures = (energy, figure(r.power_w, ".0f"), figure(r.tokens_per_s, ",.0f"), baseline, change)
    return (r.cell, UNIT[Metric(r.metric)], *figures, r.verdict, catches)


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
        f" {text.strip()} is {_percent(ratio.value)} against the {'reference' if judgement.paired else 'baseline'}'s {old:{pattern}} "
        f"(95 % interval {_interval(ratio)}, tolerance {judgement.tolerance:.1%}; "
        + (f"{len(sample.launches)} pairs" if judgement.paired else f"{_launches(len(sample.launches))} against {len(baseline.launches)}")
        + f" of vLLM {baseline.environment.get('vllm', '?')})"
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
            again = [] if replayed else [f"measure again: {rerun}"]
            return [*again, f"if the change is wanted: {update}"]
        case Verdict.INCONCLUSIVE:
            ways = []
            if judgement.noise is not None and not judgement.noise.measured:
                ways.append(f"measure this runner's noise, once: pytest-energy noise {rerun.removeprefix('pytest ')}")
            more = f"record more {'pairs' if judgement.paired else 'launches'} and replay all of them together"
            ways.append(more if replayed else f"measure with more launches: {rerun} --energy-launches 10")
            if judgement.paired:
                return ways
            return [
                *ways,
                "or compare both engines in turns on this GPU: --energy-reference-python OLD (docs/usage.md, Two engines in turns)",
            ]
        case Verdict.NO_BASELINE:
            return [f"if the cell is new, store one: {update}"]
        case Verdict.NOT_COMPARABLE if judgement.sample and judgement.sample.launches[0].beside:
            return ["judge it with its other side: --energy-replay DIR/new --energy-reference-replay DIR/reference"]
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
