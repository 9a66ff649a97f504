"""How long requests are: all alike, lognormally distributed, or as a file of prompts has them."""

import math
import statistics
from dataclasses import dataclass
from typing import Annotated, Final

from annotated_types import Ge, Gt, Le

from pytest_energy.safety.schema import STRICT, Count

# In a key, if the file of prompts gives the lengths.
OF_PROMPTS: Final = "prompts"
OF_REPLIES: Final = "replies"
MAX_SIGMA = 3.0


@dataclass(frozen=True)
class Lognormal:
    """Lengths whose logarithm is normal, rounded, from 1 to `max` (longer ones are not drawn).

    Attributes:
        median: of the distribution before it is cut off, tokens.
        sigma: standard deviation of the logarithm.
        max: tokens.
    """

    __pydantic_config__ = STRICT

    median: Annotated[float, Ge(1)]
    sigma: Annotated[float, Gt(0), Le(MAX_SIGMA)]
    max: Count

    def __post_init__(self) -> None:
        if self.median > self.max:
            raise ValueError(f"the median, {self.median:g}, is larger than max, {self.max}")

    def at(self, share: float) -> int:
        """The length that `share` (0 to 1) of all do not exceed."""
        normal = statistics.NormalDist(math.log(self.median), self.sigma)
        below_max = normal.cdf(math.log(self.max + 0.5))
        length = round(math.exp(normal.inv_cdf(min(max(share * below_max, 1e-12), 1 - 1e-12))))
        return min(max(length, 1), self.max)

    def __str__(self) -> str:
        return f"lognormal (median {self.median:g}, sigma {self.sigma:g}, at most {self.max})"


@dataclass(frozen=True)
class LengthDistribution:
    """A distribution by its name, as the marker and keys give it: {"lognormal": {...}}."""

    __pydantic_config__ = STRICT

    lognormal: Lognormal

    def __str__(self) -> str:
        return str(self.lognormal)
