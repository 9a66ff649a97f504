"""How much a release's figures vary in a cell: from launch to launch, and from GPU to GPU. Pure."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from pytest_energy.cell.key import CellKey
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import UNDER_LOAD, Metric
from pytest_energy.measure.spread import NoiseFloor, Spread, log_moments, pooled
from pytest_energy.report.sides import floor_of_power
from pytest_energy.settings import MIN_LAUNCHES
from pytest_energy.store.noise import floor_of
from pytest_energy.store.noise_pooling import moderated
from pytest_energy.verdict import comparison
from pytest_energy.verdict.comparison import Moderated

POWER = "power_w"
QUANTITIES = (Metric.JOULES_PER_TOKEN.value, POWER, Metric.TOKENS_PER_S.value)
MIN_BLOCKS = 3  # GPUs, to tell how releases vary over them

Gpus = tuple[str, ...]
Launches = dict[str, dict[Gpus, list[Measurement]]]  # of a cell, by release
# What a store knows, by quantity and cell: groups of unchanged launches that the table has not.
Stored = Mapping[str, Mapping[CellKey, list[list[float]]]]


def values(name: str, launches: Iterable[Measurement]) -> list[float]:
    return [getattr(m, name) for m in launches]


def noise(name: str, key: CellKey, cells: Mapping[CellKey, Launches], stored: Stored) -> Moderated:
    """How much a launch varies in a cell, by all launches of the table and the store."""
    known = floor(name, key, cells, stored)
    if known.measured:
        return comparison.moderated(0.0, 0, known)
    moments = [log_moments(group) for group in _groups(name, cells[key])]
    return comparison.moderated(
        math.fsum(squares for _, squares, _ in moments), sum(d for _, _, d in moments), known
    )


def of_blocks(name: str, key: CellKey, cells: Mapping[CellKey, Launches]) -> Moderated | None:
    """How much what a GPU's launches of a release give varies beside GPU and release.

    Moderated by the model's other cells; None if fewer than three GPUs have launched two releases
    of this one or more, or too little is left to tell.
    """
    known = {
        other: scatter
        for other, of_cell in cells.items()
        if (other.model, other.spread_over) == (key.model, key.spread_over)
        and (scatter := _residual(name, of_cell))
    }
    own = known.pop(key, None)
    return Moderated(moderated(own, list(known.values()))) if own else None


def effects(name: str, of_cell: Launches) -> tuple[dict[str, float], bool]:
    """The log figure of each release beside its GPUs, and whether all can be compared.

    They cannot if some releases share no GPU, nor a chain of GPUs and releases, with others.
    """
    fit = _Fit.of(name, of_cell)
    return fit.releases, fit.connected


@dataclass(frozen=True)
class _Fit:
    """Log figure = GPU + release, by least squares over a cell's means: blocks may be incomplete.

    Attributes:
        releases: what each adds.
        connected: whether their differences are known.
        left: the deviation of what is left, and its degrees of freedom.
    """

    releases: dict[str, float]
    connected: bool
    left: Spread

    @classmethod
    def of(cls, name: str, of_cell: Launches) -> "_Fit":
        made = [(gpus, release) for release, by_gpus in of_cell.items() for gpus in by_gpus]
        of_gpus = dict.fromkeys(gpus for gpus, _ in made)
        logs = [log_moments(values(name, of_cell[release][on]))[0] for on, release in made]
        design = np.array(
            [[on == g for g in of_gpus] + [release == r for r in of_cell] for on, release in made]
        ).astype(float)
        fitted, _, rank, _ = np.linalg.lstsq(design, np.array(logs))
        degrees = len(made) - int(rank)
        squares = float(((np.array(logs) - design @ fitted) ** 2).sum())
        return cls(
            dict(zip(of_cell, fitted[len(of_gpus) :].tolist(), strict=True)),
            int(rank) == len(of_gpus) + len(of_cell) - 1,
            Spread(math.sqrt(squares / degrees) if degrees else 0.0, degrees),
        )


def _residual(name: str, of_cell: Launches) -> Spread | None:
    """What GPU and release leave of a cell's means."""
    of_gpus = Counter(gpus for by_gpus in of_cell.values() for gpus in by_gpus)
    if sum(releases > 1 for releases in of_gpus.values()) < MIN_BLOCKS:
        return None
    left = _Fit.of(name, of_cell).left
    return left if left.degrees_of_freedom >= MIN_BLOCKS - 1 else None


def floor(
    name: str,
    key: CellKey,
    cells: Mapping[CellKey, Launches],
    stored: Stored,
    judged: Collection[tuple[str, Gpus]] = (),
) -> NoiseFloor:
    """The noise of a cell as the gate takes it from a store, by launches that are not judged.

    Args:
        name: of the quantity.
        key: of the cell.
        cells: all launches.
        stored: further ones.
        judged: releases, and the GPUs that they are judged on.
    """
    of_store = stored.get(name, {})
    known = {
        other: between
        for other in {**cells, **of_store}
        if (other.model, other.spread_over) == (key.model, key.spread_over)
        and (
            between := pooled(_groups(name, cells.get(other, {}), judged) + of_store.get(other, []))
        )
    }
    own = known.pop(key, None)
    if name != POWER:
        return floor_of(Metric(name), own, list(known.values()))
    if own and own.degrees_of_freedom >= MIN_LAUNCHES - 1:
        found = moderated(own, list(known.values()))
        return NoiseFloor(found.deviation, found.degrees_of_freedom, measured=True)
    return floor_of_power(
        {metric: floor(metric.value, key, cells, stored, judged) for metric in UNDER_LOAD}
    )


def _groups(
    name: str, of_cell: Launches, without: Collection[tuple[str, Gpus]] = ()
) -> list[list[float]]:
    """Of each release on each GPU, a value per launch."""
    return [
        values(name, launches)
        for release, by_gpus in of_cell.items()
        for gpus, launches in by_gpus.items()
        if (release, gpus) not in without
    ]
