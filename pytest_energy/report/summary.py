"""What a report says first, and its table: shared by Markdown and HTML. Plain text, nothing escaped."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_energy.measure.metric import Metric
from pytest_energy.report.results import Entry, HistoryEntry, Results, Side
from pytest_energy.report.rows import NO_READING, READING, UNIT, gpu_shares, noise_sources, percent

# In the order in which they are told.
_BAD = ("regressed", "invalid", "not comparable", "no baseline", "inconclusive")


@dataclass(frozen=True)
class Headline:
    """The answer. `tone` is "bad", "open", "good" or "none" (nothing was judged)."""

    text: str
    tone: str


def headline(results: Results) -> Headline:
    """The answer in one line."""
    judged = [entry for entry in results.entries if entry.verdict is not None]
    if not judged:
        if results.entries:
            return Headline(
                f"{_count(len({e.cell.name for e in results.entries}), 'cell')} compared, not judged",
                "none",
            )
        if results.history:
            return Headline(
                f"History of {_count(len({(s.cell.name, s.gpu.uuids) for s in results.history}), 'baseline')}",
                "none",
            )
        return Headline("No energy test was judged", "open")
    counts = collections.Counter(str(entry.verdict) for entry in judged)
    failed = sum(entry.green is False for entry in judged)
    bad = [f"{counts[verdict]} {verdict}" for verdict in _BAD if counts[verdict]]
    if not failed and not bad:
        named = [
            f"{counts[name]} {name}" for name in ("improved", "created", "changed") if counts[name]
        ]
        return Headline(
            f"{_count(len(judged), 'energy test')}: all pass"
            + (f" ({', '.join(named)})" if named else ""),
            "good",
        )
    return Headline(
        f"{_count(len(judged), 'energy test')}: {', '.join(bad) or f'{failed} failed'}",
        "bad" if failed else "open",
    )


def notes(results: Results) -> list[str]:
    """What the table alone would let a reader miss."""
    told = []
    for number, run in enumerate(results.runs, 1):
        which = f"run {number}" if len(results.runs) > 1 else "the run"
        if run.exit_status in (0, 1, None):
            failed = any(
                entry.run == number - 1 and entry.green is False for entry in results.entries
            )
            if run.exit_status == 1 and not failed:
                told.append(f"{which} failed for other reasons than these verdicts: read its log")
        else:
            told.append(
                f"{which} ended with exit status {run.exit_status}: not all tests were judged"
            )
    return [text[0].upper() + text[1:] + "." for text in told]


def engines(results: Results) -> str:
    """Which engines are compared, in a few words."""
    pairs = {
        (entry.old.engine if entry.old else "", entry.new.engine if entry.new else "")
        for entry in results.entries
    }
    texts = [" → ".join(filter(None, pair)) for pair in sorted(pairs) if any(pair)]
    gpus = sorted(
        {entry.gpu.name for entry in results.entries if entry.gpu}
        | {state.gpu.name for state in results.history}
    )
    return (
        "; ".join(texts[:4])
        + (f"; and {len(texts) - 4} more" if len(texts) > 4 else "")
        + (f" on {', '.join(gpus)}" if gpus else "")
    )


@dataclass(frozen=True)
class Line:
    """One line of the table, as texts; "-" where there is no figure."""

    verdict: str
    tone: str
    cell: str
    gpu: str
    engine: str
    metric: str
    energy: str
    power: str
    rate: str
    old: str
    change: str
    limit: str
    sees: str
    run: str

    @property
    def figures(self) -> tuple[str, ...]:
        """In the order of `figures`; of what was not judged the last two are left out."""
        return self.energy, self.power, self.rate, self.old, self.change, self.limit, self.sees


def figures(results: Results) -> tuple[str, ...]:
    """The table's columns of figures."""
    return (
        "J/token",
        "W",
        "tokens/s",
        "before",
        "change, 95 % interval",
        *(("limit", "sees") if has_verdicts(results) else ()),
    )


def columns(results: Results) -> tuple[str, ...]:
    """The table's columns before the figures: the verdict where there is one; run, GPU and engine where they tell lines apart."""
    shown = {
        "run": len(results.runs) > 1,
        "verdict": has_verdicts(results),
        "cell": True,
        "gpu": len({entry.gpu for entry in results.entries if entry.gpu}) > 1,
        "engine": len({entry.new.engine for entry in results.entries if entry.new}) > 1,
        "metric": True,
    }
    return tuple(name for name, is_shown in shown.items() if is_shown)


def has_verdicts(results: Results) -> bool:
    """Whether anything was judged."""
    return any(entry.verdict is not None for entry in results.entries)


def lines(results: Results) -> list[Line]:
    """The table: what failed first, then what is undecided, each in the order of the run."""
    order = {"bad": 0, "open": 1}
    return sorted(map(line, results.entries), key=lambda told: order.get(told.tone, 2))


