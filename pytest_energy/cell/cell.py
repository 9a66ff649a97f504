"""The cell: one model, engine settings, workload and batch size. Its key finds the baseline."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pytest_energy.cell.engine_args import engine_args
from pytest_energy.cell.key import CellKey
from pytest_energy.cell.model import Model
from pytest_energy.cell.workload import Workload
from pytest_energy.safety import redact


@dataclass(frozen=True)
class Cell:
    """One measured point: a model under fixed engine settings, workload and batch size.

    Settings given on the command line are under test, like the engine's version, and do not belong
    to the cell.

    Attributes:
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
            workload=self.workload.key(self.batch_size),
            batch_size=self.batch_size,
        )
