"""The model as the suite names it: a folder with a config.json, or a Hugging Face id."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_energy.errors import UsageError
from pytest_energy.safety import untrusted
from pytest_energy.safety.files import link_to_nothing

_MAX_CONFIG_BYTES = 10_000_000  # those of real models have some kB
_MAX_VOCABULARY = 10_000_000  # those of real models have up to some 300,000
_TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "tekken.json",
)  # fmt: skip
# What the Hub's own libraries take for a kind of repository and never for an owner: "A repo
# designation for a model should not start with 'models/'" (huggingface.js, hub/src/utils/toRepoId).
_NO_OWNERS = ("model", "models", "dataset", "datasets", "space", "spaces", "kernels", "buckets")
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
        """Number of token ids by the folder's config.json; None if it does not say."""
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
                return cls.from_folder(_absolute(path))
        first = model.partition("/")[0]
        is_path = (
            model.startswith((".", "/", "~"))
            or first in _NO_OWNERS
            or any((folder / first).is_dir() for folder in folders if first)
        )
        if is_path or not _HUB_ID.match(model):
            looked = ", ".join(dict.fromkeys(str(folder / model) for folder in folders))
            raise UsageError(
                f"model {model!r}: no such folder (looked for {looked}).\n"
                "Name a folder that holds a config.json, relative to the test file, or a Hugging "
                "Face id."
            )
        return cls(location=model, name=model)

    @classmethod
    def from_folder(cls, folder: Path) -> "Model":
        """The model in `folder`, an absolute path."""
        _, sha256 = model_config(folder)
        return cls(location=str(folder), name=folder.name, config_sha256=sha256[:16])


def _absolute(path: Path) -> Path:
    """As it is named: a link's own name stays when what it leads to moves."""
    named = Path(os.path.normpath(path.absolute()))
    return named if named.exists() and named.samefile(path) else path.resolve()


def model_config(folder: Path) -> tuple[dict[str, Any], str]:
    """The content of a model folder's config.json and its SHA-256.

    It is not checked any further, because vLLM reads the file itself.

    Raises:
        UsageError: there is none, or it is not a JSON object.
    """
    config = folder / "config.json"
    try:
        content = untrusted.read(config, _MAX_CONFIG_BYTES)
        instead = untrusted.stand_in(content)
        if instead:
            raise UsageError(f"{config} is {instead.what}.\nFetch it: {instead.fetched_by}")
        found = json.loads(content)
        if not isinstance(found, dict):
            raise untrusted.Malformed("it is not an object of JSON")
    except FileNotFoundError:
        words = link_to_nothing(config)
        if words:
            raise UsageError(
                f"{config} {words}.\nFetch that, or copy the folder with what its links lead to: "
                "cp -rL"
            ) from None
        raise UsageError(
            f"model folder {folder} has no config.json.\n"
            "vLLM needs it to build the model. Copy the model's config.json there; "
            "weights='dummy' needs nothing else."
        ) from None
    except OSError as error:
        why = str(error.strerror)
    except untrusted.Malformed as error:
        why = str(error)
    except (ValueError, RecursionError):
        why = "it is not JSON in UTF-8"
    else:
        return found, untrusted.digest(content)
    raise UsageError(
        f"{config} cannot be read as a model configuration: {why}.\n"
        "Copy the model's config.json there, or name another folder."
    )


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder holds a tokenizer."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def has_experts(folder: Path) -> bool:
    """Whether a folder's config.json, readable, is that of a mixture of experts."""
    of_text = _of_text(model_config(folder)[0])  # num_experts, num_local_experts, n_routed_experts
    return any("experts" in name and type(n) is int and n > 1 for name, n in of_text.items())


def vocabulary_size(config: Mapping[str, Any]) -> int | None:
    """Number of token ids by the content of a config.json; None if it says nothing credible."""
    size = _of_text(config).get("vocab_size")
    return size if type(size) is int and 0 < size <= _MAX_VOCABULARY else None


def _of_text(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with that of the text model among others."""
    of_text = config.get("text_config")
    return {**config, **(of_text if isinstance(of_text, Mapping) else {})}
