"""Figures that others have published, to be drawn beside measured ones. They judge nothing."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_energy.cell.key import CellKey
from pytest_energy.errors import UsageError
from pytest_energy.safety import untrusted
from pytest_energy.safety.untrusted import Malformed

_MAX_BYTES = 1_000_000
_PRECISIONS = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16"}
_COLUMNS = (
    *("source", "vllm", "model", "precision", "h100_gpus", "max_num_seqs", "joules_per_token"),
    *("power_w", "tokens_per_s"),
)


@dataclass(frozen=True)
class Published:
    """One published point.

    Attributes:
        source: who has published it.
        vllm: version.
        model: as the suites name it.
        precision: such as "bf16".
        gpus: number of H100s.
        batch_size: max_num_seqs.
        joules_per_token: J.
    """

    source: str
    vllm: str
    model: str
    precision: str
    gpus: int
    batch_size: int
    joules_per_token: float

    def is_of(self, key: CellKey, gpu_name: str, gpus: int) -> bool:
        """Whether it is of a cell's model, precision and batch size, on as many such GPUs."""
        return (
            "H100" in gpu_name
            and (self.model, self.batch_size, self.gpus) == (key.model, key.batch_size, gpus)
            and self.precision == _precision(key)
        )


def _precision(key: CellKey) -> str:
    stated = key.engine_args.get("quantization") or key.engine_args.get("dtype", "")
    return _PRECISIONS.get(str(stated), str(stated))


def read(path: Path) -> tuple[Published, ...]:
    """The points of a CSV file with the columns source, vllm, model, precision, h100_gpus,
    max_num_seqs, joules_per_token, power_w and tokens_per_s.

    Raises:
        UsageError: it cannot be read, or is another file.
    """
    try:
        text = untrusted.read(path, _MAX_BYTES).decode("utf-8-sig")  # as spreadsheets write it
        reader = csv.DictReader(io.StringIO(text), restval="", strict=True)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"it has no column {missing[0]}")
        return tuple(map(_point, reader))
    except (OSError, Malformed, ValueError, TypeError, csv.Error) as error:
        raise UsageError(
            f"--published {path}: {error}.\nIts columns must be: {','.join(_COLUMNS)}"
        ) from None


def _point(row: Mapping[str, str]) -> Published:
    energy = float(row["joules_per_token"])
    if not 0 < energy < math.inf:
        raise ValueError(f"{row['joules_per_token']} is not an energy per token")
    return Published(
        source=row["source"],
        vllm=row["vllm"],
        model=row["model"],
        precision=row["precision"],
        gpus=int(row["h100_gpus"]),
        batch_size=int(row["max_num_seqs"]),
        joules_per_token=energy,
    )
