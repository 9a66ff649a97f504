"""How often the gate is wrong against a stored baseline, and other tools on the same launches.

A run is a suite of 16 cells, J/token and tokens/s of each, unless it says otherwise. Seeded.

    pip install asv
    python -m benchmarks.gate_error_rates --runs 10000 \\
        --json benchmarks/results/gate-error-rates.json
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from benchmarks import simulation
from benchmarks.other_tools import CHANGES, OTHER_TOOLS, other_tool
from benchmarks.simulated_runs import Scenario, simulate

Row = Mapping[str, float | str]

DEVIATIONS = (0.005, 0.007, 0.010, 0.015, 0.020, 0.15)
FEWER_DEVIATIONS = (0.007, 0.010, 0.020)  # of all variants but the first
VARIANTS: dict[str, Scenario] = {
    "noise measured, up to 5 launches": Scenario(),
    "noise measured, up to 3 launches": Scenario(budget=3),
    "noise assumed, up to 5 launches": Scenario(floor="assumed"),
    "noise measured, taken at its upper limit, up to 5 launches": Scenario(floor="upper"),
    "noise measured, heavy tails (Student t, 4 degrees of freedom)": Scenario(tails=4),
    "noise measured, drift of one deviation between the days": Scenario(drift=1.0),
    "noise measured over many days, the same drift": Scenario(drift=1.0, days=True),
    "noise measured, successive launches correlated by 0.6": Scenario(correlated=0.6),
    "noise measured, baseline at its 5th percentile": Scenario(bad_baseline=True),
    "noise measured with 30 degrees of freedom, up to 5 launches": Scenario(degrees=30),
    "noise measured, up to 8 launches against a baseline of 5": Scenario(budget=8, baseline=5),
    "noise measured, up to 12 launches against a baseline of 12": Scenario(budget=12, baseline=12),
}
# How many times as noisy as the deviation of the row the first cells are.
MIXTURES: dict[str, tuple[float, ...]] = {
    "all alike": (1,) * 16,
    "one twice as noisy": (2,) + (1,) * 15,
    "eight twice as noisy": (2,) * 8 + (1,) * 8,
    "one half as noisy": (0.5,) + (1,) * 15,
}
MIXED_DEVIATIONS = (0.010, 0.020)
MIXED = Scenario(floor="alike", degrees=5)
UNMEASURED = {"measured": 0, "not measured": 1}  # the first cell's own noise
# What the default suite promises: one launch decides.
SUITE = Scenario(floor="alike", cells=4, baseline=5, degrees=8)
SUITE_DEVIATIONS = (0.003, 0.004, 0.005, 0.006)
CHANGED_RUNS = 4000  # of one cell


@dataclass(frozen=True)
class _Task:
    """One row: of a variant, of a mixture of cells, or of the default suite."""

    table: str
    name: str
    label: str
    scenario: Scenario
    runs: int
    seed: int


def _tasks(runs: int, seed: int) -> list[_Task]:
    """The first variant and the default suite have all runs, the other rows a tenth of them."""
    variants = [
        _Task(
            "variants",
            name,
            f"{deviation:.1%}",
            replace(s, deviation=(deviation,)),
            runs // 10 if number else runs,
            seed,
        )
        for number, (name, s) in enumerate(VARIANTS.items())
        for deviation in (FEWER_DEVIATIONS if number else DEVIATIONS)
    ]
    mixtures = [
        _Task(
            "mixtures",
            f"{name}, the first {own}",
            f"{deviation:.1%}",
            replace(MIXED, deviation=tuple(deviation * f for f in factors), unmeasured=unmeasured),
            runs // 10,
            seed,
        )
        for own, unmeasured in UNMEASURED.items()
        for name, factors in MIXTURES.items()
        for deviation in MIXED_DEVIATIONS
    ]
    suites = [
        _Task("suite", "", f"{d:.1%}", replace(SUITE, deviation=(d,)), runs, seed)
        for d in SUITE_DEVIATIONS
    ]
    return variants + mixtures + suites


def _row(task: _Task) -> dict[str, float | str]:
    row: dict[str, float | str] = {"table": task.table, "name": task.name, "deviation": task.label}
    of_table = {"variants": _variant, "mixtures": _mixture, "suite": _suite}[task.table]
    return row | of_table(task)


def _variant(task: _Task) -> dict[str, float]:
    unchanged = simulate(task.scenario, task.runs, task.seed)
    row = {
        "false_alarm": unchanged.false_alarm,
        "red_undecided": unchanged.red - unchanged.false_alarm,
        "launches_unchanged": unchanged.launches,
    }
    for change in (0.03, *CHANGES):
        changed = simulate(replace(task.scenario, change=change), CHANGED_RUNS, task.seed, judged=1)
        row[f"{change:+.0%}"] = float(changed.regressed[0])
        row[f"passed_{change:+.0%}"] = float(changed.passed[0])
        row[f"launches_{change:+.0%}"] = changed.launches
    return row


def _mixture(task: _Task) -> dict[str, float]:
    """By the first cell, whose noise differs from the others'."""
    lost = simulate(replace(task.scenario, change=0.03), CHANGED_RUNS, task.seed, judged=1)
    return {
        "false_alarm": simulate(task.scenario, task.runs, task.seed).false_alarm,
        "passed_+3%": float(lost.passed[0]),
    }


