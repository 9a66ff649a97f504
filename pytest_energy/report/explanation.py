"""A verdict, or a bare comparison, in words: what happened, how sure it is, why, what to type."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_energy.measure.metric import Metric
from pytest_energy.report import host, idle, launches, prefix_cache
from pytest_energy.report.results import ReportedChanges
from pytest_energy.report.words import UNIT, count, figure, percent
from pytest_energy.safety import redact
from pytest_energy.settings import DEFAULT_LAUNCHES, MIN_LAUNCHES
from pytest_energy.verdict.attribution import TEMPERATURE, Split
from pytest_energy.verdict.judgement import Compared, Judgement
from pytest_energy.verdict.rule import Verdict

_MAX_CHANGES = 12

READING: Mapping[str, str] = {
    "static": "mostly the engine's speed: the same static power over a different number of tokens",
    "dynamic": "mostly work per token: other kernels or another precision",
    "both": "both the engine's speed and the work per token changed",
    "cannot tell": (
        "it may be the engine's speed or the work per token: "
        "the static power is not known well enough to say which"
    ),
}
NO_READING = (
    "it may be the engine's speed or the work per token: "
    "clocks, power cap or temperature differ, or static power was not measured"
)


@dataclass(frozen=True)
class Explanation:
    """In the order in which it is read; a text is empty if there is nothing to say.

    Attributes:
        what: the verdict, the figure and what it is compared with.
        how_sure: interval, tolerance and launches of a comparison.
        reasons: for the verdict, one line each.
        split: the change as power ÷ throughput, and which of them moved.
        changed: what differs between the two sides; None if nothing was compared.
        next: what to type, one way a line.
    """

    what: str
    how_sure: str
    reasons: tuple[str, ...]
    split: str
    changed: ReportedChanges | None
    next: tuple[str, ...]


def explain(name: str, judgement: Judgement, rerun: str, replayed: bool) -> Explanation:
    """Why a test has its verdict.

    Args:
        name: of the cell.
        judgement: on it.
        rerun: a command line that runs only this test, without options.
        replayed: whether recordings were judged, not a live engine.
    """
    figures = _figures(judgement, judgement.other)
    how_sure = _how_sure(judgement, f", tolerance {100 * judgement.tolerance:.1f} %")
    said = judgement.reasons
    if judgement.by_limits_alone:  # nothing about them is estimated
        broken = len(judgement.broken_limits)
        figures, said = "; ".join(said[:broken]), (f"{figures}; {how_sure}", *said[broken:])
        how_sure = ""
    reasons = [line for reason in said for line in redact.home(reason).splitlines()]
    reasons += launches.left_out_lines(judgement.left_out)
    reasons += prefix_cache.unserved(judgement.candidate.launches if judgement.candidate else ())
    if judgement.verdict is Verdict.INCONCLUSIVE and judgement.candidate is not None:
        reasons += host.host_bound(judgement.candidate.launches)[0]
    regressed = judgement.verdict is Verdict.REGRESSED and not judgement.by_limits_alone
    return Explanation(
        what=f"{judgement.verdict.value.upper()}: {name}, {figures}",
        how_sure=how_sure,
        reasons=tuple(reasons),
        split="; ".join([*_power_and_rate(judgement), *(_why(judgement) if regressed else ())]),
        changed=_changes(judgement, judgement.other),
        next=tuple(_next(judgement, rerun, replayed)),
    )


def explain_compared(name: str, found: Compared, left_out: Sequence[str]) -> Explanation:
    """Two engines compared and not judged.

    Args:
        name: of the cell.
        found: one engine's launches by the other's.
        left_out: launches that were left out, and why, one line each.
    """
    other = "reference"
    return Explanation(
        what=f"{name}, {_figures(found, other)}",
        how_sure=_how_sure(found),
        reasons=tuple(left_out),
        split="; ".join(_power_and_rate(found)),
        changed=_changes(found, other),
        next=(),
    )


def failure(judgement: Judgement, said: Explanation) -> str:
    """The explanation as the test's message.

    A regression takes six lines: what, how sure, split, what changed, what to type if it is
    intended, and if not.
    """
    how_sure, reasons = said.how_sure, said.reasons
    if judgement.verdict is Verdict.REGRESSED and how_sure:
        how_sure, reasons = "; ".join((how_sure, *reasons)), ()
    lines = [f"how sure: {how_sure}"] if how_sure else []
    lines += [*reasons, *([said.split] if said.split else [])]
    lines += [] if said.changed is None else [f"what changed: {said.changed.in_words}"]
    return "\n  ".join([said.what, *lines, *(f"next: {line}" for line in said.next)])


def _figures(found: Compared, other: str) -> str:
    """The metric on both sides, as far as it is known."""
    text = UNIT[found.metric]
    if found.candidate is None:
        return text
    value = found.candidate.estimates[found.metric].value
    if found.ratio is None or found.reference is None:
        return f"{text} {figure(found.metric, value)} ({_launches(len(found.candidate.launches))})"
    compared_with = getattr(found.reference.summary, found.metric.value)
    change = percent(found.ratio.value)
    before = figure(found.metric, compared_with)
    return f"{text} {figure(found.metric, value)}, {change} vs the {other}'s {before}"


def _how_sure(found: Compared, tolerance: str = "") -> str:
    ratio, candidate, reference = found.ratio, found.candidate, found.reference
    if ratio is None or candidate is None or reference is None:
        return ""
    number = len(candidate.launches)
    engine = f"vLLM {reference.environment.vllm or '?'}"
    compared = (
        f"{count(number, 'pair')} with {engine}"
        if found.paired
        else f"{_launches(number)} against {len(reference.launches)} of {engine}"
        + launches.made_here(found)
    )
    bounds = f"{percent(ratio.low)} to {percent(ratio.high)}"
    if not tolerance and ratio.low <= 1 <= ratio.high:
        return f"no difference measured: it could be anything from {bounds}; {compared}"
    return f"95 % interval {bounds}{tolerance}; {compared}"


def _relative(found: Compared) -> tuple[float, float] | None:
    """Power and throughput, candidate ÷ reference; None if nothing was compared, and at idle."""
    if found.ratio is None or found.candidate is None or found.reference is None:
        return None
    reference = found.reference.summary
    if reference.tokens_per_s is None:
        return None
    return (
        found.candidate.power_w / reference.power_w,
        found.candidate.tokens_per_s.value / reference.tokens_per_s,
    )


def _power_and_rate(found: Compared) -> list[str]:
    """The figure as power ÷ throughput, or what idling costs; empty if nothing was compared."""
    relative, candidate = _relative(found), found.candidate
    if found.metric is Metric.IDLE_POWER_W:
        return idle.in_words(found)
    if relative is None or candidate is None:
        return []
    power, rate = map(percent, relative)
    return [
        f"power {candidate.power_w:.0f} W ({power})"
        f" ÷ throughput {candidate.tokens_per_s.value:,.0f} tokens/s ({rate})"
        f" = {candidate.joules_per_token.value:#.4g} J/token"
    ]


def _why(found: Compared) -> list[str]:
    """What made a regression, as far as power, throughput and the split tell."""
    if found.metric is Metric.IDLE_POWER_W:
        return idle.why(found)
    power, rate = _relative(found) or (1.0, 1.0)
    clauses = (
        ["power fell, but throughput fell further: every token occupies the GPU for longer"]
        if rate < power and round(power, 3) < 1  # as far as the figures show it
        else []
    )
    separated = found.split is not None and found.split.reading != "cannot tell"
    by_cache = found.cached is not None and found.cached.is_more_work  # says what the work is
    if found.metric is Metric.JOULES_PER_TOKEN and (separated or not clauses) and not by_cache:
        clauses.append(_reading(found.split))
    return clauses


def _reading(split: Split | None) -> str:
    if split is None:
        return NO_READING
    low, high = sorted((split.static_low, split.static_high))
    digits = max(0, 1 - math.floor(math.log10(abs(split.total)))) if split.total else 4
    return (
        f"{READING[split.reading]} (static part {low:+.{digits}f} to {high:+.{digits}f} "
        f"of {split.total:+.{digits}f} J/token)"
    )


def _changes(found: Compared, other: str) -> ReportedChanges | None:
    """What made it slower, and what differs between the environments; None if not compared."""
    if found.ratio is None:
        return None
    clear = not found.ratio.low <= 1 <= found.ratio.high
    slower = host.slower_because(found.slowdown) if found.slowdown and clear else None
    parted = (difference.partition(": ") for difference in found.changed[:_MAX_CHANGES])
    changes = {name: values for name, _, values in parted}
    worse = (found.ratio.value > 1) == found.metric.is_cost
    if found.cached is not None and found.cached.is_more_work and clear and worse:
        slower = prefix_cache.more_work(found.cached, other)
    elif found.cached is not None:
        changes |= prefix_cache.change(found.cached)
    more = max(0, len(found.changed) - _MAX_CHANGES)
    return ReportedChanges(slower, changes, more)


def _next(judgement: Judgement, rerun: str, replayed: bool) -> list[str]:
    if judgement.by_limits_alone:
        limits = " and ".join(judgement.broken_limits)
        return [
            f"raise {limits} in the test if the budget allows it; "
            "updating the baseline does not change it"
        ]
    candidate = judgement.candidate.launches[0] if judgement.candidate else None
    verdict = judgement.verdict
    if (
        candidate is not None
        and candidate.key.engine == "attached"
        and not replayed
        and verdict is not Verdict.INVALID
    ):
        return [
            f"measure again: {rerun}",
            "a running server counts as one launch: restart it, record each with "
            "--energy-record DIR, and judge or store them together: "
            "--energy-engine attached --energy-replay A B C   (--energy-update)",
        ]
    if judgement.paired and verdict is Verdict.REGRESSED:
        return _accept_against_a_reference(judgement, rerun, replayed)
    if verdict is Verdict.NOT_COMPARABLE and (
        judgement.paired or (candidate is not None and candidate.co_resident)
    ):
        return [
            "judge it with its reference, interleaved on one GPU: "
            "--energy-replay DIR/candidate --energy-reference-replay DIR/reference"
        ]
    # A loss is refused without a reason.
    reason = " --energy-update-reason WHY" if verdict is Verdict.REGRESSED else ""
    update = f"{rerun} --energy-update{reason}"
    if replayed:
        update += f" --energy-replay A B C   (recordings of at least {MIN_LAUNCHES} launches)"
    if verdict is Verdict.REGRESSED:
        again = [] if replayed else [f"measure again: {rerun}"]
        return [*again, f"if the change is intended: {update}", _not_intended(judgement)]
    if verdict is Verdict.INCONCLUSIVE:
        return _more_evidence(judgement, rerun, replayed)
    if verdict is Verdict.NO_BASELINE:
        return [f"if the cell is new, store a baseline: {update}"]
    if verdict is Verdict.NOT_COMPARABLE:
        other = f"run on the baseline's hardware, or store a baseline for this one: {update}"
        return [_compare_here(rerun, replayed), f"or {other}"]
    if verdict is Verdict.INVALID and not replayed:
        return [f"fix the cause and measure again: {rerun}"]
    # What is wrong with the recordings as a whole says on a second line what to do.
    if verdict is Verdict.INVALID and not any("\n" in reason for reason in judgement.reasons):
        return [f"leave the invalid launches out, or record new ones: {rerun} --energy-record DIR"]
    return []


def _compare_here(rerun: str, replayed: bool) -> str:
    """How to judge an engine on a GPU that no baseline is of."""
    if replayed:
        return (
            "compare with recordings of the baseline's vLLM on this GPU: --energy-replay DIR "
            "--energy-reference-replay DIR --energy-interleave never"
        )
    if "--energy-reference-" in rerun:  # whose launches could not be had or compared
        return f"fix the cause and measure again: {rerun}"
    return (
        f"compare with the baseline's vLLM on this GPU: {rerun} --energy-reference-python "
        "PYTHON   (or --energy-reference-install)"
    )


def _accept_against_a_reference(judgement: Judgement, rerun: str, replayed: bool) -> list[str]:
    """No baseline takes part, so that updating one would accept nothing."""
    return [
        *([] if replayed else [f"measure again: {rerun}"]),
        "if the change is intended: make this engine the reference, or raise the test's "
        "tolerance; updating a baseline does not change it",
        _not_intended(judgement),
    ]


def _not_intended(judgement: Judgement) -> str:
    """Where to look for the cause of a regression."""
    if any(not difference.startswith(TEMPERATURE) for difference in judgement.changed):
        where = "take back what changed, one at a time, until it passes"
    elif judgement.paired:
        where = "compare both environments, as nothing recorded differs: pip freeze, variables"
    else:
        where = "check the machine, as nothing recorded differs: pytest-energy doctor"
    return f"if it is not: {where}"


def _more_evidence(judgement: Judgement, rerun: str, replayed: bool) -> list[str]:
    """What to type if the launches do not decide: first what will, if anything does."""
    plan, ways = judgement.plan, []
    hopeless = plan is not None and plan.candidate is None and not plan.baseline_is_short
    if judgement.out_of_time:
        ways.append(f"give it more GPU minutes, or none to measure without limit: {rerun}")
    elif judgement.blind:
        ways.append("find what makes its launches differ so much: pytest-energy doctor")
    elif plan is None or plan.candidate:
        ways.append(_more_launches(judgement, rerun, replayed))
    if plan and plan.baseline_is_short:
        given = f"--energy-update --energy-launches {plan.baseline}"
        ways.append(f"measure a larger baseline, with its engine: {rerun} {given}")
    if hopeless:
        ways += _quieter(judgement)
    if judgement.noise is not None and not judgement.noise.measured:
        arguments = rerun.removeprefix("pytest ")
        ways.append(f"measure this runner's noise once: pytest-energy noise {arguments}")
    if hopeless:
        ways.append("set another tolerance in the test, as more launches will not decide")
    elif judgement.reference_from:
        ways.append(f"interleave both engines: {rerun} --energy-interleave launches")
    elif not judgement.paired:
        ways.append(
            "interleave both engines on this GPU: --energy-reference-python PYTHON (docs/usage.md)"
        )
    return [ways[0], *(f"or {way}" for way in ways[1:])] if ways else []


def _more_launches(judgement: Judgement, rerun: str, replayed: bool) -> str:
    plan = judgement.plan
    if not replayed:
        launches = plan.candidate if plan else 2 * DEFAULT_LAUNCHES
        return f"measure with more launches: {rerun} --energy-launches {launches}"
    noun = ("pair", "pairs") if judgement.paired else ("launch", "launches")
    more = plan.candidate - plan.made if plan and plan.candidate else 0
    number = f"{more} more {noun[more != 1]}" if more else f"more {noun[1]}"
    return f"record {number} and replay all of them together"


def _quieter(judgement: Judgement) -> list[str]:
    """How to make the cell's launches alike, if its recordings tell."""
    launches = judgement.candidate.launches if judgement.candidate else ()
    own = "" if judgement.paired else "; it then needs a baseline of its own"
    return [f"make its launches alike: {way}{own}" for way in host.host_bound(launches)[1]]


def _launches(number: int) -> str:
    return count(number, "launch", "launches")
