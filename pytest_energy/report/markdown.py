"""The report as Markdown, for a job summary or a comment (GitHub allows 65,536 characters)."""

import re
from collections.abc import Sequence

from pytest_energy.report import summary
from pytest_energy.report.results import Entry, HistoryEntry, Results

MAX_CHARACTERS = 60_000
_MAX_ROWS = 150
_MAX_EXPLAINED = 20
_MAX_STATES = 40
_SIGN = {"bad": "❌", "open": "⚠️", "good": "✅", "none": "ℹ️"}


def escape(text: str) -> str:
    """Data as Markdown that shows it literally: one line, no markup, no mention of a person."""
    text = (
        re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )
    return (
        re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", text)
        .replace("@", "@<!-- -->")
        .replace("://", ":<!-- -->//")
    )


def code(text: str) -> str:
    """Data as code, whatever backticks it contains."""
    text = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def page(results: Results) -> str:
    """The report: the answer, the table, then why."""
    head = summary.headline(results)
    blocks = [f"## {_SIGN[head.tone]} {escape(head.text)}"]
    blocks += [escape(text) for text in filter(None, [summary.engines(results)])]
    blocks += [f"**{escape(note)}**" for note in summary.notes(results)]
    if results.entries:
        blocks.append(
            _table(summary.lines(results), summary.columns(results), summary.figures(results))
        )
    blocks += _explanations(results, sum(map(len, blocks)))
    history = summary.history(results)
    if history:
        blocks.append(_history(history))
    return "\n\n".join([*blocks, *_footer(results)]) + "\n"


def _explanations(results: Results, length: int) -> list[str]:
    """As many as fit behind what is `length` characters long."""
    explained = summary.needing_explanation(results)
    blocks: list[str] = []
    for entry in explained[:_MAX_EXPLAINED]:
        block = _explained(entry)
        length += len(block)
        if length > MAX_CHARACTERS - 5_000:
            break
        blocks.append(block)
    if len(blocks) < len(explained):
        more = len(explained) - len(blocks)
        blocks.append(f"{more} more are explained in report.html and results.json.")
    return blocks


def _footer(results: Results) -> list[str]:
    blocks = []
    gpus = summary.gpus(results)
    if gpus:
        blocks.append("\n".join(f"- {escape(line)}" for line in gpus[:_MAX_ROWS]))
    noise = summary.noise(results)
    if noise:
        sources = escape("; ".join(noise[:6]))
        blocks.append(f"The 95 % intervals rest on this noise between launches: {sources}.")
    runs = "; ".join(
        f"{run.settings} (pytest-energy {run.pytest_energy}, {run.date})"
        for run in results.runs[:10]
    )
    blocks.append(f"<sub>{escape(runs)}. Pictures: report.html.</sub>")
    return blocks


def _table(lines: Sequence[summary.Line], columns: Sequence[str], figures: Sequence[str]) -> str:
    rows = [
        f"| {' | '.join((*columns, *figures))} |",
        "|" + "---|" * len(columns) + "---:|" * len(figures),
    ]
    for line in lines[:_MAX_ROWS]:
        sign = "" if line.tone == "none" else f"{_SIGN[line.tone]} "
        texts = [
            (sign if column == "verdict" else "") + escape(getattr(line, column))
            for column in columns
        ]
        rows.append(f"| {' | '.join((*texts, *line.figures[: len(figures)]))} |")
    if len(lines) > _MAX_ROWS:
        rows.append(f"\n{len(lines) - _MAX_ROWS} more are in report.html and results.json.")
    return "\n".join(rows)


def _explained(entry: Entry) -> str:
    lines = [f"### {escape(entry.what)}", ""]
    lines += [
        f"- {escape(text)}"
        for text in (entry.how_sure, *entry.reasons, entry.why, summary.reading(entry))
        if text
    ]
    if entry.changed is not None:
        lines.append(f"- what changed: {escape(entry.changed)}")
    lines += [f"- next: {_next(text)}" for text in entry.next]
    return "\n".join(lines)


def _next(text: str) -> str:
    words, command, note = summary.command(text)
    return f"{escape(words)}: {code(command)} {escape(note)}".rstrip() if command else escape(words)


def _history(states: Sequence[HistoryEntry]) -> str:
    newest = states[-_MAX_STATES:]
    rows = [
        "| cell | vLLM | date | J/token, 95 % interval | W | tokens/s | launches "
        "| accepted because |",
        "|---|---|---|" + "---:|" * 4 + "---|",
    ]
    for state in map(summary.state, newest):
        texts = (
            state.cell,
            state.vllm,
            state.date,
            state.energy,
            state.power,
            state.rate,
            state.launches,
            state.reason,
        )
        rows.append(f"| {' | '.join(map(escape, texts))} |")
    if len(states) > len(newest):
        rows.append(f"\n{len(states) - len(newest)} more are in results.json.")
    return "### History of the stored baselines\n\n" + "\n".join(rows)
