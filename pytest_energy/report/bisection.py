"""What a search among releases found: text of 80 columns, and JSON. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import geometric_mean
from pytest_energy.report import prefix_cache
from pytest_energy.report.table import fitted, wrapped
from pytest_energy.report.words import count
from pytest_energy.store.baseline import Baseline
from pytest_energy.verdict.ablation import Ablation, Part
from pytest_energy.verdict.attribution import cached_shares, what_changed
from pytest_energy.verdict.bisection import Answer, Next, Outcome, Question, Step
from pytest_energy.verdict.comparison import Comparison
from pytest_energy.verdict.contrasts import Share
from pytest_energy.verdict.judge import judge
from pytest_energy.verdict.judgement import Judgement, Limits
from pytest_energy.verdict.rule import Terms

_COLUMNS = "release", "launches", "J/token", "tokens/s", "W", "change, %", "verdict"
_ARMS = "set back", "launches", "costs, %", "of the step", "verdict"


@dataclass(frozen=True)
class Bisection:
    """A search and what it rests on.

    Attributes:
        question: what was asked.
        names: of the releases, good first and bad last.
        launches: of each release that was launched, by its place in `names`.
        skipped: why releases could not be launched, by their places.
        found: the answer, or what would be launched next, had there been time.
        minutes, made: that this run took, and launches that it made, ablation included.
        earlier: launches of releases that earlier runs made.
        ablation: of the step that was found; None without one.
    """

    question: Question
    names: Sequence[str]
    launches: Mapping[int, Sequence[Measurement]]
    skipped: Mapping[int, str]
    found: Answer | Next
    minutes: float
    made: int
    earlier: int
    ablation: Ablation | None = None


def lines(of: Bisection) -> list[str]:
    """The answer first, then what it rests on."""
    found = [*map(wrapped, _answer(of)), "", *_releases(of)]
    not_launched = len(of.names) - len(of.launches) - len(of.skipped)
    if not_launched:
        found.append(f"not launched: {not_launched} of {count(len(of.names), 'release')}")
    if of.question.noise.source:
        found.append(wrapped(f"noise between launches: {of.question.noise.source}"))
    skipped = (f"{of.names[i]} is skipped: {why}" for i, why in sorted(of.skipped.items()))
    found += [wrapped(line.splitlines()[0]) for line in skipped]
    if isinstance(of.found, Answer):
        found += [wrapped(line) for step in of.found.steps for line in _notes(of, step)]
    if of.ablation is not None:
        found += ["", *_arms(of.ablation)]
    return found


def _answer(of: Bisection) -> Iterator[str]:
    cell = next(iter(of.launches.values()))[0].key.name if of.launches else ""
    good, bad = of.names[0], of.names[-1]
    now = " now" if of.earlier else ""
    effort = f"{count(of.made, 'launch', 'launches')}{now}, {of.minutes:.0f} min"
    if isinstance(of.found, Next):
        between = f"{of.names[of.found.after]} and {of.names[of.found.until]}"
        sure = of.found.confidence
        known = "is not established yet" if sure is None else f"lies between {between}"
        yield f"cannot tell yet: the minutes are used up; the change {known} ({cell}); {effort}"
        yield "Continue with the same command; what is recorded counts."
        return
    answer = of.found
    if answer.outcome is Outcome.FOUND:
        (step,) = answer.steps
        assert step.confidence is not None
        yield (
            f"{_at(of, step)} {_costs(of, step.change)} than {of.names[step.before]}, {cell}: "
            f"{_sure(step.confidence)} sure, {effort}"
        )
    elif answer.outcome is Outcome.SPLIT:
        yield f"no single release: {bad} {_costs(of, answer.whole.ratio)} than {good}, {cell}"
        for step in answer.steps:
            than = f"{_costs(of, step.change)} than {of.names[step.before]}"
            share = f"{_share(step.share)} of the change"
            if step.confidence is None:
                yield f"{of.names[step.at]} {than}: {share}, somewhere between them"
            else:
                yield f"{_at(of, step)} {than}: {share}, {_sure(step.confidence)} sure"
        yield effort
    elif not answer.steps:
        detected = answer.whole.smallest_detected
        would = "" if detected is None else f"; {100 * detected:.1f} % would have been detected"
        found = (
            f"nothing to bisect: {bad} is not worse than {good}"
            if answer.outcome is Outcome.NOTHING
            else f"cannot tell whether {bad} is worse than {good}"
        )
        why = f"; {answer.reason}" if answer.reason else ""
        yield f"{found}, {cell}{why}{would}; {effort}"
    else:
        (step,) = answer.steps
        between = f"between {of.names[step.before]} and {of.names[step.at]}"
        yield f"cannot tell: the change lies {between}, {cell}; {answer.reason}; {effort}"


def _at(of: Bisection, step: Step) -> str:
    """The release at a step, with those before it that could not be launched."""
    return " or ".join(of.names[step.before + 1 : step.at + 1])


def _costs(of: Bisection, change: Comparison | None) -> str:
    """As in "takes 7.1 ± 0.6 % more J/token", or gives fewer tokens/s."""
    assert change is not None
    value, half = 100 * (change.value - 1), 100 * change.half_width
    if of.question.metric is Metric.JOULES_PER_TOKEN:
        return f"takes {abs(value):.1f} ± {half:.1f} % {'more' if value > 0 else 'less'} J/token"
    return f"gives {abs(value):.1f} ± {half:.1f} % {'more' if value > 0 else 'fewer'} tokens/s"


def _notes(of: Bisection, step: Step) -> Iterator[str]:
    """How much of the change a step holds, and what else differs there."""
    if step.confidence is None:
        return
    made, made_before = of.launches[step.at], of.launches[step.before]
    at_it = f"at {_at(of, step)}"
    if isinstance(of.found, Answer) and of.found.outcome is Outcome.FOUND:
        rest = "; the rest is at other releases" if step.share.high < 1 else ""
        ends = f"from {of.names[0]} to {of.names[-1]}"
        yield f"{at_it}: {_share(step.share)} of the change {ends}{rest}"
    changed = what_changed(made_before[-1].environment, made[-1].environment)
    changed = [line for line in changed if not line.startswith("vllm: ")]
    served = cached_shares(made, Baseline.of(made_before))
    if served is not None:
        changed += [f"{name}: {values}" for name, values in prefix_cache.change(served).items()]
    yield f"{at_it} what changed: {'; '.join(changed) or 'nothing that is recorded'}"


def _releases(of: Bisection) -> list[str]:
    """The table of those that were launched."""
    texts = [_COLUMNS]
    for i, launches in sorted(of.launches.items()):
        judged = against_good(of, i)
        verdict = "good" if judged is None else judged.verdict.value
        ratio = judged.ratio if judged else None
        figures = (
            f"{geometric_mean([m.joules_per_token for m in launches]):#.4g}",
            f"{geometric_mean([m.tokens_per_s for m in launches]):,.0f}",
            f"{math.fsum(m.power_w for m in launches) / len(launches):.0f}",
        )
        texts.append((of.names[i], str(len(launches)), *figures, _change(ratio), verdict))
    return fitted(texts)


def against_good(of: Bisection, release: int) -> Judgement | None:
    """The gate's verdict on a release with the good one as its reference; None of the good one."""
    if release == 0 or 0 not in of.launches:
        return None
    question = of.question
    return judge(
        question.metric,
        of.launches[release],
        Baseline.of(of.launches[0]),
        Limits(tolerance=question.tolerance),
        Terms(comparisons=len(of.names)),
        dict.fromkeys(Metric, question.noise),
    )


