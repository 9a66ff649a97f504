"""Which launches count for nothing, so that others take their place. Pure."""

import itertools
from collections.abc import Sequence

from pytest_energy.measure.measurement import Measurement

_ONE_IN = 10
Launches = tuple[Measurement, ...]


def without_disturbed(
    candidate: Sequence[Measurement], reference: Sequence[Measurement] = ()
) -> tuple[Launches, Launches, Launches]:
    """Both sides without the launches, or pairs of launches, that were disturbed; and these.

    One may be left out, and of more than ten one in ten: an engine that is unsteady more often must
    not be judged by its steady launches. The last one stays.

    Args:
        candidate: one measurement per launch.
        reference: of the interleaved engine, one per pair; empty without one.
    """
    out = [is_disturbed(*pair) for pair in itertools.zip_longest(candidate, reference)]
    if not 0 < sum(out) <= max(1, len(out) // _ONE_IN) or all(out):
        return tuple(candidate), tuple(reference), ()

    def side(launches: Sequence[Measurement], left_out: bool) -> Launches:
        return tuple(m for i, m in enumerate(launches) if out[i] is left_out)

    left_out = (*side(candidate, True), *side(reference, True))
    return (
        side(candidate, False),
        side(reference, False),
        tuple(m for m in left_out if m.disturbed),
    )


def is_disturbed(*launches: Measurement | None) -> bool:
    """Whether another launch, or pair of launches, is to take their place."""
    made = [m for m in launches if m is not None]
    return any(m.disturbed for m in made) and all(m.disturbed or m.valid for m in made)
