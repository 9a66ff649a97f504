"""A report's headline, table and notes, shared by Markdown and HTML. Plain text, not escaped."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_energy.measure.metric import Metric
from pytest_energy.report import experts, prefix_cache
from pytest_energy.report.explanation import NO_READING, READING
from pytest_energy.report.gpu_chart import named
from pytest_energy.report.gpu_shares import gpu_shares
from pytest_energy.report.prefix_cache import MORE_WORK
from pytest_energy.report.results import Entry, HistoryEntry, IdleSide, ReportedSide, Results, Run
from pytest_energy.report.words import (
    PRECEDENCE,
    UNIT,
    cells_in_short,
    change_in_words,
    count,
    percent,
)

_FEW = 8  # cells
_BAD = PRECEDENCE[: PRECEDENCE.index("inconclusive") + 1]  # in the order in which they are listed
_UPDATED = ("created", "changed", "unchanged")
_GOOD = ("pass", "improved", *_UPDATED, *_BAD)
_PASSED = {"pass": "passed"}


@dataclass(frozen=True)
class Headline:
    """The answer. `tone` is "bad", "open", "good" or "none" (nothing was judged)."""

    text: str
    tone: str


def headline(results: Results) -> Headline:
    """Whether to merge, in one line."""
    judged = [entry for entry in results.entries if entry.verdict is not None]
    if not judged:
        return _headline_unjudged(results)
    said = _counts(judged)
    bad = [entry.verdict for entry in judged if entry.verdict in _BAD]
    if any(entry.green is False for entry in judged):
        return Headline(f"Do not merge{'' if _BAD[0] in bad else ' yet'}: {said}", "bad")
    if any(map(_ended_badly, results.runs)):
        return Headline(f"Do not merge yet, the run failed: {said}", "open")
    if any(entry.verdict in _UPDATED for entry in judged):
        return Headline(f"Baselines: {said}", "good")
    if any(map(_is_with_itself, judged)):
        return Headline(f"No answer, launches were compared with themselves: {said}", "open")
    return Headline(f"OK to merge: {said}", "open" if bad else "good")


def _counts(judged: Sequence[Entry]) -> str:
    """Of the verdicts: those that fail first, and then no others."""
    counts = collections.Counter(str(entry.verdict) for entry in judged)
    counts["failed"] = sum(entry.green is False for entry in judged)
    bad = [verdict for verdict in _BAD if counts[verdict]] or ["failed"]
    first, *others = bad if counts["failed"] else [v for v in _GOOD if counts[v]]
    said = [f"{counts[first]} of {count(len(judged), 'energy test')} {_PASSED.get(first, first)}"]
    return ", ".join(said + [f"{counts[verdict]} {verdict}" for verdict in others])


def _headline_unjudged(results: Results) -> Headline:
    cells = {entry.cell.name for entry in results.entries}
    if cells:
        return Headline(f"{count(len(cells), 'cell')} compared, not judged", "none")
    baselines = {(state.cell.name, state.gpu.uuids) for state in results.history}
    if baselines:
        return Headline(f"History of {count(len(baselines), 'baseline')}", "none")
    return Headline("No energy test was judged", "open")


def notes(results: Results) -> list[str]:
    """What the table alone does not show."""
    found = []
    for number, run in enumerate(results.runs):
        which = f"Run {number + 1}" if len(results.runs) > 1 else "The run"
        failed = any(e.run == number and e.green is False for e in results.entries)
        if _ended_badly(run) and run.exit_status != 1:
            found.append(
                f"{which} ended with exit status {run.exit_status}: not all tests were judged."
            )
        elif _ended_badly(run) and not failed:
            found.append(f"{which} failed for reasons other than these verdicts: read its log.")
    cells = {entry.cell.name for entry in results.entries if _is_with_itself(entry)}
    if cells:
        found.append(
            f"Compared with itself: the baseline holds launches that were judged. "
            f"So this says nothing about another engine ({', '.join(sorted(cells))})."
        )
    return found


def _ended_badly(run: Run) -> bool:
    return run.exit_status not in (0, None)


def _is_with_itself(entry: Entry) -> bool:
    if entry.idle:
        at_idle = (entry.idle.candidate, entry.idle.reference)
        ids = [set(side.launches) if side else set() for side in at_idle]
        return not ids[0].isdisjoint(ids[1])
    sides = [side.launches if side else () for side in (entry.candidate, entry.reference)]
    ids = [{launch.launch_id for launch in launches} for launches in sides]
    return not ids[0].isdisjoint(ids[1])


def engines(results: Results) -> str:
    """Which engines are compared, in a few words."""
    pairs = {entry.engines for entry in results.entries}
    texts = [" → ".join(filter(None, pair)) for pair in sorted(pairs) if any(pair)]
    gpus = sorted(
        {entry.gpu.name for entry in results.entries if entry.gpu}
        | {state.gpu.name for state in results.history}
    )
    more = [f"and {len(texts) - 4} more"] if len(texts) > 4 else []
    compared = "; ".join([*texts[:4], *more])
    return " on ".join(filter(None, [compared, ", ".join(gpus)]))


@dataclass(frozen=True)
class Line:
    """One line of the table, as texts; "-" if there is no figure."""

    verdict: str
    tone: str
    cell: str
    gpu: str
    engine: str
    metric: str
    candidate: str
    reference: str
    change: str
    power: str
    tolerance: str
    detects: str
    run: str

    @property
    def figures(self) -> tuple[str, ...]:
        """In the order of the function `figures`, including its last two columns."""
        return (
            self.candidate,
            self.reference,
            self.change,
            self.power,
            self.tolerance,
            self.detects,
        )


def figures(results: Results) -> tuple[str, ...]:
    """The table's columns of figures; the last two only if anything was judged."""
    return (
        "candidate",
        "reference",
        "change, 95 % interval",
        "W",
        *(("tolerance", "detects") if has_verdicts(results) else ()),
    )


