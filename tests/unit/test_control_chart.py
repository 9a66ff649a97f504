"""The chart of a GPU's reference launches: when it alarms, and what it is made of."""

import datetime
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.chart_error_rates import VARIANTS, detection, false_alarms
from pytest_energy.cell.cell import Cell
from pytest_energy.measure.control_chart import MIN_POINTS, Point, chart, step
from pytest_energy.measure.measurement import Measurement
from pytest_energy.report import gpu_chart
from pytest_energy.store import gpu_launches
from tests import simulated
from tests.unit.figures import environment, measurement

NOW = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
NOISE = np.random.default_rng(5).normal(0, 0.004, 100)


def points(count: int, shift: float = 0.0, start: int = 0, names: str = "ab") -> list[Point]:
    """A launch a day; cells differ in level, not in noise."""
    return [
        Point(
            f"day {start + n}",
            {name: ord(name) + float(NOISE[start + n]) + shift for name in names},
        )
        for n in range(count)
    ]


def test_an_unchanged_gpu_stays_in_its_band() -> None:
    found = chart(points(100))
    assert (found.points, found.alarm, found.is_out) == (100, None, False)


def test_before_nine_launches_nothing_is_out() -> None:
    assert not chart([*points(MIN_POINTS - 1), *points(1, 0.5, start=7)]).is_out


def test_a_step_is_found_by_its_second_launch_and_one_odd_launch_is_not() -> None:
    before = points(20)
    odd = [*before, *points(1, 0.05, start=20)]
    assert chart(odd).alarm is None
    assert chart([*odd, *points(20, start=21)]).alarm is None
    found = chart([*odd, *points(1, 0.05, start=21)])
    assert found.alarm is not None
    assert found.is_out
    assert (found.alarm.date, found.alarm.drift, found.points) == ("day 21", False, 0)
    assert found.alarm.departure == pytest.approx(0.05, abs=0.005)


def test_a_slow_drift_is_found_with_its_direction() -> None:
    drifting = [points(1, -0.0008 * n, start=30 + n)[0] for n in range(30)]
    found = chart([*points(30), *drifting]).alarm
    assert found is not None
    assert found.drift
    assert found.departure < -0.004


def test_after_an_alarm_eight_launches_make_a_new_band() -> None:
    left = [*points(20), *points(2, 0.05, start=20)]
    assert chart([*left, *points(7, 0.05, start=22)]).is_out
    back = chart([*left, *points(8, 0.05, start=22)])
    assert (back.points, back.is_out) == (8, False)
    assert back.alarm is not None


def test_other_cells_are_no_departure() -> None:
    """Neither with a subset of the cells, nor with one that was never measured."""
    mixed = [*points(10), *points(10, start=10, names="a"), *points(10, start=20, names="bc")]
    assert chart(mixed).alarm is None
    assert chart([*points(10), *points(3, 0.5, start=10, names="d")]).alarm is None


def test_launches_that_agree_by_luck_make_no_narrow_band() -> None:
    alike = [Point(str(n), {"a": 0.0}) for n in range(20)]
    assert chart([*alike, *[Point("late", {"a": 0.002})] * 2]).alarm is None


@pytest.mark.parametrize("name", ["four cells", *list(VARIANTS)[-2:]])
def test_an_unchanged_gpu_seldom_alarms(name: str) -> None:
    """With the error of the band itself, with heavy tails, and if runs differ as launches do."""
    assert false_alarms(VARIANTS[name], 100, 1, seed=1)[0] <= 0.03


def test_one_percent_is_found_within_a_month() -> None:
    assert detection(VARIANTS["four cells"], 0.01, False, 40, seed=2)["found"] == 1.0


def test_a_step_has_the_interval_of_two_samples() -> None:
    before, after = points(6), points(4, 0.02, start=6)
    found = step(before, after)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    x, y = NOISE[:6], NOISE[6:10] + 0.02
    pooled = (((x - x.mean()) ** 2).sum() + ((y - y.mean()) ** 2).sum()) / 8
    half = 2.306 * math.sqrt(pooled * (1 / 6 + 1 / 4))
    change = y.mean() - x.mean()
    assert [found.ratio, found.low, found.high] == pytest.approx(
        np.exp([change, change - half, change + half]), rel=1e-4
    )
    assert (found.before, found.after) == (6, 4)


