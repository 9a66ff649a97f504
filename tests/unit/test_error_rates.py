"""The gate's error rates, simulated with its own code, are those of docs/statistics.md."""

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import fleet_error_rates as fleet
from benchmarks.gate_error_rates import MIXED, MIXTURES, SUITE
from benchmarks.simulated_runs import CELLS, Scenario, simulate
from pytest_energy.measure.metric import UNDER_LOAD, Metric
from pytest_energy.measure.spread import ASSUMED_NOISE, NoiseFloor
from pytest_energy.verdict.rule import Case, Terms, Verdict, decide

RUNS = 250


def at_most(share: float, runs: int) -> float:
    """What a share is seldom above in so many runs."""
    return share + 3 * math.sqrt(share * (1 - share) / runs)


def at_least(share: float, runs: int) -> float:
    """What it is seldom below."""
    return 1 - at_most(1 - share, runs)


@pytest.mark.parametrize("floor", ["measured", "assumed"])
@pytest.mark.parametrize(
    "deviation", [0.007, *(pytest.param(d, marks=pytest.mark.nightly) for d in (0.02, 0.15))]
)
def test_an_unchanged_suite_of_sixteen_raises_no_false_alarm(deviation: float, floor: str) -> None:
    rates = simulate(Scenario((deviation,), floor=floor), RUNS, seed=1)
    assert rates.false_alarm <= at_most(0.01, RUNS)


@pytest.mark.parametrize("budget", [3, 5])
def test_an_unchanged_suite_is_seldom_red_and_takes_little_more_than_a_launch(budget: int) -> None:
    rates = simulate(Scenario((0.007,), budget=budget), RUNS, seed=2)
    assert rates.red <= at_most(0.05, RUNS)
    assert rates.launches < 1.5


@pytest.mark.parametrize(("budget", "wanted"), [(3, 0.94), (5, 0.96)])
def test_four_percent_more_is_detected(budget: int, wanted: float) -> None:
    runs = RUNS * CELLS
    rates = simulate(Scenario((0.007,), change=0.04, budget=budget), runs, seed=3, judged=1)
    assert rates.regressed[0] >= at_least(wanted, runs)
    assert rates.passed[0] < 0.01


@pytest.mark.parametrize("unmeasured", [pytest.param(0, marks=pytest.mark.nightly), 1])
@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_cell_noisier_than_the_others_is_no_exception(mixture: str, unmeasured: int) -> None:
    """Whether or not its own noise was measured; a floor that is pooled fails here."""
    deviation = tuple(0.01 * factor for factor in MIXTURES[mixture])
    suite = replace(MIXED, deviation=deviation, unmeasured=unmeasured)
    assert simulate(suite, RUNS // 2, seed=4).false_alarm <= at_most(0.01, RUNS // 2)
    runs = 4 * RUNS
    lost = simulate(replace(suite, change=0.03), runs, seed=5, judged=1)
    assert lost.passed[0] <= at_most(0.05, runs)


@pytest.mark.parametrize(
    "deviation", [0.01, *(pytest.param(d, marks=pytest.mark.nightly) for d in (0.02, 0.15))]
)
def test_an_assumed_noise_passes_a_loss_as_large_as_the_tolerance_as_seldom(
    deviation: float,
) -> None:
    runs = 8 * RUNS
    s = Scenario((deviation,), floor="assumed", change=0.03)
    assert simulate(s, runs, seed=6, judged=1).passed[0] <= at_most(0.05, runs)


def test_one_launch_decides_a_quiet_suite_of_four() -> None:
    """At 0.5 % between launches, known to eight degrees of freedom in each cell."""
    quiet = replace(SUITE, deviation=(0.005,))
    assert simulate(quiet, RUNS, seed=7).at_once >= at_least(0.95, RUNS)
    caught = simulate(replace(quiet, change=0.04), RUNS, seed=8)
    assert caught.regressed.mean() >= at_least(0.97, 4 * RUNS)


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("comparisons", [2, 32])
def test_where_a_live_run_was_clear_a_replay_agrees(comparisons: int, measured: bool) -> None:
    """Of its launches so far, judged at once, which may find a pass to be improved."""
    generator = np.random.default_rng(9)
    clear = 0
    for change in generator.normal(0, 0.05, 1000):
        reference, candidate = (np.exp(generator.normal(0, 0.01, n)) for n in (3, 5))
        case = Case(
            Metric.JOULES_PER_TOKEN,
            float(generator.choice([0.03, 0.1, 0.9])),
            (),
            reference.tolist(),
            NoiseFloor(0.01, 10, measured=True)
            if measured
            else ASSUMED_NOISE[Metric.JOULES_PER_TOKEN],
        )
        live = Terms(comparisons, budget=5)
        for look in live.looks():
            of_look = replace(case, candidate=(candidate[:look] * math.exp(change)).tolist())
            verdict = decide(of_look, live).verdict
            if verdict is not Verdict.INCONCLUSIVE:
                clear += 1
                replayed = decide(of_look, Terms(comparisons)).verdict
                passes = verdict is Verdict.PASS and replayed is Verdict.IMPROVED
                assert replayed is verdict or passes
                break
    assert clear > 300


@pytest.mark.parametrize("cells", fleet.CELLS)
@pytest.mark.parametrize("is_known", [True, False])
def test_a_run_on_any_gpu_of_a_fleet_is_right(is_known: bool, cells: int) -> None:
    """At 0.5 %; on an unknown GPU the reference is launched first."""
    rates = fleet.simulate(fleet.Scenario(0.005, cells, is_known=is_known), 2 * RUNS, seed=10)
    assert rates.false_alarm <= at_most(0.01, 2 * RUNS)
    assert rates.red <= at_most(0.01, 2 * RUNS)
    assert rates.caught >= at_least(0.97, 2 * RUNS)
    assert rates.candidate < 1.6
    assert rates.reference == pytest.approx(0 if is_known else 1 + rates.candidate)


def test_without_more_launches_of_the_reference_a_noisier_runner_is_red() -> None:
    grows, stays = (
        fleet.simulate(fleet.Scenario(0.010, 4, grows=grows), RUNS, seed=11)
        for grows in (True, False)
    )
    assert grows.red < 0.1
    assert stays.red > 0.2


@pytest.mark.parametrize("others", fleet.OTHERS)
def test_figures_of_other_gpus_are_wrong_however_many_are_known(others: int) -> None:
    by_factor, pooled, allowed = (
        fleet.simulate(fleet.Scenario(0.005, 4, way, others=others), RUNS, seed=12)
        for way in (fleet.FACTOR, fleet.POOLED, fleet.ALLOWED)
    )
    assert min(by_factor.false_alarm, pooled.false_alarm) > 0.1
    assert max(by_factor.caught, pooled.caught) < 0.9
    assert allowed.red > 0.8
    assert allowed.caught < 0.1


def test_a_fleet_is_judged_as_the_rule_decides() -> None:
    generator = np.random.default_rng(13)
    seen = set()
    for change in generator.normal(0, 0.04, 500).tolist():
        s = fleet.Scenario(0.01, 4)
        for cell in fleet.cells_of_run(generator, s, change):
            verdicts, look = fleet.judge(s, cell)
            for metric, verdict in zip(UNDER_LOAD, verdicts, strict=True):
                case = Case(
                    metric,
                    s.terms.tolerance(metric, None),
                    cell.candidate[metric][:look],
                    cell.reference[metric][: s.references(look)],
                    cell.noise[metric],
                )
                assert decide(case, s.terms).verdict is verdict
                seen.add(verdict)
    assert seen == {Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.REGRESSED}
