"""What tells cells apart that have the same model, workload and batch size, as in a table. Pure."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_energy.cell.key import CellKey
from pytest_energy.report.words import without_size

# Told by the name, or follows from the lengths of requests.
_NOT_TOLD = "load_format", "requests"
_DIGEST = 8  # digits that do


def apart(cells: Iterable[CellKey]) -> dict[CellKey, tuple[str, ...]]:
    """What a name lacks to be that of one cell alone, "max_num_seqs=64" each; of most cells none.

    Cells that share model, weights and workload have it together, whatever their batch sizes.
    """
    by_heading: dict[str, list[CellKey]] = {}
    for key in cells:
        heading = without_size(key.name_with_weights, key.batch_size)
        by_heading.setdefault(heading, []).append(key)
    return {key: words for keys in by_heading.values() for key, words in _apart(keys).items()}


def _apart(keys: list[CellKey]) -> dict[CellKey, tuple[str, ...]]:
    plain = {key: dict(_leaves(key.plain)) for key in keys}
    by_size: dict[int, list[dict[str, str]]] = {}
    for key, values in plain.items():
        by_size.setdefault(key.batch_size, []).append(values)
    differing = {
        name
        for alike in by_size.values()
        for values in alike
        for name in {*alike[0], *values}
        if alike[0].get(name) != values.get(name)
    }
    return {
        key: tuple(f"{name}={v}" for name, v in sorted(values.items()) if name in differing)
        for key, values in plain.items()
    }


def _leaves(plain: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The innermost names of nested values."""
    for name, value in plain.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        elif name not in _NOT_TOLD:
            text = value if isinstance(value, str) else json.dumps(value)
            yield name, text[:_DIGEST] if name.endswith("_sha256") else text