def test_a_step_needs_a_common_cell_and_three_launches_for_an_interval() -> None:
    assert step(points(3, names="a"), points(3, names="b")) is None
    single = step(points(1), points(1, start=1))
    assert single is not None
    assert (single.low, single.high) == (None, None)


def measured(
    cell: Cell, number: int, joules_per_token: float = 0.5, **known: object
) -> Measurement:
    """A launch a day."""
    date = NOW - datetime.timedelta(days=400 - number)
    known = {"date": date.isoformat(), "driver": "580", **known}
    return measurement(
        cell, f"launch-{number:03}", joules_per_token, environment=environment(**known)
    )


def test_lines_are_bounded_and_keep_the_newest(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_launches, "MOST_LINES", 5)
    for number in range(8):
        gpu_launches.append(tmp_path, measured(cell, number), NOW)
    gpu_launches.append(tmp_path, measured(cell, 7), NOW)
    found = gpu_launches.read(tmp_path, None, NOW).lines
    assert [line.launch_id for line in found] == [f"launch-00{n}" for n in range(3, 8)]
    assert [path.name for path in tmp_path.iterdir()] == ["launches.jsonl"]


@pytest.mark.parametrize(
    "hostile",
    [
        b"", b"{", b"[]", b"\xff\xfe", b"[" * 5000, b'{"date": 1}', "no date", "future", "negative",
        "other gpu", "unknown field", "huge",
    ],
)  # fmt: skip
def test_hostile_lines_are_passed_over(cell: Cell, tmp_path: Path, hostile: bytes | str) -> None:
    gpu_launches.append(tmp_path, measured(cell, 1), NOW)
    path = tmp_path / gpu_launches.NAME
    good = path.read_bytes()
    bad = {**json.loads(good), "launch_id": "bad"}
    bad |= {
        "no date": {"date": "soon"},
        "future": {"date": "2099-01-01T00:00:00+00:00"},
        "negative": {"joules_per_token": -1},
        "other gpu": {"gpus": ["GPU-other"]},
        "unknown field": {"more": 1},
        "huge": {"joules_per_token": 1e300},
    }.get(str(hostile), {})
    line = hostile if isinstance(hostile, bytes) else json.dumps(bad).encode()
    path.write_bytes(good + line + b"\n" + good)
    found = gpu_launches.read(tmp_path, [simulated.UUID], NOW).lines
    assert [of.launch_id for of in found] == ["launch-001"]
    gpu_launches.append(tmp_path, measured(cell, 2), NOW)
    assert len(path.read_bytes().splitlines()) == 2 + (hostile == "future")


def test_a_file_that_is_no_file_of_ours_counts_as_none(cell: Cell, tmp_path: Path) -> None:
    path = tmp_path / gpu_launches.NAME
    path.write_bytes(b"x" * 6_000_000)
    assert gpu_launches.read(tmp_path, None, NOW).lines == ()
    path.unlink()
    path.mkdir()
    assert gpu_launches.read(tmp_path, None, NOW).lines == ()
    with pytest.raises(OSError, match="directory"):
        gpu_launches.append(tmp_path, measured(cell, 1), NOW)


def test_engines_and_machines_have_charts_of_their_own(cell: Cell, tmp_path: Path) -> None:
    for number in range(1, 9):
        gpu_launches.append(tmp_path, measured(cell, number, 0.5 + 0.001 * (number % 2)), NOW)
    for number in range(9, 12):
        later = measured(cell, number, 0.51 + 0.001 * (number % 2), driver="590")
        gpu_launches.append(tmp_path, later, NOW)
    gpu_launches.append(tmp_path, measured(cell, 12, 0.9, vllm="0.0.3", driver="590"), NOW)
    found = gpu_launches.read(tmp_path, None, NOW)
    assert gpu_chart.state(found) == "no band yet: 1 launch of vLLM 0.0.3, 7 short of it"
    assert found.change() is None
    of_first = replace(found, lines=found.lines[:-1])
    assert found.lines[0].machine.differences(found.lines[-1].machine) == "driver 580 → 590"
    assert gpu_chart.state(of_first, found.lines[0].machine) == (
        "in its band: 8 launches of vLLM 1"
    )
    changed = of_first.change()
    assert changed is not None
    assert gpu_chart.change(changed).startswith(
        "machine changed by 2025-10-06 (driver 580 → 590): J/token of the reference +2.0 % (+1."
    )
