"""What is gated."""

import enum

from pytest_energy.cell.key import CellKey


class Metric(enum.Enum):
    """What a test gates. The value is the name in JUnit properties and results."""

    JOULES_PER_TOKEN = "joules_per_token"
    TOKENS_PER_S = "tokens_per_s"
    IDLE_POWER_W = "idle_power_w"

    @property
    def is_cost(self) -> bool:
        """Whether more is worse."""
        return self is not Metric.TOKENS_PER_S


UNDER_LOAD = (Metric.JOULES_PER_TOKEN, Metric.TOKENS_PER_S)


def metrics_of(key: CellKey) -> tuple[Metric, ...]:
    """What can be gated in a cell, the one that its limits go with first."""
    return (Metric.IDLE_POWER_W,) if key.is_idle else UNDER_LOAD
