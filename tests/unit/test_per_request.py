"""J per generated token as J per token in or out, and as Wh per 1,000 requests."""

import pytest

from pytest_energy.cell.key import WorkloadKey
from pytest_energy.measure.per_request import per_request


def test_a_request_of_360_joules_is_a_tenth_of_a_watt_hour() -> None:
    found = per_request(1.2, WorkloadKey(input_tokens=100, output_tokens=300, seed=0))
    assert found is not None
    assert found.joules_per_total_token == pytest.approx(0.9)
    assert found.wh_per_1000_requests == pytest.approx(100.0)


def test_requests_of_varying_lengths_have_none() -> None:
    key = WorkloadKey("prompts", 300, seed=0, requests=24, prompts_sha256="1a2b")
    assert per_request(1.2, key) is None
