"""The terminal's table: one row per cell, 80 columns, nothing unclear about which metric failed."""

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.measure.metric import UNDER_LOAD
from pytest_energy.measure.spread import NoiseFloor, Spread
from pytest_energy.plugin import outcome
from pytest_energy.report import noise_table, rows, words
from pytest_energy.report.rows import Row
from pytest_energy.report.table import table
from pytest_energy.store.noise import ASSUMED, Noise

ENERGY = Row(
    cell="tiny bs=8 64/250",
    key="tiny-8",
    metric="joules_per_token",
    verdict="pass",
    green=True,
    joules_per_token=0.4126,
    joules_per_token_half_width=0.008,
    power_w=471.0,
    tokens_per_s=1142.0,
    change=-0.005,
    change_half_width=0.009,
    detects=0.041,
    engines="vLLM 2 against the baseline's vLLM 1",
    on="GPU X (GPU-1)",
    launches=1,
    reference_launches=5,
    measured_s=20.0,
)
RATE = replace(ENERGY, metric="tokens_per_s", change=-0.125, change_half_width=0.015, detects=0.115)


def lines(*found: Row) -> list[str]:
    return [line for line, _ in table(found)]


def of_cell(name: str, *found: Row) -> list[Row]:
    return [replace(row, cell=name, key=name) for row in found]


def test_a_cell_has_one_row_with_both_metrics() -> None:
    assert lines(ENERGY, RATE) == [
        "cell    J/token  change, %  tokens/s   change, %    W  verdict  detects, %",
        "tiny 64/250",
        "  bs=8   0.4126  -0.5 ±0.9     1,142  -12.5 ±1.5  471  pass     +4.1 -10.3",
    ]
    assert lines(RATE, ENERGY) == lines(ENERGY, RATE)
    assert lines(RATE)[-1].split() == [
        *("bs=8", "0.4126", "1,142", "-12.5", "±1.5", "471", "pass", "-10.3")
    ]


def test_columns_without_a_figure_are_left_out() -> None:
    created = {"verdict": "created", "change": None, "change_half_width": None, "detects": None}
    assert lines(replace(ENERGY, **created), replace(RATE, **created)) == [
        "cell          J/token  tokens/s    W  verdict",
        "tiny 64/250",
        "  bs=8  0.4126 ±0.8 %     1,142  471  created",
    ]
    invalid = Row("tiny bs=8 64/250", "joules_per_token", "invalid", green=False)
    assert lines(invalid) == ["cell    verdict", "tiny 64/250", "  bs=8  invalid"]


@pytest.mark.parametrize(
    ("of_energy", "of_rate", "shown"),
    [
        ("pass", "regressed", "regressed"),
        ("regressed", "improved", "regressed"),
        ("inconclusive", "pass", "inconclusive"),
        ("improved", "pass", "improved"),
        ("not comparable", "invalid", "invalid"),
    ],
)
def test_the_worse_verdict_is_the_rows_and_a_line_below_says_which_metric_has_which(
    of_energy: str, of_rate: str, shown: str
) -> None:
    energy, rate = replace(ENERGY, verdict=of_energy), replace(RATE, verdict=of_rate)
    *_, row, below = lines(energy, rate)
    assert f" {shown}" in row
    assert below == f"    J/token {of_energy}, tokens/s {of_rate}"
    alone = table([replace(energy, green=False), replace(rate, green=False)])
    markup = alone[-1][1]
    if shown == "inconclusive":
        assert markup == {"yellow": True}
    else:
        assert markup["red"]
        assert markup["bold"] is (shown in ("regressed", "improved"))


def test_the_order_of_verdicts_is_that_of_the_exit_statuses() -> None:
    assert words.PRECEDENCE[: len(outcome.STATUSES)] == tuple(outcome.STATUSES)


def test_two_cells_of_one_name_keep_their_rows_apart() -> None:
    other = [replace(row, key="other", power_w=500.0) for row in (ENERGY, RATE)]
    shown = lines(ENERGY, other[0], RATE, other[1])
    assert [len(re.findall(f" {power_w} ", line)) for line in shown for power_w in (471, 500)][
        -4:
    ] == [1, 0, 0, 1]
    assert len(lines(ENERGY, ENERGY)) == 4  # a test that ran on two workers


