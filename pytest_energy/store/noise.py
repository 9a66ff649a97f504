"""A runner's noise: how much launches of an unchanged engine differ, measured once and kept beside the baselines.

One file per GPU model and model, baselines/GPU/noise/MODEL.json; launches of several calls add up. Launches are compared
only with others of the same cell, GPU, engine and settings, so nothing but the noise is in their spread.
"""

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pytest_energy.cell.key import CellKey, slugify
from pytest_energy.errors import NoiseError
from pytest_energy.measure import spread
from pytest_energy.measure.cycles import FIGURES
from pytest_energy.measure.measurement import Measurement, first_invalid
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import ASSUMED_NOISE, NoiseFloor, Spread
from pytest_energy.safety import untrusted
from pytest_energy.safety.files import exclusively, write_atomically
from pytest_energy.safety.untrusted import Malformed
from pytest_energy.store.baselines import MAX_BYTES, figures, rounded, tokens_of_cycles

SCHEMA_VERSION = 1
MIN_OWN_DEGREES = 5  # below, a deviation is known to a factor of 2.5 at best
MIN_DEGREES = (
    10  # of a model's cells together, for those that are not measured themselves; they may differ
)


@dataclass(frozen=True)
class NoiseLaunch:
    """One launch: values per cycle, each of shape (cycles,), and what tells GPUs, machines and launches apart.

    `tokens` are those of each cycle, empty where all hold equally many.
    """

    launch_id: str
    joules_per_token: tuple[float, ...]
    tokens_per_s: tuple[float, ...]
    engine: str
    gpu_uuids: tuple[str, ...]
    power_limit_w: float | None = None
    cpu_model: str | None = None
    load_1min: float | None = None
    sm_clock_mhz: float | None = None
    tokens: tuple[int, ...] = ()

    @classmethod
    def from_measurement(cls, measurement: Measurement) -> "NoiseLaunch":
        """The launch of a valid measurement."""
        assert measurement.cycles is not None
        environment = measurement.environment
        under_test = ", ".join(environment.settings_under_test)
        limit = environment.power_limit_w
        return cls(
            launch_id=measurement.launch_id,
            joules_per_token=measurement.cycles.joules_per_token,
            tokens_per_s=measurement.cycles.tokens_per_s,
            engine=f"vllm {environment.vllm}"
            + (f" {under_test}" if under_test else "")
            + (" in turns" if measurement.co_resident else ""),
            gpu_uuids=environment.gpus,
            power_limit_w=None if isinstance(limit, tuple) else limit,
            cpu_model=environment.host.cpu_model,
            load_1min=environment.host.load_1min,
            sm_clock_mhz=measurement.conditions.sm_clock_mhz,
            tokens=measurement.cycles.weights,
        )

    def mean(self, metric: Metric) -> float:
        """Of the launch: energy over tokens, or tokens over time."""
        over_cycles = (
            spread.launch_means if metric is Metric.JOULES_PER_TOKEN else spread.launch_rates
        )
        return over_cycles([getattr(self, metric.value)], [self.tokens])[0]


@dataclass(frozen=True)
class Noise:
    """What is known of one metric of one cell.

    Attributes:
        launches: how many.
        between: deviation between launches of one group; None where no group holds two.
        within: deviation between cycles of one launch.
        gpus: lowest and highest mean of a GPU over that of all GPUs, for the engine seen on most of
            them; None on one GPU.
    """

    launches: int
    between: Spread | None
    within: Spread | None
    gpus: tuple[float, float] | None


class NoiseStore:
    """The noise files below the baselines' folder. Nothing is written but by `add`.

    Raises (all methods):
        NoiseError: a file is damaged, of another schema version or not JSON; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cache: dict[Path, dict[CellKey, tuple[NoiseLaunch, ...]]] = {}

    def check(self) -> None:
        """Read every file, so that a damaged one is told before it costs a measurement."""
        for path in sorted(self._folder.glob("*/noise/*.json")):
            self._read(path)

    def path(self, key: CellKey, gpu_name: str) -> Path:
        """The file of a cell's model on a GPU model."""
        return self._folder / slugify(gpu_name) / "noise" / f"{slugify(key.model)}.json"

    def add(self, measurements: Sequence[Measurement]) -> int:
        """Add valid measurements of one cell; a launch that is there already is left out. Returns how many were new.

        Raises:
            NoiseError: a measurement is invalid; nothing was written.
            OSError: nothing was written.
        """
        invalid = first_invalid(measurements)
        if invalid:
            raise NoiseError(invalid)
        first = measurements[0]
        path = self.path(first.key, first.environment.gpu_name)
        name = first.key
        with exclusively(self._folder):
            self._cache.pop(path, None)  # another process may have changed the file since
            cells = dict(self._read(path))
            known = {launch.launch_id: launch for launch in cells.get(name, ())}
            new = {
                m.launch_id: NoiseLaunch.from_measurement(m)
                for m in measurements
                if m.launch_id not in known
            }
            if new:
                cells[name] = tuple(launch for _, launch in sorted({**known, **new}.items()))
                write_atomically(path, _dump(cells).encode())
                self._cache[path] = cells
        return len(new)

    def noise(self, key: CellKey, gpu_name: str, metric: Metric) -> Noise:
        """What is known of one metric of one cell on a GPU model."""
        launches = self._read(self.path(key, gpu_name)).get(key, ())
        values = [getattr(launch, metric.value) for launch in launches]
        return Noise(
            launches=len(launches),
            between=spread.pooled(_groups(launches, metric)),
            within=spread.pooled(values),
            gpus=_gpu_range(launches, metric),
        )

    def floor(
        self, key: CellKey, gpu_name: str, metric: Metric, judged: Container[str] = ()
    ) -> NoiseFloor:
        """The noise to judge a cell by: its own where it was measured, else that of the model's measured cells on as many GPUs together,
        else assumed.

        Args:
            key, gpu_name, metric: what is judged.
            judged: ids of the launches that are compared; what they say of the noise is in the comparison already.
        """
        cells = {
            name: _groups([launch for launch in launches if launch.launch_id not in judged], metric)
            for name, launches in self._read(self.path(key, gpu_name)).items()
        }
        own = spread.pooled(cells.get(key, []))
        if own and own.degrees_of_freedom >= MIN_OWN_DEGREES:
            return _measured(own, "measured on this cell")
        # On another number of GPUs they also wait for each other: that is another noise.
        alike = [groups for name, groups in cells.items() if name.spread_over == key.spread_over]
        together = spread.pooled([group for groups in alike for group in groups])
        if together and together.degrees_of_freedom >= MIN_DEGREES:
            return _measured(together, "measured on the model's cells together")
        so_far = (
            f", {together.degrees_of_freedom} of {MIN_DEGREES} degrees of freedom measured"
            if together
            else ""
        )
        assumed = ASSUMED_NOISE[metric]
        return replace(assumed, source=f"{assumed.deviation:.1%} assumed{so_far}")

    def _read(self, path: Path) -> dict[CellKey, tuple[NoiseLaunch, ...]]:
        if path not in self._cache:
            self._cache[path] = _load(path) if path.exists() else {}
        return self._cache[path]


