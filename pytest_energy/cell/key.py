"""What a cell's key says: its name, what differs between two, and one text for equal keys."""

import json
import re
from collections.abc import Mapping
from typing import Any

_SPREAD = {"tp": "tensor_parallel_size", "pp": "pipeline_parallel_size"}


def spread_over(key: Mapping[str, Any]) -> dict[str, Any]:
    """How the cell with this key is spread over GPUs: "tp" and "pp" where they are not 1."""
    arguments = key.get("engine_args") or {}
    return {
        short: arguments[name] for short, name in _SPREAD.items() if arguments.get(name, 1) != 1
    }


def name_of(key: Mapping[str, Any]) -> str:
    """What tables and messages call the cell with this key: its model, what of its engine is not usual, and its batch size."""
    arguments = key.get("engine_args") or {}
    parts = [str(key["model"]), *([str(key["engine"])] if key["engine"] != "offline" else [])]
    parts += [str(arguments["quantization"])] if arguments.get("quantization") else []
    parts += [f"{short}={size}" for short, size in spread_over(key).items()]
    return " ".join([*parts, f"bs={key['batch_size']}"])


def canonical_key(key: Mapping[str, Any]) -> str:
    """A cell key as one line of JSON, equal for equal keys."""
    return json.dumps(key, sort_keys=True, separators=(",", ":"))


_EXPLAINED: Mapping[str, str] = {
    "prompts_sha256": " (another file of prompts, or its content was changed)"
}


def key_differences(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """What differs between two mappings, as "name: one → other", nested names joined by dots."""
    differences = []
    for name in sorted({*one, *other}):
        left, right = one.get(name), other.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            differences += key_differences(left, right, f"{prefix}{name}.")
        elif left != right:
            differences.append(f"{prefix}{name}: {left} → {right}" + _EXPLAINED.get(name, ""))
    return differences


def slugify(name: str) -> str:
    """`name` in lower case with anything but letters, digits and dots turned into single dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "unnamed"
