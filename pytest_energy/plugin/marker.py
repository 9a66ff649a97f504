"""What a test's `energy` markers ask for: arguments checked, cells made of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt, MinLen
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.key import BatchSize
from pytest_energy.cell.lengths import LengthDistribution, Lognormal
from pytest_energy.cell.model import Model, has_tokenizer
from pytest_energy.cell.prompts import Prompts
from pytest_energy.cell.workload import DEFAULT_INPUT_TOKENS, Workload
from pytest_energy.errors import UsageError
from pytest_energy.plugin.arguments import ARGUMENTS
from pytest_energy.safety import redact
from pytest_energy.safety.schema import STRICT, Count, checked
from pytest_energy.settings import EngineName

_POSITIVE = "a positive number"
_TOLERANCE = "a number between 0 and 1, 0.03 for 3 %"
_LENGTH = (
    "a whole number from 1 to 1,000,000,000, or as in {'lognormal': {'median': 512, 'sigma': 0.6, "
    "'max': 2048}}, the median from 1 to max, sigma (of the natural logarithm) at most 3"
)
_MUST_BE = {
    "model": "a text, the name of a folder or a Hugging Face id",
    "batch_sizes": "a list of whole numbers from 1 to 1,000,000, each of them once, as in "
    "[1, 8, 64]",
    "weights": "'auto', 'dummy' or 'random'",
    "input_tokens": _LENGTH,
    "output_tokens": _LENGTH,
    "shared_prefix_tokens": "a whole number from 0 to input_tokens - 1",
    "prompts": "a text, the name of a JSONL file",
    "engine": "'offline' or 'server'",
    "engine_args": "a dict from names of vllm.EngineArgs to texts, numbers, booleans, lists or "
    "dicts",
    "tolerance": _TOLERANCE,
    "throughput_tolerance": _TOLERANCE,
    "idle_tolerance": _TOLERANCE,
    "max_power_w": _POSITIVE,
    "max_ttft_ms": _POSITIVE,
    "max_itl_ms": _POSITIVE,
}
_DISTRIBUTION = TypeAdapter(LengthDistribution)


def _given(value: Any) -> Any:
    """None is the default, and not for the marker to say."""
    if value is None:
        raise ValueError("it is None")
    return value


def _distribution(value: Any) -> Any:
    return checked(_DISTRIBUTION, dict(value)) if isinstance(value, Mapping) else value


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | range) else value


def _distinct(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(sizes)) < len(sizes):
        raise ValueError("a batch size is given twice")
    return sizes


def _plain(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    try:
        json.dumps(value)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return dict(value)


def _named(settings: dict[str, Any]) -> dict[str, Any]:
    if not all(name.isidentifier() for name in settings):
        raise ValueError("a name is not an identifier")
    return settings


_Text = Annotated[str, MinLen(1)]
_Length = Annotated[
    Count | LengthDistribution | None,
    BeforeValidator(_distribution),
    BeforeValidator(_given),
]
_Tolerance = Annotated[float, Gt(0), Lt(1)]
_Positive = Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Marked:
    """What the `energy` markers of one test ask for together; None if an argument is not given."""

    model: _Text
    batch_sizes: Annotated[
        tuple[BatchSize, ...],
        BeforeValidator(_listed),
        MinLen(1),
        AfterValidator(_distinct),
    ]
    weights: Literal["auto", "dummy", "random"] = "auto"
    input_tokens: _Length = None
    output_tokens: _Length = None
    shared_prefix_tokens: Annotated[int, Ge(0)] = 0
    prompts: Annotated[_Text | None, BeforeValidator(_given)] = None
    engine: EngineName | None = None
    engine_args: Annotated[dict[str, Any], BeforeValidator(_plain), AfterValidator(_named)] = Field(
        default_factory=dict
    )
    tolerance: _Tolerance | None = None
    throughput_tolerance: _Tolerance | None = None
    idle_tolerance: _Tolerance | None = None
    max_power_w: _Positive | None = None
    max_ttft_ms: _Positive | None = None
    max_itl_ms: _Positive | None = None

    @classmethod
    def from_arguments(cls, positional: Sequence[Any], arguments: Mapping[str, Any]) -> "Marked":
        """Check the merged arguments of a test's markers.

        Raises:
            UsageError: it names the argument at fault and what that must be.
        """
        _check_names(positional, arguments)
        try:
            marked = cls(**arguments)
        except ValidationError as error:
            name = str(error.errors(include_url=False)[0]["loc"][0])
            raise UsageError(
                f"{name} is {arguments[name]!r:.200}: it must be {_MUST_BE[name]}"
            ) from None
        _check_shared_prefix(marked)
        complaint = redact.complaint(marked.engine_args, "engine_args")
        if complaint:
            raise UsageError(complaint)
        return marked

    def cell(self, batch_size: int, *folders: Path, engine: str = "offline") -> Cell:
        """The cell of one of the batch sizes, or of the engine at idle.

        max_num_seqs is the largest batch size, whichever are selected, so that the cells share a
        launch, and a part of the suite measures the same engine as the whole.

        Args:
            batch_size: of the cell; 0 at idle.
            folders: below which the model and the file of prompts are looked up.
            engine: what is measured.

        Raises:
            UsageError: the engine, model or prompts do not fit the other arguments.
        """
        if engine == "offline" and (self.max_ttft_ms or self.max_itl_ms):
            limit = "max_ttft_ms" if self.max_ttft_ms else "max_itl_ms"
            raise UsageError(
                f"{limit} limits what a server's clients see, and the offline engine has none.\n"
                "Measure the server, engine='server', or leave the limit out."
            )
        if engine == "server" and self.weights == "random":
            raise UsageError(
                "weights='random' are generated inside the offline engine; a server cannot do "
                "that.\nMeasure the offline engine, or use weights='dummy' (for a model "
                "that is not quantized) or the model's own."
            )
        engine_args = {"max_num_seqs": max(self.batch_sizes), **self.engine_args}
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
        output = _length(self.output_tokens)
        if self.prompts is None:
            return Workload(
                _length(self.input_tokens) or DEFAULT_INPUT_TOKENS,
                output or 256,
                shared_prefix_tokens=self.shared_prefix_tokens,
            )
        prompts = Prompts.resolve(self.prompts, *folders)
        if "tokenizer" not in self.engine_args and engine != "attached":
            _check_tokenizer(model, prompts)
        if output is None:
            _check_answers(prompts)
        return Workload(output_tokens=output, prompts_file=prompts)


def _check_names(positional: Sequence[Any], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that do not exist, are missing, or exclude each other."""
    if positional:
        raise UsageError(f"the energy marker takes keyword arguments only, not {positional[0]!r}")
    unknown = sorted(set(arguments) - set(ARGUMENTS))
    if unknown:
        raise UsageError(
            f"the energy marker has no argument {', '.join(map(repr, unknown))}. "
            f"It takes: {', '.join(ARGUMENTS)}"
        )
    missing = [name for name in ("model", "batch_sizes") if name not in arguments]
    if missing:
        raise UsageError(
            f"the test uses an energy fixture, but no marker gives {' and '.join(missing)}.\n"
            "Mark it, or its module: "
            'pytestmark = pytest.mark.energy(model="org/name", batch_sizes=[1, 8, 64])'
        )
    if "prompts" in arguments and "input_tokens" in arguments:
        raise UsageError(
            "input_tokens and prompts are given, but prompts have lengths of their own. "
            "Leave one of them out"
        )


