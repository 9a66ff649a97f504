"""The parts of a run whose requests are all sent at once."""

import pytest

from benchmarks.whole_run import parts
from pytest_energy.engines.engine import Steps
from tests.simulated import trace

S = 10**9
START_NS = 100 * S


def test_parts_hold_the_tokens_of_their_steps_and_the_energy_of_their_time() -> None:
    """400 W until second 12, and 100 W in the tail, in which half of the batch is left."""
    steps = Steps(
        tuple(START_NS + second * S for second in range(1, 17)),
        (0, 8, *[8] * 10, *[4] * 4),
        (0,) * 16,
    )
    gpu = trace(START_NS - S, START_NS + 18 * S, 400.0, 100.0, START_NS + 12 * S)
    marks_ns = [START_NS, START_NS + 2 * S, START_NS + 12 * S, START_NS + 16 * S]
    found = parts(steps, marks_ns, [gpu])
    assert {name: part.tokens for name, part in found.items()} == {
        "ramp-up": 8,
        "steady": 80,
        "tail": 16,
        "until none waits": 88,
        "whole": 104,
    }
    assert {name: part.seconds for name, part in found.items()} == {
        "ramp-up": 2,
        "steady": 10,
        "tail": 4,
        "until none waits": 12,
        "whole": 16,
    }
    assert found["steady"].power_w == pytest.approx(400)
    assert found["steady"].joules_per_token == pytest.approx(50)
    assert found["tail"].power_w == pytest.approx(100, rel=0.1)  # from one update to the next
    assert found["whole"].joules == pytest.approx(12 * 400 + 4 * 100, rel=0.01)
    assert found["whole"].power_w == pytest.approx(325, rel=0.01)
    both = parts(steps, marks_ns, [gpu, gpu])
    assert both["whole"].joules == pytest.approx(2 * found["whole"].joules)


def test_without_a_meter_there_is_no_energy() -> None:
    found = parts(Steps((1 * S, 2 * S, 3 * S), (2, 2, 1), (0, 0, 2)), [0, S, 2 * S, 3 * S], None)
    assert (found["whole"].tokens, found["whole"].tokens_per_s) == (5, pytest.approx(5 / 3))
    assert found["whole"].power_w is None
    assert found["whole"].joules_per_token is None
