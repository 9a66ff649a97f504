"""The verdicts on releases, each against the one before, the first, and the best so far.

The best is the one with the least J/token so far on the GPU, all under the same settings. As the
data choose it, the error level is shared by all pairs of releases. A GPU that has not launched the
release before, or the first, has no step from it; nor one from the best if others know more of the
earlier releases. Verdicts are the rule's (verdict/rule.py): over the GPUs, if three or more have
launched both releases, by how ratios scatter over them (release_noise.py), and on each GPU for
itself.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_energy.cell.key import CellKey
from pytest_energy.measure.metric import UNDER_LOAD, Metric
from pytest_energy.measure.spread import geometric_mean
from pytest_energy.report import release_noise
from pytest_energy.report.release_noise import (
    MIN_BLOCKS,
    POWER,
    QUANTITIES,
    Gpus,
    Launches,
    Stored,
    values,
)
from pytest_energy.report.words import PRECEDENCE
from pytest_energy.store.baseline import Baseline
from pytest_energy.verdict.comparison import Comparison
from pytest_energy.verdict.judge import judge
from pytest_energy.verdict.judgement import NO_LIMITS, Judgement
from pytest_energy.verdict.rule import Terms, of_ratio

ROLES = ("before", "first", "best so far")
_ENERGY = Metric.JOULES_PER_TOKEN


@dataclass(frozen=True)
class Step:
    """A release against an earlier one, in one cell on one GPU, or over several.

    Attributes:
        over: the GPUs.
        roles: of the earlier one, of ROLES.
        judgements: by metric.
        power: release ÷ earlier one, of mean power.
        comparisons: verdicts that share the error level.
        assumed: metrics of which neither these launches nor others tell the noise.
    """

    cell: CellKey
    release: str
    against: str
    over: tuple[Gpus, ...]
    roles: tuple[str, ...]
    judgements: Mapping[Metric, Judgement]
    power: float
    comparisons: int
    assumed: frozenset[Metric] = frozenset()


def mean_ratio(steps: Sequence[Step], metric: Metric) -> float:
    """The change that steps show, over their GPUs."""
    ratios = [step.judgements[metric].ratio for step in steps]
    return geometric_mean([ratio.value for ratio in ratios if ratio is not None])


def first_verdict(steps: Sequence[Step], metric: Metric) -> tuple[str, int]:
    """The first of the steps' verdicts in the order of PRECEDENCE, and how many have it."""
    verdicts = [step.judgements[metric].verdict.value for step in steps]
    first = min(verdicts, key=PRECEDENCE.index)
    return first, verdicts.count(first)


def chains(releases: Iterable[str]) -> list[list[str]]:
    """Releases under the same settings, in order: only these are steps."""
    found: dict[str, list[str]] = {}
    for release in releases:
        found.setdefault(release.partition(" ")[2], []).append(release)
    return list(found.values())


def steps(
    cells: Mapping[CellKey, Launches], releases: Sequence[str], stored: Stored
) -> tuple[tuple[Step, ...], tuple[Step, ...], int]:
    """All steps.

    Args:
        cells: launches of each cell.
        releases: in order.
        stored: further launches that the noise follows from.

    Returns:
        Those on each GPU; those over the GPUs; and how many verdicts share the error level if
        releases are compared over GPUs where they can be.
    """
    found = [
        (key, chain)
        for key, of_cell in cells.items()
        for chain in chains([name for name in releases if name in of_cell])
    ]
    on_gpus = [
        (key, gpus, [name for name in chain if gpus in cells[key][name]], chain)
        for key, chain in found
        for gpus in sorted({gpus for by_gpus in cells[key].values() for gpus in by_gpus})
    ]
    alone = len(UNDER_LOAD) * sum(math.comb(len(made), 2) for _, _, made, _ in on_gpus)
    shown = len(UNDER_LOAD) * sum(
        1 if len(on) >= MIN_BLOCKS else len(on)
        for key, chain in found
        for on in _pairs(chain, cells[key])
    )
    return (
        tuple(step for of in on_gpus for step in _on_gpu(*of, cells, stored, Terms(max(1, alone)))),
        tuple(step for of in found for step in _over(*of, cells, Terms(max(1, shown)))),
        shown,
    )


def _pairs(chain: Sequence[str], of_cell: Launches) -> Iterator[list[Gpus]]:
    """Of each two releases, as the data choose the best, the GPUs that have launched both."""
    for release, other in itertools.combinations(chain, 2):
        yield _both(of_cell[release], of_cell[other])


