"""Which changed setting cost how much: the engine after a step with settings set back. Pure.

Every setting that differs between the engines before and at a step is set back alone, and if there
are several, all of them together: an *arm* each, launched until the rule decides whether the engine
as it is is regressed against it. An arm's share is ln(at ÷ arm) / ln(at ÷ before), with Fieller's
interval (contrasts.py). What all settings together leave is due to something else, such as code;
shares that do not add up to that of all together depend on each other.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.verdict.bisection import Question
from pytest_energy.verdict.comparison import Comparison, compare
from pytest_energy.verdict.contrasts import Share, combined, difference, losses
from pytest_energy.verdict.rule import Case, Terms, Verdict, decide

LOOKS = 2, 3, 5  # launches of an arm

# vLLM's arguments that make these settings, as fingerprints name them.
_ARGUMENTS = frozenset(
    {
        "async_scheduling", "attention_backend", "block_size", "enable_prefix_caching",
        "enforce_eager", "kv_cache_dtype", "max_cudagraph_capture_size", "max_num_batched_tokens",
        "max_num_seqs", "moe_backend",
    }
)  # fmt: skip
_OF_COMPILATION = frozenset({"cudagraph_mode"})  # within compilation_config
_BEFORE, _AT = 0, 1  # in contrasts; arms follow


@dataclass(frozen=True)
class Arm:
    """The engine at the step with some settings set back.

    Attributes:
        values: as the engine before the step has them, by name; at least one.
    """

    values: Mapping[str, Any]

    @property
    def arguments(self) -> tuple[str, ...]:
        """As --energy-engine-arg takes them."""
        nested = {n: v for n, v in self.values.items() if n in _OF_COMPILATION}
        plain = [f"{n}={json.dumps(v)}" for n, v in self.values.items() if n not in nested]
        return (*plain, *([f"compilation_config={json.dumps(nested)}"] if nested else []))

    def not_taken(self, launched: Fingerprint) -> list[str]:
        """What a launched engine has otherwise than it should, "name is value"."""
        has = settings(launched)
        return [f"{n} is {has.get(n)}" for n, v in self.values.items() if has.get(n) != v]


Made = tuple[Arm, Sequence[float]]  # an arm and a value per launch


@dataclass(frozen=True)
class Part:
    """What an arm's launches show.

    Attributes:
        verdict: on the engine at the step against the arm: regressed, if the settings cost it.
        change: at ÷ arm.
        share: of the whole step.
    """

    arm: Arm
    launches: int
    verdict: Verdict
    change: Comparison
    share: Share


@dataclass(frozen=True)
class Ablation:
    """All that setting back shows.

    Attributes:
        parts: by arm.
        unexplained: share that all settings together leave; None if they were not set back.
        interaction: the share of all together less the sum of the single ones; None if there is
            one setting, or they were not set back together.
        cannot_be_set: settings that no argument makes, or that did not take, in words.
    """

    parts: tuple[Part, ...]
    unexplained: Share | None
    interaction: Share | None
    cannot_be_set: tuple[str, ...] = ()


def settings(of: Fingerprint) -> dict[str, Any]:
    """What an engine was set to and which kernels it chose, by argument."""
    return {**of.engine_settings, **(of.kernels or {})}


def arms(before: Fingerprint, at: Fingerprint) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """The settings that can be set back, each alone, and what cannot, "name: before → at"."""
    known = before.kernels is not None and at.kernels is not None
    old, new = (settings(of) if known else of.engine_settings for of in (before, at))
    differing = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    can = [n for n in differing if n in old and n in _ARGUMENTS | _OF_COMPILATION]
    cannot = [f"{n}: {old.get(n)} → {new.get(n)}" for n in differing if n not in can]
    return tuple(Arm({name: old[name]}) for name in can), tuple(cannot)


def together(single: Sequence[Arm]) -> Arm:
    """The arm with all settings of several."""
    return Arm({name: value for arm in single for name, value in arm.values.items()})


def is_open(question: Question, at: Sequence[float], arm: Sequence[float], arms_made: int) -> bool:
    """Whether an arm needs another launch.

    Args:
        question: what is asked.
        at, arm: one value per launch.
        arms_made: arms that share the level of false alarms.
    """
    if len(arm) not in LOOKS:
        return len(arm) < LOOKS[-1]
    undecided = _verdict(question, at, arm, arms_made) is Verdict.INCONCLUSIVE
    return undecided and len(arm) < LOOKS[-1]


def ablation(
    question: Question,
    before: Sequence[float],
    at: Sequence[float],
    single: Sequence[Made],
    all_together: Made | None = None,
    cannot_be_set: Sequence[str] = (),
) -> Ablation:
    """What each arm shows.

    Args:
        question: what is asked.
        before, at: of the engines about the step, one value per launch, at least one each.
        single: arms of one setting with a value per launch, at least one.
        all_together: the same of the arm with all of these settings; None of one alone.
        cannot_be_set: in words.
    """
    made = [*single, *([all_together] if all_together else [])]
    numbers = {number: values for number, (_, values) in enumerate(made, start=_AT + 1)}
    found = losses(question.metric, {_BEFORE: before, _AT: at, **numbers}, question.noise)
    whole = difference(_AT, _BEFORE)
    of_arms = [difference(_AT, number) for number in numbers]
    parts = tuple(
        Part(
            arm,
            len(values),
            _verdict(question, at, values, len(made)),
            compare(at, values, question.noise),
            found.share(of_arm, whole),
        )
        for of_arm, (arm, values) in zip(of_arms, made, strict=True)
    )
    unexplained = interaction = None
    if all_together or len(made) == 1:
        unexplained = found.share(combined((1, whole), (-1, of_arms[-1])), whole)
    if all_together:
        singly = [(-1.0, of_arm) for of_arm in of_arms[:-1]]
        interaction = found.share(combined((1.0, of_arms[-1]), *singly), whole)
    return Ablation(parts, unexplained, interaction, tuple(cannot_be_set))


def _verdict(
    question: Question, at: Sequence[float], arm: Sequence[float], arms_made: int
) -> Verdict:
    case = Case(question.metric, question.tolerance, at, arm, question.noise)
    return decide(case, Terms(comparisons=arms_made * len(LOOKS))).verdict
