"""At which of several releases a cell got worse: what to launch next, or the answer. Pure.

`advance` is the way in. It knows all launches so far, and asks for one more, or answers:

1.  The change is established: good and bad are launched alternately (GBBG…), at least twice each,
    until the rule calls bad regressed against good, or the gate would end.
2.  Where the step is follows from Bayes' rule: all releases before it have one level, all others
    another; place, levels and the logarithm of the deviation have flat priors, and the runner's
    noise counts by its degrees of freedom. The release that halves the doubt is launched next
    (Horstein 1963, IEEE Trans. Inf. Theory 9:136; Waeber, Frazier, Henderson 2013, SIAM J. Control
    Optim. 51:2261), up to eight times each.
3.  The step is confirmed: the releases before and at it are launched until the rule calls one
    regressed against the other, and the step is larger than half of the whole change. This does not
    assume that there is one step.

An answer's doubt, that of its place and that of its size together, is at most 1 %. A size is looked
at after 2, 3, 5 and 8 launches, each with a quarter of the level, and two steps may be half of the
change each (Bonferroni). A release in the middle, whose
loss is between a quarter and three quarters of the change, parts the search: each side has a step
of its own. A step that no eight launches would confirm is not searched for.
"""

import enum
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import NoiseFloor
from pytest_energy.settings import DEFAULT_LAUNCHES
from pytest_energy.verdict.comparison import Comparison, compare, error_bound
from pytest_energy.verdict.contrasts import (
    Losses,
    Share,
    Weights,
    combined,
    difference,
    loss_of,
    losses,
    relative,
)
from pytest_energy.verdict.rule import Case, Decision, Terms, Verdict, decide

DOUBT = 0.01  # of an answer, at most
LOOKS = 2, 3, 5, 8  # launches of a release
MOST = LOOKS[-1]
_LEVEL = DOUBT / len(LOOKS)
_DOUBT_OF_PLACE = DOUBT / 2  # beyond it the step is looked for, else its size
_UNDECIDED = f"{DEFAULT_LAUNCHES} launches of each leave it open"
_TOO_SMALL = f"at this noise {MOST} launches of each release would not show where it is"
_EXHAUSTED = f"{MOST} launches of each release there do not show where it is"


class Outcome(enum.Enum):
    """What a search ended with."""

    FOUND = "found"
    SPLIT = "split"
    NOTHING = "nothing to bisect"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Question:
    """What is asked of releases.

    Attributes:
        metric: what got worse.
        tolerance: the smallest loss that matters, relative; the gate's.
        noise: of the runner, between launches.
    """

    metric: Metric
    tolerance: float
    noise: NoiseFloor


@dataclass(frozen=True)
class Launched:
    """One launch of a release: J/token or tokens/s."""

    release: int
    value: float


@dataclass(frozen=True)
class Next:
    """What to launch next.

    Attributes:
        release: which.
        after, until: the step is, as far as is known, between these.
        confidence: of the likeliest place so far; None before the change is established.
    """

    release: int
    after: int
    until: int
    confidence: float | None = None


@dataclass(frozen=True)
class Step:
    """A change between two releases.

    Attributes:
        before, at: the releases; those between could not be launched, if the step was found.
        change: at ÷ before, of their launches alone.
        share: of the whole change.
        confidence: that it is there, and holds most of what is asked; None if it is only known to
            lie between.
    """

    before: int
    at: int
    change: Comparison
    share: Share
    confidence: float | None


@dataclass(frozen=True)
class Answer:
    """How a search ended.

    Attributes:
        whole: the rule's decision on bad and good.
        steps: one if found; all parts of the change, the largest first, if it is split; what is
            left of the list, if it cannot be told.
        reason: why it cannot be told, or not in full; else empty.
    """

    outcome: Outcome
    whole: Decision
    steps: tuple[Step, ...] = ()
    reason: str = ""


def advance(
    question: Question, releases: Sequence[int], launched: Sequence[Launched]
) -> Next | Answer:
    """What to launch next, or the answer.

    Args:
        question: what is asked.
        releases: those that can be launched, good first and bad last, ascending, two at least.
        launched: in the order in which it was; launches of other releases do not count.
    """
    known = _Known(question, tuple(releases), tuple(x for x in launched if x.release in releases))
    whole = _establish(known)
    if isinstance(whole, Next):
        return whole
    if whole.verdict is not Verdict.REGRESSED:
        if whole.verdict is Verdict.INCONCLUSIVE:
            return Answer(Outcome.CANNOT_TELL, whole, reason=_UNDECIDED)
        return Answer(Outcome.NOTHING, whole)
    found = _search(known, tuple(releases))
    if isinstance(found, Next):
        return found
    steps, reason = found
    if len(steps) == 1:
        outcome = Outcome.CANNOT_TELL if steps[0].confidence is None else Outcome.FOUND
        return Answer(outcome, whole, steps, reason)
    largest_first = sorted(steps, key=lambda step: -step.share.value)
    return Answer(Outcome.SPLIT, whole, tuple(largest_first), reason)


