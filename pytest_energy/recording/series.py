"""Series of a recording: what their values can be, and how files hold them."""

import itertools
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, PlainSerializer

FAR = 2**62  # what is computed with 64 bits stays below


def deltas(values: Sequence[int]) -> list[int]:
    """The first value and the differences that follow, which is what makes files small."""
    return [after - before for before, after in itertools.pairwise((0, *values))]


def _cumulated(values: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(itertools.accumulate(values))


def _within(low: int, high: int) -> AfterValidator:
    def check(values: tuple[int, ...]) -> tuple[int, ...]:
        if values and not low <= min(values) <= max(values) <= high:
            raise ValueError("it holds an impossible value")
        return values

    return AfterValidator(check)


def _ordered(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(after < before for before, after in itertools.pairwise(values)):
        raise ValueError("it is not in order")
    return values


def equally_long(*names: str, unless_empty: Sequence[str] = ()) -> AfterValidator:
    """Checks that the series with these names, of one object, are of one length.

    Those in `unless_empty` may be empty instead.
    """

    def check(series: Any) -> Any:
        lengths = {len(getattr(series, name)) for name in names}
        lengths |= {len(values) for name in unless_empty if (values := getattr(series, name))}
        if len(lengths) > 1:
            raise ValueError("its series differ in length")
        return series

    return AfterValidator(check)


# In files as differences.
Times = Annotated[
    tuple[int, ...],
    AfterValidator(_cumulated),
    _within(0, FAR),
    AfterValidator(_ordered),
    PlainSerializer(deltas),
]
Energies = Annotated[
    tuple[int, ...], AfterValidator(_cumulated), _within(0, FAR), PlainSerializer(deltas)
]
# In files as they are.
Counts = Annotated[tuple[int, ...], _within(0, 10**6)]
Milliwatts = Annotated[tuple[int, ...], _within(0, 10**9)]
Microseconds = Annotated[tuple[int, ...], _within(0, 10**12)]
Megahertz = Annotated[tuple[int, ...], _within(0, 10**6)]
Celsius = Annotated[tuple[int, ...], _within(-1000, 1000)]
Bits = Annotated[tuple[int, ...], _within(0, 2**64 - 1)]
Percents = Annotated[tuple[int, ...], _within(0, 1000)]
Durations = Annotated[tuple[int, ...], _within(0, 10**12), AfterValidator(_ordered)]
Frequencies = Annotated[tuple[int, ...], _within(1, 10**9)]
Lengths = Annotated[tuple[int, ...], _within(1, 10**9)]