def _measured(spread: Spread, how: str) -> NoiseFloor:
    source = f"{spread.deviation:.2%} {how}, {spread.degrees_of_freedom:.0f} degrees of freedom"
    return NoiseFloor(spread.deviation, spread.degrees_of_freedom, measured=True, source=source)


def _groups(launches: Sequence[NoiseLaunch], metric: Metric) -> list[list[float]]:
    """Means of launches that differ in nothing known."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for launch in launches:
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


def _dump(cells: Mapping[CellKey, Sequence[NoiseLaunch]]) -> str:
    """One launch a line, so that a diff shows what was added."""
    blocks = []
    for key, launches in sorted(cells.items(), key=lambda cell: cell[0].canonical):
        lines = ",\n".join(
            "    " + json.dumps(_rounded(_told(launch)), sort_keys=True, allow_nan=False)
            for launch in launches
        )
        blocks.append(f'  {{"key": {key.canonical},\n   "launches": [\n{lines}\n   ]}}')
    return f'{{"schema_version": {SCHEMA_VERSION},\n "cells": [\n' + ",\n".join(blocks) + "\n ]}\n"


def _told(launch: NoiseLaunch) -> dict[str, Any]:
    values = asdict(launch)
    return (
        values
        if launch.tokens
        else {name: value for name, value in values.items() if name != "tokens"}
    )


def _rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _rounded(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_rounded(value) for value in values]
    return rounded(values) if isinstance(values, float) else values


def _load(path: Path) -> dict[CellKey, tuple[NoiseLaunch, ...]]:
    try:
        content = untrusted.parse(untrusted.read(path, MAX_BYTES))
        version = content["schema_version"]
        if type(version) is not int or version != SCHEMA_VERSION:
            raise NoiseError(
                f"noise file {path} has schema version {version}, this pytest-energy reads {SCHEMA_VERSION}.\n"
                "Use the pytest-energy that wrote it, or move the file away and measure anew: pytest-energy noise"
            )
        cells = untrusted.objects(content["cells"], "cells")
        return {
            CellKey.from_plain(cell["key"]): tuple(
                map(_launch, untrusted.objects(cell["launches"], "launches"))
            )
            for cell in cells
        }
    except OSError as error:
        raise NoiseError(f"noise file {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        what = (
            str(error)
            if isinstance(error, Malformed)
            else f"a field is missing or malformed: {error!r}"
        )
        raise NoiseError(
            f"noise file {path} is damaged: {what}.\nNothing was judged by it. Restore it: git checkout -- {path}"
        ) from None


def _launch(content: Mapping[str, Any]) -> NoiseLaunch:
    launch_id = untrusted.name(content["launch_id"], "launch_id")
    values: dict[str, Any] = {
        **content,
        **{
            metric.value: figures(content[metric.value], f"{metric.value} of launch {launch_id}")
            for metric in Metric
        },
        "engine": untrusted.text(content["engine"], "engine"),
        "gpu_uuids": untrusted.names(content["gpu_uuids"], "gpu_uuids"),
    }
    if content.get("tokens"):
        values["tokens"] = tokens_of_cycles(content["tokens"], launch_id)
        if (
            len({len(values[name]) for name in ("tokens", *(metric.value for metric in Metric))})
            > 1
        ):
            raise Malformed(f"the series of launch {launch_id} differ in length")
    for name in ("power_limit_w", "load_1min", "sm_clock_mhz"):
        if values.get(name) is not None:
            untrusted.number(values[name], name, 0, FIGURES[1])
    if values.get("cpu_model") is not None:
        untrusted.name(values["cpu_model"], "cpu_model")
    return NoiseLaunch(**values)