def columns(results: Results) -> tuple[str, ...]:
    """The table's columns before the figures.

    The verdict only if anything was judged; run, GPU and engine only if lines differ in them.
    """
    shown = {
        "run": len(results.runs) > 1,
        "verdict": has_verdicts(results),
        "cell": True,
        "gpu": len({entry.gpu for entry in results.entries if entry.gpu}) > 1,
        "engine": len({e.engines[1] for e in results.entries if e.engines[1]}) > 1,
        "metric": True,
    }
    return tuple(name for name, is_shown in shown.items() if is_shown)


def has_verdicts(results: Results) -> bool:
    """Whether anything was judged."""
    return any(entry.verdict is not None for entry in results.entries)


def lines(results: Results) -> list[Line]:
    """The table: what failed first, then what is undecided, each in the order of the run."""
    order = {"bad": 0, "open": 1}
    return sorted(map(line, results.entries), key=lambda shown: order.get(shown.tone, 2))


def line(entry: Entry) -> Line:
    """The entry's line in the table."""
    side, gpu, ratio = entry.candidate, entry.gpu, entry.ratio
    metric, at_idle = Metric(entry.metric), entry.idle
    is_cost = metric.is_cost
    figure = _rate if metric is Metric.TOKENS_PER_S else _energy
    change = tolerance = detects = "-"
    if ratio is not None:
        change = change_in_words(ratio)
    if entry.tolerance is not None:
        tolerance = f"{(100 if is_cost else -100) * entry.tolerance:+.3g} %"
    if entry.detects is not None and entry.verdict in ("pass", "improved"):
        detects = percent(1 + entry.detects if is_cost else 1 / (1 + entry.detects))
    return Line(
        verdict=entry.verdict or "compared",
        tone=tone(entry),
        cell=entry.cell.name,
        gpu=" ".join((gpu.name, *(uuid[:12] for uuid in gpu.uuids))) if gpu else "-",
        engine=entry.engines[1] or "-",
        metric=UNIT[Metric(entry.metric)],
        candidate=_watts(at_idle.candidate) if at_idle else figure(side),
        reference=_watts(at_idle.reference) if at_idle else figure(entry.reference),
        change=change,
        power=_watts(at_idle.candidate) if at_idle else _power(side),
        tolerance=tolerance,
        detects=detects,
        run=str(entry.run + 1),
    )


def _power(side: ReportedSide | None) -> str:
    return f"{side.power_w.value:,.0f}" if side else "-"


def _energy(side: ReportedSide | None) -> str:
    return f"{side.joules_per_token.value:#.4g}" if side else "-"


def _watts(side: IdleSide | None) -> str:
    return f"{side.power_w:.1f}" if side else "-"


def _rate(side: ReportedSide | None) -> str:
    return f"{side.tokens_per_s.value:,.0f}" if side else "-"


def tone(entry: Entry) -> str:
    """How an entry is coloured: "bad", "open", "good" or "none"."""
    if entry.verdict is None:
        return "none"
    if entry.verdict == "inconclusive":
        return "open"
    return "good" if entry.green else "bad"


