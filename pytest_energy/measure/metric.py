"""What is gated."""

import enum


class Metric(enum.Enum):
    """What a test gates. The value is the name in JUnit properties and results."""

    JOULES_PER_TOKEN = "joules_per_token"
    TOKENS_PER_S = "tokens_per_s"
