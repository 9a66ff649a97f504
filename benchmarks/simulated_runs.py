"""Simulated runs of a suite, judged by the gate's own rule, and how often it is wrong.

A run has J/token and tokens/s of each cell, against a stored baseline or in interleaved pairs.
Launches are added as a live run adds them, until every verdict is clear or the budget is spent.
Seeded.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pytest_energy.measure import spread
from pytest_energy.measure.metric import UNDER_LOAD, Metric
from pytest_energy.measure.spread import ASSUMED_NOISE, NoiseFloor, Spread
from pytest_energy.store.noise import floor_of
from pytest_energy.verdict.rule import Case, Terms, Verdict, decide
from pytest_energy.verdict.variation import raised

CELLS = 16
# From the recordings (docs/measurements.md): tokens/s varies 1.7 times as much as J/token, against
# it.
RATE_RATIO = 1.7
RATE_CORRELATION = -0.9

Sides = dict[Metric, np.ndarray]


@dataclass(frozen=True)
class Scenario:
    """What is simulated.

    Attributes:
        deviation: of J/token between launches, relative; if several, one per cell in turn.
        cells: of the suite that share the level of false alarms.
        change: true relative change of J/token; throughput changes the other way.
        budget: launches at most.
        baseline: launches in it.
        paired: whether candidate and reference are interleaved, without a baseline.
        floor: "measured" by as many launches as give `degrees`; "alike", the same, with what the
            other cells' launches say of it; "upper", at the upper end of its 95 % interval; or
            "assumed".
        unmeasured: how many cells, the first ones, have no noise of their own.
        degrees: of freedom of the measured noise of each cell.
        tails: degrees of freedom of Student t noise between launches; None for normal noise.
        correlated: autocorrelation of successive launches at lag one (AR(1)).
        drift: standard deviation, in deviations, of a shift common to all cells: between the
            baseline's day and the run's, or from pair to pair.
        days: whether the noise was measured on as many days as it has launches, so that the drift
            is in it.
        bad_baseline: the baseline's mean lies at its 5th percentile, so that launches look dear.
    """

    deviation: tuple[float, ...] = ()
    cells: int = CELLS
    change: float = 0.0
    budget: int = 5
    baseline: int = 3
    paired: bool = False
    floor: str = "measured"
    unmeasured: int = 0
    degrees: int = 10
    tails: float | None = None
    correlated: float = 0.0
    drift: float = 0.0
    days: bool = False
    bad_baseline: bool = False

    @property
    def deviations(self) -> np.ndarray:
        """Of each cell, shape (cells, 1)."""
        return np.resize(self.deviation, self.cells)[:, None]

    @property
    def terms(self) -> Terms:
        """Of its runs."""
        return Terms(2 * self.cells, self.budget, self.paired)


@dataclass
class Rates:
    """What the runs of a scenario gave.

    Attributes:
        false_alarm, red, at_once: share of runs with a regressed cell, with one that is regressed
            or inconclusive, and with all cells green after one launch.
        regressed, passed: share of each cell's verdicts by J/token.
        launches: mean number of launches per cell.
    """

    false_alarm: float = 0.0
    red: float = 0.0
    at_once: float = 0.0
    regressed: np.ndarray = field(default_factory=lambda: np.zeros(0))
    passed: np.ndarray = field(default_factory=lambda: np.zeros(0))
    launches: float = 0.0


def simulate(s: Scenario, runs: int, seed: int, judged: int | None = None) -> Rates:
    """The rates of so many runs.

    Args:
        s: what is simulated.
        runs: of the suite.
        seed: of the draws.
        judged: how many cells, the first ones, if rates of cells alone are of interest; else all.
    """
    cells = judged or s.cells
    generator = np.random.default_rng(
        [seed, *(int(1e6 * deviation) for deviation in s.deviation), int(1e6 * (1 + s.change))]
    )
    found = Rates(regressed=np.zeros(cells), passed=np.zeros(cells))
    for _ in range(runs):
        results = _run(generator, s, cells)
        verdicts = [verdict for of_cell, _ in results for verdict in of_cell.values()]
        found.false_alarm += Verdict.REGRESSED in verdicts
        found.red += not all(verdict.green for verdict in verdicts)
        found.at_once += all(
            launches == 1 and all(verdict.green for verdict in of_cell.values())
            for of_cell, launches in results
        )
        by_energy = [of_cell[Metric.JOULES_PER_TOKEN] for of_cell, _ in results]
        found.regressed += [verdict is Verdict.REGRESSED for verdict in by_energy]
        found.passed += [verdict is Verdict.PASS for verdict in by_energy]
        found.launches += sum(launches for _, launches in results) / cells
    return Rates(*(getattr(found, name) / runs for name in Rates.__dataclass_fields__))


def _run(
    generator: np.random.Generator, s: Scenario, cells: int
) -> list[tuple[dict[Metric, Verdict], int]]:
    """Verdicts and launches of the first cells."""
    candidate = _launches(generator, s, s.budget)
    reference = _launches(generator, s, s.budget if s.paired else s.baseline)
    shift = s.drift * s.deviations * generator.standard_normal((1, s.budget if s.paired else 1))
    if s.bad_baseline:
        shift = shift + 1.645 * s.deviations / math.sqrt(s.baseline)
        for metric in UNDER_LOAD:  # the mean is fixed at its 5th percentile, the spread stays
            reference[metric] -= reference[metric].mean(axis=1, keepdims=True)
    for metric, sign in ((Metric.JOULES_PER_TOKEN, 1), (Metric.TOKENS_PER_S, -1)):
        candidate[metric] += sign * (shift + math.log1p(s.change))
        if s.paired:
            reference[metric] += sign * shift
    floors = _floors(generator, s, cells)
    # All of the noise between interleaved launches is that between their periods, which show it.
    periods = _launches(generator, s, s.budget) if s.paired else None
    sides = [{m: np.exp(side[m]).tolist() for m in UNDER_LOAD} for side in (candidate, reference)]
    return [
        _judged(
            s.terms,
            *({m: side[m][i] for m in UNDER_LOAD} for side in sides),
            {m: floors[m][i] for m in UNDER_LOAD},
            {m: periods[m][i] for m in UNDER_LOAD} if periods else {},
        )
        for i in range(cells)
    ]


def _judged(
    terms: Terms,
    candidate: Mapping[Metric, Sequence[float]],
    reference: Mapping[Metric, Sequence[float]],
    floor: Mapping[Metric, NoiseFloor],
    periods: Mapping[Metric, np.ndarray],
) -> tuple[dict[Metric, Verdict], int]:
    """One cell as a live run judges it: the verdicts, and after how many launches.

    Args:
        terms: of the run.
        candidate, reference: values by metric, one per launch.
        floor: the runner's noise.
        periods: what the periods of each pair show of a launch: a draw of its deviation.
    """
    verdicts: dict[Metric, Verdict] = {}
    look = 0
    for look in terms.looks():
        for metric in UNDER_LOAD:
            noise = floor[metric]
            if terms.paired:
                shown = Spread(float(np.sqrt(np.mean(periods[metric][:look] ** 2))), look)
                noise = raised(noise, shown)
            case = Case(
                metric=metric,
                tolerance=terms.tolerance(metric, None),
                candidate=candidate[metric][:look],
                reference=reference[metric][: look if terms.paired else None],
                noise=noise,
            )
            verdicts[metric] = decide(case, terms).verdict
        if Verdict.INCONCLUSIVE not in verdicts.values():
            break
    return verdicts, look


def _launches(generator: np.random.Generator, s: Scenario, launches: int) -> Sides:
    """Logarithms of each cell's launches about the truth, each of shape (cells, launches)."""
    energy, other = (_standard(generator, s, launches) for _ in range(2))
    rate = RATE_CORRELATION * energy + math.sqrt(1 - RATE_CORRELATION**2) * other
    return {
        Metric.JOULES_PER_TOKEN: s.deviations * energy,
        Metric.TOKENS_PER_S: RATE_RATIO * s.deviations * rate,
    }


