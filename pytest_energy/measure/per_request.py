"""Energy as others quote it: per token of prompt and reply together, and per request. Pure."""

from dataclasses import dataclass

from pytest_energy.cell.key import WorkloadKey

_J_PER_WH = 3600.0


@dataclass(frozen=True)
class PerRequest:
    """Energy of requests that all have the same lengths.

    Attributes:
        joules_per_total_token: J per token in or out.
        wh_per_1000_requests: Wh.
    """

    joules_per_total_token: float
    wh_per_1000_requests: float


def per_request(joules_per_token: float, workload: WorkloadKey) -> PerRequest | None:
    """What J per generated token comes to; None if requests differ in length."""
    if workload.fixed_lengths is None:
        return None
    tokens_in, tokens_out = workload.fixed_lengths
    request_j = joules_per_token * tokens_out
    return PerRequest(request_j / (tokens_in + tokens_out), 1000 * request_j / _J_PER_WH)
