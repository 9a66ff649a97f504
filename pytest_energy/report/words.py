"""Units, percentages and counts as every report writes them."""

from pytest_energy.measure.metric import Metric

# Of several verdicts the first stands for all.
PRECEDENCE = (
    "regressed",
    "invalid",
    "not comparable",
    "no baseline",
    "inconclusive",
    "created",
    "changed",
    "unchanged",
    "improved",
    "pass",
)

UNIT = {Metric.JOULES_PER_TOKEN: "J/token", Metric.TOKENS_PER_S: "tokens/s"}


def percent(ratio: float) -> str:
    """A ratio as a relative change, "+6.0 %" for 1.06."""
    return f"{100 * (ratio - 1):+.1f} %".replace("-0.0 %", "+0.0 %")


def count(number: int, one: str, many: str | None = None) -> str:
    """A number of things, 1 cell or 2 cells; `many` is an irregular plural."""
    return f"{number} {one if number == 1 else many or one + 's'}"
