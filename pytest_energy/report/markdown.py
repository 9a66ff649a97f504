"""The report as Markdown, for a job summary or a comment (GitHub allows 65,536 characters)."""

import re
from collections.abc import Sequence

from pytest_energy.report import causes, changes, prefill_decode, steps, summary
from pytest_energy.report.causes import Cause, Fact
from pytest_energy.report.results import HistoryEntry, Results

MAX_CHARACTERS = 60_000
_MAX_ROWS = 150
_MAX_EXPLAINED = 20
_MAX_STATES = 40
_MAX_NOISES = 16
_MAX_TESTS = 20  # of one cause
_NAMED = ("what changed", "cause", "next")
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
    found, states = causes.causes(results), summary.history(results)
    worst = changes.worst(results) or steps.newest(states)
    blocks += [escape(text) for text in filter(None, [summary.engines(results), worst])]
    blocks += [f"**{escape(note)}**" for note in summary.notes(results)]
    blocks += [] if found else [_what_changed(results)]
    if results.entries:
        blocks.append(
            _table(summary.lines(results), summary.columns(results), summary.figures(results))
        )
    blocks += _explanations(found, sum(map(len, blocks)))
    if states:
        blocks.append(_history(states))
    blocks += _prefill_decode(results)
    return "\n\n".join(filter(None, [*blocks, *_footer(results)])) + "\n"


def _prefill_decode(results: Results) -> list[str]:
    """Its table; empty without figures."""
    lines = prefill_decode.lines(results)[:_MAX_ROWS]
    if not lines:
        return []
    rows = [prefill_decode.COLUMNS, ("---",) * len(prefill_decode.COLUMNS)]
    rows += [tuple(map(escape, line)) for line in lines]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return [f"### {prefill_decode.TITLE}", prefill_decode.NOTE, table]


def _what_changed(results: Results) -> str:
    """Between each two engines, a line each; empty if nothing was compared."""
    return "\n".join(
        f"- {escape(f'{pair}, what changed')}: "
        + escape("; ".join(": ".join(filter(None, fact)) for fact in facts))
        for pair, facts in causes.what_changed(results)
        if facts
    )


def _explanations(explained: Sequence[Cause], length: int) -> list[str]:
    """As many as fit behind what is `length` characters long."""
    blocks: list[str] = []
    for cause in explained[:_MAX_EXPLAINED]:
        block = _explained(cause)
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
    of_cells = summary.of_cells(results)
    if of_cells:
        blocks.append("\n".join(f"- {escape(line)}" for line in of_cells[:_MAX_ROWS]))
    noise = summary.noise(results)
    if noise:
        lines = [f"- {escape(line)}" for line in noise[:_MAX_NOISES]]
        if len(noise) > len(lines):
            lines.append(f"- {len(noise) - len(lines)} more are in report.html and results.json.")
        summary_of_noise = "The noise between launches that the 95 % intervals rest on"
        blocks.append(
            "\n".join(
                [f"<details><summary>{summary_of_noise}</summary>", "", *lines, "", "</details>"]
            )
        )
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


def _explained(cause: Cause) -> str:
    lines = [f"### {escape(cause.title)}", ""]
    lines += [f"- {escape(_fact(fact))}" for fact in cause.facts]
    lines += [f"- next: {_next(*following)}" for following in cause.next]
    if cause.tests:
        lines += ["", f"<details><summary>Each of the {len(cause.tests)}</summary>", ""]
    for test in cause.tests[:_MAX_TESTS]:
        lines.append(f"- {escape('; '.join([test.what, *map(_fact, test.facts)]))}")
    if len(cause.tests) > _MAX_TESTS:
        more = len(cause.tests) - _MAX_TESTS
        lines.append(f"- {more} more are explained in report.html and results.json.")
    return "\n".join([*lines, "", "</details>"] if cause.tests else lines)


def _fact(fact: Fact) -> str:
    """Only what changed needs its name; the other texts speak for themselves."""
    name, text = fact
    return f"{name}: {text}" if name in _NAMED else text


def _next(words: str, command: str, note: str) -> str:
    return f"{escape(words)}: {code(command)} {escape(note)}".rstrip() if command else escape(words)


def _history(states: Sequence[HistoryEntry]) -> str:
    newest = states[-_MAX_STATES:]
    rows = [
        "| cell | vLLM | date | J/token, 95 % interval | change, 95 % interval | verdict "
        "| W | tokens/s | launches | accepted because |",
        "|---|---|---|---:|---:|---|" + "---:|" * 3 + "---|",
    ]
    found = steps.steps(states)[-_MAX_STATES:]
    for state, step in zip(summary.states(newest), found, strict=True):
        texts = (
            state.cell,
            state.vllm,
            state.date,
            state.energy,
            step.in_words if step else "-",
            step.verdict if step else "-",
            state.power,
            state.rate,
            state.launches,
            state.reason,
        )
        rows.append(f"| {' | '.join(map(escape, texts))} |")
    if len(states) > len(newest):
        rows.append(f"\n{len(states) - len(newest)} more are in results.json.")
    return "### History of the stored baselines\n\n" + "\n".join(rows)
