"""The cell: one model, engine settings, workload and batch size. Its key finds the baseline."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pytest_energy.cell.key import CellKey
from pytest_energy.cell.model import Model
from pytest_energy.cell.workload import Workload
from pytest_energy.safety import redact

# What the closed-loop worker needs of every engine, whatever the suite sets besides.
WORKER_ENGINE_ARGS: Mapping[str, Any] = {
    "enable_prefix_caching": False,  # equal work in every cycle
    "seed": 0,
    "skip_tokenizer_init": True,  # prompts are token ids
}
# Prompts from a file are texts, which the engine's tokenizer turns into ids.
_TEXT_ENGINE_ARGS: Mapping[str, Any] = {
    name: value for name, value in WORKER_ENGINE_ARGS.items() if name != "skip_tokenizer_init"
}

# What the server needs, besides: its own defaults where they differ from the offline engine's.
ENGINES = ("offline", "server")
_OFFLINE_BATCHED_TOKENS = (
    2048  # LLMEngine's default of max_num_batched_tokens, at most what the batch can hold
)
_SERVER_ENGINE_ARGS: Mapping[str, Any] = {
    "enable_prefix_caching": False,
    "seed": 0,
    "generation_config": "vllm",  # no sampling defaults of the model's: every request is sampled like the offline engine's
}


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
        return self.key.name

    @property
    def launch_args(self) -> dict[str, Any]:
        """All that the engine is started with, before settings under test; equal for cells that share a launch."""
        longest = self.workload.longest_request
        length = (
            {} if longest is None else {"max_model_len": longest}
        )  # the model's own where only its tokenizer tells
        arguments = {**length, "load_format": self.weights, **dict(self.engine_args)}
        if self.engine == "attached":
            return {}  # it was started by someone else, with settings of theirs
        if self.engine == "offline":
            return {
                **(WORKER_ENGINE_ARGS if self.workload.prompts_file is None else _TEXT_ENGINE_ARGS),
                **arguments,
            }
        batched = _OFFLINE_BATCHED_TOKENS
        if "max_model_len" in arguments:
            batched = min(
                batched, arguments["max_model_len"] * arguments.get("max_num_seqs", self.batch_size)
            )
        return {**_SERVER_ENGINE_ARGS, "max_num_batched_tokens": batched, **arguments}

    @cached_property
    def key(self) -> CellKey:
        """What must be equal for two measurements to be compared, the GPU and its power limit aside."""
        return CellKey(
            model=self.model.name,
            model_config_sha256=self.model.config_sha256,
            engine=self.engine,
            engine_args=redact.paths(dict(sorted(self.launch_args.items()))),
            workload=self.workload.key(self.batch_size),
            batch_size=self.batch_size,
        )
