"""Whether ratios of releases carry over from synthetic weights to a model's own. Pure.

Compared are cells that differ in nothing but their weights: release ÷ reference under one kind of
weights over the same under another, on the same GPUs. What differs between weights or between GPUs,
and not between releases, cancels. All intervals of one quantity in a table hold together with 95 %
(Šidák, as in releases.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_energy.cell.key import CellKey
from pytest_energy.measure.spread import CONFIDENCE
from pytest_energy.report import release_ratio
from pytest_energy.report.release_noise import QUANTITIES, Gpus, Launches, Stored
from pytest_energy.report.release_ratio import LogFigure, Varies
from pytest_energy.report.results import Interval

OWN = "auto"  # the model's own weights
_SYNTHETIC = "dummy", "random"


@dataclass(frozen=True)
class UnderWeights:
    """A release against the reference in cells that differ in their weights alone.

    Attributes:
        cell, against: the model's own weights are the latter, if they are there.
        release: which one.
        on: GPUs that have launched release and reference in both cells.
        ratios, ratios_against: by quantity, release ÷ reference in the two cells.
        apart: by quantity, the one ÷ the other, with intervals that hold together.
    """

    cell: CellKey
    against: CellKey
    release: str
    on: tuple[Gpus, ...]
    ratios: Mapping[str, float]
    ratios_against: Mapping[str, float]
    apart: Mapping[str, Interval]

    def differs(self, name: str) -> bool:
        """Whether the interval of a quantity says so."""
        return not self.apart[name].low <= 1 <= self.apart[name].high

    def alike_within(self, name: str) -> float:
        """What the two ratios of a quantity differ by at most, relative."""
        return max(1 - self.apart[name].low, self.apart[name].high - 1)


def order(key: CellKey) -> tuple[bool, str]:
    """The model's own weights come first."""
    return key.weights in _SYNTHETIC, key.weights


def under_weights(
    cells: Mapping[CellKey, Launches], releases: Sequence[str], reference: str, stored: Stored
) -> tuple[UnderWeights, ...]:
    """Each release and kind of weights against the first kind, by cell and in order of releases.

    Args:
        cells: launches of each cell.
        releases: in order.
        reference: one of them.
        stored: further launches, which the noise follows from.
    """
    found = [
        (key, first, release, on)
        for first, *others in _alike(cells)
        for release in releases
        if release != reference
        for key in others
        if (on := _on([cells[key], cells[first]], [release, reference]))
    ]
    together = CONFIDENCE ** (1 / max(1, len(found)))
    return tuple(_compared(*of, reference, cells, stored, together) for of in found)


def _alike(cells: Iterable[CellKey]) -> list[list[CellKey]]:
    """The cells that differ in nothing but their weights."""
    found: dict[str, list[CellKey]] = {}
    for key in cells:
        found.setdefault(key.but_weights, []).append(key)
    return [sorted(keys, key=order) for keys in found.values()]


def _on(cells: Sequence[Launches], releases: Sequence[str]) -> tuple[Gpus, ...]:
    """The GPUs that have launched these releases in these cells."""
    launched = (set(of_cell.get(release, {})) for of_cell in cells for release in releases)
    return tuple(sorted(set.intersection(*launched)))


def _compared(
    key: CellKey,
    first: CellKey,
    release: str,
    on: tuple[Gpus, ...],
    reference: str,
    cells: Mapping[CellKey, Launches],
    stored: Stored,
    together: float,
) -> UnderWeights:
    def ratio(name: str, of: CellKey) -> LogFigure:
        sides = cells[of][release], cells[of][reference]
        return release_ratio.ratio(name, *sides, on, Varies.of(name, of, cells, stored))

    both = {name: (ratio(name, key), ratio(name, first)) for name in QUANTITIES}
    return UnderWeights(
        key,
        first,
        release,
        on,
        {name: one.interval(together).value for name, (one, _) in both.items()},
        {name: other.interval(together).value for name, (_, other) in both.items()},
        {name: one.less(other).interval(together) for name, (one, other) in both.items()},
    )
