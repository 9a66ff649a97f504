"""A runner's noise: how much launches of an unchanged engine differ; kept beside the baselines.

There is one file per GPU model and model, baselines/GPU/noise/MODEL.json, to which every call adds
its launches; a cell is found whatever file and folder are called. Launches are compared only with
others of the same cell, GPU, engine and settings, so that nothing but the noise is in their spread.
"""

import itertools
import math
import os
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_energy.cell.key import CellKey, slugify
from pytest_energy.errors import NoiseError
from pytest_energy.measure import spread
from pytest_energy.measure.measurement import Measurement, first_invalid
from pytest_energy.measure.metric import Metric, metrics_of
from pytest_energy.measure.spread import ASSUMED_NOISE, NoiseFloor, Spread
from pytest_energy.safety.files import exclusively
from pytest_energy.store import files, noise_file
from pytest_energy.store.noise_file import NoiseFile, NoiseLaunch
from pytest_energy.store.noise_pooling import moderated, typical

ASSUMED = "assumed"
MIN_OWN_DEGREES = 5  # with fewer, a deviation is known to a factor of 2.5 at best
MIN_DEGREES = 10  # of a model's cells together, for one that was not measured


@dataclass(frozen=True)
class Noise:
    """What is known of one metric of one cell.

    Attributes:
        launches: how many.
        between: deviation between launches of one group; None if no group holds two.
        within: deviation between cycles of one launch.
        gpus: lowest and highest mean of a GPU over that of all GPUs, for the engine seen on most of
            them; None on one GPU.
    """

    launches: int
    between: Spread | None
    within: Spread | None
    gpus: tuple[float, float] | None


