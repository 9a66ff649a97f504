"""Launches that failed: when another one is not worth its minutes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.model import Model
from pytest_energy.errors import EngineError
from pytest_energy.launch.interleaved import Side

_VARIES = re.compile(r"0x[0-9a-f]+|\d+")  # times, process ids, addresses, batch sizes
_ALIKE = 2  # one may lie in the settings of its launch


_NOT_AGAIN = "not launched again, since launches of this model with other settings failed alike:\n"


def kind_of(failure: str) -> str:
    """A failure's text without what differs each time."""
    return _VARIES.sub("#", failure.removeprefix(_NOT_AGAIN))


def explained(error: EngineError, model: Model) -> EngineError:
    """An error while a model is loaded that is not a folder: it says where it was looked for."""
    if error.stage != "load" or model.config_sha256 is not None:
        return error
    message = (
        f"{error.message}\nThere is no folder {model.name} beside the test or in pytest's rootdir, "
        "so the model was taken from Hugging Face."
    )
    return EngineError(error.stage, message, error.log_tail, error.out_of_memory)


def of_side(side: Side, failure: str) -> str:
    """A failure of one of two engines: engines advise the candidate's options."""
    if side.name == "reference":
        failure = re.sub("--energy-(?=python|engine-arg)", "--energy-reference-", failure)
    return f"the {side.name} engine ({side.settings.python}): {failure}"


@dataclass
class Failures:
    """The failures of a run's engines to start or load, by engine and model."""

    _found: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, cell: Cell, failure: str) -> None:
        """Remember why the launch of a cell failed."""
        self._of(cell).append(failure)

    def expected(self, cell: Cell) -> str | None:
        """The failure to expect of another launch: the last ones, with other settings, were alike.

        None if the launch may succeed.
        """
        last: Sequence[str] = self._of(cell)[-_ALIKE:]
        if len(last) < _ALIKE or len(set(map(kind_of, last))) > 1:
            return None
        return _NOT_AGAIN + last[0]

    def _of(self, cell: Cell) -> list[str]:
        return self._found.setdefault((cell.engine, cell.model.location), [])
