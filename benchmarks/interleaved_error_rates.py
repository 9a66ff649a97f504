"""How often an interleaved comparison is wrong: simulated pairs, judged by the gate's own code.

A run is a suite of 16 cells, J/token and tokens/s of each. Reference and candidate are launched in
pairs until every verdict is clear or five pairs are made. All of the noise between launches is that
between their periods, so that what periods show of it is in the verdict as in a real run. Seeded.

    python -m benchmarks.interleaved_error_rates --runs 10000 \\
        --json benchmarks/results/interleaved-error-rates.json
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.gate_error_rates import CELLS, Rates, Scenario, draw_floor, draw_side
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import NoiseFloor, Spread
from pytest_energy.verdict import comparison
from pytest_energy.verdict.rule import INTERLEAVED_TOLERANCE, Terms, Verdict, on_ratio
from pytest_energy.verdict.variation import raised

DEVIATIONS = (0.005, 0.007, 0.010, 0.015, 0.020)
CHANGES = (-0.03, 0.02, 0.04, 0.06, 0.10)
VARIANTS: dict[str, Scenario] = {
    "noise measured, up to 5 pairs": Scenario(()),
    "noise measured, up to 3 pairs": Scenario((), budget=3),
    "noise measured, the machine shifts by three deviations from pair to pair": Scenario(
        (), drift=3.0
    ),
    "noise measured, heavy tails (Student t, 4 degrees of freedom)": Scenario((), tails=4),
    "noise assumed, up to 5 pairs": Scenario((), floor="assumed"),
}


def judge_cell(
    candidate: dict[Metric, np.ndarray],
    reference: dict[Metric, np.ndarray],
    floor: dict[Metric, NoiseFloor],
    periods: dict[Metric, np.ndarray],
    budget: int,
) -> tuple[dict[Metric, Verdict], int]:
    """One cell as a live run judges it: the verdicts, and after how many pairs.

    Args:
        candidate, reference: values by metric, each of shape (budget,).
        floor: the runner's noise.
        periods: what the periods of each pair show of a launch: a draw of its deviation, each of
            shape (budget,).
        budget: pairs at most.
    """
    verdicts: dict[Metric, Verdict] = {}
    look = 0
    terms = Terms(2 * CELLS, budget, paired=True)
    for look in terms.looks():
        levels = terms.levels(look)
        for metric in Metric:
            shown = Spread(float(np.sqrt(np.mean(periods[metric][:look] ** 2))), look)
            noise = raised(floor[metric], shown)
            pairs = candidate[metric][:look], reference[metric][:look]
            ratio = comparison.compare_pairs(*pairs, noise)
            verdicts[metric] = on_ratio(metric, ratio, INTERLEAVED_TOLERANCE[metric], levels)
        if Verdict.INCONCLUSIVE not in verdicts.values():
            break
    return verdicts, look


def simulate(s: Scenario, runs: int, seed: int, cells: int = CELLS) -> Rates:
    """`runs` suites of `cells` cells; `drift` is common to both sides of a pair."""
    generator = np.random.default_rng(
        [seed, *(int(1e6 * deviation) for deviation in s.deviation), int(1e6 * (1 + s.change))]
    )
    deviation = s.deviation[0]
    red = alarmed = pairs = 0
    counts: Counter[Verdict] = Counter()
    for _ in range(runs):
        reference = dict(zip(Metric, draw_side(generator, s, cells, s.budget), strict=True))
        candidate = dict(zip(Metric, draw_side(generator, s, cells, s.budget), strict=True))
        periods = dict(zip(Metric, draw_side(generator, s, cells, s.budget), strict=True))
        shift = s.drift * deviation * generator.standard_normal((1, s.budget))
        for metric, sign in ((Metric.JOULES_PER_TOKEN, 1), (Metric.TOKENS_PER_S, -1)):
            reference[metric] = reference[metric] + sign * shift
            candidate[metric] = candidate[metric] + sign * (shift + math.log1p(s.change))
        run: Counter[Verdict] = Counter()
        for i in range(cells):
            floor = {metric: draw_floor(generator, s, deviation, metric) for metric in Metric}
            verdicts, used = judge_cell(
                {m: np.exp(candidate[m][i]) for m in Metric},
                {m: np.exp(reference[m][i]) for m in Metric},
                floor,
                {m: periods[m][i] for m in Metric},
                s.budget,
            )
            run.update(verdicts.values())
            counts[verdicts[Metric.JOULES_PER_TOKEN]] += 1
            pairs += used
        alarmed += run[Verdict.REGRESSED] > 0
        red += run[Verdict.REGRESSED] + run[Verdict.INCONCLUSIVE] > 0
    total = runs * cells
    return Rates(
        alarmed / runs,
        red / runs,
        counts[Verdict.REGRESSED] / total,
        counts[Verdict.PASS] / total,
        pairs / total,
    )


def _row(task: tuple[str, float, int, int]) -> dict[str, float | str]:
    name, deviation, runs, seed = task
    s = replace(VARIANTS[name], deviation=(deviation,))
    unchanged = simulate(s, runs, seed)
    row: dict[str, float | str] = {
        "variant": name,
        "deviation": deviation,
        "false_alarm": unchanged.false_alarm,
        "red_undecided": unchanged.red - unchanged.false_alarm,
        "pairs": unchanged.launches,
    }
    for change in CHANGES:
        row[f"{change:+.0%}"] = simulate(
            replace(s, change=change), max(1, runs // 2), seed, cells=1
        ).regressed
    return row


def table(rows: Sequence[dict[str, float | str]]) -> list[str]:
    """Markdown."""
    heads = [f"{change:+.0%}" for change in CHANGES]
    lines = []
    for name in VARIANTS:
        lines += [f"### Interleaved, {name}", ""]
        lines += [
            "| deviation | false alarm | red, undecided | pairs | " + " | ".join(heads) + " |",
            "|" + "---|" * (4 + len(heads)),
        ]
        for row in (row for row in rows if row["variant"] == name):
            figures = [f"{row[h]:.1%}" for h in ("deviation", "false_alarm", "red_undecided")]
            lines.append(
                "| "
                + " | ".join([*figures, f"{row['pairs']:.2f}", *(f"{row[h]:.1%}" for h in heads)])
                + " |"
            )
        lines.append("")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tasks = [
        (name, deviation, arguments.runs, arguments.seed)
        for name in VARIANTS
        for deviation in DEVIATIONS
    ]
    with ProcessPoolExecutor(arguments.processes) as pool:
        rows = list(pool.map(_row, tasks))
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"runs": arguments.runs, "seed": arguments.seed, "rows": rows}, indent=1)
            + "\n"
        )
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
