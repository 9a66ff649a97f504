"""How often `pytest-energy bisect` names the right release, a wrong one or none, and its launches.

Each run is a search among releases whose J/token rises at a place drawn at random, by the search's
own code. Noise between launches is normal unless the row says otherwise, and known by ten degrees
of freedom. Seeded.

    python -m benchmarks.bisect_error_rates --runs 10000 \\
        --json benchmarks/results/bisect-error-rates.json
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks import simulation
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import ASSUMED_NOISE, NoiseFloor
from pytest_energy.verdict.bisection import Answer, Launched, Outcome, Question, advance
from pytest_energy.verdict.rule import DEFAULT_TOLERANCE

DEGREES = 10  # of freedom of the runner's noise
DRIFT_LAUNCHES = 20  # over which a GPU drifts
METRIC = Metric.JOULES_PER_TOKEN


@dataclass(frozen=True)
class Scenario:
    """Releases and their launches.

    Attributes:
        releases: with the good and the bad one.
        change: of J/token from the good to the bad one, relative.
        deviation: of J/token between launches.
        steps: that make the change in equal parts, at different releases; 0 for a steady rise.
        drift: of the GPU over twenty launches, relative.
        tails: degrees of freedom of Student's t; 0 if launches are normally distributed.
        unloadable: share of the releases between good and bad that cannot be launched.
        assumed: whether the noise is not measured.
    """

    releases: int = 20
    change: float = 0.07
    deviation: float = 0.005
    steps: int = 1
    drift: float = 0.0
    tails: int = 0
    unloadable: float = 0.0
    assumed: bool = False


def _rows() -> Iterator[tuple[str, Scenario]]:
    for releases in (6, 20):
        for deviation in (0.005, 0.01):
            for change in (0.03, 0.05, 0.07, 0.15):
                yield "one step", Scenario(releases, change, deviation)
    usual, noisy = Scenario(), Scenario(deviation=0.01)
    for s in (usual, noisy):
        yield "no change", replace(s, change=0.0)
        yield "two steps, half each", replace(s, steps=2)
    yield "two steps, half each", replace(usual, change=0.15, steps=2)
    yield "steady rise", replace(usual, steps=0)
    yield "one step, GPU drifts by +0.5 %", replace(usual, change=0.05, drift=0.005)
    yield "no change, GPU drifts by +0.5 %", replace(usual, change=0.0, drift=0.005)
    yield "one step, heavy tails (Student t, 4 degrees of freedom)", replace(usual, tails=4)
    yield "one step, a third do not load", replace(usual, unloadable=1 / 3)
    yield "one step, noise assumed", replace(usual, assumed=True)


ROWS = tuple(_rows())


@dataclass(frozen=True)
class Drawn:
    """The truth of a run.

    Attributes:
        losses: of each release, log scale.
        steps: the releases at which they rise.
        loads: the releases that can be launched, good and bad among them.
    """

    losses: np.ndarray
    steps: tuple[int, ...]
    loads: tuple[int, ...]


def draw(s: Scenario, rng: np.random.Generator) -> Drawn:
    """Steps at random places, all alike."""
    numbers, last = np.arange(s.releases), s.releases - 1
    rise = math.log1p(s.change)
    loads = (0, *(i for i in range(1, last) if rng.random() >= s.unloadable), last)
    if not s.change or not s.steps:
        return Drawn(rise * numbers / last, (), loads)
    steps = sorted(rng.choice(np.arange(1, s.releases), s.steps, replace=False).tolist())
    rises = [rise / s.steps * (numbers >= step) for step in steps]
    return Drawn(np.sum(rises, axis=0), tuple(steps), loads)


def search(s: Scenario, drawn: Drawn, rng: np.random.Generator) -> tuple[Answer, int]:
    """The answer, and after how many launches."""
    own = s.deviation * math.sqrt(rng.chisquare(DEGREES) / DEGREES)
    noise = ASSUMED_NOISE[METRIC] if s.assumed else NoiseFloor(own, DEGREES, measured=True)
    question = Question(METRIC, DEFAULT_TOLERANCE[METRIC], noise)
    releases, launched, failed = list(range(s.releases)), list[Launched](), 0
    while True:
        found = advance(question, releases, launched)
        if isinstance(found, Answer):
            return found, len(launched) + failed
        if found.release not in drawn.loads:
            releases.remove(found.release)
            failed += 1
            continue
        deviate = rng.standard_normal()
        if s.tails:
            deviate = rng.standard_t(s.tails) / math.sqrt(s.tails / (s.tails - 2))
        drifted = s.drift * min(1.0, len(launched) / DRIFT_LAUNCHES)
        loss = drawn.losses[found.release] + s.deviation * deviate + drifted
        launched.append(Launched(found.release, math.exp(loss)))


def kind(drawn: Drawn, answer: Answer) -> str:
    """What an answer is worth: "right", "wrong" or "cannot tell".

    Wrong is a release that did not raise J/token, and one of several that is said to be the one.
    Right is one step or each of them, a split without names if the rise is steady, and nothing to
    bisect.
    """
    named = [step for step in answer.steps if step.confidence is not None]
    held = [[at for at in drawn.steps if step.before < at <= step.at] for step in named]
    if any(len(steps) != 1 for steps in held):
        return "wrong"
    if answer.outcome is Outcome.FOUND:
        return "right" if len(drawn.steps) == 1 else "wrong"
    if answer.outcome is Outcome.SPLIT:
        complete = len(named) == len(drawn.steps) != 1
        return "right" if complete else "cannot tell"
    unchanged = not drawn.losses.any()
    return "right" if answer.outcome is Outcome.NOTHING and unchanged else "cannot tell"


def simulate(s: Scenario, runs: int, seed: int) -> dict[str, float]:
    """Shares of runs by their kind, and their launches."""
    rng = np.random.default_rng(seed)
    kinds: list[str] = []
    launches: list[int] = []
    for _ in range(runs):
        drawn = draw(s, rng)
        answer, count = search(s, drawn, rng)
        kinds.append(kind(drawn, answer))
        launches.append(count)
    return {
        **{name: kinds.count(name) / runs for name in ("right", "wrong", "cannot tell")},
        "launches": float(np.mean(launches)),
        "launches_90": float(np.quantile(launches, 0.9)),
    }


def _row(task: tuple[str, Scenario, int, int]) -> dict[str, Any]:
    title, s, runs, seed = task
    setting = {"releases": s.releases, "change": s.change, "deviation": s.deviation}
    return {"title": title, **setting, **simulate(s, runs, seed)}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown."""
    heads = (
        "releases", "J/token", "deviation", "right", "wrong", "cannot tell", "launches", "in 90 %",
    )  # fmt: skip
    lines = [f"| {' | '.join(('what', *heads))} |", "|" + "---|" * (len(heads) + 1)]
    for row in rows:
        shares = (f"{row[name]:.2%}" for name in ("right", "wrong", "cannot tell"))
        setting = str(row["releases"]), f"{row['change']:+.0%}", f"{row['deviation']:.1%}"
        launches = f"{row['launches']:.1f}", f"{row['launches_90']:.0f}"
        lines.append(f"| {' | '.join((row['title'], *setting, *shares, *launches))} |")
    return lines


def main() -> None:
    arguments = simulation.options(__doc__, seed=20261129)
    tasks = [(title, s, arguments.runs, arguments.seed) for title, s in ROWS]
    with ProcessPoolExecutor(arguments.processes) as pool:
        rows = list(pool.map(_row, tasks))
    simulation.keep(arguments, rows=rows)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