class NoiseStore:
    """The noise files below the baselines' folder; `add` alone writes.

    Raises (all methods):
        NoiseError: a file is damaged, or has another schema version, or two hold the same cell; the
            message names them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listing = files.Listing(folder, "*/noise/*.json", NoiseError)
        self._cache: dict[Path, NoiseFile] = {}

    def check(self) -> None:
        """Read every file, so that a damaged one is reported before a measurement."""
        paths = self._listing.paths()
        for gpu_name in {self._read(path).gpu_name or _folder_of(path) for path in paths}:
            self._files(gpu_name)

    def _files(self, gpu_name: str) -> dict[CellKey, Path]:
        """The files of all cells that were measured on a GPU model.

        Raises:
            NoiseError: two hold the same cell.
        """
        found: dict[CellKey, Path] = {}
        for path in self._listing.paths(lambda path: self._is_of(gpu_name, path)):
            for key in self._read(path).cells:
                if found.setdefault(key, path) != path:
                    what = f"the noise of {key.name}"
                    raise NoiseError(files.twice(what, str(found[key]), str(path)))
        return found

    def _is_of(self, gpu_name: str, path: Path) -> bool:
        """Whether a file is of a GPU model: it says so, or if it is old its folder does."""
        of = self._read(path).gpu_name
        return slugify(gpu_name) == _folder_of(path) if of is None else of == gpu_name

    def path(self, key: CellKey, gpu_name: str) -> Path:
        """The file of a cell on a GPU model: where it stands, else that of its model."""
        found = self._files(gpu_name)
        if key in found:
            return found[key]
        folder, stem = self._folder / slugify(gpu_name) / "noise", slugify(key.model)
        of_model = (path for other, path in found.items() if other.model == key.model)
        # Files of another GPU model may have been moved to its folder.
        numbered = (folder / f"{stem}-{number}.json" for number in itertools.count(2))
        free = itertools.chain([folder / f"{stem}.json"], numbered)
        return next(of_model, None) or next(
            path for path in free if not path.exists() or self._is_of(gpu_name, path)
        )

    def add(self, measurements: Sequence[Measurement]) -> int:
        """Add valid measurements of one cell, without launches that are there already.

        Returns:
            How many were new.

        Raises:
            NoiseError: a measurement is invalid; nothing was written.
            OSError: nothing was written.
        """
        invalid = first_invalid(measurements)
        if invalid:
            raise NoiseError(invalid)
        key = measurements[0].key
        with exclusively(self._folder):
            self._cache.clear()  # another process may have changed files since
            self._listing.forget()
            gpu_name = measurements[0].environment.gpu_name
            path = self.path(key, gpu_name)
            cells = dict(self._read(path).cells)
            known = {launch.launch_id: launch for launch in cells.get(key, ())}
            new = {
                m.launch_id: NoiseLaunch.from_measurement(m)
                for m in measurements
                if m.launch_id not in known
            }
            if new:
                cells[key] = tuple(launch for _, launch in sorted({**known, **new}.items()))
                self._listing.check_replaceable(path)
                noise_file.write(gpu_name, cells, path)
                self._cache[path] = NoiseFile(gpu_name, cells)
                self._listing.forget()
        return len(new)

    def noise(self, key: CellKey, gpu_name: str, metric: Metric) -> Noise:
        """What is known of one metric of one cell on a GPU model."""
        launches = self._launches(gpu_name).get(key, ())
        values = [getattr(launch, metric.value) for launch in launches]
        return Noise(
            launches=len(launches),
            between=spread.pooled(_groups(launches, metric)),
            within=spread.pooled(values),
            gpus=_gpu_range(launches, metric),
        )

    def groups(
        self, gpu_name: str, metric: Metric, without: Container[str] = ()
    ) -> dict[CellKey, list[list[float]]]:
        """Means of the launches of each cell that has the metric, unchanged ones together.

        Args:
            gpu_name, metric: what is asked for.
            without: ids of launches that are left out.
        """
        return {
            key: _groups(launches, metric, without)
            for key, launches in self._launches(gpu_name).items()
            if metric in metrics_of(key)
        }

    def floor(
        self, key: CellKey, gpu_name: str, metric: Metric, judged: Container[str] = ()
    ) -> NoiseFloor:
        """The noise to judge a cell by.

        It is the cell's own if it was measured, moderated by that of the model's other cells on as
        many GPUs. Else it is assumed: to be as theirs if they were measured, else the default.

        Args:
            key, gpu_name, metric: what is judged.
            judged: ids of the launches that are compared, whose spread the comparison knows.
        """
        known = {
            name: between
            for name, launches in self._launches(gpu_name).items()
            # On another number of GPUs they also wait for each other, which is another noise.
            if (name.model, name.spread_over) == (key.model, key.spread_over)
            and metric in metrics_of(name)
            and (between := spread.pooled(_groups(launches, metric, judged)))
        }
        return floor_of(metric, known.pop(key, None), list(known.values()))

    def _launches(self, gpu_name: str) -> dict[CellKey, tuple[NoiseLaunch, ...]]:
        return {key: self._read(path).cells[key] for key, path in self._files(gpu_name).items()}

    def _read(self, path: Path) -> NoiseFile:
        if path not in self._cache:
            is_new = not os.path.lexists(path)
            self._cache[path] = NoiseFile(None, {}) if is_new else noise_file.read(path)
        return self._cache[path]


def _folder_of(path: Path) -> str:
    """The name of the folder of a GPU model that holds a noise file."""
    return path.parents[1].name


def floor_of(metric: Metric, own: Spread | None, others: Sequence[Spread]) -> NoiseFloor:
    """The noise to judge a cell by, from what was measured on it and on others like it."""
    if own and own.degrees_of_freedom >= MIN_OWN_DEGREES:
        return _measured(own, others)
    return _assumed(metric, [own, *others] if own else others)


def _measured(own: Spread, others: Sequence[Spread]) -> NoiseFloor:
    found = moderated(own, others)
    more = found.degrees_of_freedom - own.degrees_of_freedom
    of_others = f", and {more:.0f} on others like it" if more >= 1 else ""
    detail = f" on this cell, {own.degrees_of_freedom:.0f} degrees of freedom{of_others}"
    return NoiseFloor(found.deviation, found.degrees_of_freedom, True, "measured", detail)


def _assumed(metric: Metric, cells: Sequence[Spread]) -> NoiseFloor:
    """That of the cells together, if it is known."""
    default = ASSUMED_NOISE[metric]
    degrees = math.fsum(cell.degrees_of_freedom for cell in cells)
    if degrees >= MIN_DEGREES:
        deviation = typical(cells).deviation
        of_others = f", as on the model's measured cells, {degrees:.0f} degrees of freedom"
        return replace(default, deviation=deviation, kind=ASSUMED, detail=of_others)
    so_far = f", {degrees:.0f} of {MIN_DEGREES} degrees of freedom measured" if degrees else ""
    return replace(default, kind=ASSUMED, detail=so_far)


def _groups(
    launches: Sequence[NoiseLaunch], metric: Metric, without: Container[str] = ()
) -> list[list[float]]:
    """Means of launches that differ in nothing known, but for some launch ids."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for launch in (launch for launch in launches if launch.launch_id not in without):
        groups.setdefault((launch.engine, launch.gpu_uuids, launch.power_limit_w), []).append(
            launch.mean(metric)
        )
    return list(groups.values())


def _gpu_range(launches: Sequence[NoiseLaunch], metric: Metric) -> tuple[float, float] | None:
    by_engine: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for launch in launches:
        by_engine.setdefault(launch.engine, {}).setdefault(launch.gpu_uuids, []).append(
            launch.mean(metric)
        )
    on_gpus = max(by_engine.values(), key=len, default={})
    if len(on_gpus) < 2:
        return None
    means = [spread.geometric_mean(values) for values in on_gpus.values()]
    overall = spread.geometric_mean(means)
    return min(means) / overall, max(means) / overall