@dataclass(frozen=True)
class _Known:
    """The question, and all that was launched."""

    question: Question
    releases: tuple[int, ...]
    launched: tuple[Launched, ...]

    @functools.cached_property
    def values(self) -> Mapping[int, list[float]]:
        found: dict[int, list[float]] = {}
        for launch in self.launched:
            found.setdefault(launch.release, []).append(launch.value)
        return found

    @functools.cached_property
    def losses(self) -> Losses:
        return losses(self.question.metric, self.values, self.question.noise)

    def count(self, release: int) -> int:
        return len(self.values.get(release, ()))

    def first(self, at_most: Mapping[int, int]) -> Losses:
        """The losses by the first launches of some releases, and all of the others."""
        metric, all_of_them = self.question.metric, self.losses
        means, counts = dict(all_of_them.means), dict(all_of_them.counts)
        for release, count in at_most.items():
            if count < counts[release]:
                of_first = [loss_of(metric, value) for value in self.values[release][:count]]
                counts[release], means[release] = count, math.fsum(of_first) / count
        return Losses(counts, means, all_of_them.found)

    def gains(self, contrast: Weights) -> dict[int, float]:
        """By how much another launch of each release makes a contrast's variance smaller."""
        return {
            i: weight**2 / (self.count(i) * (self.count(i) + 1)) if self.count(i) > 1 else math.inf
            for i, weight in contrast.items()
        }

    def may_show(self, contrast: Weights, expected: float) -> bool:
        """Whether eight launches each may show that a contrast is positive, as far as is known."""
        found = self.losses.found
        root = math.sqrt(math.fsum(weight**2 for weight in contrast.values()) / MOST)
        if contrast.keys() <= self.values.keys():
            error = 2 * found.spread.deviation * self.losses.root(contrast)
            expected = min(expected, self.losses.value(contrast) + error)
        return expected >= error_bound(found.spread, found.assumed, 1 - _LEVEL) * root

    def due(self, gains: Mapping[int, float]) -> int | None:
        """The release whose launch gains most; of several the one launched last, so GBBG."""
        open_ = {release: g for release, g in gains.items() if self.count(release) < MOST}
        best = [release for release, g in open_.items() if g >= 0.999 * max(open_.values())]
        last = self.launched[-1].release if self.launched else None
        return last if last in best else next(iter(best), None)

    def decide(
        self, candidate: int, reference: int, launches: int, terms: Terms, tolerance: float
    ) -> Decision:
        """The rule's, by the first launches of each."""
        of, values = self.question, self.values
        case = Case(
            of.metric,
            tolerance,
            values[candidate][:launches],
            values[reference][:launches],
            of.noise,
        )
        return decide(case, terms)

    def step(self, before: int, at: int, confidence: float | None) -> Step:
        """A change between two releases, or those nearest to them that were launched."""
        before = max(i for i in self.values if i <= before)
        at = min(i for i in self.values if i >= at)
        change = compare(self.values[at], self.values[before], self.question.noise)
        whole = difference(self.releases[-1], self.releases[0])
        share = self.losses.share(difference(at, before), whole)
        return Step(before, at, change, share, confidence)


def _establish(known: _Known) -> Next | Decision:
    """The rule's decision on bad and good, or which of them it needs."""
    good, bad = known.releases[0], known.releases[-1]
    terms = Terms(budget=DEFAULT_LAUNCHES)
    decision = None
    for launches in (look for look in terms.looks() if look > 1):
        if min(known.count(good), known.count(bad)) < launches:
            due = known.due({i: 1 / (1 + known.count(i)) for i in (good, bad)})
            assert due is not None
            return Next(due, good, bad)
        decision = known.decide(bad, good, launches, terms, known.question.tolerance)
        if decision.verdict is not Verdict.INCONCLUSIVE:
            break
    assert decision is not None
    return decision


def _search(known: _Known, segment: tuple[int, ...]) -> Next | tuple[tuple[Step, ...], str]:
    """The steps of a segment in order, and why they are not known better; or what to launch."""
    low, high = segment[0], segment[-1]
    whole = difference(high, low)
    places = _places(known, segment)
    likeliest = int(places.argmax())
    doubt = 1 - float(places[likeliest])
    before, at = segment[likeliest], segment[likeliest + 1]
    excess = combined((1, difference(at, before)), (-0.5, whole))
    doubt_of_size = _doubt_of_size(known, before, at, excess, known.losses.value(whole) / 2)
    if doubt + doubt_of_size <= DOUBT:
        return (known.step(before, at, 1 - doubt - doubt_of_size),), ""
    middle = _middle(known, segment)
    if middle is not None:
        return _parted(known, segment, middle)
    after, until = _within(segment, places)
    if known.may_show(excess, known.losses.value(whole) / 2):
        by_place = doubt > _DOUBT_OF_PLACE
        gains = _gains_of_place(segment, places) if by_place else known.gains(excess)
    else:
        gains = _gains_of_middle(known, segment, (before, at))
    if not gains:
        return (known.step(low, high, None),), _TOO_SMALL
    due = known.due(gains)
    if due is None:
        return (known.step(after, until, None),), _EXHAUSTED
    return Next(due, after, until, 1 - doubt)