def reading(entry: Entry) -> str:
    """Whether pace or work per token moved.

    Empty for an unclear change, for a regression, whose explanation says it, and if a prefix cache
    says what the work is.
    """
    slower = entry.changed.slower if entry.changed else None
    by_cache = slower is not None and slower.cause == MORE_WORK
    if entry.verdict == "regressed" or entry.idle or by_cache or not _clear(entry):
        return ""
    return NO_READING if entry.split is None else READING[entry.split.reading]


def command(text: str) -> tuple[str, str, str]:
    """A "next" line as words, command and note; as words alone if it has no command."""
    words, _, rest = text.partition(": ")
    typed, _, note = rest.partition("   ")
    return (words, typed, note) if typed.startswith("pytest") else (text, "", "")


def needing_explanation(results: Results) -> list[Entry]:
    """Entries to act on, the worst first.

    Of those not judged: clear changes of J/token, and comparisons that left launches out.
    """
    order = {verdict: i for i, verdict in enumerate(_BAD)}
    judged = sorted(
        (entry for entry in results.entries if entry.verdict in order),
        key=lambda entry: order[str(entry.verdict)],
    )
    return judged + [
        e
        for e in results.entries
        if e.verdict is None and e.metric != "tokens_per_s" and (_clear(e) or e.reasons)
    ]


def _clear(entry: Entry) -> bool:
    ratio = entry.ratio
    return (
        ratio is not None
        and entry.metric != Metric.TOKENS_PER_S.value
        and not ratio.low <= 1 <= ratio.high
    )


def history(results: Results) -> tuple[HistoryEntry, ...]:
    """The states to list: none if every baseline has only one, unless there is nothing else."""
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


def states(entries: Sequence[HistoryEntry]) -> list[State]:
    """Their lines; of several GPUs each with its own."""
    several = len({entry.gpu for entry in entries}) > 1
    return [_state(entry, f", {named(entry.gpu.uuids)}" * several) for entry in entries]


def _state(entry: HistoryEntry, on: str) -> State:
    energy = entry.joules_per_token
    return State(
        cell=f"{entry.cell.name}{on}",
        vllm=entry.vllm,
        date=entry.date[:10],
        energy=f"{energy.value:#.4g} ({energy.low:#.4g} to {energy.high:#.4g})" if energy else "-",
        power=f"{entry.power_w.value:,.0f}",
        rate=f"{entry.tokens_per_s.value:,.0f}" if entry.tokens_per_s else "-",
        launches=str(entry.launches),
        reason=entry.update_reason or "",
    )


def noise(results: Results) -> list[str]:
    """The noise that the intervals rest on, a line for each source of each metric.

    If a metric has several sources, each comes with its cells.
    """
    cells: dict[str, dict[str, list[str]]] = {}
    for entry in results.entries:
        if entry.noise:
            of_metric = cells.setdefault(UNIT[Metric(entry.metric)], {})
            of_metric.setdefault(entry.noise, []).append(entry.cell.name)
    for state in history(results):
        unit = "J/token" if state.joules_per_token else "W at idle"
        of_metric = cells.setdefault(f"{unit}, in the history", {})
        of_metric.setdefault(state.noise, []).append(state.cell.name)
    return [
        f"{metric}: {source}" + (f" ({_few(names)})" if len(sources) > 1 else "")
        for metric, sources in cells.items()
        for source, names in sources.items()
    ]


def _few(names: Sequence[str]) -> str:
    """The first of them, and how many there are besides."""
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - _FEW} more" if len(different) > _FEW else ""
    return cells_in_short(different[:_FEW]) + more


def periods(results: Results) -> list[str]:
    """How much periods and launches vary, one line per test that has periods."""
    return [
        f"{entry.cell.name}, {UNIT[Metric(entry.metric)]}: {entry.periods}"
        for entry in results.entries
        if entry.periods
    ]


def of_cells(results: Results) -> list[str]:
    """What is to be known of single cells, one line each."""
    return [*prefix_cache.lines(results), *experts.lines(results), *gpus(results)]


def gpus(results: Results) -> list[str]:
    """Each GPU's share of the energy, one line per cell that ran on several."""
    found = []
    for entry in results.entries:
        side = entry.candidate
        if side is None or entry.metric != Metric.JOULES_PER_TOKEN.value:
            continue
        powers_w = [launch.gpu_power_w for launch in side.launches]
        uuids = powers_w[0].keys()
        if len(uuids) > 1 and all(power_w.keys() == uuids for power_w in powers_w):
            mean_w = {
                uuid: sum(power_w[uuid] for power_w in powers_w) / len(powers_w) for uuid in uuids
            }
            found.append(f"{entry.cell.name}, {side.engine}, energy by GPU: {gpu_shares(mean_w)}")
    return found