def _check_shared_prefix(marked: Marked) -> None:
    """Only random prompts of one length begin alike as asked, and each goes on by itself."""
    shared, into = marked.shared_prefix_tokens, marked.input_tokens or DEFAULT_INPUT_TOKENS
    if not shared:
        return
    if marked.prompts is not None:
        raise UsageError(
            "shared_prefix_tokens and prompts are given, but prompts share what their texts do. "
            "Leave one of them out"
        )
    if not isinstance(into, int):
        raise UsageError(
            "shared_prefix_tokens needs prompts of one length: a shorter one would be nothing but "
            "prefix.\nGive input_tokens as a number, or leave shared_prefix_tokens out."
        )
    if shared >= into:
        raise UsageError(
            f"shared_prefix_tokens is {shared}: it must be less than input_tokens, {into}, so that "
            "each prompt goes on by itself"
        )


def _check_tokenizer(model: Model, prompts: Prompts) -> None:
    """A model folder must have the tokenizer that turns prompts into tokens."""
    if model.config_sha256 is not None and not has_tokenizer(Path(model.location)):
        raise UsageError(
            f"the model folder {model.location} has no tokenizer, so the prompts of {prompts.name} "
            "have no length in tokens.\nCopy the model's tokenizer files there, with its chat "
            "template, or name a tokenizer: engine_args={'tokenizer': 'org/name'}"
        )


def _check_answers(prompts: Prompts) -> None:
    """Without a length in the marker every conversation must say how long its answer is."""
    for conversation in prompts.conversations:
        if conversation.reply is None and conversation.output_tokens is None:
            raise UsageError(
                f"prompts {prompts.name}, line {conversation.line}: it has no reply and no "
                "output_tokens, so the length of its answer is unknown.\n"
                'Add "output_tokens": N to the line, or give one length for all in the marker: '
                "output_tokens=256"
            )


def _length(given: int | LengthDistribution | None) -> int | Lognormal | None:
    return given.lognormal if isinstance(given, LengthDistribution) else given
