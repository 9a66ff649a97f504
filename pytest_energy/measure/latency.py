"""What a server's clients saw → latencies. Pure."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pytest_energy.recording.recording import Client, Distribution

PERCENTILES = (50, 90, 99)
LATENCIES: Mapping[str, str] = {
    "ttft": "time to first token",
    "itl": "inter-token latency",
    "e2e": "end-to-end latency",
}


def latencies_ms(clients: Sequence[Client]) -> dict[str, dict[str, float]]:
    """The summary of each latency that was counted, by name.

    Args:
        clients: one entry per period; pytest_energy.recording.Client defines the three latencies.
    """
    series = {
        "ttft": [client.first_token for client in clients],
        "itl": [client.inter_token for client in clients],
        "e2e": [client.end_to_end for client in clients],
    }
    return {
        name: summary
        for name, distributions in series.items()
        if (summary := summary_ms(distributions))
    }


def summary_ms(distributions: Sequence[Distribution]) -> dict[str, float]:
    """Mean and percentiles of all of them together: "mean", "p50", "p90" and "p99".

    Empty if nothing was counted. A percentile is the smallest value that so many in a hundred do
    not exceed.
    """
    values_us = [value for d in distributions for value in d.value_us]
    counts = np.asarray([count for d in distributions for count in d.count], dtype=np.int64)
    if not counts.sum():
        return {}
    values = np.asarray(values_us, dtype=float) / 1e3
    order = np.argsort(values)
    values, reached = values[order], np.cumsum(counts[order])
    percentiles = {
        f"p{p}": float(values[np.searchsorted(reached, math.ceil(p * int(reached[-1]) / 100))])
        for p in PERCENTILES
    }
    return {"mean": float((values * counts[order]).sum() / reached[-1]), **percentiles}
