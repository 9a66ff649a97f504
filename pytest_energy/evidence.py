"""Measurements of a cell: live.py has those of engines, replay.py those of recordings.

Nothing here, nor there, knows how a cell is judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pytest_energy.cell.cell import Cell
from pytest_energy.measure.disturbed import without_disturbed
from pytest_energy.measure.measurement import Measurement
from pytest_energy.store.baseline import ReferenceFrom


@dataclass(frozen=True)
class Evidence:
    """What is known of one cell.

    Attributes:
        measurements: of the candidate, one per launch.
        failure: why there are none, or not all; None if nothing failed.
        reference: of the reference engine, one per pair of an interleaved comparison.
        reference_from: where launches come from that stand in for a baseline: this run or an
            earlier one; empty if none do.
        reference_failure: why the reference could not be launched; None if it could, or need not.
        left_out: disturbed launches, of either side, that others take the place of.
        out_of_time: whether further launches were not begun for want of GPU minutes.
    """

    measurements: tuple[Measurement, ...] = ()
    failure: str | None = None
    reference: tuple[Measurement, ...] = ()
    reference_from: ReferenceFrom = ""
    reference_failure: str | None = None
    left_out: tuple[Measurement, ...] = ()
    out_of_time: bool = False

    @classmethod
    def of(
        cls, measurements: Sequence[Measurement], reference: Sequence[Measurement] = ()
    ) -> "Evidence":
        """What launches, or pairs, give once the disturbed ones are left out."""
        kept, of_reference, left_out = without_disturbed(measurements, reference)
        return cls(kept, reference=of_reference, left_out=left_out)

    def with_reference(
        self, reference: Sequence[Measurement], reference_from: ReferenceFrom
    ) -> "Evidence":
        """The same, judged by launches of the reference that are not its pairs."""
        if not reference:
            return self
        kept, _, left_out = without_disturbed(reference)
        left_out = (*self.left_out, *left_out)
        return replace(self, reference=kept, reference_from=reference_from, left_out=left_out)


class Source(Protocol):
    """Where evidence comes from.

    Attributes:
        found: the evidence so far, by canonical cell key.
    """

    found: dict[str, Evidence]

    def evidence(self, cell: Cell) -> Evidence:
        """The cell's measurements, the same each time.

        Raises:
            EnergyError: a file that they need is damaged; nothing was measured.
        """

    def close(self) -> None:
        """Let other runs use the GPUs."""
