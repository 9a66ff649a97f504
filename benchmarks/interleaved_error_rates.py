"""How often an interleaved comparison is wrong.

A run is a suite of 16 cells, J/token and tokens/s of each. Reference and candidate are launched in
pairs until every verdict is clear or five pairs are made. All of the noise between launches is that
between their periods, so that what periods show of it is in the verdict as in a real run. Seeded.

    python -m benchmarks.interleaved_error_rates --runs 10000 \\
        --json benchmarks/results/interleaved-error-rates.json
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from benchmarks import simulation
from benchmarks.simulated_runs import Scenario, simulate

DEVIATIONS = (0.005, 0.007, 0.010, 0.015, 0.020)
CHANGES = (-0.03, 0.02, 0.04, 0.06, 0.10)
CHANGED_RUNS = 4000  # of one cell
PAIRS = Scenario(paired=True)
VARIANTS: dict[str, Scenario] = {
    "noise measured, up to 5 pairs": PAIRS,
    "noise measured, up to 3 pairs": replace(PAIRS, budget=3),
    "noise measured, the machine shifts by three deviations from pair to pair": replace(
        PAIRS, drift=3.0
    ),
    "noise measured, heavy tails (Student t, 4 degrees of freedom)": replace(PAIRS, tails=4),
    "noise assumed, up to 5 pairs": replace(PAIRS, floor="assumed"),
}


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
        changed = replace(s, change=change)
        row[f"{change:+.0%}"] = float(
            simulate(changed, CHANGED_RUNS, seed, judged=1).regressed.mean()
        )
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
    arguments = simulation.options(__doc__, seed=20261124)
    tasks = [
        (name, deviation, arguments.runs // 10 if number else arguments.runs, arguments.seed)
        for number, name in enumerate(VARIANTS)
        for deviation in DEVIATIONS
    ]
    with ProcessPoolExecutor(arguments.processes) as pool:
        rows = list(pool.map(_row, tasks))
    simulation.keep(arguments, rows=rows)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
