"""The rule: what decides that a cell regressed. `decide` is the way in; nothing else decides.

A cell has launches of a candidate and of a reference, which is a stored baseline or an engine
interleaved with it. In each metric the rule looks at the *loss*: the logarithm of candidate ÷
reference, turned so that more is worse.

Preconditions come first, and the first that fails is the verdict: all launches are valid (else
INVALID); latencies keep their limits, or three launches show that they do not (INCONCLUSIVE);
GPUs and power limit are the reference's (NOT_COMPARABLE); there is a reference (NO_BASELINE); and,
if interleaved, there are three pairs of launches (INCONCLUSIVE). Then:

    REGRESSED     the loss reaches the tolerance and is larger than chance makes it (alarm level)
    IMPROVED      the same for a gain
    PASS          the loss, with what chance may hide of it, is below the tolerance (miss level)
    INCONCLUSIVE  anything else; also a PASS whose launches could not show even a factor of two
    REGRESSED     whatever was found so far, if a limit of power or latency is broken

Chance is a launch's standard error times Student's t. The variance is moderated by the runner's
noise if that was measured (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1):3), unless the launches
differ far more (F test); an assumed noise makes chance no smaller: comparison.py. A *look* judges
the launches so far, and decides whether more are needed. All looks at all cells and metrics of a
run together raise a false alarm with probability 1 %, each its share of it (Bonferroni; over looks
as in Lan and DeMets 1983, Biometrika 70:659); all looks of one comparison pass a loss as large as
the tolerance with probability 5 %.
"""

import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import NoiseFloor, expm1
from pytest_energy.settings import DEFAULT_LAUNCHES, MIN_LAUNCHES
from pytest_energy.verdict.comparison import Comparison, compare, compare_pairs
from pytest_energy.verdict.detectable import smallest_detected

FALSE_ALARMS_PER_RUN = 0.01
MISSED_PER_COMPARISON = 0.05
# The part of each level that the looks before the last one spend, by number of launches; the last
# look spends the rest. A sum of levels bounds the error of all looks, however they depend.
_ALARM_SPENT = {1: 0.05, 2: 0.15, 3: 0.30}
_MISS_SPENT = {1: 0.20, 2: 0.20, 3: 0.25}

DEFAULT_TOLERANCE: Mapping[Metric, float] = {
    Metric.JOULES_PER_TOKEN: 0.03,
    Metric.TOKENS_PER_S: 0.10,
    Metric.IDLE_POWER_W: 0.10,
}
# The throughput of interleaved engines is of the same day.
INTERLEAVED_TOLERANCE: Mapping[Metric, float] = {
    Metric.JOULES_PER_TOKEN: 0.03,
    Metric.TOKENS_PER_S: 0.05,
    Metric.IDLE_POWER_W: 0.10,
}
_LATENCY_LAUNCHES = 3  # a percentile far out in the tail may be off in one launch


class Verdict(enum.Enum):
    """Only `PASS` and `IMPROVED` let a test pass."""

    PASS = "pass"
    IMPROVED = "improved"
    REGRESSED = "regressed"
    INCONCLUSIVE = "inconclusive"
    NO_BASELINE = "no baseline"
    NOT_COMPARABLE = "not comparable"
    INVALID = "invalid"

    @property
    def green(self) -> bool:
        """Whether the test passes."""
        return self in (Verdict.PASS, Verdict.IMPROVED)


@dataclass(frozen=True)
class Levels:
    """Error levels of one look at one comparison.

    Attributes:
        alarm: probability of calling an unchanged engine regressed.
        miss: probability of passing a loss as large as the tolerance.
        may_alarm: whether the look may find regressed or improved; one launch of several may not.
    """

    alarm: float
    miss: float
    may_alarm: bool = True


@dataclass(frozen=True)
class Terms:
    """What all verdicts of a run share.

    Attributes:
        comparisons: cells × metrics that the run judges.
        budget: launches at most; None to judge all launches at once.
        paired: whether candidate and reference are interleaved, in pairs of launches.
    """

    comparisons: int = 1
    budget: int | None = None
    paired: bool = False

    def tolerance(self, metric: Metric, of_test: float | None) -> float:
        """The test's own, or the default."""
        default = INTERLEAVED_TOLERANCE if self.paired else DEFAULT_TOLERANCE
        return default[metric] if of_test is None else of_test

    def looks(self, launches: int = 1) -> list[int]:
        """After how many launches a run judges that has made so many; the last look ends it."""
        first, last = MIN_LAUNCHES if self.paired else 1, max(self.budget or launches, launches)
        before = () if self.budget is None else tuple(_ALARM_SPENT)
        return [*(n for n in before if first <= n < last), last]

    def horizon(self, launches: int) -> int:
        """After how many launches the gate ends; replayed launches may be the first of a run."""
        return max(self.budget or DEFAULT_LAUNCHES, launches)

    def levels(self, launches: int) -> Levels:
        """The levels of the look after so many launches."""
        *before, last = self.looks(launches)
        if launches == last:
            alarm = 1 - math.fsum(_ALARM_SPENT[n] for n in before)
            miss = 1 - math.fsum(_MISS_SPENT[n] for n in before)
        else:
            alarm, miss = _ALARM_SPENT[launches], _MISS_SPENT[launches]
        return Levels(
            alarm=FALSE_ALARMS_PER_RUN * alarm / self.comparisons,
            miss=MISSED_PER_COMPARISON * miss,
            may_alarm=launches > 1 or launches == last,
        )


