"""How often the gate is wrong on a fleet of GPUs of one model, some of them unknown to the store.

GPUs differ, and differ more in some cells than in others; on a GPU that the store does not know the
reference engine is launched first. Beside it the ways that look cheaper: one factor per GPU, and
figures of other GPUs. Judged by the gate's own rule; seeded.

    python -m benchmarks.fleet_error_rates --runs 10000 \\
        --json benchmarks/results/fleet-error-rates.json
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks import simulation
from benchmarks.simulated_runs import RATE_CORRELATION
from pytest_energy.measure.metric import UNDER_LOAD, Metric
from pytest_energy.measure.spread import NoiseFloor
from pytest_energy.settings import DEFAULT_LAUNCHES
from pytest_energy.verdict.comparison import compare
from pytest_energy.verdict.rule import Terms, Verdict, on_ratio

DEVIATIONS = (0.005, 0.010, 0.020)
CELLS = (4, 16)
CHANGE = 0.04  # in one cell
DEGREES = 10  # of freedom of the noise
RATE_RATIO = 2.0  # tokens/s varies so much more between launches than J/token
# Of J/token between GPUs of one model, and in how they differ from cell to cell. tokens/s is taken
# to be the same on all.
GPU, GPU_AND_CELL = 0.03, 0.015
STORED = 5  # launches of a baseline, and of the reference at most
FIRST_REFERENCES = 2  # on a GPU that the store does not know
CELL_S, FIRST_LAUNCH_S = 37.5, 70.0  # 150 s a launch of four cells, 220 s an engine's first

WITHIN, FACTOR, POOLED, ALLOWED = "within", "factor", "pooled", "allowed"

FLEETS = (1, 8, 100)
SHARES_KNOWN = {"all": 1.0, "half": 0.5, "none": 0.0}
OTHERS = (1, 4, 50)  # GPUs that the store knows, when the run's is not among them
SEQUENCES = (  # launches of the reference on an unknown GPU
    ("1, and one more with each of the candidate", 1, True),
    ("2, and one more with each of the candidate", 2, True),
    ("3, and one more with each of the candidate", 3, True),
    ("2", 2, False),
    ("5", 5, False),
)
WAYS = {
    FACTOR: "one factor per GPU, from two launches of one cell",
    POOLED: "figures of other GPUs, as if of this one",
    ALLOWED: "figures of other GPUs, their deviation counted as noise",
}


@dataclass(frozen=True)
class Scenario:
    """Runs on one GPU of a fleet.

    Attributes:
        deviation: of J/token between launches.
        cells: of a run.
        method: what the candidate is compared with: launches on its own GPU (`WITHIN`); those on
            other GPUs, times the factor that two launches of the first cell show (`FACTOR`); the
            mean of all GPUs known, as if it were of this GPU (`POOLED`), or with the deviation
            between GPUs counted as noise (`ALLOWED`).
        is_known: whether the store has launches on this GPU.
        others: on how many others it has.
        first: launches of the reference on an unknown GPU, to begin with.
        grows: whether each further launch of the candidate comes with one of the reference.
    """

    deviation: float
    cells: int
    method: str = WITHIN
    is_known: bool = False
    others: int = 0
    first: int = FIRST_REFERENCES
    grows: bool = True

    @property
    def terms(self) -> Terms:
        """Of its runs; where GPUs count as noise, further launches on this one tell nothing."""
        return Terms(2 * self.cells, 1 if self.method == ALLOWED else DEFAULT_LAUNCHES)

    def references(self, launches: int) -> int:
        """On an unknown GPU, by so many launches of the candidate."""
        return min(self.first + (launches - 1) * self.grows, STORED)


@dataclass
class Rates:
    """What runs gave: shares of runs, and means over runs.

    Attributes:
        false_alarm, red, at_once: unchanged runs with a regressed cell, with one that is not green,
            and decided after one launch of the candidate.
        caught: of runs with +4 % in one cell, in how many that cell is regressed.
        candidate, reference: launches of unchanged runs.
        seconds: on the GPU.
    """

    false_alarm: float = 0.0
    red: float = 0.0
    at_once: float = 0.0
    caught: float = 0.0
    candidate: float = 0.0
    reference: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One cell of a run, by metric: values of launches, and the noise they are judged by."""

    candidate: Mapping[Metric, list[float]]
    reference: Mapping[Metric, list[float]]
    noise: Mapping[Metric, NoiseFloor]