def _suite(task: _Task) -> dict[str, float]:
    unchanged = simulate(task.scenario, task.runs, task.seed)
    changed, lost = (
        simulate(replace(task.scenario, change=change), CHANGED_RUNS // SUITE.cells, task.seed)
        for change in (0.04, 0.03)
    )
    return {
        "at_once": unchanged.at_once,
        "green": 1 - unchanged.red,
        "false_alarm": unchanged.false_alarm,
        "+4%": float(changed.regressed.mean()),
        "launches_+4%": changed.launches,
        "passed_+3%": float(lost.passed.mean()),
    }


def _other_row(task: tuple[str, float, float, int, int]) -> list[dict[str, float | str]]:
    return [
        {"tool": task[0], "deviation": task[1], "correlated": task[2], **row}
        for row in other_tool(*task)
    ]


def tables(ours: Sequence[Row], others: Sequence[Row]) -> list[str]:
    """Markdown."""
    by_table = {name: [row for row in ours if row["table"] == name] for name in _TABLES}
    lines = []
    for name, (make, title) in _TABLES.items():
        for of in dict.fromkeys(str(row["name"]) for row in by_table[name]) if not title else [""]:
            of_table = [row for row in by_table[name] if title or row["name"] == of]
            lines += [f"### {title or of[0].upper() + of[1:]}", "", *make(of_table), ""]
    return [*lines, *_others(others)]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _percent(row: Row, *names: str) -> list[str]:
    return [f"{row[name]:.1%}" for name in names]


def _variant_table(rows: Sequence[Row]) -> list[str]:
    heads = [f"{change:+.0%}" for change in CHANGES]
    texts = [
        [
            str(row["deviation"]),
            *_percent(row, "false_alarm", "red_undecided"),
            f"{row['launches_unchanged']:.2f}",
            *_percent(row, *heads, "passed_+3%", "passed_+4%"),
            f"{row['launches_+4%']:.2f}",
        ]
        for row in rows
    ]
    first = ["deviation", "false alarm", "red, undecided", "launches"]
    return _table([*first, *heads, "+3% passed", "+4% passed", "launches at +4%"], texts)


def _mixture_table(rows: Sequence[Row]) -> list[str]:
    names = "false_alarm", "passed_+3%"
    heads = ["cells", "deviation", "false alarm", "+3% passed in the first cell"]
    texts = [[str(row["name"]), str(row["deviation"]), *_percent(row, *names)] for row in rows]
    return _table(heads, texts)


def _suite_table(rows: Sequence[Row]) -> list[str]:
    heads = ["deviation", "green after one launch", "green", "false alarm", "+4% caught"]
    texts = [
        [
            str(row["deviation"]),
            *_percent(row, "at_once", "green", "false_alarm", "+4%"),
            f"{row['launches_+4%']:.2f}",
            *_percent(row, "passed_+3%"),
        ]
        for row in rows
    ]
    return _table([*heads, "launches at +4%", "+3% passed"], texts)


def _others(rows: Sequence[Row]) -> list[str]:
    heads = [f"{change:+.0%}" for change in CHANGES]
    lines = []
    for correlated in sorted({float(row["correlated"]) for row in rows}):
        title = f"Other tools, three launches a side, cycles correlated by {correlated:g}"
        texts = [
            [
                str(row["tool"]),
                f"{row['factor']:.3f}",
                *_percent(row, "deviation", "false_alarm", *heads),
            ]
            for row in rows
            if row["correlated"] == correlated
        ]
        heads_of_tools = ["tool", "fails above", "deviation", "false alarm", *heads]
        lines += [f"### {title}", "", *_table(heads_of_tools, texts), ""]
    return lines


# Without a title there is one table for each name.
_TABLES = {
    "variants": (_variant_table, ""),
    "mixtures": (_mixture_table, "Cells that differ, noise measured on each"),
    "suite": (_suite_table, "A suite of four cells, a baseline of five launches"),
}


def main() -> None:
    arguments = simulation.options(__doc__, seed=20261123)
    other_tasks = [
        (name, deviation, correlated, 2 * arguments.runs, arguments.seed)
        for correlated in (0.0, 0.5)
        for name in OTHER_TOOLS
        for deviation in DEVIATIONS
    ]
    with ProcessPoolExecutor(arguments.processes) as pool:
        ours = list(pool.map(_row, _tasks(arguments.runs, arguments.seed)))
        others = [row for rows in pool.map(_other_row, other_tasks) for row in rows]
    simulation.keep(arguments, ours=ours, others=others)
    print("\n".join(tables(ours, others)))


if __name__ == "__main__":
    main()
