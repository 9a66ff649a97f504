"""The `energy` marker and the settings that a test file gives with it: parsed, checked, refused when unknown."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_energy.cell import ENGINES, Cell, Model
from pytest_energy.errors import UsageError
from pytest_energy.workload import Workload

ARGUMENTS = {
    "model": "folder with a config.json (relative to the test file) or a Hugging Face id",
    "batch_sizes": "numbers of concurrent requests, one test each",
    "weights": "'auto' loads the model's own weights, 'dummy' lets vLLM make them up from its config.json, 'random' in the usual size "
    "(default 'auto')",
    "input_tokens": "prompt length (default 512)",
    "output_tokens": "generated tokens per request (default 256)",
    "engine": "'offline' measures vLLM's engine, 'server' vllm serve (default 'offline')",
    "engine_args": "settings of vllm.EngineArgs that belong to the suite",
    "tolerance": "relative change of J/token for the worse that fails (default 0.03)",
    "throughput_tolerance": "relative change of tokens/s for the worse that fails (default 0.10)",
    "max_power_w": "power budget; exceeding it fails",
    "max_ttft_ms": "limit of a server's time to first token, 99th percentile; exceeding it fails",
    "max_itl_ms": "limit of a server's inter-token latency, 99th percentile; exceeding it fails",
}
WEIGHTS = ("auto", "dummy", "random")


@dataclass(frozen=True)
class Marked:
    """What the `energy` markers of one test say, put together and checked.

    Raises (constructors):
        UsageError: with the name of the argument at fault.
    """

    model: str
    batch_sizes: tuple[int, ...]
    weights: str = "auto"
    workload: Workload = field(default_factory=Workload)
    engine_args: tuple[tuple[str, Any], ...] = ()
    tolerance: float | None = None
    throughput_tolerance: float | None = None
    max_power_w: float | None = None
    engine: str | None = None
    max_ttft_ms: float | None = None
    max_itl_ms: float | None = None

    @classmethod
    def from_arguments(cls, positional: Sequence[Any], arguments: Mapping[str, Any]) -> "Marked":
        """Check the merged keyword arguments of a test's markers."""
        if positional:
            raise UsageError(f"the energy marker takes keyword arguments only, not {positional[0]!r}")
        unknown = sorted(set(arguments) - set(ARGUMENTS))
        if unknown:
            raise UsageError(f"the energy marker has no argument {', '.join(map(repr, unknown))}. It takes: {', '.join(ARGUMENTS)}")
        missing = [name for name in ("model", "batch_sizes") if name not in arguments]
        if missing:
            raise UsageError(
                f"the test asks for energy, but nothing says {' and '.join(missing)}.\n"
                'Mark it, or its module: pytestmark = pytest.mark.energy(model="org/name", batch_sizes=[1, 8, 64])'
            )
        if not isinstance(arguments["model"], str) or not arguments["model"]:
            raise UsageError(f"model is {arguments['model']!r}: it must be a text, the name of a folder or a Hugging Face id")
        weights = arguments.get("weights", "auto")
        if weights not in WEIGHTS:
            raise UsageError(f"weights is {weights!r}: it must be 'auto', 'dummy' or 'random'")
        engine = arguments.get("engine")
        if engine not in (None, *ENGINES):
            raise UsageError(f"engine is {engine!r}: it must be 'offline' or 'server'")
        return cls(
            model=arguments["model"],
            batch_sizes=_batch_sizes(arguments["batch_sizes"]),
            weights=weights,
            workload=Workload(
                input_tokens=_positive_integer("input_tokens", arguments.get("input_tokens", 512)),
                output_tokens=_positive_integer("output_tokens", arguments.get("output_tokens", 256)),
            ),
            engine_args=_engine_args(arguments.get("engine_args", {})),
            tolerance=_tolerance("tolerance", arguments.get("tolerance")),
            throughput_tolerance=_tolerance("throughput_tolerance", arguments.get("throughput_tolerance")),
            max_power_w=_positive_number("max_power_w", arguments.get("max_power_w")),
            engine=engine,
            max_ttft_ms=_positive_number("max_ttft_ms", arguments.get("max_ttft_ms")),
            max_itl_ms=_positive_number("max_itl_ms", arguments.get("max_itl_ms")),
        )

    def cell(self, batch_size: int, *folders: Path, engine: str = "offline") -> Cell:
        """The cell of one of the batch sizes; the model is looked up below `folders`, and `engine` is measured.

        max_num_seqs is the largest batch size, whichever of them are selected, so that the cells share one
        engine launch and a part of the suite measures the same engine as the whole.
        """
        if engine == "offline" and (self.max_ttft_ms or self.max_itl_ms):
            limit = "max_ttft_ms" if self.max_ttft_ms else "max_itl_ms"
            raise UsageError(
                f"{limit} limits what a server's clients see, and the offline engine has none.\n"
                "Measure the server, engine='server', or leave the limit out."
            )
        if engine == "server" and self.weights == "random":
            raise UsageError(
                "weights='random' are made up inside the offline engine, and a server cannot be given them.\n"
                "Measure the offline engine, or use weights='dummy' (for a model that is not quantised) or the model's own."
            )
        engine_args = {"max_num_seqs": max(self.batch_sizes), **dict(self.engine_args)}
        return Cell(
            model=Model.resolve(self.model, *folders),
            batch_size=batch_size,
            workload=self.workload,
            weights=self.weights,
            engine_args=tuple(sorted(engine_args.items())),
            engine=engine,
        )


def _positive_integer(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UsageError(f"{name} is {value!r}: it must be a whole number of at least 1")
    return value


def _batch_sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list | tuple | range) or not len(values):
        raise UsageError(f"batch_sizes is {values!r}: it must be a list of whole numbers, as in [1, 8, 64]")
    sizes = tuple(_positive_integer("a batch size", value) for value in values)
    twice = sorted({size for size in sizes if sizes.count(size) > 1})
    if twice:
        raise UsageError(f"batch_sizes holds {twice[0]} twice")
    return sizes


def _engine_args(value: Any) -> tuple[tuple[str, Any], ...]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in value):
        raise UsageError(f"engine_args is {value!r}: it must be a dict from names of vllm.EngineArgs to values")
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"engine_args is {value!r}: its values must be texts, numbers, booleans, lists or dicts ({error})") from None
    return tuple(sorted(value.items()))


def _positive_number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise UsageError(f"{name} is {value!r}: it must be a positive number")
    return float(value)


def _tolerance(name: str, value: Any) -> float | None:
    number = _positive_number(name, value)
    if number is not None and number >= 1:
        raise UsageError(f"{name} is {value!r}: it is relative, 0.03 for 3 %")
    return number
