"""The cell: one model, engine settings, workload and batch size. Its key finds the baseline."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_energy import redact, untrusted
from pytest_energy.errors import UsageError
from pytest_energy.workload import Workload

# What the closed-loop worker needs of every engine, whatever the suite sets besides.
WORKER_ENGINE_ARGS: Mapping[str, Any] = {
    "enable_prefix_caching": False,  # equal work in every cycle
    "seed": 0,
    "skip_tokenizer_init": True,  # prompts are token ids
}
# Prompts from a file are texts, which the engine's tokenizer turns into ids.
_TEXT_ENGINE_ARGS: Mapping[str, Any] = {name: value for name, value in WORKER_ENGINE_ARGS.items() if name != "skip_tokenizer_init"}

# What the server needs, besides: its own defaults where they differ from the offline engine's.
ENGINES = ("offline", "server")
_OFFLINE_BATCHED_TOKENS = 2048  # LLMEngine's default of max_num_batched_tokens, at most what the batch can hold
_SERVER_ENGINE_ARGS: Mapping[str, Any] = {
    "enable_prefix_caching": False,
    "seed": 0,
    "generation_config": "vllm",  # no sampling defaults of the model's: every request is sampled like the offline engine's
}

_MAX_CONFIG_BYTES = 10_000_000  # those of real models have some kB
_MAX_VOCABULARY = 10_000_000  # those of real models have up to some 300,000

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$|^[\w.-]+$")


@dataclass(frozen=True)
class Model:
    """A model as the suite names it.

    Attributes:
        location: what the engine is given: a local folder's absolute path, or a Hugging Face id.
        name: what people and baselines call it: the folder's name, or the id.
        config_sha256: digest of the folder's config.json; None for a Hugging Face id.
    """

    location: str
    name: str
    config_sha256: str | None = None

    @property
    def vocabulary_size(self) -> int | None:
        """Number of token ids by the folder's config.json; None where that does not tell or there is none."""
        if self.config_sha256 is None:
            return None
        return vocabulary_size(model_config(Path(self.location))[0])

    @classmethod
    def resolve(cls, model: str, *folders: Path) -> "Model":
        """Look `model` up as a folder below each of `folders`, else take it as a Hugging Face id.

        Raises:
            UsageError: the folder holds no readable config.json, or `model` is a path to nothing.
        """
        for folder in folders:
            path = folder / model
            if path.is_dir():
                return cls.from_folder(path.resolve())
        first = model.partition("/")[0]
        is_path = model.startswith((".", "/", "~")) or any((folder / first).is_dir() for folder in folders if first)
        if is_path or not _HUB_ID.match(model):
            looked = ", ".join(str(folder / model) for folder in folders)
            raise UsageError(
                f"model {model!r}: no such folder (looked for {looked}).\n"
                "Name a folder that holds a config.json, relative to the test file, or a Hugging Face id."
            )
        return cls(location=model, name=model)

    @classmethod
    def from_folder(cls, folder: Path) -> "Model":
        """The model in `folder`, an absolute path."""
        _, sha256 = model_config(folder)
        return cls(location=str(folder), name=folder.name, config_sha256=sha256[:16])


def model_config(folder: Path) -> tuple[dict[str, Any], str]:
    """The content of a model folder's config.json and its SHA-256; vLLM reads the file itself, so it is not checked any further.

    Raises:
        UsageError: there is none, or it is no JSON object.
    """
    config = folder / "config.json"
    try:
        content = untrusted.read(config, _MAX_CONFIG_BYTES)
        found = json.loads(content)
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except FileNotFoundError:
        raise UsageError(
            f"model folder {folder} has no config.json.\n"
            "vLLM needs it to build the model. Copy the model's config.json there; for weights='dummy' nothing else is needed."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{config} cannot be read as a model configuration: {error}.\nCopy the model's config.json there, or name another folder."
        ) from None
    return found, hashlib.sha256(content).hexdigest()


def vocabulary_size(config: Mapping[str, Any]) -> int | None:
    """Number of token ids by the content of a config.json; None where it does not tell, or nothing that can be true."""
    of_text = config.get("text_config")
    size = {**config, **(of_text if isinstance(of_text, Mapping) else {})}.get("vocab_size")
    return size if type(size) is int and 0 < size <= _MAX_VOCABULARY else None


@dataclass(frozen=True)
class Cell:
    """One measured point: a model under fixed engine settings, workload and batch size.

    `engine_args` are the suite's own settings, max_num_seqs among them. Settings given on the command line are
    under test, like the engine's version, and are no part of the cell.
    """

    model: Model
    batch_size: int
    workload: Workload = field(default_factory=Workload)
    weights: str = "auto"
    engine_args: tuple[tuple[str, Any], ...] = ()
    engine: str = "offline"

    @property
    def name(self) -> str:
        """Short and readable, as tables and messages show it."""
        return name_of(self.key)

    @property
    def slug(self) -> str:
        """A file name for the cell, distinct for every key."""
        digest = hashlib.sha256(canonical_key(self.key).encode()).hexdigest()[:8]
        return f"{slugify(self.model.name)}-bs{self.batch_size}-{digest}"

    @property
    def launch_args(self) -> dict[str, Any]:
        """All that the engine is started with, before settings under test; equal for cells that share a launch."""
        longest = self.workload.longest_request
        length = {} if longest is None else {"max_model_len": longest}  # the model's own where only its tokenizer tells
        arguments = {**length, "load_format": self.weights, **dict(self.engine_args)}
        if self.engine == "attached":
            return {}  # it was started by someone else, with settings of theirs
        if self.engine == "offline":
            return {**(WORKER_ENGINE_ARGS if self.workload.prompts_file is None else _TEXT_ENGINE_ARGS), **arguments}
        batched = _OFFLINE_BATCHED_TOKENS
        if "max_model_len" in arguments:
            batched = min(batched, arguments["max_model_len"] * arguments.get("max_num_seqs", self.batch_size))
        return {**_SERVER_ENGINE_ARGS, "max_num_batched_tokens": batched, **arguments}

    @property
    def key(self) -> dict[str, Any]:
        """What must be equal for two measurements to be compared (the GPU model and power limit besides)."""
        return {
            "batch_size": self.batch_size,
            "engine": self.engine,
            "engine_args": redact.paths(dict(sorted(self.launch_args.items()))),
            "model": self.model.name,
            "model_config_sha256": self.model.config_sha256,
            "workload": self.workload.key(self.batch_size),
        }


_SPREAD = {"tp": "tensor_parallel_size", "pp": "pipeline_parallel_size"}


def spread_over(key: Mapping[str, Any]) -> dict[str, Any]:
    """How the cell with this key is spread over GPUs: "tp" and "pp" where they are not 1."""
    arguments = key.get("engine_args") or {}
    return {short: arguments[name] for short, name in _SPREAD.items() if arguments.get(name, 1) != 1}


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


_EXPLAINED: Mapping[str, str] = {"prompts_sha256": " (another file of prompts, or its content was changed)"}


def key_differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
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
