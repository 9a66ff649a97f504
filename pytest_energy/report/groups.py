"""Which results belong in one picture: those of one model, workload, engine settings and GPU."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_energy.cell.key import CellKey, canonical
from pytest_energy.report.results import (
    Entry,
    Gpu,
    HistoryEntry,
    Interval,
    ReportedCell,
    ReportedSide,
    Results,
)

_USUAL_ARGS = (("enable_prefix_caching", False),)
# Equal in every cell, or implied by the workload.
_IMPLIED_ARGS = {
    "load_format",
    "max_model_len",
    "seed",
    "skip_tokenizer_init",
}


@dataclass(frozen=True)
class Series:
    """One engine at several batch sizes, ascending."""

    label: str
    points: tuple[tuple[int, ReportedSide], ...]


@dataclass(frozen=True)
class Move:
    """From the reference to the candidate at one batch size.

    Attributes:
        reference_label, candidate_label: of the series that the sides belong to.
        change: candidate ÷ reference in J/token; None if that was not compared.
        tolerance: relative rise of J/token that fails; None if nothing was judged.
        reading: which part of the energy moved; None if there is no split.
    """

    batch_size: int
    reference: ReportedSide
    candidate: ReportedSide
    reference_label: str
    candidate_label: str
    change: Interval | None
    tolerance: float | None
    reading: str | None

    @property
    def clear(self) -> bool:
        """Whether the change's interval excludes zero change."""
        return self.change is not None and not self.change.low <= 1 <= self.change.high


@dataclass(frozen=True)
class Group:
    """One picture's worth.

    Attributes:
        key: the cells' key, of any batch size.
        title: model and GPU.
        detail: workload, GPU, power limit, engine settings.
        series: the references first.
        moves: by batch size.
        history: by batch size, ascending: the states of the stored baseline, oldest first.
    """

    key: CellKey
    title: str
    detail: str
    series: tuple[Series, ...] = ()
    moves: tuple[Move, ...] = ()
    history: tuple[tuple[int, tuple[HistoryEntry, ...]], ...] = ()

    @property
    def batch_sizes(self) -> list[int]:
        """Of all its series, ascending."""
        return sorted({size for series in self.series for size, _ in series.points})


def groups(results: Results) -> tuple[Group, ...]:
    """The results' groups, in the order in which they first occur."""
    found: dict[str, tuple[ReportedCell, Gpu, list[Entry], list[HistoryEntry]]] = {}
    for entry in results.entries:
        if entry.gpu is not None and (entry.candidate or entry.reference):
            place = _place(entry.cell, entry.gpu, entry.co_resident)
            found.setdefault(place, (entry.cell, entry.gpu, [], []))[2].append(entry)
    for state in results.history:
        if state.joules_per_token is None:
            continue  # at idle
        place = _place(state.cell, state.gpu, co_resident=False)
        found.setdefault(place, (state.cell, state.gpu, [], []))[3].append(state)
    return tuple(
        Group(
            cell.key,
            f"{cell.model} on {gpu.name}",
            _detail(cell, gpu, any(entry.co_resident for entry in entries)),
            *_series_and_moves(entries),
            _history(states),
        )
        for cell, gpu, entries, states in found.values()
    )


def _place(cell: ReportedCell, gpu: Gpu, co_resident: bool) -> str:
    workload = dict(cell.key.plain["workload"])
    workload.pop("requests", None)  # their number depends on the batch size
    return canonical(
        {
            **cell.key.plain,
            "workload": workload,
            "batch_size": 0,
            "gpu": [gpu.name, *gpu.uuids],
            "limit": gpu.power_limit_w,
            "co_resident": co_resident,
        }
    )


def _detail(cell: ReportedCell, gpu: Gpu, co_resident: bool) -> str:
    arguments = sorted(cell.key.engine_args.items())
    shown = [
        f"{name}={value}"
        for name, value in arguments
        if name not in _IMPLIED_ARGS and (name, value) not in _USUAL_ARGS
    ]
    parts = [str(cell.key.workload)]
    if gpu.uuids:
        parts.append(", ".join(uuid[:12] for uuid in gpu.uuids))
    if gpu.power_limit_w:
        parts.append(f"power limit {gpu.power_limit_w:.0f} W")
    parts.append(", ".join([f"{cell.engine} engine", *shown]))
    if co_resident:
        parts.append("a second engine co-resident, paused")
    return "; ".join(parts)


def _series_and_moves(entries: Sequence[Entry]) -> tuple[tuple[Series, ...], tuple[Move, ...]]:
    # J/token last: if both metrics of a cell were compared, its move shows the change of J/token.
    ordered = sorted(entries, key=lambda entry: entry.metric == "joules_per_token")
    references, candidates = _Lines(), _Lines()
    moves: dict[tuple[int, int, str], Move] = {}
    for entry in ordered:
        size, reference, candidate = entry.cell.batch_size, entry.reference, entry.candidate
        role = "baseline" if entry.is_of_baseline else "reference"
        reference_label = candidate_label = ""
        if reference:
            label = f"{reference.engine} ({role})"
            reference_label = references.add(label, size, reference, entry.run)
        if candidate:
            candidate_label = candidates.add(candidate.engine, size, candidate, entry.run)
        if reference and candidate:
            of_energy = entry.metric == "joules_per_token"
            moves[size, entry.run, candidate_label] = Move(
                batch_size=size,
                reference=reference,
                candidate=candidate,
                reference_label=reference_label,
                candidate_label=candidate_label,
                change=entry.ratio if of_energy else None,
                tolerance=entry.tolerance if of_energy else None,
                reading=entry.split.reading if entry.split else None,
            )
    by_size = sorted(moves.values(), key=lambda move: move.batch_size)
    return (*references.series(), *candidates.series()), tuple(by_size)


class _Lines:
    """Sides by label and batch size; if two differ, the later one's run is added to its label."""

    def __init__(self) -> None:
        self._sides: dict[str, dict[int, ReportedSide]] = {}

    def add(self, label: str, batch_size: int, side: ReportedSide, run: int) -> str:
        """Returns the label that the side got."""
        taken = self._sides.get(label, {}).get(batch_size)
        if taken is not None and taken.launches != side.launches:
            label = f"{label}, run {run + 1}"
        self._sides.setdefault(label, {})[batch_size] = side
        return label

    def series(self) -> list[Series]:
        """One per label, in the order in which they were added."""
        return [Series(label, tuple(sorted(sides.items()))) for label, sides in self._sides.items()]


def _history(states: Iterable[HistoryEntry]) -> tuple[tuple[int, tuple[HistoryEntry, ...]], ...]:
    by_size: dict[int, list[HistoryEntry]] = {}
    for state in states:
        by_size.setdefault(state.cell.batch_size, []).append(state)
    return tuple((size, tuple(of_size)) for size, of_size in sorted(by_size.items()))
