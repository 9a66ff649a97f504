"""The key of a cell: what must be equal for two measurements to be compared."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import PlainSerializer, TypeAdapter

from pytest_energy.cell.lengths import OF_PROMPTS, OF_REPLIES, LengthDistribution
from pytest_energy.safety.schema import STRICT, Count, Name, checked
from pytest_energy.safety.untrusted import Malformed

BatchSize = Annotated[int, Ge(1), Le(10**6)]
_Tokens = Annotated[int, Ge(0), Le(10**9)]
_WEIGHTS = "load_format"
_SPREAD = {"tp": "tensor_parallel_size", "pp": "pipeline_parallel_size"}
_EXPLAINED: Mapping[str, str] = {
    "prompts_sha256": " (another file of prompts, or its content was changed)"
}


@dataclass(frozen=True)
class WorkloadKey:
    """What of a key is the workload's: all that decides which requests are sent.

    Attributes:
        input_tokens, output_tokens: of every request, how they are distributed, or whose they are;
            0 if there is none, because the engine is idle.
        seed: of what is drawn.
        requests: of a pass; None if all requests are alike.
        prompts_sha256: digest of the file of prompts; None if there is none.
        shared_prefix_tokens: of input_tokens, the first ones, which are the same in every prompt;
            None if there are none.
    """

    __pydantic_config__ = STRICT

    input_tokens: _Tokens | LengthDistribution | Literal["prompts"]
    output_tokens: _Tokens | LengthDistribution | Literal["replies"]
    seed: int
    requests: Count | None = None
    prompts_sha256: Name | None = None
    shared_prefix_tokens: Count | None = None

    def __post_init__(self) -> None:
        shared, into = self.shared_prefix_tokens, self.input_tokens
        if shared is not None and not (isinstance(into, int) and shared < into):
            raise ValueError(f"its prompts of {into} tokens cannot share {shared}")
        if self.requests is None and self.fixed_lengths is None:
            raise ValueError("its requests vary in length, and their number is not given")

    @property
    def fixed_lengths(self) -> tuple[int, int] | None:
        """Tokens in and out of every request; None if they vary."""
        if isinstance(self.input_tokens, int) and isinstance(self.output_tokens, int):
            return self.input_tokens, self.output_tokens
        return None

    @property
    def short(self) -> str:
        """Tokens in and out: "512/256", "~512/~256" of medians, "1a2b3c4d/replies" of a file.

        "448+64/256" has prompts of 512 tokens, the first 448 of which are the same in all.
        """
        into, out, shared = self.input_tokens, self.output_tokens, self.shared_prefix_tokens
        if shared is not None and isinstance(into, int):
            return f"{shared}+{into - shared}/{_briefly(out)}"
        from_file = str(self.prompts_sha256)[:8] if into == OF_PROMPTS else _briefly(into)
        return f"{from_file}/{_briefly(out)}"

    def __str__(self) -> str:
        """In a few words: "512 tokens in, 256 out"."""
        if self.input_tokens != OF_PROMPTS:
            shared = self.shared_prefix_tokens
            into = f"{self.input_tokens} tokens in" + (
                f" (the first {shared} shared)" * bool(shared)
            )
            return f"{into}, {self.output_tokens} out"
        if self.output_tokens == OF_REPLIES:
            answers = "answers as long as the file's"
        else:
            answers = f"{self.output_tokens} tokens out"
        return f"prompts {str(self.prompts_sha256)[:8]}, {answers}"


NO_REQUESTS = WorkloadKey(0, 0, seed=0)


@dataclass(frozen=True, eq=False)
class CellKey:
    """What must be equal for two measurements to be compared, the GPU and its power limit aside.

    Keys are equal if their canonical texts are: 1 and true differ.

    Attributes:
        model: the folder's name or the Hugging Face id.
        model_config_sha256: digest of the folder's config.json; None for a Hugging Face id.
        engine: its name, such as "offline".
        engine_args: all that the engine is started with, settings under test aside.
        workload: what is asked of it.
        batch_size: concurrent requests; 0 for the engine at idle.
    """

    __pydantic_config__ = STRICT

    model: Name
    model_config_sha256: Name | None
    engine: Name
    engine_args: Mapping[str, Any]
    workload: WorkloadKey
    batch_size: Annotated[int, Ge(0), Le(10**6)]

    def __post_init__(self) -> None:
        of_none = 0 in (self.workload.input_tokens, self.workload.output_tokens)
        if (self.workload != NO_REQUESTS) if self.is_idle else of_none:
            raise ValueError(f"{self.workload} at batch size {self.batch_size}")

    @property
    def is_idle(self) -> bool:
        """Whether it is of a loaded engine without requests."""
        return self.batch_size == 0

    @classmethod
    def from_plain(cls, content: Any) -> "CellKey":
        """The key that `plain` took apart.

        Raises:
            Malformed: the content is not the key of a cell.
        """
        try:
            return checked(_ADAPTER, content)
        except Malformed as error:
            raise Malformed(f"its key is not a valid cell key: {error}") from None

    @cached_property
    def plain(self) -> dict[str, Any]:
        """As values of JSON."""
        workload = {
            name: value for name, value in asdict(self.workload).items() if value is not None
        }
        return {**asdict(self), "workload": workload}

    @cached_property
    def canonical(self) -> str:
        """As one line of JSON, equal for equal keys."""
        return canonical(self.plain)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CellKey) and self.canonical == other.canonical

    def __hash__(self) -> int:
        return hash(self.canonical)

    @property
    def spread_over(self) -> dict[str, Any]:
        """How the engine is spread over GPUs: "tp" and "pp", if not 1."""
        return {
            short: self.engine_args[name]
            for short, name in _SPREAD.items()
            if self.engine_args.get(name, 1) != 1
        }

    @property
    def weights(self) -> str:
        """As the marker names them: "dummy"; empty if someone else started the engine."""
        return str(self.engine_args.get(_WEIGHTS, ""))

    @property
    def but_weights(self) -> str:
        """As one line of JSON, equal for keys that differ in nothing but their weights."""
        arguments = {name: v for name, v in self.engine_args.items() if name != _WEIGHTS}
        return canonical({**self.plain, "engine_args": arguments})

    @property
    def name(self) -> str:
        """For tables and messages: model, what is unusual about its engine, batch, workload."""
        return self.named()

    @property
    def name_with_weights(self) -> str:
        """The same beside cells of other weights: "llama weights=dummy bs=8 512/256"."""
        return self.named(*([f"weights={self.weights}"] if self.weights else []))

    def named(self, *more: str) -> str:
        """The same with further words before the batch size."""
        parts = [self.model, *([self.engine] if self.engine != "offline" else [])]
        quantization = self.engine_args.get("quantization")
        parts += [str(quantization)] if quantization else []
        speculative = self.engine_args.get("speculative_config")
        if isinstance(speculative, Mapping):
            parts.append(str(speculative.get("method", "speculative")))
        parts += [f"{short}={size}" for short, size in self.spread_over.items()]
        asked = ["idle"] if self.is_idle else [f"bs={self.batch_size}", self.workload.short]
        return " ".join([*parts, *more, *asked])

    @property
    def slug(self) -> str:
        """A file name for the cell, distinct for every key."""
        digest = hashlib.sha256(self.canonical.encode()).hexdigest()[:8]
        return f"{slugify(self.model)}-bs{self.batch_size}-{digest}"

    def differences(self, other: "CellKey") -> list[str]:
        """What differs, as "name: this → other"."""
        return differences(self.plain, other.plain)


def _briefly(length: int | LengthDistribution | str) -> str:
    return (
        f"~{length.lognormal.median:g}" if isinstance(length, LengthDistribution) else str(length)
    )


Key = Annotated[CellKey, PlainSerializer(lambda key: key.plain)]  # as schemas hold it
_ADAPTER = TypeAdapter(CellKey)


def canonical(values: Mapping[str, Any]) -> str:
    """One line of JSON, equal for equal values."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two mappings, as "name: one → other"; dots join nested names."""
    found = []
    for name in sorted({*one, *other}):
        left, right = one.get(name), other.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += differences(left, right, f"{prefix}{name}.")
        elif left != right:
            found.append(f"{prefix}{name}: {left} → {right}" + _EXPLAINED.get(name, ""))
    return found


def slugify(name: str) -> str:
    """`name` in lower case; anything but letters, digits and dots becomes a single dash."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "unnamed"


def distinct_slug(name: str) -> str:
    """The same, with a digest unless it is the name itself, so that no two names share one."""
    slug = slugify(name)[:80]
    digest = "" if slug == name else f"-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return f"{slug}{digest}"