def _standard(generator: np.random.Generator, s: Scenario, launches: int) -> np.ndarray:
    """Noise of variance one, shape (cells, launches)."""
    shape = s.cells, launches
    if s.tails is not None:
        return generator.standard_t(s.tails, shape) / math.sqrt(s.tails / (s.tails - 2))
    steps = generator.standard_normal(shape)
    for i in range(1, launches if s.correlated else 0):
        kept = s.correlated * steps[:, i - 1]
        steps[:, i] = kept + math.sqrt(1 - s.correlated**2) * steps[:, i]
    return steps


def _floors(
    generator: np.random.Generator, s: Scenario, cells: int
) -> dict[Metric, list[NoiseFloor]]:
    """The noise that the first cells are judged by."""
    if s.floor == "assumed":
        return {metric: [ASSUMED_NOISE[metric]] * cells for metric in UNDER_LOAD}
    launches = _launches(generator, s, s.degrees + 1)
    if s.days:
        shifts = s.drift * s.deviations * generator.standard_normal((1, s.degrees + 1))
        launches[Metric.JOULES_PER_TOKEN] += shifts
        launches[Metric.TOKENS_PER_S] -= RATE_RATIO * shifts
    floors = {}
    for metric in UNDER_LOAD:
        found = [
            Spread(float(deviation), s.degrees)
            for deviation in launches[metric].std(axis=1, ddof=1)
        ]
        if s.floor == "upper":
            found = [Spread(spread.deviation_interval(one)[1], s.degrees) for one in found]
        own = [None if i < s.unmeasured else one for i, one in enumerate(found)]
        floors[metric] = [
            floor_of(metric, own[i], _others(own, i) if s.floor == "alike" else [])
            for i in range(cells)
        ]
    return floors


def _others(cells: Sequence[Spread | None], i: int) -> list[Spread]:
    return [one for j, one in enumerate(cells) if one and j != i]