@dataclass(frozen=True)
class Case:
    """All that the rule looks at: one metric of one cell. What fails is given in words.

    Attributes:
        tolerance: the smallest loss that matters, relative.
        candidate, reference: one positive value per launch, in pairs if interleaved.
        noise: of the runner, between launches.
        faults: of the launches.
        not_comparable: why candidate and reference are not compared.
        missing: why there is no reference.
        slow, over_budget: limits of latency and of power that are broken, by name.
    """

    metric: Metric
    tolerance: float
    candidate: Sequence[float]
    reference: Sequence[float]
    noise: NoiseFloor
    faults: Sequence[str] = ()
    not_comparable: Sequence[str] = ()
    missing: Sequence[str] = ()
    slow: Mapping[str, str] = field(default_factory=dict)
    over_budget: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """A verdict and what led to it.

    Attributes:
        reasons: the precondition that failed, or the limits that are broken; one line each.
        ratio, levels: of the comparison; None if a precondition failed.
        smallest_detected: loss, relative, that the run would have called regressed in 95 % of cases
            at its last look; None if a precondition failed.
        blind: whether a gate that goes on to its horizon would miss even a factor of two.
        by_comparison: the verdict if no limit were broken.
    """

    verdict: Verdict
    by_comparison: Verdict
    reasons: tuple[str, ...] = ()
    ratio: Comparison | None = None
    levels: Levels | None = None
    smallest_detected: float | None = None
    blind: bool = False


def decide(case: Case, terms: Terms) -> Decision:
    """The verdict on a case."""
    for verdict, reasons in _preconditions(case, terms):
        if reasons:
            return Decision(verdict, verdict, tuple(reasons))
    ratio = (compare_pairs if terms.paired else compare)(case.candidate, case.reference, case.noise)
    stored = None if terms.paired else len(case.reference)
    found = of_ratio(case.metric, ratio, case.tolerance, terms, stored)
    broken = (*case.over_budget.values(), *case.slow.values())
    return replace(found, verdict=Verdict.REGRESSED, reasons=broken) if broken else found


def of_ratio(
    metric: Metric, ratio: Comparison, tolerance: float, terms: Terms, stored: int | None
) -> Decision:
    """The verdict if all preconditions hold and no limit is broken; the way in for releases.

    Args:
        metric, ratio, tolerance, terms: what is judged.
        stored: launches of the reference; None if each of the candidate brings another of them.
    """
    launches, limit = ratio.launches, tolerated(metric, tolerance)

    def detected(look: int) -> float:
        return smallest_detected(ratio, stored, limit, look, terms.levels(look).alarm)

    levels = terms.levels(launches)
    smallest = detected(terms.looks(launches)[-1])
    blind = detected(terms.horizon(launches)) > math.log(2)
    verdict = on_ratio(metric, ratio, tolerance, levels)
    if verdict is Verdict.PASS and blind:
        verdict = Verdict.INCONCLUSIVE
    return Decision(
        verdict, verdict, ratio=ratio, levels=levels, smallest_detected=expm1(smallest), blind=blind
    )


def _preconditions(case: Case, terms: Terms) -> Iterator[tuple[Verdict, Sequence[str]]]:
    """In order: the verdict if one fails, and why it does; nothing if it holds."""
    yield Verdict.INVALID, case.faults
    launches = len(case.candidate)
    few = launches < min(_LATENCY_LAUNCHES, terms.looks(launches)[-1])
    slow = "; ".join(case.slow.values()) if case.reference and few else ""
    undecided = f"{slow}; at least {_LATENCY_LAUNCHES} launches are needed to decide"
    yield Verdict.INCONCLUSIVE, [undecided] if slow else []
    yield Verdict.NOT_COMPARABLE, case.not_comparable
    yield Verdict.NO_BASELINE, case.missing
    few_pairs = f"a verdict needs {MIN_LAUNCHES} pairs of launches, {launches} so far"
    yield Verdict.INCONCLUSIVE, [few_pairs] if terms.paired and launches < MIN_LAUNCHES else []


def on_ratio(metric: Metric, ratio: Comparison, tolerance: float, levels: Levels) -> Verdict:
    """The same of one look, whether or not it is the last, even if the gate is blind."""
    worse, limit = loss(metric, ratio), tolerated(metric, tolerance)
    by_chance = ratio.bound(1 - levels.alarm)
    if levels.may_alarm and worse >= limit and worse > by_chance:
        return Verdict.REGRESSED
    if levels.may_alarm and -worse >= limit and -worse > by_chance:
        return Verdict.IMPROVED
    hidden = ratio.bound(1 - levels.miss)
    return Verdict.PASS if worse + hidden < limit else Verdict.INCONCLUSIVE


def loss(metric: Metric, ratio: Comparison) -> float:
    """The log ratio, turned so that more is worse: J/token up, tokens/s down."""
    change = math.log(ratio.value)
    return change if metric.is_cost else -change


def tolerated(metric: Metric, tolerance: float) -> float:
    """The tolerance as a loss."""
    return math.log1p(tolerance) if metric.is_cost else -math.log1p(-tolerance)