def line(entry: Entry) -> Line:
    """The entry's line in the table."""
    side, is_energy = entry.new, entry.metric == Metric.JOULES_PER_TOKEN.value
    sign = 1 if is_energy else -1
    return Line(
        verdict=entry.verdict or "compared",
        tone=tone(entry),
        cell=entry.cell.name,
        gpu=" ".join((entry.gpu.name, *(uuid[:12] for uuid in entry.gpu.uuids)))
        if entry.gpu
        else "-",
        engine=side.engine if side else "-",
        metric=UNIT[Metric(entry.metric)],
        energy="-" if side is None else f"{side.joules_per_token.value:#.4g}",
        power="-" if side is None else f"{side.power_w.value:,.0f}",
        rate="-" if side is None else f"{side.tokens_per_s.value:,.0f}",
        old="-" if entry.old is None else _old(entry.old, is_energy),
        change="-"
        if entry.ratio is None
        else f"{percent(entry.ratio.value)} ({percent(entry.ratio.low)} to {percent(entry.ratio.high)})",
        limit="-" if entry.tolerance is None else f"{sign * 100 * entry.tolerance:+.3g} %",
        sees=_sees(entry.detects, is_energy) if entry.verdict in ("pass", "improved") else "-",
        run=str(entry.run + 1),
    )


def tone(entry: Entry) -> str:
    """How an entry is coloured: "bad", "open", "good" or "none"."""
    if entry.verdict is None:
        return "none"
    if entry.verdict == "inconclusive":
        return "open"
    return "good" if entry.green else "bad"


def reading(entry: Entry) -> str:
    """Whether pace or work per token moved, where a change is clear; a regression's own words say it already."""
    if entry.verdict == "regressed" or not _clear(entry):
        return ""
    return NO_READING if entry.split is None else READING[entry.split.reading]


def command(text: str) -> tuple[str, str, str]:
    """A "next" line as words, the command behind them and a note behind that; only words where there is no command."""
    words, _, rest = text.partition(": ")
    typed, _, note = rest.partition("   ")
    return (words, typed, note) if typed.startswith("pytest") else (text, "", "")


def needing_explanation(results: Results) -> list[Entry]:
    """Entries that a reader must act on, those that fail first; of what was not judged clear changes of J/token and what was left out."""
    order = {verdict: i for i, verdict in enumerate(_BAD)}
    judged = sorted(
        (entry for entry in results.entries if entry.verdict in order),
        key=lambda entry: order[str(entry.verdict)],
    )
    return judged + [
        e
        for e in results.entries
        if e.verdict is None and e.metric == "joules_per_token" and (_clear(e) or e.reasons)
    ]


def _clear(entry: Entry) -> bool:
    ratio = entry.ratio
    return (
        ratio is not None
        and entry.metric == Metric.JOULES_PER_TOKEN.value
        and not ratio.low <= 1 <= ratio.high
    )


def history(results: Results) -> tuple[HistoryEntry, ...]:
    """The states to list: none where no baseline has an earlier one, unless there is nothing else to show."""
    baselines = {(state.cell.name, state.gpu) for state in results.history}
    return results.history if len(results.history) > len(baselines) or not results.entries else ()


@dataclass(frozen=True)
class State:
    """One line of a history, as texts."""

    cell: str
    vllm: str
    date: str
    energy: str
    power: str
    rate: str
    launches: str
    reason: str


def state(entry: HistoryEntry) -> State:
    """The state's line."""
    energy = entry.joules_per_token
    return State(
        cell=entry.cell.name,
        vllm=entry.vllm,
        date=entry.date[:10],
        energy=f"{energy.value:#.4g} ({energy.low:#.4g} to {energy.high:#.4g})",
        power=f"{entry.power_w.value:,.0f}",
        rate=f"{entry.tokens_per_s.value:,.0f}",
        launches=str(entry.launches),
        reason=entry.update_reason or "",
    )


def noise(results: Results) -> list[str]:
    """What noise the intervals rest on, each source once; where a metric has several, with the cells that each is for."""
    sources = [
        (UNIT[Metric(entry.metric)], entry.noise, entry.cell.name)
        for entry in results.entries
        if entry.noise
    ]
    sources += [("J/token", state.noise, state.cell.name) for state in results.history]
    return [
        f"{unit}: {source}" + (f" ({_few(names)})" if names else "")
        for unit, source, names in noise_sources(dict.fromkeys(sources))
    ]


def _few(names: Sequence[str]) -> str:
    """The first of them, and how many there are besides."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def periods(results: Results) -> list[str]:
    """How much turns and launches differ, of each test whose engines took turns on the GPU."""
    return [
        f"{entry.cell.name}, {UNIT[Metric(entry.metric)]}: {entry.periods}"
        for entry in results.entries
        if entry.periods
    ]


def gpus(results: Results) -> list[str]:
    """Each GPU's share of the energy, of each cell that ran on several; and how unequal they are, where that is much."""
    lines = []
    for entry in results.entries:
        powers = [launch.gpu_power_w for launch in entry.new.launches] if entry.new else []
        if (
            entry.metric == Metric.JOULES_PER_TOKEN.value
            and powers
            and all(len(p) > 1 and p.keys() == powers[0].keys() for p in powers)
        ):
            mean = {uuid: sum(power[uuid] for power in powers) / len(powers) for uuid in powers[0]}
            lines.append(
                f"{entry.cell.name}, {entry.new.engine if entry.new else ''}, energy by GPU: {gpu_shares(mean)}"
            )
    return lines


def _sees(caught: float | None, is_energy: bool) -> str:
    """The smallest change for the worse that a pass would have called regressed in 95 % of cases."""
    return "-" if caught is None else percent(1 + caught if is_energy else 1 / (1 + caught))


def _old(side: Side, is_energy: bool) -> str:
    return f"{side.joules_per_token.value:#.4g}" if is_energy else f"{side.tokens_per_s.value:,.0f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
