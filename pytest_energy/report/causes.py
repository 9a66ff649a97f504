"""Why tests have their verdicts, one card per cause; and what differs between the engines.

Tests share a cause if they compare the same engines, have the same verdict, and the same reasons,
figures aside. A regression's reason is what made it slower and which versions and settings differ.
What a cause's tests have in common is said once, the rest test by test, so that nothing is lost.
"""

import itertools
import re
import shlex
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from pytest_energy.measure.metric import Metric
from pytest_energy.report import prefix_cache, summary
from pytest_energy.report.results import Entry, ReportedSlowdown, Results
from pytest_energy.report.words import UNIT, count, listed, percent, without_size
from pytest_energy.verdict.attribution import TEMPERATURE

Fact = tuple[str, str]  # name and text
Next = tuple[str, str, str]  # what to type: words, command and note

_CONDITIONS = (TEMPERATURE, prefix_cache.CACHED)  # differ from cell to cell whatever the cause
_READABLE = {
    "vllm": "vLLM",
    TEMPERATURE: "GPU temperature, °C",
    prefix_cache.CACHED: "prompt tokens from the prefix cache, %",
}
_MAX_MERGED = 8  # tests in one command
_FEW = 3  # lines that are shown though they differ
_MAX_PAIRS = 4


@dataclass(frozen=True)
class Test:
    """What is said of one of several tests alone."""

    what: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Cause:
    """A card.

    Attributes:
        title: verdict, cells and changes.
        facts: that hold for all its tests.
        next: what to type.
        tests: each of several; empty for a single one.
    """

    tone: str
    title: str
    facts: tuple[Fact, ...]
    next: tuple[Next, ...]
    tests: tuple[Test, ...]


def causes(results: Results) -> list[Cause]:
    """Of all tests to act on, the worst verdicts first."""
    found: dict[Hashable, list[Entry]] = {}
    for entry in summary.needing_explanation(results):
        found.setdefault(_cause(entry), []).append(entry)
    return [
        _single(entries[0]) if len(entries) == 1 else _shared(entries) for entries in found.values()
    ]


def _cause(entry: Entry) -> Hashable:
    by_comparison = entry.how_sure and entry.verdict in ("regressed", None)
    return (
        entry.run,
        entry.verdict,
        entry.engines,
        _of_changes(entry) if by_comparison else tuple(map(_without_figures, entry.reasons)),
    )


def _of_changes(entry: Entry) -> Hashable:
    """What made it slower and the names of what differs; apart from gains if nothing was judged."""
    slower, changes = _changed(entry)
    names = frozenset(name for name, _ in changes if name not in _CONDITIONS)
    worse = entry.verdict is not None or (entry.ratio is not None and entry.ratio.value > 1)
    return worse, slower.cause if slower else "", names


def _without_figures(reason: str) -> str:
    return re.sub(r"\b(rise|fall)\b", "change", re.sub(r"\d[\d.,]*", "#", reason))


def _changed(entry: Entry) -> tuple[ReportedSlowdown | None, list[Fact]]:
    """What made it slower, and what differs, by name; a text without a name has an empty one."""
    changed = entry.changed
    return (changed.slower, changed.pieces) if changed else (None, [])


def _facts(entry: Entry) -> list[Fact]:
    """All that is said of an entry, apart from what to type and what changed."""
    facts = [
        ("how sure", entry.how_sure),
        *(("reason", reason) for reason in entry.reasons),
        ("breakdown", entry.why),
        ("what moved", summary.reading(entry)),
    ]
    return [(name, text) for name, text in facts if text]


def _single(entry: Entry) -> Cause:
    slower, changes = _changed(entry)
    facts = _facts(entry) + ([("cause", slower.in_words)] if slower else [])
    facts += _joined(("what changed", _piece(change)) for change in changes)
    following = tuple(map(summary.command, entry.next))
    return Cause(summary.tone(entry), entry.what, tuple(facts), following, ())


def _shared(entries: Sequence[Entry]) -> Cause:
    pieces = [_pieces(entry) for entry in entries]
    common = [piece for piece in pieces[0] if all(piece in others for others in pieces[1:])]
    following, own_next = _next([entry.next for entry in entries])
    tests = [
        Test(entry.what, (*_joined(p for p in of_test if p not in common), *lines))
        for entry, of_test, lines in zip(entries, pieces, own_next, strict=True)
    ]
    slower, _ = _changed(entries[0])
    if slower and ("cause", slower.cause) not in common:
        example = f" (in {entries[0].cell.name}: {slower.figures})" if slower.figures else ""
        common.insert(0, ("cause", slower.cause + example))
    return Cause(
        summary.tone(entries[0]), _title(entries), tuple(_joined(common)), following, tuple(tests)
    )


