"""What each test found, as plain values, and the lines below the terminal's table."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_energy.cell.cell import Cell
from pytest_energy.measure.latency import LATENCIES
from pytest_energy.measure.measurement import Measurement, mean_gpu_power_w
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.per_request import per_request
from pytest_energy.measure.spread import Spread
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.report import experts, launches, prefix_cache
from pytest_energy.report.gpu_shares import MAX_IMBALANCE, gpu_shares, imbalance
from pytest_energy.report.results import engine_name
from pytest_energy.report.words import UNIT, at_idle, cells_in_short
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.baselines import Update
from pytest_energy.verdict.judgement import Judgement

_NOT_NAMED = {
    "metric", "key", "test", "engines", "on", "launches", "reference_launches", "measured_s",
    "noise_deviation", "noise_kind",
}  # fmt: skip
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


@dataclass(frozen=True)
class Row:
    """One judged test, as plain values that survive JSON.

    Attributes:
        key: tells cells of one name apart.
        test: that asked for it, without its batch size.
        engines: what was compared, in words.
        on: the GPUs, in words.
        launches: valid ones of the candidate.
        reference_launches: of the reference; 0 if there is none.
        measured_s: how long the candidate was under load in them, s.
        noise, noise_deviation, noise_kind: between launches, in words; relative; how it is known.
    """

    cell: str
    metric: str
    verdict: str
    green: bool
    joules_per_token: float | None = None
    joules_per_token_half_width: float | None = None
    power_w: float | None = None
    tokens_per_s: float | None = None
    without_engine_w: float | None = None
    cpu_cores: float | None = None
    joules_per_total_token: float | None = None
    wh_per_1000_requests: float | None = None
    baseline: float | None = None
    change: float | None = None
    change_half_width: float | None = None
    detects: float | None = None
    noise: str = ""
    noise_deviation: float = 0.0
    noise_kind: str = ""
    warning: str = ""
    paired: bool = False
    periods: str = ""
    latencies: str = ""
    prefix_cache: str = ""
    experts: str = ""
    gpus: str = ""
    gpu_imbalance: float | None = None
    remarks: tuple[str, ...] = ()
    key: str = ""
    test: str = ""
    engines: str = ""
    on: str = ""
    launches: int = 0
    reference_launches: int = 0
    measured_s: float = 0.0

    def named(self) -> dict[str, Any]:
        """What is known, each value by a name that the row of another metric does not use."""
        return {
            f"{self.metric}_{name}" if name in _OF_METRIC else name: value
            for name, value in self.as_dict().items()
            if name not in _NOT_NAMED and value not in (None, "", ())
        }

    def properties(self) -> dict[str, str]:
        """JUnit properties, absent figures left out."""
        wanted = {f"{self.metric}_{name}" for name in ("verdict", "change", "detects")}
        wanted |= {"joules_per_token", "joules_per_total_token", "wh_per_1000_requests"}
        wanted |= {"power_w", "tokens_per_s", "gpu_imbalance", "without_engine_w", "cpu_cores"}
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
        verdict, green = update.done, True
    loaded = candidate if candidate and not candidate.is_idle else None
    energy = loaded.joules_per_token if loaded else None
    quoted = per_request(energy.value, cell.key.workload) if energy else None
    gpu_power_w = _gpu_power_w(judgement)
    noise = judgement.noise if ratio and update is None else None
    return Row(
        cell=cell.name,
        metric=judgement.metric.value,
        verdict=verdict,
        green=green,
        joules_per_token=energy.value if energy else None,
        joules_per_token_half_width=energy.relative_half_width if energy else None,
        power_w=candidate.power_w if candidate else None,
        tokens_per_s=loaded.tokens_per_s.value if loaded else None,
        without_engine_w=candidate.without_engine_w if candidate else None,
        cpu_cores=candidate.cpu_cores if candidate else None,
        joules_per_total_token=quoted.joules_per_total_token if quoted else None,
        wh_per_1000_requests=quoted.wh_per_1000_requests if quoted else None,
        baseline=getattr(reference.summary, judgement.metric.value) if reference else None,
        change=ratio.value - 1 if ratio else None,
        change_half_width=ratio.half_width if ratio else None,
        detects=judgement.smallest_detected if update is None and judgement.verdict.green else None,
        noise=noise.source if noise else "",
        noise_deviation=noise.deviation if noise else 0.0,
        noise_kind=noise.kind if noise else "",
        paired=judgement.paired,
        periods=_periods(judgement),
        latencies=_latencies(judgement),
        prefix_cache=prefix_cache.in_words(judgement),
        experts=experts.in_words(judgement),
        gpus=gpu_shares(gpu_power_w),
        gpu_imbalance=imbalance(gpu_power_w),
        remarks=(
            *_remarks(judgement),
            *launches.itself_lines(judgement.with_itself if update is None else ()),
        ),
        key=cell.key.slug,
        engines=_engines(judgement),
        on=_on(judgement),
        launches=len(candidate.launches) if candidate else 0,
        reference_launches=len(reference.launches) if reference and ratio else 0,
        measured_s=_measured_s(candidate.launches if candidate else ()),
    )


def _measured_s(launches: Sequence[Measurement]) -> float:
    return sum(sum(m.cycles.time_s) for m in launches if m.cycles)


def _engines(judgement: Judgement) -> str:
    """Which engine was measured and what it is compared with; empty if none was measured."""
    if judgement.candidate is None:
        return ""
    newest, reference = judgement.candidate.launches[-1].environment, judgement.reference
    candidate = _engine(newest)
    if reference is None or judgement.ratio is None:
        return candidate
    other = _engine(reference.environment)
    if judgement.paired:
        return f"candidate {candidate}, reference {other}"
    return f"{candidate} against the {judgement.other}'s {other}{launches.made_here(judgement)}"


def _engine(environment: Fingerprint) -> str:
    return engine_name(environment.vllm or "?", environment.settings_under_test)


def _on(judgement: Judgement) -> str:
    """The GPUs by model and UUID; empty if none was measured on."""
    if judgement.candidate is None:
        return ""
    environment = judgement.candidate.launches[-1].environment
    uuids = [uuid[:12] for uuid in environment.gpus]
    times = f"{len(uuids)} × " if len(uuids) > 1 else ""
    return f"{times}{environment.gpu_name}" + (f" ({', '.join(uuids)})" if uuids else "")


def _remarks(judgement: Judgement) -> tuple[str, ...]:
    """On single launches; empty for tokens/s."""
    if not judgement.metric.is_cost:
        return ()
    kept = judgement.candidate.launches if judgement.candidate else ()
    return (*launches.remarks(kept, judgement.left_out), *prefix_cache.unserved(kept))


def _gpu_power_w(judgement: Judgement) -> dict[str, float]:
    """Mean power of each GPU by UUID; empty for one GPU, and for tokens/s."""
    if judgement.candidate is None or not judgement.metric.is_cost:
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
        f"({100 * variation.by_periods:.2f} % expected from the periods alone)"
    )
    if judgement.metric is not Metric.JOULES_PER_TOKEN:
        return text
    paused = [b for m in candidate.launches for b in m.co_resident]
    cpu_share = sum(b.cpu_s for b in paused) / sum(b.seconds for b in paused)
    text += (
        f"; the paused engine generated {sum(b.tokens for b in paused)} tokens "
        f"and used {100 * cpu_share:.1f} % of a CPU core"
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
    return f"{100 * spread.deviation:.2f} % ({spread.degrees_of_freedom:.0f} df)"


def ran_lines(rows: Sequence[Row]) -> list[str]:
    """What was compared, on which GPUs, in how many launches and seconds.

    Once if it is the same for all cells, else with the names of its cells.
    """
    ran: dict[tuple[str, str], dict[str, Row]] = {}
    for r in rows:
        if r.engines:
            ran.setdefault((r.engines, r.on), {})[r.key] = r
    lines = []
    for (engines, on), cells in ran.items():
        of = list(cells.values())
        named = f" ({cells_in_short([r.cell for r in of])})" if len(ran) > 1 else ""
        lines.append(f"{engines}: {_launches(of)} on {on}{named}")
    return lines


def _launches(cells: Sequence[Row]) -> str:
    paired = any(r.paired for r in cells)
    most = max(r.launches for r in cells)
    few, many = ("pair", "pairs") if paired else ("launch", "launches")
    text = _range([r.launches for r in cells]) + f" {few if most == 1 else many}"
    references = [r.reference_launches for r in cells if r.reference_launches]
    if references and not paired:
        text += f" against {_range(references)}"
    at_idle = {r.metric == Metric.IDLE_POWER_W.value for r in cells}
    how = "measured" if len(at_idle) > 1 else "at idle" if True in at_idle else "under load"
    return f"{text}, {sum(r.measured_s for r in cells):.0f} s {how}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def period_lines(rows: Sequence[Row]) -> list[str]:
    """How much periods and launches vary, one line per cell and metric that has periods."""
    return [f"{r.cell}, {UNIT[Metric(r.metric)]}: {r.periods}" for r in rows if r.periods]


def idle_lines(rows: Sequence[Row]) -> list[str]:
    """What engines at idle cost, a line per cell."""
    return [
        f"{r.cell}: {at_idle(r.power_w, r.without_engine_w, r.cpu_cores)}"
        for r in rows
        if r.cpu_cores is not None and r.power_w is not None
    ]


def latency_lines(rows: Sequence[Row]) -> list[str]:
    """The latencies of servers, one line per cell: medians and 99th percentiles."""
    return [f"{r.cell}: {r.latencies}" for r in rows if r.latencies]


def prefix_cache_lines(rows: Sequence[Row]) -> list[str]:
    """What the prefix cache served, one line per share with the names of its cells."""
    return _with_cells((r.prefix_cache, r.cell) for r in rows if r.prefix_cache)


def expert_lines(rows: Sequence[Row]) -> list[str]:
    """How tokens spread over experts, one line each with the names of its cells."""
    return _with_cells((r.experts, r.cell) for r in rows if r.experts)


def remark_lines(rows: Sequence[Row]) -> list[str]:
    """What is to be known of single launches, one line each, with the names of its cells."""
    return _with_cells((line, r.cell) for r in rows for line in r.remarks)


def _with_cells(lines: Iterable[tuple[str, str]]) -> list[str]:
    """Each line once, behind the names of its cells."""
    cells: dict[str, dict[str, None]] = {}
    for line, cell in lines:
        cells.setdefault(line, {})[cell] = None
    return [f"{cells_in_short(list(names))}: {line}" for line, names in cells.items()]


def gpu_lines(rows: Sequence[Row]) -> list[tuple[str, bool]]:
    """Each GPU's share of the energy, a line per cell that ran on several.

    Each line comes with whether the GPUs differ by more than 10 %.
    """
    return [
        (f"{r.cell}, energy by GPU: {r.gpus}", (r.gpu_imbalance or 0.0) > MAX_IMBALANCE)
        for r in rows
        if r.gpus
    ]


def unused(baselines: Sequence[Baseline]) -> list[str]:
    """One line per baseline that no test uses any more."""
    return [
        f"unused baseline: {b.gpu_name}, {b.key.model}, "
        f"{'idle' if b.key.is_idle else f'batch size {b.key.batch_size}'} "
        f"(engine args {', '.join(f'{k}={v}' for k, v in b.key.engine_args.items())})"
        for b in baselines
    ]