def _gains_of_place(segment: tuple[int, ...], places: np.ndarray) -> dict[int, float]:
    """By release within a segment: the more, the nearer to one half that the step is no later."""
    no_later = np.cumsum(places)[:-1].tolist()
    return {i: 1 - abs(p - 0.5) for i, p in zip(segment[1:-1], no_later, strict=True)}


def _gains_of_middle(
    known: _Known, segment: tuple[int, ...], of_step: Sequence[int]
) -> dict[int, float]:
    """What shows that one of a step's releases is like neither end; empty if nothing may."""
    whole = difference(segment[-1], segment[0])
    expected = known.losses.value(whole) / 4
    suspects = [
        (abs(known.losses.value(combined((1, difference(i, segment[0])), (-0.5, whole)))), i)
        for i in of_step
        if i in segment[1:-1] and i in known.values
    ]
    if not suspects:
        return {}
    _, suspect = min(suspects)
    sides = _sides(segment, suspect)
    return known.gains(sides[0]) if all(known.may_show(w, expected) for w in sides) else {}


def _parted(
    known: _Known, segment: tuple[int, ...], middle: int
) -> Next | tuple[tuple[Step, ...], str]:
    """The steps on both sides of a release that is like neither end."""
    split = segment.index(middle)
    steps: tuple[Step, ...] = ()
    reasons = []
    for part in (segment[: split + 1], segment[split:]):
        found = _search(known, part)
        if isinstance(found, Next):
            return found
        steps += found[0]
        reasons.append(found[1])
    return steps, next(filter(None, reasons), "")


def _places(known: _Known, segment: tuple[int, ...]) -> np.ndarray:
    """The probability of a step between each two neighbours; shape (releases - 1,)."""
    noise, of = known.question.noise, known.losses
    counts = np.array([of.counts.get(i, 0) for i in segment], dtype=float)
    sums = counts * [of.means.get(i, 0.0) - of.means[segment[0]] for i in segment]
    before_n, before_sum = np.cumsum(counts)[:-1], np.cumsum(sums)[:-1]
    after_n, after_sum = counts.sum() - before_n, sums.sum() - before_sum
    launched = counts > 0
    between = float((sums[launched] ** 2 / counts[launched]).sum())
    explained = before_sum**2 / before_n + after_sum**2 / after_n
    found = of.found
    # What launches of one release differ by counts once, with the noise, for all segments.
    degrees, squares = found.spread.degrees_of_freedom, 0.0
    if found.assumed:
        degrees += noise.degrees_of_freedom
        squares = noise.degrees_of_freedom * noise.deviation**2
    squares += found.spread.degrees_of_freedom * found.spread.deviation**2
    squares_of_place = np.maximum(squares + between - explained, 1e-30)
    freedom = degrees + launched.sum() - 2
    logs = -0.5 * (np.log(before_n * after_n) + freedom * np.log(squares_of_place))
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def _doubt_of_size(
    known: _Known, before: int, at: int, excess: Weights, half_of_whole: float
) -> float:
    """Of a step's being more than half of the whole; 1 unless the rule calls it regressed."""
    question, terms = known.question, Terms(comparisons=len(LOOKS))
    for launches in LOOKS:
        if min(known.count(before), known.count(at)) < launches:
            break
        doubt = 2 * len(LOOKS) * known.first({before: launches, at: launches}).chance(excess)
        if doubt > DOUBT:
            continue
        tolerance = min(question.tolerance, relative(question.metric, half_of_whole))
        if known.decide(at, before, launches, terms, tolerance).verdict is Verdict.REGRESSED:
            return doubt
    return 1.0


def _middle(known: _Known, segment: tuple[int, ...]) -> int | None:
    """The release whose loss is surely neither like the first's nor like the last's."""
    found = []
    for release in segment[1:-1]:
        for launches in (look for look in LOOKS if look <= known.count(release)):
            of_look = known.first({release: launches})
            chance = max(map(of_look.chance, _sides(segment, release)))
            if chance <= _LEVEL:
                found.append((chance, release))
                break
    return min(found)[1] if found else None


def _sides(segment: tuple[int, ...], release: int) -> tuple[Weights, Weights]:
    """How far a release lies above a quarter of the change, and below three quarters."""
    low, high = segment[0], segment[-1]
    quarter = (-0.25, difference(high, low))
    return (
        combined((1, difference(release, low)), quarter),
        combined((1, difference(high, release)), quarter),
    )


def _within(segment: tuple[int, ...], places: np.ndarray) -> tuple[int, int]:
    """The fewest neighbours that hold the step but for a doubt of 1 %."""
    ranks = np.argsort(-places)
    enough = int(np.searchsorted(np.cumsum(places[ranks]), 1 - DOUBT)) + 1
    chosen = ranks[:enough]
    return segment[int(chosen.min())], segment[int(chosen.max()) + 1]