def _arms(found: Ablation) -> list[str]:
    """The table of settings that were set back, and what it leaves."""
    if not found.parts:
        said = ["no setting that differs there can be set back"]
    else:
        said = [f"unexplained by settings, so code or packages: {_share(found.unexplained)}"]
    between = found.interaction
    if between is not None and not between.low <= 0 <= between.high:
        said.append(
            f"the shares do not add up: together these settings make {_share(between)} more than "
            "each alone, so they depend on each other"
        )
    said += [f"not set back: {line}" for line in found.cannot_be_set]
    rows = [
        (_arm(p), str(p.launches), _change(p.change), _share(p.share), p.verdict.value)
        for p in found.parts
    ]
    return [*(fitted([_ARMS, *rows]) if rows else ()), *map(wrapped, said)]


def _arm(part: Part) -> str:
    """What was set back."""
    values = part.arm.values
    return "all of these" if len(values) > 1 else ", ".join(f"{n}={v}" for n, v in values.items())


def _change(ratio: Comparison | None) -> str:
    if ratio is None:
        return "-"
    half = 100 * ratio.half_width
    return f"{100 * (ratio.value - 1):+.1f} ±{half:.1f}"


def _share(share: Share | None) -> str:
    """As in "96 (88 to 105) %"."""
    if share is None or not math.isfinite(share.low):
        return "not known"
    return f"{100 * share.value:.0f} ({100 * share.low:.0f} to {100 * share.high:.0f}) %"