def simulate(s: Scenario, runs: int, seed: int) -> Rates:
    """The rates of so many runs, each on a GPU, and with noise, of its own."""
    generator = np.random.default_rng([seed, s.cells, s.others, int(1e6 * s.deviation)])
    found = Rates()
    for _ in range(runs):
        judged = [judge(s, cell) for cell in cells_of_run(generator, s)]
        verdicts = [verdict for of_cell, _ in judged for verdict in of_cell]
        launches = [count for _, count in judged]
        references = _references(s, launches)
        found.false_alarm += Verdict.REGRESSED in verdicts
        found.red += not all(verdict.green for verdict in verdicts)
        found.at_once += max(launches) == 1
        found.candidate += max(launches)
        found.reference += max(references)
        found.seconds += CELL_S * (sum(launches) + sum(references))
        found.seconds += FIRST_LAUNCH_S * (1 + any(references))
        # The factor is taken from the first cell.
        of_last, _ = judge(s, cells_of_run(generator, s, change=CHANGE)[-1])
        found.caught += of_last[0] is Verdict.REGRESSED
    return Rates(*(value / runs for value in asdict(found).values()))


def _references(s: Scenario, launches: Sequence[int]) -> list[int]:
    """Launches of the reference that a run makes in each cell."""
    if s.is_known or s.method not in (WITHIN, FACTOR):
        return [0] * s.cells
    if s.method == FACTOR:
        return [s.first] + [0] * (s.cells - 1)
    return [s.references(count) for count in launches]


def cells_of_run(generator: np.random.Generator, s: Scenario, change: float = 0.0) -> list[Cell]:
    """The cells of a run."""
    candidate, own, pooled = (
        _launches(generator, s, count) for count in (DEFAULT_LAUNCHES, STORED, STORED)
    )
    # The run's GPU is the first.
    of_gpu = GPU * generator.standard_normal((1 + s.others, 1))
    of_gpu = of_gpu + GPU_AND_CELL * generator.standard_normal((1 + s.others, s.cells))
    energy = Metric.JOULES_PER_TOKEN
    candidate[energy] += of_gpu[0][:, None] + math.log1p(change)
    candidate[Metric.TOKENS_PER_S] -= math.log1p(change)
    own[energy] += of_gpu[0][:, None]
    reference = own
    if s.method != WITHIN:
        stored = of_gpu[0 if s.is_known else 1 :]
        root = math.sqrt(len(stored))
        reference = {m: pooled[m].mean(axis=1, keepdims=True) / root for m in UNDER_LOAD}
        reference[energy] += stored.mean(axis=0)[:, None]
    if s.method == FACTOR:
        reference[energy] += own[energy][0, : s.first].mean() - reference[energy][0]
    sides = [{m: np.exp(side[m]).tolist() for m in UNDER_LOAD} for side in (candidate, reference)]
    noise = _noise(generator, s)
    return [
        Cell(
            {m: sides[0][m][i] for m in UNDER_LOAD},
            {m: sides[1][m][i] for m in UNDER_LOAD},
            {m: noise[m][i] for m in UNDER_LOAD},
        )
        for i in range(s.cells)
    ]


def _launches(generator: np.random.Generator, s: Scenario, count: int) -> dict[Metric, np.ndarray]:
    """Logarithms about the truth, each of shape (cells, count)."""
    energy, other = generator.standard_normal((2, s.cells, count))
    rate = RATE_CORRELATION * energy + math.sqrt(1 - RATE_CORRELATION**2) * other
    return {
        Metric.JOULES_PER_TOKEN: s.deviation * energy,
        Metric.TOKENS_PER_S: RATE_RATIO * s.deviation * rate,
    }


def _noise(generator: np.random.Generator, s: Scenario) -> dict[Metric, list[NoiseFloor]]:
    """What ten degrees of freedom show of each cell's."""
    energy, rate = s.deviation, RATE_RATIO * s.deviation
    if s.method == ALLOWED:
        # A comparison takes a launch's deviation twice: for the candidate, and for the reference.
        between = math.hypot(GPU, GPU_AND_CELL) * math.sqrt(1 + 1 / (s.is_known + s.others))
        energy = math.hypot(energy, between / math.sqrt(2))
    errors = np.sqrt(generator.chisquare(DEGREES, (2, s.cells)) / DEGREES)
    return {
        metric: [NoiseFloor(true * error, DEGREES, measured=True) for error in of_metric.tolist()]
        for metric, true, of_metric in zip(UNDER_LOAD, (energy, rate), errors, strict=True)
    }


def judge(s: Scenario, cell: Cell) -> tuple[list[Verdict], int]:
    """The verdicts by J/token and tokens/s, and after how many launches of the candidate.

    As by `rule.decide`, which takes longer to say what a run detects as well.
    """
    terms, verdicts, look = s.terms, [], 0
    for look in terms.looks():
        made = s.references(look) if s.method == WITHIN and not s.is_known else STORED
        levels = terms.levels(look)
        verdicts = [
            on_ratio(
                metric,
                compare(cell.candidate[metric][:look], cell.reference[metric][:made], noise),
                terms.tolerance(metric, None),
                levels,
            )
            for metric, noise in cell.noise.items()
        ]
        if Verdict.INCONCLUSIVE not in verdicts:
            break
    return verdicts, look


