"""How often the gate is wrong: simulated launches, judged by the gate's own code.

A run is a suite of 16 cells, each with a baseline of three launches and a number of new ones. Launches of a cell
vary lognormally by the given deviation, the same for all cells; the gate assumes its floor. Seeded.

    python benchmarks/gate_error_rates.py --runs 10000
"""

import argparse
from collections import Counter
from collections.abc import Sequence

import numpy as np

from pytest_energy import gate, statistics
from pytest_energy.gate import Metric, Verdict
from pytest_energy.statistics import NoiseFloor

CELLS = 16
BASELINE_LAUNCHES = 3
FLOOR_DEGREES = 10
DEVIATIONS = (0.005, 0.007, 0.010, 0.015, 0.020, 0.15)
CHANGES = (0.02, 0.04, 0.06, 0.10, 0.30)


def verdicts(
    generator: np.random.Generator, deviation: float, change: float, launches: int, cells: int, tails: float | None, measured_floor: bool
) -> Counter[Verdict]:
    """Verdicts on `cells` independent cells whose J/token changed by `change`.

    Args:
        tails: degrees of freedom of Student t noise, None for normal noise.
        measured_floor: whether the gate's floor is the true deviation, as if measured with ten degrees of freedom.
    """

    def launched(count: int) -> np.ndarray:
        shape = (cells, count)
        heavy = tails is not None
        noise = generator.standard_t(tails, shape) / np.sqrt(tails / (tails - 2)) if heavy else generator.standard_normal(shape)
        return np.exp(deviation * noise)

    old, new = launched(BASELINE_LAUNCHES), launched(launches) * (1 + change)
    floor = NoiseFloor(deviation, FLOOR_DEGREES) if measured_floor else gate.FLOOR[Metric.JOULES_PER_TOKEN]
    tolerance = gate.DEFAULT_TOLERANCE[Metric.JOULES_PER_TOKEN]
    counts: Counter[Verdict] = Counter()
    for a, b in zip(new, old, strict=True):
        counts[gate.compare(Metric.JOULES_PER_TOKEN, statistics.compare(a, b, floor), tolerance, CELLS)[0]] += 1
    return counts


def share(counts: Counter[Verdict], *wanted: Verdict) -> float:
    return sum(counts[verdict] for verdict in wanted) / counts.total()


def rows(runs: int, launches: Sequence[int], seed: int, tails: float | None, measured_floor: bool) -> list[str]:
    """A Markdown table; one row per deviation and number of launches."""
    heading = "| deviation | launches | suite of 16, unchanged: false alarm | red for want of certainty | "
    lines = [heading + " | ".join(f"+{change:.0%} caught" for change in CHANGES) + " |"]
    lines.append("|" + "---|" * (4 + len(CHANGES)))
    for deviation in DEVIATIONS:
        for count in launches:
            generator = np.random.default_rng(seed)
            # Cells are independent, so a suite's rate follows from the cells'.
            unchanged = verdicts(generator, deviation, 0.0, count, runs, tails, measured_floor)
            alarm = 1 - (1 - share(unchanged, Verdict.REGRESSED)) ** CELLS
            red = 1 - (1 - share(unchanged, Verdict.REGRESSED, Verdict.INCONCLUSIVE)) ** CELLS
            caught = [share(verdicts(generator, deviation, c, count, runs // 4, tails, measured_floor), Verdict.REGRESSED) for c in CHANGES]
            figures = " | ".join(f"{value:.1%}" for value in (alarm, red - alarm, *caught))
            lines.append(f"| {deviation:.1%} | {count} | {figures} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--launches", type=int, nargs="+", default=[1, 3, 6])
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--tails", type=float, help="heavy tails: Student t noise with so many degrees of freedom, same deviation")
    parser.add_argument("--measured-floor", action="store_true", help="the gate knows the runner's noise instead of assuming it")
    arguments = parser.parse_args()
    print("\n".join(rows(arguments.runs, arguments.launches, arguments.seed, arguments.tails, arguments.measured_floor)))


if __name__ == "__main__":
    main()
