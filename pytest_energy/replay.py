"""The measurements of a cell, from recordings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_energy.cell.cell import Cell
from pytest_energy.errors import RecordingError
from pytest_energy.evidence import Evidence
from pytest_energy.measure import measurement
from pytest_energy.measure.measurement import Measurement
from pytest_energy.recording import recording_file
from pytest_energy.recording.fingerprint import differing_engines
from pytest_energy.report.words import count
from pytest_energy.settings import Settings


@dataclass
class ReplaySource:
    """Reads recordings.

    Attributes:
        settings: which; `noise` allows recordings of several engines in one cell.
    """

    settings: Settings
    found: dict[str, Evidence] = field(default_factory=dict)
    _read: dict[tuple[Path, ...], dict[str, list[Measurement]] | RecordingError] = field(
        default_factory=dict
    )

    def close(self) -> None:
        """A replay uses no GPU."""

    def evidence(self, cell: Cell) -> Evidence:
        """The cell's measurements.

        Raises:
            RecordingError: a file is damaged, a path holds no recordings, or one cell's recordings
                are of several engines or GPUs.
        """
        key = cell.key.canonical
        if key not in self.found:
            self.found[key] = self._of(cell)
        return self.found[key]

    def _of(self, cell: Cell) -> Evidence:
        candidate = self._launches(cell, self.settings.replay)
        if candidate.failure is not None:
            return candidate
        if not self.settings.reference_replay:
            return Evidence.of(candidate.measurements)
        if not self.settings.paired:
            kept = self._cells(self.settings.reference_replay).get(cell.key.canonical, [])
            ids = {m.launch_id for m in kept}
            both = next((m for m in candidate.measurements if m.launch_id in ids), None)
            if both is not None:
                return Evidence(failure=_on_both_sides(both))
            return Evidence.of(candidate.measurements).with_reference(kept, "replay")
        reference = self._launches(cell, self.settings.reference_replay)
        if reference.failure is not None:
            return reference
        unpaired = _unpaired(cell, candidate.measurements, reference.measurements)
        if unpaired is not None:
            return Evidence(failure=unpaired)
        return Evidence.of(candidate.measurements, reference.measurements)

    def _launches(self, cell: Cell, folders: tuple[Path, ...]) -> Evidence:
        cells = self._cells(folders)
        measured = cells.get(cell.key.canonical, [])
        if measured:
            return Evidence(tuple(measured))
        message = f"no recording of {cell.name} in {', '.join(map(str, folders))}"
        for others in cells.values():
            other = others[0].key
            if (other.model, other.batch_size) == (cell.key.model, cell.batch_size):
                differing = ", ".join(other.differences(cell.key))
                message += f"\nA recording of the same model and batch size differs in {differing}"
        message += "\nRecord it with --energy-record DIR, or deselect the test with -k."
        return Evidence(failure=message)

    def _cells(self, folders: tuple[Path, ...]) -> dict[str, list[Measurement]]:
        """What the recordings below these folders give, read once even if one is damaged."""
        if folders not in self._read:
            try:
                self._read[folders] = _read(folders, of_one_engine=not self.settings.noise)
            except RecordingError as error:
                self._read[folders] = error
        found = self._read[folders]
        if isinstance(found, RecordingError):
            raise found
        return found


def _read(paths: Sequence[Path], of_one_engine: bool) -> dict[str, list[Measurement]]:
    """The measurements of the launches below `paths`, by cell key and in order of their ids.

    Each recording is measured as it is read, and dropped.

    Raises:
        RecordingError: a file is damaged, a path holds no recordings, or one cell's recordings are
            of several engines or GPUs although `of_one_engine`.
    """
    cells: dict[str, list[Measurement]] = {}
    for periods in recording_file.read_launches(paths):
        cells.setdefault(periods[0].key.canonical, []).append(measurement.measure(*periods))
    for launches in cells.values():
        launches.sort(key=lambda measured: measured.launch_id)
        differing = differing_engines([measured.environment for measured in launches])
        if differing and of_one_engine:
            raise RecordingError(
                f"the recordings of one cell differ in {differing}, so they are not launches of "
                "one engine on the same GPUs. Replay them separately."
            )
    return cells


def _on_both_sides(launch: Measurement) -> str:
    return (
        f"launch {launch.launch_id} is on both sides, and would be compared with itself.\n"
        "Give the reference's recordings: --energy-reference-replay DIR/reference"
    )


def _unpaired(
    cell: Cell, candidate: Sequence[Measurement], reference: Sequence[Measurement]
) -> str | None:
    """Why the launches of two sides are not pairs, first with first; None if they are."""
    if len(candidate) != len(reference):
        return (
            f"{count(len(candidate), 'launch', 'launches')} of {cell.name} cannot be paired with "
            f"{len(reference)} of the reference.\nGive as many recordings for "
            "--energy-reference-replay as for --energy-replay, or --energy-interleave never if "
            "they are not pairs."
        )
    for mine, other in zip(candidate, reference, strict=True):
        if mine.launch_id == other.launch_id:
            return _on_both_sides(mine)
        together = mine.co_resident and other.co_resident
        if together and mine.co_resident[0].launch_id != other.launch_id:
            return (
                f"launch {mine.launch_id} of {cell.name} was interleaved with launch "
                f"{mine.co_resident[0].launch_id}, and would be paired with {other.launch_id}.\n"
                "Give all recordings of both sides, or leave out both launches of a pair."
            )
    return None
