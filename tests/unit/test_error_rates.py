"""The gate's error rates, simulated with its own code: what docs/statistics.md claims, within chance."""

import numpy as np
import pytest

from benchmarks.gate_error_rates import CELLS, share, verdicts
from pytest_energy.gate import Verdict

RUNS = 4000


@pytest.mark.parametrize(("deviation", "measured_floor"), [(0.007, False), (0.010, False), (0.007, True), (0.015, True), (0.15, True)])
def test_an_unchanged_suite_of_sixteen_raises_no_false_alarm(deviation: float, measured_floor: bool) -> None:
    counts = verdicts(np.random.default_rng(1), deviation, 0.0, 3, RUNS, None, measured_floor)
    assert share(counts, Verdict.REGRESSED) <= 0.01 / CELLS + 3 * (0.01 / CELLS / RUNS) ** 0.5


def test_an_unchanged_suite_is_seldom_red_where_the_noise_is_known() -> None:
    counts = verdicts(np.random.default_rng(2), 0.007, 0.0, 3, RUNS, None, True)
    red = share(counts, Verdict.REGRESSED, Verdict.INCONCLUSIVE)
    assert 1 - (1 - red) ** CELLS <= 0.05


@pytest.mark.parametrize(("measured_floor", "wanted"), [(True, 0.94), (False, 0.91)])
def test_four_percent_more_is_caught(measured_floor: bool, wanted: float) -> None:
    counts = verdicts(np.random.default_rng(3), 0.007, 0.04, 3, RUNS, None, measured_floor)
    assert share(counts, Verdict.REGRESSED) >= wanted