def _both(release: Collection[Gpus], other: Collection[Gpus]) -> list[Gpus]:
    """The GPUs that have launched both."""
    return sorted(set(release) & set(other))


def _most_earlier(chain: Sequence[str], of_cell: Launches) -> list[int]:
    """How many of the releases before each the GPU has launched that has launched most of them."""
    return [
        max(sum(gpus in of_cell[name] for name in chain[:number]) for gpus in of_cell[release])
        for number, release in enumerate(chain)
    ]


def _against(
    chain: Sequence[str], energy: Mapping[str, float], most: Sequence[float]
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Each release with the earlier ones that it is compared with, and their roles.

    Args:
        chain: all releases.
        energy: J/token of those that were launched.
        most: of each, as many of the earlier ones must have been launched to know the best.
    """
    for number, release in enumerate(chain[1:], 1):
        earlier = [name for name in chain[:number] if name in energy]
        if release not in energy or not earlier:
            continue
        best = min(earlier, key=energy.__getitem__) if len(earlier) == most[number] else None
        in_roles = chain[number - 1], chain[0], best
        for against in dict.fromkeys(name for name in in_roles if name in earlier):
            roles = (role for role, of in zip(ROLES, in_roles, strict=True) if of == against)
            yield release, against, tuple(roles)


def _on_gpu(
    key: CellKey,
    gpus: Gpus,
    launched: Sequence[str],
    chain: Sequence[str],
    cells: Mapping[CellKey, Launches],
    stored: Stored,
    terms: Terms,
) -> Iterator[Step]:
    made = {release: cells[key][release][gpus] for release in launched}
    energy = {name: geometric_mean(values(_ENERGY.value, of)) for name, of in made.items()}
    for release, against, roles in _against(chain, energy, _most_earlier(chain, cells[key])):
        judged = (release, gpus), (against, gpus)
        noise = {m: release_noise.floor(m.value, key, cells, stored, judged) for m in UNDER_LOAD}
        candidate, baseline = made[release], Baseline.of(made[against])
        power = [geometric_mean(values(POWER, side)) for side in (candidate, made[against])]
        alone = len(candidate) == len(made[against]) == 1
        judgements = {m: judge(m, candidate, baseline, NO_LIMITS, terms, noise) for m in UNDER_LOAD}
        yield Step(
            key,
            release,
            against,
            (gpus,),
            roles,
            judgements,
            power[0] / power[1],
            terms.comparisons,
            frozenset(m for m, found in noise.items() if alone and not found.measured),
        )


def _over(
    key: CellKey, chain: Sequence[str], cells: Mapping[CellKey, Launches], terms: Terms
) -> Iterator[Step]:
    of_cell = cells[key]
    energy, comparable = release_noise.effects(_ENERGY.value, of_cell)
    most = range(len(chain)) if comparable else [math.inf] * len(chain)  # then none is the best
    for release, against, roles in _against(chain, energy, most):
        on = _both(of_cell[release], of_cell[against])
        if len(on) < MIN_BLOCKS:
            continue
        change = {
            name: geometric_mean(
                [
                    geometric_mean(values(name, of_cell[release][gpus]))
                    / geometric_mean(values(name, of_cell[against][gpus]))
                    for gpus in on
                ]
            )
            for name in QUANTITIES
        }
        judgements = {
            m: _judged(m, change[m.value], key, cells, len(on), terms) for m in UNDER_LOAD
        }
        yield Step(
            key, release, against, tuple(on), roles, judgements, change[POWER], terms.comparisons
        )


def _judged(
    metric: Metric,
    change: float,
    key: CellKey,
    cells: Mapping[CellKey, Launches],
    gpus: int,
    terms: Terms,
) -> Judgement:
    """The rule on a change over GPUs, each of which stands for a launch of both releases."""
    scatter = release_noise.of_blocks(metric.value, key, cells)
    assert scatter is not None  # with three GPUs that have launched both
    ratio = Comparison(change, gpus, math.sqrt(2 / gpus), scatter.spread, scatter.assumed)
    tolerance = terms.tolerance(metric, None)
    decision = of_ratio(metric, ratio, tolerance, terms, gpus)
    return Judgement(
        metric=metric,
        verdict=decision.verdict,
        tolerance=tolerance,
        reasons=(),
        ratio=ratio,
        smallest_detected=decision.smallest_detected,
        blind=decision.blind,
    )
