"""A file of baselines: JSON with sorted keys, one cell after the other (docs/files.md)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from annotated_types import MinLen
from pydantic import AfterValidator, TypeAdapter

from pytest_energy.cell.key import Key
from pytest_energy.errors import BaselineError
from pytest_energy.recording import fingerprint
from pytest_energy.recording.fingerprint import Environment
from pytest_energy.safety import untrusted
from pytest_energy.safety.schema import STRICT, Name, checked, version_of
from pytest_energy.settings import MIN_LAUNCHES
from pytest_energy.store import files
from pytest_energy.store.baseline import Baseline, EarlierBaseline, LaunchValues, Summary

SCHEMA_VERSION: Final = 2
_READ_VERSIONS = (1, SCHEMA_VERSION)  # 1 has another name in its fingerprints


def _equally_long(launch: LaunchValues) -> LaunchValues:
    series = [launch.joules_per_token, launch.power_w, launch.tokens_per_s]
    if not launch.joules_per_token and not launch.tokens_per_s:
        series = [launch.power_w]  # at idle
    if len({len(values) for values in (*series, launch.tokens or series[0])}) > 1:
        raise ValueError(f"the series of launch {launch.launch_id} differ in length")
    return launch


_Launch = Annotated[LaunchValues, AfterValidator(_equally_long)]


@dataclass(frozen=True)
class Entry:
    """One baseline as a file holds it; the summary is for those who read the diff."""

    __pydantic_config__ = STRICT

    environment: Environment
    history: tuple[EarlierBaseline, ...]
    key: Key
    launches: Annotated[
        tuple[_Launch, ...], MinLen(MIN_LAUNCHES), AfterValidator(files.each_launch_once)
    ]
    summary: Summary
    update_reason: str | None = None

    def __post_init__(self) -> None:
        figures: list[Summary | LaunchValues] = [self.summary, *self.history, *self.launches]
        for of in figures:
            for name in ("joules_per_token", "tokens_per_s"):
                if (not getattr(of, name)) != self.key.is_idle:
                    what = "has" if self.key.is_idle else "lacks"
                    raise ValueError(f"{self.key.name} {what} {name}")

    @classmethod
    def of(cls, baseline: Baseline) -> "Entry":
        """The entry of a new baseline."""
        return cls(
            environment=baseline.environment,
            history=baseline.history,
            key=baseline.key,
            launches=baseline.launches,
            summary=baseline.summary,
            update_reason=baseline.update_reason,
        )

    @cached_property
    def baseline(self) -> Baseline:
        """What the entry stands for."""
        return Baseline(self.key, self.launches, self.environment, self.history, self.update_reason)


@dataclass(frozen=True)
class _File:
    __pydantic_config__ = STRICT

    schema_version: Literal[2]
    gpu_name: Name
    model: Name
    cells: Mapping[Name, Entry]

    def __post_init__(self) -> None:
        for name, entry in self.cells.items():
            if (entry.environment.gpu_name, entry.key.model) != (self.gpu_name, self.model):
                raise ValueError(f"{name} is of another GPU model or model than the file")


_ADAPTER = TypeAdapter(_File)
_LAUNCHES = TypeAdapter(tuple[LaunchValues, ...])


def read(path: Path) -> dict[str, Entry]:
    """The entries of a file by the names that it gives them.

    Raises:
        BaselineError: the file cannot be read, is damaged, or has another schema version.
    """
    return files.read(
        path,
        "baseline",
        _entries,
        BaselineError,
        "Use the pytest-energy that wrote it, or measure the baseline again with "
        "--energy-update into another folder.",
    )


def parse(content: bytes) -> dict[str, Entry]:
    """The entries in a file's content of this schema version.

    Raises:
        Malformed: it is damaged.
    """
    return _entries(untrusted.parse(content))


def dump(entries: Mapping[str, Entry]) -> bytes:
    """The content of a file with these entries, which are of one GPU model and model."""
    first = next(iter(entries.values()))
    file = _File(SCHEMA_VERSION, first.environment.gpu_name, first.key.model, entries)
    return _rendered(_ADAPTER.dump_python(file, mode="json", exclude_defaults=True)).encode()


def hold_the_same(one: Baseline, other: Baseline) -> bool:
    """Whether two baselines of a cell are of the same launches, with the digits of a file."""
    first, second = (_LAUNCHES.dump_python(b.launches, mode="json") for b in (one, other))
    return bool(first == second)


def _entries(content: Any) -> dict[str, Entry]:
    upgraded = _upgraded(content) if version_of(content, _READ_VERSIONS) == 1 else content
    return dict(checked(_ADAPTER, upgraded).cells)


def _upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """A file of version 1 in the terms of this version; what is wrong with it stays as it is."""
    cells = content.get("cells")
    if isinstance(cells, dict):
        cells = {
            name: {**entry, "environment": fingerprint.upgraded(entry.get("environment"))}
            if isinstance(entry, dict)
            else entry
            for name, entry in cells.items()
        }
    return {**content, "schema_version": SCHEMA_VERSION, "cells": cells}


def _rendered(content: Any) -> str:
    """JSON with sorted keys, one per line; lists of numbers stay on one line."""

    def render(value: Any, indent: str) -> str:
        inner = indent + " "
        if isinstance(value, dict) and value:
            items = (
                f"{inner}{json.dumps(str(name))}: {render(item, inner)}"
                for name, item in sorted(value.items())
            )
            return "{\n" + ",\n".join(items) + f"\n{indent}}}"
        if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            items = (f"{inner}{render(item, inner)}" for item in value)
            return "[\n" + ",\n".join(items) + f"\n{indent}]"
        return json.dumps(value, allow_nan=False)

    return render(content, "") + "\n"
