"""The cell: one model, engine settings, workload and batch size. Its key finds the baseline.

A cell of batch size 0 is an engine at idle: loaded, its memory allocated, and without a request.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pytest_energy.cell.engine_args import engine_args
from pytest_energy.cell.key import NO_REQUESTS, CellKey
from pytest_energy.cell.model import Model
from pytest_energy.cell.workload import Workload
from pytest_energy.safety import redact

IDLE_SETTLE_S = 10.0  # after the engine has loaded: its clocks sink, its warm-up ends
IDLE_S = 30.0


@dataclass(frozen=True)
class Cell:
    """One measured point: a model under fixed engine settings, workload and batch size.

    Settings given on the command line are under test, like the engine's version, and do not belong
    to the cell.

    Attributes:
        batch_size: 0 for the engine at idle; its workload only tells the engine's settings.
        engine_args: the suite's own settings, max_num_seqs among them.
        engine: its name; cell/engine_args.py lists them.
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
        """What the engine is started with, settings under test aside.

        They are equal for cells that share a launch, and empty if someone else started the engine.

        Raises:
            UsageError: there is no such engine.
        """
        longest = self.workload.longest_request
        arguments: dict[str, Any] = {} if longest is None else {"max_model_len": longest}
        arguments |= {"load_format": self.weights, **dict(self.engine_args)}
        from_texts = self.workload.prompts_file is not None
        return engine_args(self.engine, arguments, self.batch_size, from_texts)

    @cached_property
    def key(self) -> CellKey:
        """What must be equal for two measurements to be compared, the GPU aside."""
        return CellKey(
            model=self.model.name,
            model_config_sha256=self.model.config_sha256,
            engine=self.engine,
            engine_args=redact.paths(dict(sorted(self.launch_args.items()))),
            workload=self.workload.key(self.batch_size) if self.batch_size else NO_REQUESTS,
            batch_size=self.batch_size,
        )