def _sure(confidence: float) -> str:
    """Never rounded up."""
    return f"{math.floor(1000 * confidence) / 10:.1f} %"


def plain(of: Bisection) -> dict[str, Any]:
    """As values of JSON, releases by their names."""
    return {
        "metric": of.question.metric.value,
        "tolerance": of.question.tolerance,
        "noise": asdict(of.question.noise),
        "releases": [_plain_release(of, i, name) for i, name in enumerate(of.names)],
        "launches_now": of.made,
        "minutes_now": of.minutes,
        **_plain_answer(of),
        "ablation": _plain_ablation(of.ablation),
    }


def _plain_release(of: Bisection, i: int, name: str) -> dict[str, Any]:
    judged = against_good(of, i) if i in of.launches else None
    return {
        "release": name,
        "launches": [
            {
                "launch_id": m.launch_id,
                "joules_per_token": m.joules_per_token,
                "tokens_per_s": m.tokens_per_s,
                "power_w": m.power_w,
            }
            for m in of.launches.get(i, ())
        ],
        "skipped": of.skipped.get(i),
        "verdict": judged.verdict.value if judged else None,
        "change": _plain_change(judged.ratio if judged else None),
    }


def _plain_answer(of: Bisection) -> dict[str, Any]:
    if isinstance(of.found, Next):
        between = [of.names[of.found.after], of.names[of.found.until]]
        return {"outcome": "out of time", "between": between, "steps": [], "reason": ""}
    steps = [
        {
            "before": of.names[step.before],
            "at": of.names[step.at],
            "confidence": step.confidence,
            "change": _plain_change(step.change),
            "share": _plain_share(step.share),
        }
        for step in of.found.steps
    ]
    answer = of.found
    return {
        "outcome": answer.outcome.value,
        "steps": steps,
        "reason": answer.reason,
        "whole_change": _plain_change(answer.whole.ratio),
        "smallest_detected": answer.whole.smallest_detected,
    }


def _plain_ablation(found: Ablation | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "set_back": [
            {
                "values": dict(part.arm.values),
                "launches": part.launches,
                "change": _plain_change(part.change),
                "share": _plain_share(part.share),
                "verdict": part.verdict.value,
            }
            for part in found.parts
        ],
        "unexplained": _plain_share(found.unexplained),
        "interaction": _plain_share(found.interaction),
        "not_set_back": list(found.cannot_be_set),
    }


def _plain_change(ratio: Comparison | None) -> dict[str, float] | None:
    if ratio is None:
        return None
    return {"value": ratio.value - 1, "low": ratio.low - 1, "high": ratio.high - 1}


def _plain_share(share: Share | None) -> dict[str, float | None] | None:
    if share is None:
        return None
    return {n: v if math.isfinite(v) else None for n, v in asdict(share).items()}