@pytest.mark.parametrize(
    "names",
    [
        ["tiny"],
        ["llama-3.1-8b"],
        ["meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-30B-A3B-Instruct-2507 server fp8 tp=4"],
    ],
)
def test_80_columns_are_enough_for_every_verdict_of_every_name(names: Sequence[str]) -> None:
    verdicts = ["pass", "inconclusive", "regressed", "no baseline"]
    wide = {"change": -0.231, "change_half_width": 0.111}
    found = [
        replace(row, verdict=verdict, detects=0.159 if verdict == "pass" else None)
        for name in names
        for size, verdict in zip((1, 8, 64, 256), verdicts, strict=True)
        for row in of_cell(
            f"{name} bs={size} 512/256",
            replace(ENERGY, joules_per_token=0.09313, tokens_per_s=12563.0),
            replace(RATE, joules_per_token=0.09313, tokens_per_s=12563.0, **wide),
        )
    ]
    shown = lines(*found)
    assert max(map(len, shown)) <= 80
    assert [line.split()[0] if line.startswith("  ") else line for line in shown[1:]] == [
        line for name in names for line in (f"{name} 512/256", "bs=1", "bs=8", "bs=64", "bs=256")
    ]


def test_what_ran_is_said_once_and_by_cell_only_if_cells_differ() -> None:
    big = of_cell("tiny bs=64 64/250", replace(ENERGY, launches=3, measured_s=40.4))
    assert rows.ran_lines([ENERGY, RATE, *big]) == [
        "vLLM 2 against the baseline's vLLM 1: 1 to 3 launches against 5, 60 s under load "
        "on GPU X (GPU-1)"
    ]
    elsewhere = replace(big[0], on="GPU Y (GPU-2)", reference_launches=0)
    assert rows.ran_lines([ENERGY, RATE, elsewhere])[1] == (
        "vLLM 2 against the baseline's vLLM 1: 3 launches, 40 s under load on GPU Y (GPU-2) "
        "(tiny bs=64 64/250)"
    )
    paired = replace(ENERGY, paired=True, engines="candidate vLLM 2, reference vLLM 1", launches=3)
    assert rows.ran_lines([paired]) == [
        "candidate vLLM 2, reference vLLM 1: 3 pairs, 20 s under load on GPU X (GPU-1)"
    ]
    assert rows.ran_lines([Row("tiny bs=8 64/250", "joules_per_token", "invalid", False)]) == []


def rests_on(row: Row, deviation: float, kind: str, detail: str = "") -> Row:
    noise = NoiseFloor(deviation, 10, kind=kind, detail=detail)
    return replace(row, noise=noise.source, noise_deviation=noise.deviation, noise_kind=noise.kind)


def test_noise_of_several_sources_takes_one_line_and_names_cells_only_if_some_is_assumed() -> None:
    big, huge = (of_cell(f"tiny bs={size} 64/250", ENERGY)[0] for size in (64, 256))
    one = rests_on(ENERGY, 0.004, "measured", " on this cell, 6 degrees of freedom")
    assert noise_table.noise_lines([one]) == [
        "noise of J/token between launches: 0.40 % measured on this cell, 6 degrees of freedom"
    ]
    other = rests_on(big, 0.0125, "measured", " on this cell")
    assert noise_table.noise_lines([one, other]) == [
        "noise of J/token between launches: 0.40 to 1.25 % measured"
    ]
    assumed = [rests_on(row, 0.01, ASSUMED, f", {row.cell}") for row in (ENERGY, huge)]
    of_rate = rests_on(RATE, 0.02, "by these launches' periods")
    assert noise_table.noise_lines([*assumed, other, of_rate]) == [
        "noise of J/token between launches: 1.00 % assumed (tiny bs=8,256 64/250); "
        "1.25 % measured (tiny bs=64 64/250)",
        "noise of tokens/s between launches: 2.00 % by these launches' periods",
        "an assumed noise takes more launches to raise an alarm: run pytest-energy noise",
    ]


def test_a_runners_noise_takes_80_columns(cell: Cell) -> None:
    cells = [replace(cell, batch_size=size) for size in (1, 8, 256)]
    known = Noise(13, Spread(0.0086, 11), Spread(0.0278, 39), (0.98, 1.02))
    lines = noise_table.noise_table(
        [(cell, metric, known) for cell in cells for metric in UNDER_LOAD], 8
    )
    assert max(map(len, "\n".join(lines).splitlines())) <= 80
    assert [line.split()[:3] for line in lines if line.startswith("  bs=256")] == [
        ["bs=256", "J/token", "13"],
        ["bs=256", "tokens/s", "13"],
    ]


def test_what_workers_measured_on_gpus_of_their_own_is_not_merged() -> None:
    """As under pytest-xdist, where a worker has a GPU and measures the cell for its metric."""
    other = replace(RATE, on="GPU X (GPU-2)", joules_per_token=0.5, tokens_per_s=900.0)
    table = [line.split() for line in lines(ENERGY, other) if line.startswith("  bs=8")]
    assert [row[1:3] for row in table] == [["0.4126", "-0.5"], ["0.5000", "-"]]
    assert "900" in table[1]
    both = lines(ENERGY, other, replace(RATE, verdict="regressed", green=False))
    assert len([line for line in both if line.startswith("  bs=8")]) == 2
    assert "    J/token pass, tokens/s regressed" in both
