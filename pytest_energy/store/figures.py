"""Figures as baselines and noise keep them: six digits, so that an update is a small diff."""

from typing import Annotated

from annotated_types import Ge, Le, MinLen
from pydantic import PlainSerializer

from pytest_energy.measure.cycles import FIGURES

MAX_BYTES = 20_000_000  # of a file; one cell of a baseline has some 2 kB
_DIGITS = 6
_LOW, _HIGH = FIGURES


def rounded(value: float) -> float:
    """`value` with the digits that files keep."""
    return float(f"{value:.{_DIGITS}g}")


Figure = Annotated[float, Ge(_LOW), Le(_HIGH), PlainSerializer(rounded)]
Figures = Annotated[tuple[Figure, ...], MinLen(1)]
Series = tuple[Figure, ...]  # empty if the cell has no such figure
Condition = Annotated[float, Ge(-_HIGH), Le(_HIGH), PlainSerializer(rounded)]
NotNegative = Annotated[Condition, Ge(0)]
Share = Annotated[NotNegative, Le(1)]
CycleTokens = tuple[Annotated[int, Ge(1), Le(10**12)], ...]
