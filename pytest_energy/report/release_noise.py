"""How much a release's figures vary in a cell: from launch to launch, and from GPU to GPU. Pure."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

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


def complete_blocks(of_cell: Launches) -> tuple[Gpus, ...]:
    """The GPUs that have launched all releases of a cell; empty if fewer than three have."""
    complete = sorted(set.intersection(*map(set, of_cell.values())))
    enough = len(complete) >= MIN_BLOCKS and len(of_cell) > 1
    return tuple(complete) if enough else ()


def _residual(name: str, of_cell: Launches) -> Spread | None:
    """What GPU and release leave of a cell's means, by least squares: blocks may be incomplete."""
    made = [(gpus, release) for release, by_gpus in of_cell.items() for gpus in by_gpus]
    of_gpus = Counter(gpus for gpus, _ in made)
    if sum(releases > 1 for releases in of_gpus.values()) < MIN_BLOCKS:
        return None
    logs = np.array([log_moments(values(name, of_cell[release][on]))[0] for on, release in made])
    design = np.array(
        [[on == gpus for gpus in of_gpus] + [release == r for r in of_cell] for on, release in made]
    ).astype(float)
    fitted, _, rank, _ = np.linalg.lstsq(design, logs)
    degrees = len(made) - int(rank)
    if degrees < MIN_BLOCKS - 1:
        return None
    left = logs - design @ fitted
    return Spread(math.sqrt(float((left**2).sum()) / degrees), degrees)


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
