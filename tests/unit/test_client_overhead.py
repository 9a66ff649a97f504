"""A server's tokens are counted alike however a run begins and ends and requests keep in step."""

import numpy as np
import pytest

from benchmarks.client_overhead import steady_rate


def test_ramps_at_both_ends_do_not_count() -> None:
    time_s = [0.25 * read for read in range(60)]
    # Idle for 1 s, a slow first cycle, 100 tokens/s for 10 s, and a slow end.
    tokens = [
        1_000
        + round(
            min(max(0.0, t - 1) * 20, 20) + 100 * min(max(0.0, t - 2), 10) + 5 * max(0.0, t - 12)
        )
        for t in time_s
    ]
    assert steady_rate(time_s, tokens, cycle_tokens=60) == pytest.approx(100, rel=0.01)
    assert (tokens[-1] - tokens[0]) / time_s[-1] < 75


@pytest.mark.parametrize("offset_s", np.linspace(0, 0.1, 7))
@pytest.mark.parametrize("prefill_s", [0.0, 3.0, 6.0])
def test_requests_in_step_count_as_those_spread_out(prefill_s: float, offset_s: float) -> None:
    """Cycles of 1,000 tokens in 10 s: first none for `prefill_s`, then all; read at 10 Hz."""
    time_s = np.arange(0, 52, 0.1) + offset_s
    within_s = time_s % 10
    tokens = np.minimum(
        1000 * (time_s // 10) + 1000 * np.maximum(0, within_s - prefill_s) / (10 - prefill_s), 5000
    )
    assert steady_rate(list(time_s), list(map(int, tokens)), cycle_tokens=1000) == pytest.approx(
        100, rel=0.002
    )


def test_a_run_that_is_too_short() -> None:
    with pytest.raises(SystemExit, match="give more --cycles"):
        steady_rate([0.0, 0.25, 0.5, 0.75], [0, 50, 100, 149], cycle_tokens=50)
