"""The verdict on each step of a baseline's history, and the change furthest up to its tolerance."""

from dataclasses import replace

import pytest

from pytest_energy.report import changes, steps
from pytest_energy.report.results import Entry, HistoryEntry, interval
from tests.reports import made


def state(number: int, jpt: float, half: float, batch_size: int = 8) -> HistoryEntry:
    energy = interval(jpt, jpt * (1 - half), jpt * (1 + half))
    return replace(made.state(number, batch_size), joules_per_token=energy)


@pytest.mark.parametrize(
    ("ratio", "half", "verdict"),
    [
        (1.0, 0.01, "pass"),
        (0.976, 0.012, "pass"),
        (1.008, 0.02, "inconclusive"),
        (1.05, 0.01, "regressed"),
        (1.05, 0.06, "inconclusive"),
        (0.95, 0.01, "improved"),
        (0.95, 0.06, "inconclusive"),
    ],
)
def test_a_step_is_judged_by_its_interval_and_the_tolerance(
    ratio: float, half: float, verdict: str
) -> None:
    assert steps.step(state(1, 0.5, half), state(2, 0.5 * ratio, half)).verdict == verdict


def test_the_errors_of_both_states_add_up_as_independent_ones_do() -> None:
    change = steps.step(state(1, 0.5, 0.003), state(2, 0.5, 0.004)).change
    assert (change.low - 1, change.high - 1) == pytest.approx((-0.005, 0.005), rel=0.01)


def test_each_baseline_has_its_own_steps() -> None:
    states = [
        state(1, 0.5, 0.01),
        state(1, 2.0, 0.01, 1),
        state(2, 0.4, 0.01),
        state(2, 2.0, 0.01, 1),
    ]
    found = steps.steps(states)
    assert [step and step.verdict for step in found] == [None, None, "improved", "pass"]
    assert steps.newest(states) == "Newest steps: 1 improved, 1 pass"
    assert steps.newest(states[:2]) == ""


def judged(ratio: float, verdict: str, **changed: object) -> Entry:
    entry = made.entry(ratio=ratio, green=verdict == "pass", **changed)  # type: ignore[arg-type]
    return replace(entry, verdict=verdict)


def test_the_worst_change_is_the_largest_in_tolerances_and_names_its_cell() -> None:
    passing, undecided = judged(1.029, "pass"), judged(1.01, "inconclusive")
    assert changes.worst(made.of(passing, undecided)) == (
        "Worst: J/token +2.9 % (+1.9 to +3.9 %) in tiny bs=8 512/256 (pass, tolerance +3 %)"
    )
    slow = judged(0.9, "pass", metric="tokens_per_s", tolerance=0.2)
    slower = judged(0.95, "pass", metric="tokens_per_s", tolerance=0.05)
    assert changes.worst(made.of(passing, slow, slower)).endswith(
        "; tokens/s -5.0 % (-5.9 to -4.0 %) in tiny bs=8 512/256 (pass, tolerance -5 %)"
    )
    assert changes.worst(made.of(replace(passing, verdict=None, tolerance=None))) == ""
