"""The search for the release at which a cell got worse, and for the setting that did it."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks import bisect_error_rates as simulated
from benchmarks.bisect_error_rates import Scenario
from pytest_energy.measure.measurement import measure
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import ASSUMED_NOISE, NoiseFloor
from pytest_energy.recording import recording_file
from pytest_energy.store.noise import NoiseStore
from pytest_energy.verdict.ablation import Arm, ablation, arms
from pytest_energy.verdict.bisection import (
    MOST,
    Answer,
    Launched,
    Next,
    Outcome,
    Question,
    advance,
)
from pytest_energy.verdict.contrasts import difference, losses
from pytest_energy.verdict.rule import Verdict
from tests import simulated as recordings
from tests.conftest import ROOT
from tests.unit.test_error_rates import at_least, at_most

QUIET = NoiseFloor(0.005, 10, measured=True)
QUESTION = Question(Metric.JOULES_PER_TOKEN, 0.03, QUIET)

Measure = Callable[[int], float]


def search(
    measure: Measure, releases: Sequence[int], question: Question = QUESTION
) -> tuple[Answer, list[Launched]]:
    """The answer on releases whose launches give these values, and all launches."""
    launched: list[Launched] = []
    while isinstance(found := advance(question, releases, launched), Next):
        assert found.release in releases
        launched.append(Launched(found.release, measure(found.release)))
        assert len(launched) <= MOST * len(releases)
    return found, launched


def rises(at: int, by: float = 0.07) -> Measure:
    return lambda release: 0.4 * (1 + by if release >= at else 1)


@given(st.integers(2, 60), st.data())
def test_without_noise_it_takes_a_binary_search_and_two_launches_of_some(
    count: int, data: st.DataObject
) -> None:
    at = data.draw(st.integers(1, count - 1))
    by = data.draw(st.sampled_from([0.05, 0.3, 20.0]))
    answer, launched = search(rises(at, by), range(count))
    assert answer.outcome is Outcome.FOUND
    (step,) = answer.steps
    assert (step.before, step.at) == (at - 1, at)
    assert step.confidence is not None
    assert step.confidence >= 0.99
    assert step.change.value == pytest.approx(1 + by)
    assert step.share.value == pytest.approx(1)
    assert len(launched) <= 4 + math.ceil(math.log2(count)) + 4


@given(st.lists(st.integers(0, 40), min_size=2, max_size=12, unique=True), st.integers(0, 99))
def test_it_names_only_releases_of_the_list(numbers: list[int], seed: int) -> None:
    """Whatever launches give; those that cannot be launched are not in the list."""
    releases, rng = sorted(numbers), np.random.default_rng(seed)
    losses = dict(zip(releases, rng.normal(0, 0.05, len(releases)), strict=True))
    answer, _ = search(lambda i: math.exp(losses[i] + 0.005 * rng.standard_normal()), releases)
    named = {i for step in answer.steps for i in (step.before, step.at)}
    assert named <= set(releases)
    assert all(step.before < step.at for step in answer.steps)
    assert (answer.outcome is Outcome.FOUND) == (
        len(answer.steps) == 1 and answer.steps[0].confidence is not None
    )


@settings(max_examples=50)
@given(st.integers(3, 12), st.data())
def test_in_whichever_order_launches_were_made_and_however_many(
    count: int, data: st.DataObject
) -> None:
    """Launches that nobody asked for, too, and those of releases that are no longer listed."""
    at = data.draw(st.integers(1, count - 1))
    extra = data.draw(st.lists(st.integers(0, count + 3), max_size=30))
    assume(all(extra.count(i) <= MOST for i in extra))
    asked, launched = search(rises(at), range(count))
    more = [Launched(i, rises(at)(i)) for i in extra]
    mixed = data.draw(st.permutations([*launched, *more]))
    answer = advance(QUESTION, range(count), mixed)
    assert isinstance(answer, Answer)
    assert (
        [(step.before, step.at) for step in answer.steps]
        == [(at - 1, at)]
        == [(step.before, step.at) for step in asked.steps]
    )


def test_good_and_bad_are_launched_alternately_so_that_drift_favours_neither() -> None:
    _, launched = search(rises(1), range(2))
    assert [launch.release for launch in launched] == [0, 1, 1, 0]


def test_no_change_is_nothing_to_bisect_and_says_what_it_would_have_seen() -> None:
    answer, launched = search(rises(9), range(5))
    assert (answer.outcome, answer.steps, len(launched)) == (Outcome.NOTHING, (), 4)
    assert answer.whole.smallest_detected is not None
    assert 0.03 < answer.whole.smallest_detected < 0.05


def test_a_gain_is_nothing_to_bisect() -> None:
    answer, _ = search(rises(2, by=-0.2), range(5))
    assert answer.outcome is Outcome.NOTHING


def test_throughput_that_falls() -> None:
    question = Question(Metric.TOKENS_PER_S, 0.10, QUIET)
    answer, _ = search(lambda release: 1000 * (0.8 if release >= 3 else 1), range(7), question)
    assert [(step.before, step.at) for step in answer.steps] == [(2, 3)]
    assert answer.steps[0].change.value == pytest.approx(0.8)


def test_a_change_in_two_steps_names_both_the_larger_first() -> None:
    answer, _ = search(lambda i: 0.4 * (1.06 if i >= 2 else 1) * (1.08 if i >= 5 else 1), range(8))
    assert answer.outcome is Outcome.SPLIT
    assert [(step.before, step.at) for step in answer.steps] == [(4, 5), (1, 2)]
    shares = [step.share for step in answer.steps]
    assert sum(share.value for share in shares) == pytest.approx(1)
    assert all(share.low < share.value < share.high for share in shares)


def test_a_value_like_neither_side_is_no_single_release() -> None:
    answer, _ = search(lambda i: 0.4 * (1, 1, 1.04, 1.08, 1.08)[i], range(5))
    assert answer.outcome is Outcome.SPLIT
    assert {step.at for step in answer.steps} == {2, 3}


def test_a_change_within_the_noise_cannot_be_told() -> None:
    rng = np.random.default_rng(1)
    noisy = Question(Metric.JOULES_PER_TOKEN, 0.03, NoiseFloor(0.03, 10, measured=True))
    answer, _ = search(
        lambda i: rises(9, 0.12)(i) * math.exp(0.03 * rng.normal()), range(20), noisy
    )
    assert answer.outcome is Outcome.CANNOT_TELL
    assert answer.reason


@pytest.mark.parametrize("releases", [6, 20])
def test_five_percent_at_half_a_percent_of_noise_is_found(releases: int) -> None:
    runs = 150
    found = simulated.simulate(Scenario(releases, 0.05), runs, seed=1)
    assert found["right"] >= at_least(0.95, runs)
    assert found["wrong"] <= at_most(0.01, runs)
    assert found["launches"] < 12


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(change=0.0),
        Scenario(change=0.15, steps=2),
        Scenario(drift=0.005),
        Scenario(tails=4),
        Scenario(unloadable=1 / 3),
        Scenario(assumed=True),
    ],
)
def test_nor_is_a_wrong_one_named_otherwise(scenario: Scenario) -> None:
    runs = 60
    found = simulated.simulate(scenario, runs, seed=2)
    assert found["wrong"] <= at_most(0.01, runs)
    assert found["right"] >= at_least(0.95, runs)


def test_launches_that_agree_by_luck_look_no_more_exact_than_an_assumed_noise() -> None:
    assumed = Question(Metric.JOULES_PER_TOKEN, 0.03, ASSUMED_NOISE[Metric.JOULES_PER_TOKEN])
    answers = [search(rises(3, 0.035), range(6), question) for question in (assumed, QUESTION)]
    assert [answer.outcome for answer, _ in answers] == [Outcome.FOUND] * 2
    by_assumption, by_measured_noise = (len(launched) for _, launched in answers)
    assert by_assumption > by_measured_noise


@pytest.mark.parametrize(
    ("gpu", "good", "bad", "cells"),
    [
        ("gpu-bae4faf4", "vllm-0.25.1", "vllm-0.25.1-no-async", 2),
        ("gpu-908b0762", "reference", "no-async", 4),
    ],
)
def test_recorded_launches_with_and_without_async_scheduling_as_if_of_releases(
    gpu: str, good: str, bad: str, cells: int
) -> None:
    """Of an H200: +5 to +18 % J/token, two or three launches of each, again and again."""
    noise_store, recorded = NoiseStore(ROOT / "baselines"), {}
    for side in (good, bad):
        folder = ROOT / "recordings" / "h200-sxm-141gb" / gpu / side
        for periods in recording_file.read_launches([folder]):
            m = measure(*periods)
            recorded.setdefault(m.key, {good: [], bad: []})[side].append(m)
    assert len(recorded) == cells
    for key, sides in recorded.items():
        launches = [m for side in sides.values() for m in side if m.valid]
        gpu_name, ids = launches[0].environment.gpu_name, [m.launch_id for m in launches]
        noise = noise_store.floor(key, gpu_name, Metric.JOULES_PER_TOKEN, ids)
        question = Question(Metric.JOULES_PER_TOKEN, 0.03, noise)
        for at in range(1, 8):
            values = {
                name: itertools.cycle([m.joules_per_token for m in side if m.valid])
                for name, side in sides.items()
            }
            answer, launched = search(
                lambda i, at=at, values=values: next(values[bad if i >= at else good]),
                range(8),
                question,
            )
            assert answer.outcome is Outcome.FOUND
            assert [(step.before, step.at) for step in answer.steps] == [(at - 1, at)]
            assert len(launched) <= 14


def test_a_shares_interval_holds_it_as_often_as_it_says() -> None:
    rng, runs, held = np.random.default_rng(4), 2000, 0
    for _ in range(runs):
        own = 0.01 * math.sqrt(rng.chisquare(10) / 10)
        values = {
            i: np.exp(loss + 0.01 * rng.standard_normal(count)).tolist()
            for i, (loss, count) in enumerate([(0.0, 3), (0.07, 2), (0.02, 2)])
        }
        found = losses(Metric.JOULES_PER_TOKEN, values, NoiseFloor(own, 10, measured=True)).share(
            difference(1, 2), difference(1, 0)
        )
        held += found.low <= 5 / 7 <= found.high
    assert at_least(0.95, runs) <= held / runs <= at_most(0.95, runs)


def test_a_share_of_what_may_be_nothing_has_no_interval() -> None:
    found = losses(Metric.JOULES_PER_TOKEN, {0: [1.0], 1: [1.001], 2: [1.02]}, QUIET)
    share = found.share(difference(2, 0), difference(1, 0))
    assert (share.low, share.high) == (-math.inf, math.inf)


def test_kernels_that_the_engine_chose_are_set_back_by_vllms_arguments() -> None:
    before, at = (
        recordings.fingerprint(kernels={"moe_backend": backend, "flash_attn_version": version})
        for backend, version in (("triton", "2"), ("flashinfer_cutlass", "3"))
    )
    (arm,), cannot = arms(before, at)
    assert arm.arguments == ('moe_backend="triton"',)
    assert cannot == ("flash_attn_version: 2 → 3",)
    assert arm.not_taken(before) == []
    assert arm.not_taken(at) == ["moe_backend is flashinfer_cutlass"]
    unknown = recordings.fingerprint(kernels=None)
    assert arms(unknown, at) == ((), ())


def test_settings_that_depend_on_each_other_do_not_add_up() -> None:
    """Either one set back helps nothing, and both take all of it away."""
    one, other = Arm({"async_scheduling": True}), Arm({"block_size": 16})
    both = Arm({**one.values, **other.values})
    found = ablation(
        QUESTION, [1.0] * 2, [1.1] * 2, [(one, [1.1] * 2), (other, [1.1] * 2)], (both, [1.0] * 2)
    )
    assert [part.verdict for part in found.parts] == [Verdict.PASS, Verdict.PASS, Verdict.REGRESSED]
    assert found.interaction is not None
    assert found.interaction.low > 0
    assert found.interaction.value == pytest.approx(1)
    assert found.unexplained is not None
    assert found.unexplained.value == pytest.approx(0)
