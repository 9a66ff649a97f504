"""The `energy` marker and the settings that a test file gives with it: parsed, checked, refused when unknown."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_energy.cell.cell import ENGINES, Cell
from pytest_energy.cell.lengths import Lognormal
from pytest_energy.cell.model import Model
from pytest_energy.cell.prompts import Prompts
from pytest_energy.cell.workload import Workload
from pytest_energy.engines.synthetic_tokenizer import has_tokenizer
from pytest_energy.errors import UsageError
from pytest_energy.plugin.arguments import ARGUMENTS
from pytest_energy.safety import redact

WEIGHTS = ("auto", "dummy", "random")
_MAX_SIGMA = 3.0


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
    prompts: str | None = None

    @classmethod
    def from_arguments(cls, positional: Sequence[Any], arguments: Mapping[str, Any]) -> "Marked":
        """Check the merged keyword arguments of a test's markers."""
        if positional:
            raise UsageError(
                f"the energy marker takes keyword arguments only, not {positional[0]!r}"
            )
        unknown = sorted(set(arguments) - set(ARGUMENTS))
        if unknown:
            raise UsageError(
                f"the energy marker has no argument {', '.join(map(repr, unknown))}. It takes: {', '.join(ARGUMENTS)}"
            )
        missing = [name for name in ("model", "batch_sizes") if name not in arguments]
        if missing:
            raise UsageError(
                f"the test asks for energy, but nothing says {' and '.join(missing)}.\n"
                'Mark it, or its module: pytestmark = pytest.mark.energy(model="org/name", batch_sizes=[1, 8, 64])'
            )
        if not isinstance(arguments["model"], str) or not arguments["model"]:
            raise UsageError(
                f"model is {arguments['model']!r}: it must be a text, the name of a folder or a Hugging Face id"
            )
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
            workload=_workload(arguments),
            prompts=_prompts(arguments),
            engine_args=_engine_args(arguments.get("engine_args", {})),
            tolerance=_tolerance("tolerance", arguments.get("tolerance")),
            throughput_tolerance=_tolerance(
                "throughput_tolerance", arguments.get("throughput_tolerance")
            ),
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
        model = Model.resolve(self.model, *folders)
        return Cell(
            model=model,
            batch_size=batch_size,
            workload=self._workload(model, engine, *folders),
            weights=self.weights,
            engine_args=tuple(sorted(engine_args.items())),
            engine=engine,
        )

    def _workload(self, model: Model, engine: str, *folders: Path) -> Workload:
        """The workload with its prompts, if it has any."""
        if self.prompts is None:
            return self.workload
        prompts = Prompts.resolve(self.prompts, *folders)
        told = "tokenizer" in dict(self.engine_args) or engine == "attached"
        if model.config_sha256 is not None and not told and not has_tokenizer(Path(model.location)):
            raise UsageError(
                f"the model folder {model.location} has no tokenizer, so the prompts of {prompts.name} have no length in tokens.\n"
                "Copy the model's tokenizer files there, its chat template with them, or name one: engine_args={'tokenizer': 'org/name'}"
            )
        for conversation in prompts.conversations if self.workload.output_tokens is None else ():
            if conversation.reply is None and conversation.output_tokens is None:
                raise UsageError(
                    f"prompts {prompts.name}, line {conversation.line}: it has no reply and no output_tokens, so how long its answer is "
                    'is not known.\nAdd "output_tokens": N to the line, or give one length for all in the marker: output_tokens=256'
                )
        return replace(self.workload, prompts_file=prompts)


def _workload(arguments: Mapping[str, Any]) -> Workload:
    if "prompts" not in arguments:
        return Workload(
            _lengths("input_tokens", arguments.get("input_tokens", 512)),
            _lengths("output_tokens", arguments.get("output_tokens", 256)),
        )
    if "input_tokens" in arguments:
        raise UsageError(
            "input_tokens and prompts are given: prompts have lengths of their own. Leave one of them out"
        )
    return Workload(
        output_tokens=_lengths("output_tokens", arguments["output_tokens"])
        if "output_tokens" in arguments
        else None
    )


def _prompts(arguments: Mapping[str, Any]) -> str | None:
    file = arguments.get("prompts")
    if "prompts" in arguments and (not isinstance(file, str) or not file):
        raise UsageError(f"prompts is {file!r}: it must be a text, the name of a JSONL file")
    return file


def _lengths(name: str, value: Any) -> int | Lognormal:
    """A length, or how lengths are distributed."""
    if not isinstance(value, Mapping):
        return _positive_integer(name, value)
    parameters = value.get("lognormal")
    if (
        set(value) != {"lognormal"}
        or not isinstance(parameters, Mapping)
        or set(parameters) != {"median", "sigma", "max"}
    ):
        raise UsageError(
            f"{name} is {value!r}: it must be a whole number, or as in {{'lognormal': {{'median': 512, 'sigma': 0.6, 'max': 2048}}}}"
        )
    median, sigma = (
        _positive_number(f"{name}'s {part}", parameters[part]) for part in ("median", "sigma")
    )
    longest = _positive_integer(f"{name}'s max", parameters["max"])
    if median is None or sigma is None:
        raise UsageError(f"{name} is {value!r}: median and sigma must be positive numbers")
    if not 1 <= median <= longest:
        raise UsageError(
            f"{name}'s median is {parameters['median']!r}: it must lie between 1 and max, {longest}"
        )
    if sigma > _MAX_SIGMA:
        raise UsageError(
            f"{name}'s sigma is {parameters['sigma']!r}: it is of the natural logarithm, 0.6 where two in three lie within a factor of 1.8"
        )
    return Lognormal(median, sigma, longest)


def _positive_integer(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UsageError(f"{name} is {value!r}: it must be a whole number of at least 1")
    return value


def _batch_sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list | tuple | range) or not len(values):
        raise UsageError(
            f"batch_sizes is {values!r}: it must be a list of whole numbers, as in [1, 8, 64]"
        )
    sizes = tuple(_positive_integer("a batch size", value) for value in values)
    twice = sorted({size for size in sizes if sizes.count(size) > 1})
    if twice:
        raise UsageError(f"batch_sizes holds {twice[0]} twice")
    return sizes


def _engine_args(value: Any) -> tuple[tuple[str, Any], ...]:
    if not isinstance(value, Mapping) or not all(
        isinstance(name, str) and name.isidentifier() for name in value
    ):
        raise UsageError(
            f"engine_args is {value!r}: it must be a dict from names of vllm.EngineArgs to values"
        )
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"engine_args is {value!r}: its values must be texts, numbers, booleans, lists or dicts ({error})"
        ) from None
    complaint = redact.complaint(value, "engine_args")
    if complaint:
        raise UsageError(complaint)
    return tuple(sorted(value.items()))


def _positive_number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value <= 0
    ):
        raise UsageError(f"{name} is {value!r}: it must be a positive number")
    return float(value)


def _tolerance(name: str, value: Any) -> float | None:
    number = _positive_number(name, value)
    if number is not None and number >= 1:
        raise UsageError(f"{name} is {value!r}: it is relative, 0.03 for 3 %")
    return number