def _scenarios() -> Iterator[Scenario]:
    for deviation in DEVIATIONS:
        for cells in CELLS:
            yield Scenario(deviation, cells, is_known=True)
            yield Scenario(deviation, cells)
            for _, first, grows in SEQUENCES:
                if (first, grows) != (FIRST_REFERENCES, True):
                    yield Scenario(deviation, cells, first=first, grows=grows)
    for cells in CELLS:
        for method in WAYS:
            for others in OTHERS:
                yield Scenario(DEVIATIONS[0], cells, method, others=others)


def _row(task: tuple[Scenario, int, int]) -> dict[str, Any]:
    return {"scenario": asdict(task[0]), "rates": asdict(simulate(*task))}


def tables(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown, of rows as `main` writes them."""
    found = {Scenario(**row["scenario"]): Rates(**row["rates"]) for row in rows}
    return [
        *_table("A run on one GPU", ["deviation", "cells", "GPU", *_HEADS], _of_runs(found)),
        *_table("Every GPU of a fleet runs once, 0.5 %", _FLEET_HEADS, _of_fleets(found)),
        *_table(
            "The reference on an unknown GPU",
            ["launches", "deviation", "cells", *_HEADS],
            _of_sequences(found),
        ),
        *_table(
            "What looks cheaper on an unknown GPU, 0.5 %",
            ["compared with", "other GPUs known", "cells", *_HEADS],
            _of_ways(found),
        ),
    ]


_HEADS = (
    "false alarm",
    "red",
    "after one launch",
    "+4% caught",
    "launches",
    "of the reference",
    "s",
)
_FLEET_HEADS = (
    "GPUs",
    "known",
    "cells",
    "a false alarm anywhere",
    "a red run anywhere",
    "+4% caught",
    "launches",
    "of the reference",
    "stored before",
    "GPU hours",
)


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
    return [f"### {title}", "", *lines, ""]


def _figures(rates: Rates) -> list[str]:
    shares = rates.false_alarm, rates.red, rates.at_once, rates.caught
    launches = f"{rates.candidate:.2f}", f"{rates.reference:.2f}"
    return [*(f"{share:.1%}" for share in shares), *launches, f"{rates.seconds:.0f}"]


def _of_runs(found: Mapping[Scenario, Rates]) -> Iterator[list[str]]:
    for deviation, cells, is_known in itertools.product(DEVIATIONS, CELLS, (True, False)):
        rates = found[Scenario(deviation, cells, is_known=is_known)]
        gpu = "known" if is_known else "unknown"
        yield [f"{deviation:.1%}", str(cells), gpu, *_figures(rates)]


def _of_fleets(found: Mapping[Scenario, Rates]) -> Iterator[list[str]]:
    """Runs on different GPUs share nothing, so that their rates give those of the fleet."""
    for gpus, (name, share), cells in itertools.product(FLEETS, SHARES_KNOWN.items(), CELLS):
        known = round(share * gpus)
        if known != share * gpus:
            continue
        runs = [
            found[Scenario(DEVIATIONS[0], cells, is_known=number < known)] for number in range(gpus)
        ]
        figures = (
            f"{1 - math.prod(1 - run.false_alarm for run in runs):.1%}",
            f"{1 - math.prod(1 - run.red for run in runs):.1%}",
            f"{math.fsum(run.caught for run in runs) / gpus:.1%}",
            f"{math.fsum(run.candidate for run in runs):.1f}",
            f"{math.fsum(run.reference for run in runs):.1f}",
            f"{STORED * known}",
            f"{math.fsum(run.seconds for run in runs) / 3600:.1f}",
        )
        yield [str(gpus), name, str(cells), *figures]


def _of_sequences(found: Mapping[Scenario, Rates]) -> Iterator[list[str]]:
    for deviation, cells, (name, first, grows) in itertools.product(DEVIATIONS, CELLS, SEQUENCES):
        rates = found[Scenario(deviation, cells, first=first, grows=grows)]
        yield [name, f"{deviation:.1%}", str(cells), *_figures(rates)]


def _of_ways(found: Mapping[Scenario, Rates]) -> Iterator[list[str]]:
    for cells, (method, title), others in itertools.product(CELLS, WAYS.items(), OTHERS):
        rates = found[Scenario(DEVIATIONS[0], cells, method, others=others)]
        yield [title, str(others), str(cells), *_figures(rates)]


def main() -> None:
    arguments = simulation.options(__doc__, seed=20261129)
    tasks = [(scenario, arguments.runs, arguments.seed) for scenario in _scenarios()]
    with ProcessPoolExecutor(arguments.processes) as pool:
        rows = list(pool.map(_row, tasks))
    simulation.keep(arguments, rows=rows)
    print("\n".join(tables(rows)))


if __name__ == "__main__":
    main()