def _piece(change: Fact) -> str:
    return ": ".join(filter(None, change))


def _pieces(entry: Entry) -> list[Fact]:
    """The facts as far apart as tests may share them."""
    slower, changes = _changed(entry)
    facts = _facts(entry) + ([("cause", slower.in_words)] if slower else [])
    facts += [("what changed", _piece(change)) for change in changes]
    return [(name, piece) for name, text in facts for piece in _apart(name, text)]


def _apart(name: str, text: str) -> list[str]:
    return text.split("; ") if name in ("how sure", "breakdown") else [text]


def _joined(pieces: Iterable[Fact]) -> list[Fact]:
    """Pieces of one name in one line, except reasons."""
    found: dict[str, list[str]] = {}
    for name, text in pieces:
        found.setdefault(name, []).append(text)
    return [
        (name, text)
        for name, texts in found.items()
        for text in (texts if name == "reason" else ["; ".join(texts)])
    ]


def _title(entries: Sequence[Entry]) -> str:
    """Verdict, cells, and the range of each metric's changes."""
    changes = []
    for metric in Metric:
        found = [e.ratio.value for e in entries if e.metric == metric.value and e.ratio]
        if found:
            ends = dict.fromkeys((percent(min(found)), percent(max(found))))
            changes.append(f"{UNIT[metric]} {' to '.join(ends)}")
    text = f"{_where(entries)}: {', '.join(changes)}" if changes else _where(entries)
    verdict = entries[0].verdict
    return f"{verdict.upper()}: {text}" if verdict else text


def _where(entries: Sequence[Entry]) -> str:
    names = list(dict.fromkeys(entry.cell.name for entry in entries))
    if len(names) == 1:
        return names[0]
    kinds = {without_size(e.cell.name, e.cell.batch_size) for e in entries}
    if len(kinds) > 1:
        return f"{len(names)} cells"
    sizes = sorted({entry.cell.batch_size for entry in entries})
    where = (
        listed("batch size", sizes) if len(sizes) <= _MAX_MERGED else f"{len(sizes)} batch sizes"
    )
    return f"{kinds.pop()} at {where}"


def _next(following: Sequence[Sequence[str]]) -> tuple[tuple[Next, ...], list[list[Fact]]]:
    """What to type for all tests, and what each has to type that this leaves out."""
    shared: list[Next] = []
    own: list[list[Fact]] = [[] for _ in following]
    for place in itertools.zip_longest(*following):
        lines = list(dict.fromkeys(line for line in place if line))
        command = _one_command(lines)
        if command:
            shared.append(command)
        elif len(lines) <= _FEW:
            shared += map(summary.command, lines)
        else:
            words, typed, note = summary.command(lines[0])
            shared.append((words, typed, f"{note} (the other tests' are with each)".lstrip()))
            for facts, line in zip(own, place, strict=True):
                facts += [("next", line)] if line else []
    return tuple(shared), own


def _one_command(lines: Sequence[str]) -> Next | None:
    """The lines' command for all their tests; None if they differ in more, or are too many."""
    found = [summary.command(line) for line in lines]
    words, _, note = found[0]
    if len(lines) == 1 or len(lines) > _MAX_MERGED:
        return found[0] if len(lines) == 1 else None
    try:
        typed = [shlex.split(command) for _, command, _ in found]
    except ValueError:  # an odd name
        return None
    if {(other[0], other[2], len(tokens)) for other, tokens in zip(found, typed, strict=True)} != {
        (words, note, len(typed[0]))
    }:
        return None
    varying = [i for i, tokens in enumerate(zip(*typed, strict=True)) if len(set(tokens)) > 1]
    if len(varying) != 1 or not all("::" in tokens[varying[0]] for tokens in typed):
        return None
    (place,) = varying
    tests = [tokens[place] for tokens in typed]
    return words, shlex.join([*typed[0][:place], *tests, *typed[0][place + 1 :]]), note


def what_changed(results: Results) -> list[tuple[str, list[Fact]]]:
    """Between each two engines: versions and settings by name, with the values before and after."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for entry in results.entries:
        if entry.changed is not None:
            values = found.setdefault(entry.engines, {})
            for name, text in _changed(entry)[1]:
                known = values.setdefault(name, [])
                known += [text] if text not in known else []
    pairs = [
        (
            f"{old} → {new}",
            [(_READABLE.get(name, name), ", ".join(texts)) for name, texts in values.items()],
        )
        for (old, new), values in found.items()
    ]
    if len(pairs) > _MAX_PAIRS:
        more = f"and {count(len(pairs) - _MAX_PAIRS, 'more pair')} of engines"
        return [*pairs[:_MAX_PAIRS], (more, [])]
    return pairs
