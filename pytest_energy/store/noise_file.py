"""A file of a runner's noise: JSON with one launch a line, so that a diff shows what was added."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, TypeAdapter

from pytest_energy.cell.key import CellKey, Key
from pytest_energy.errors import NoiseError
from pytest_energy.measure import spread
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric, metrics_of
from pytest_energy.safety.files import write_atomically
from pytest_energy.safety.schema import STRICT, Name, checked, version_of
from pytest_energy.safety.untrusted import Malformed
from pytest_energy.store import files
from pytest_energy.store.figures import CycleTokens, NotNegative, Series

SCHEMA_VERSION: Final = 3
# 1 has another word for interleaved engines; 1 and 2 name no GPU model
_READ_VERSIONS = (1, 2, SCHEMA_VERSION)
_INTERLEAVED, _INTERLEAVED_1 = " interleaved", " in turns"


@dataclass(frozen=True)
class NoiseLaunch:
    """One launch: values per cycle, each of shape (cycles,), and what tells launches apart.

    Attributes:
        engine: its vLLM, the settings under test, and whether it was interleaved.
        gpu_uuids: sorted.
        power_limit_w: of each GPU; None if unknown, or if they differ.
        tokens: of each cycle if they differ; empty if they do not.
    """

    __pydantic_config__ = STRICT

    launch_id: Name
    engine: str
    gpu_uuids: tuple[Name, ...]
    joules_per_token: Series = ()
    tokens_per_s: Series = ()
    idle_power_w: Series = ()
    power_limit_w: NotNegative | None = None
    cpu_model: Name | None = None
    load_1min: NotNegative | None = None
    sm_clock_mhz: NotNegative | None = None
    tokens: CycleTokens = ()

    @classmethod
    def from_measurement(cls, measurement: Measurement) -> "NoiseLaunch":
        """The launch of a valid measurement."""
        assert measurement.cycles is not None
        environment = measurement.environment
        limit = environment.power_limit_w
        settings = ", ".join(environment.settings_under_test)
        return cls(
            launch_id=measurement.launch_id,
            **{m.value: measurement.cycles.of(m) for m in metrics_of(measurement.key)},
            engine=f"vllm {environment.vllm}"
            + (f" {settings}" if settings else "")
            + (_INTERLEAVED if measurement.co_resident else ""),
            gpu_uuids=environment.gpus,
            power_limit_w=None if isinstance(limit, tuple) else limit,
            cpu_model=environment.host.cpu_model,
            load_1min=environment.host.load_1min,
            sm_clock_mhz=measurement.conditions.sm_clock_mhz,
            tokens=measurement.cycles.weights,
        )

    def mean(self, metric: Metric) -> float:
        """Of the launch: energy over tokens, or tokens over time."""
        return spread.launch_value(metric, getattr(self, metric.value), self.tokens)


def _equally_long(launch: NoiseLaunch) -> NoiseLaunch:
    series = [launch.joules_per_token, launch.tokens_per_s]
    if not any(series):
        series = [launch.idle_power_w]
    if not all(series) or (len(series) > 1 and launch.idle_power_w):
        raise ValueError(f"launch {launch.launch_id} lacks figures of its cell")
    if len({len(values) for values in (*series, launch.tokens or series[0])}) > 1:
        raise ValueError(f"the series of launch {launch.launch_id} differ in length")
    return launch


@dataclass(frozen=True)
class _Cell:
    __pydantic_config__ = STRICT

    key: Key
    launches: Annotated[
        tuple[Annotated[NoiseLaunch, AfterValidator(_equally_long)], ...],
        AfterValidator(files.each_launch_once),
    ]

    def __post_init__(self) -> None:
        if any(bool(launch.idle_power_w) != self.key.is_idle for launch in self.launches):
            raise ValueError(f"a launch lacks figures of its cell, {self.key.name}")


@dataclass(frozen=True)
class _File:
    __pydantic_config__ = STRICT

    schema_version: Literal[3]
    gpu_name: Name | None
    cells: tuple[_Cell, ...]


@dataclass(frozen=True)
class NoiseFile:
    """What a file holds.

    Attributes:
        gpu_name: the GPU model; None in files of earlier schema versions, whose folder names it.
        cells: the launches of each cell.
    """

    gpu_name: str | None
    cells: Mapping[CellKey, tuple[NoiseLaunch, ...]]


_FILE, _LAUNCH = TypeAdapter(_File), TypeAdapter(NoiseLaunch)


def read(path: Path) -> NoiseFile:
    """What a file holds.

    Raises:
        NoiseError: the file cannot be read, is damaged, or has another schema version.
    """
    return files.read(
        path,
        "noise file",
        _of_content,
        NoiseError,
        "Use the pytest-energy that wrote it, or move the file away and measure again: "
        "pytest-energy noise",
    )


def _of_content(content: Any) -> NoiseFile:
    version = version_of(content, _READ_VERSIONS)
    file = checked(_FILE, content if version == SCHEMA_VERSION else _upgraded(content))
    found = {cell.key: cell.launches for cell in file.cells}
    if len(found) < len(file.cells):
        raise Malformed("a cell stands in it twice")
    return NoiseFile(file.gpu_name, found)


def write(gpu_name: str, cells: Mapping[CellKey, Sequence[NoiseLaunch]], path: Path) -> None:
    """Write the file whole or not at all.

    Raises:
        OSError: nothing was written.
    """
    blocks = []
    for key, launches in sorted(cells.items(), key=lambda cell: cell[0].canonical):
        lines = ",\n".join(f"    {_line(launch)}" for launch in launches)
        blocks.append(f'  {{"key": {key.canonical},\n   "launches": [\n{lines}\n   ]}}')
    head = f'{{"schema_version": {SCHEMA_VERSION},\n "gpu_name": {json.dumps(gpu_name)},\n'
    text = f'{head} "cells": [\n' + ",\n".join(blocks) + "\n ]}\n"
    write_atomically(path, text.encode())


def _line(launch: NoiseLaunch) -> str:
    values = _LAUNCH.dump_python(launch, mode="json", exclude_defaults=True)
    return json.dumps(values, sort_keys=True, allow_nan=False)


def _upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """An earlier file in the terms of this version; what is wrong with it stays as it is."""
    cells = content.get("cells")
    if content["schema_version"] == 1 and isinstance(cells, list):
        cells = [
            {**cell, "launches": list(map(_renamed, cell["launches"]))}
            if isinstance(cell, dict) and isinstance(cell.get("launches"), list)
            else cell
            for cell in cells
        ]
    return {"gpu_name": None, **content, "schema_version": SCHEMA_VERSION, "cells": cells}


def _renamed(launch: Any) -> Any:
    if not isinstance(launch, dict) or not isinstance(launch.get("engine"), str):
        return launch
    engine = launch["engine"]
    if engine.endswith(_INTERLEAVED_1):
        engine = engine.removesuffix(_INTERLEAVED_1) + _INTERLEAVED
    return {**launch, "engine": engine}
